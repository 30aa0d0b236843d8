"""Prompts counted as engines count them: a tokenizer and a template of this test's own."""

import json
import math
import shutil
import threading

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from memroute_router.prompts.tokenizer import PromptTokenizer, TokenizerError, Tokenizers
from memroute_router.replicas.pool_settings import PoolSettings
from router_rig import Rig, body, exchange, raw, until, whole

WORDS = ["[UNK]", "<s>", "<user>", "<assistant>", "once", "upon", "a", "time", "tools", "hi"]
TEMPLATE = (
    "{{ bos_token }}{% if tools %} tools{% endif %}"
    "{% for m in messages %} <{{ m['role'] }}> {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


def ids(*words):
    return [WORDS.index(word) for word in words]


@pytest.fixture
def folder(tmp_path):
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    own = tmp_path / "org" / "m"
    own.mkdir(parents=True)
    tokenizer.save(str(own / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE}
    (own / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def user(content):
    return {"role": "user", "content": content}


def test_a_text_has_the_special_tokens_that_its_engine_adds(folder):
    tokenizer = PromptTokenizer.load(folder / "org" / "m")
    assert tokenizer.encode({"prompt": "once upon"}) == ids("<s>", "once", "upon")


def test_a_conversation_is_what_its_template_makes_of_it(folder):
    tokenizer = PromptTokenizer.load(folder / "org" / "m")
    messages = [user("once upon")]
    expected = ids("<s>", "<user>", "once", "upon", "<assistant>")
    assert tokenizer.encode({"messages": messages}) == expected
    parts = [{"type": "text", "text": "once"}, {"type": "text", "text": "upon"}]
    assert tokenizer.encode({"messages": [user(parts)]}) == expected
    assert tokenizer.encode({"messages": messages, "add_generation_prompt": False}) == expected[:-1]
    with_tools = tokenizer.encode({"messages": messages, "tools": [{"type": "function"}]})
    assert with_tools == [*ids("<s>", "tools"), *expected[1:]]


def test_a_template_of_its_own_file_goes_first(folder):
    (folder / "org" / "m" / "chat_template.jinja").write_text("hi")
    assert PromptTokenizer.load(folder / "org" / "m").encode({"messages": [user("x")]}) == ids("hi")


@pytest.mark.parametrize(
    "messages", [[user([{"type": "image_url", "image_url": {}}])], ["x"], [{"content": "x"}]]
)
def test_what_it_cannot_tell_it_does_not_guess(folder, messages):
    (folder / "org" / "m" / "chat_template.jinja").write_text(
        "{{ raise_exception('no') if not messages[0].role else 'hi' }}"
    )
    assert PromptTokenizer.load(folder / "org" / "m").encode({"messages": messages}) is None


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ messages.clear() }}"])
def test_a_template_cannot_reach_beyond_its_values(folder, template):
    (folder / "org" / "m" / "chat_template.jinja").write_text(template)
    tokenizer = PromptTokenizer.load(folder / "org" / "m")
    messages = [user("hi")]
    assert tokenizer.encode({"messages": messages}) in (None, [])
    assert messages == [user("hi")]


def test_a_folder_that_holds_none_says_why(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        PromptTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError):
        PromptTokenizer.load(tmp_path)


async def test_models_are_found_by_their_names_and_nowhere_else(folder):
    tokenizers = Tokenizers(folder)
    await until(lambda: tokenizers.of("org/m", None) is not None)
    assert tokenizers.of("org/m", None) is tokenizers.of("org/m", None)
    assert tokenizers.of("org/other", None) is None
    assert tokenizers.of("../" + folder.name + "/org/m/../../..", None) is None
    await until(lambda: tokenizers.of("whatever", str(folder / "org" / "m")) is not None)
    tokenizers.close()


ODD_NAMES = [
    "..", "../m", "org/../../secret", "org/m/..", "org/./m", ".", "", "/", "/etc", "org//m",
    "org/m/", "m\0", "\0", "org/\0/m", "a\nb", "x" * 256, "/".join("x" * 200), "\udcff", "..\0",
    "....//m", "org/m/../../../secret",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
async def test_no_models_name_leaves_the_folder_or_fails(folder, caplog, name):
    """Who may create a ModelDeployment names it; the router reads where its name leads."""
    for copy in ("secret", "inner/org/m"):
        shutil.copytree(folder / "org" / "m", folder / copy)
        (folder / copy / "config.json").write_text('{"model_type": "gemma3"}')
    tokenizers = Tokenizers(folder / "inner")
    for _ in range(2):
        assert tokenizers.of(name, None) is None
    assert tokenizers.media(name, None).name == "unknown"
    assert not tokenizers._again_at_seconds
    tokenizers.close()
    assert not caplog.records


async def test_a_link_out_of_the_folder_is_not_followed(folder):
    """What is beside the folder is not its, however it is reached."""
    (folder / "org" / "m" / "config.json").write_text('{"model_type": "gemma3"}')
    inner = folder / "inner"
    inner.mkdir()
    (inner / "link").symlink_to(folder / "org" / "m")
    tokenizers = Tokenizers(inner)
    assert tokenizers.of("link", None) is None
    await until(lambda: tokenizers._again_at_seconds[inner / "link"] < math.inf)
    assert tokenizers.of("link", None) is None
    assert tokenizers.media("link", None).name == "unknown"
    tokenizers.close()


async def test_the_router_counts_instead_of_estimating(folder, engine_factory):
    """1,000 words of one token each, 5,000 bytes: estimated they would be 1,250."""
    rig = Rig()
    await rig.start()
    try:
        engine = await engine_factory(whole())
        rig.add("a", engine.port)
        own = str(folder / "org" / "m")
        settings = PoolSettings(namespace="", deployment="m", tokenizer_folder=own)
        rig.pools.configure({"m": settings})
        rig.trust_all()
        await until(lambda: rig.router.tokenizers.of("m", own) is not None)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
        data = body(messages=[user("time " * 1000)], max_tokens=8)
        _, headers, _ = await exchange(
            rig.port, head + b"content-length: %d\r\n\r\n%b" % (len(data), data)
        )
        assert headers["x-memroute-reserved-tokens"] == str(1000 + 3 + 8)
        image = body(messages=[user([{"type": "image_url", "image_url": {"url": "x"}}])])
        assert (await exchange(rig.port, raw(image)))[0] == 200
        await until(lambda: rig.reserved == 0)
    finally:
        rig.router.tokenizers.close()
        await rig.stop()


async def test_a_tokenizer_is_read_beside_the_loop_and_again_where_it_could_not_be(
    folder, tmp_path, monkeypatch, caplog
):
    """Ten megabytes stopped all streams for as long; and a folder that came late never counted."""
    monkeypatch.setattr("memroute_router.prompts.tokenizer.AGAIN_SECONDS", 0.01)
    names = []
    load = PromptTokenizer.load.__func__

    def watched(cls, path):
        names.append(threading.current_thread().name)
        return load(cls, path)

    monkeypatch.setattr(PromptTokenizer, "load", classmethod(watched))
    late = tmp_path / "late"
    late.mkdir()
    tokenizers = Tokenizers(None)
    assert tokenizers.of("m", str(late)) is None

    def again():
        tokenizers.of("m", str(late))
        return len(names) >= 3

    await until(again)
    assert caplog.text.count("no tokenizer, prompts are estimated") == 1
    shutil.copy(folder / "org" / "m" / "tokenizer.json", late)
    await until(lambda: tokenizers.of("m", str(late)) is not None)
    assert all(name.startswith("tokenizer-read") for name in names)
    tokenizers.close()
