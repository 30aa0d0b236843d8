"""What ``memroute-fetch`` decides from facts alone: names, which files, who leaves the cache."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute_fetch import (
    HubSource,
    S3Source,
    SourceError,
    adapter_directory,
    model_directory,
    parse_source,
)
from memroute_fetch.disk.room import CachedModel, Volume, is_alive, models_to_evict
from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.remotes.remote import RemoteFile
from memroute_fetch.selection import INDEX, SMALL_SUFFIXES, model_files, needs_index
from memroute_fetch.settings import LivePods, options_parser, parse_options, settings_of
from memroute_fetch.telling.progress import Phase

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GIB = 2**30


def test_a_directory_is_named_after_its_source():
    """People look into a cache: the name says what lies there."""
    found = model_directory(f"hf://Qwen/Qwen3-8B@{COMMIT}")
    assert found == "hub--Qwen--Qwen3-8B--0123456789ab"
    assert model_directory("s3://weights/llama/8b@v2").startswith("s3--weights--llama--8b--v2--")
    adapter = adapter_directory(f"hf://me/sql@{COMMIT}")
    assert adapter == "adapters/hub--me--sql--0123456789ab"


WORDS = st.text("abAB01-_.", min_size=1, max_size=90).filter(lambda text: text[0].isalnum())
HUBS = st.builds(
    HubSource, repository=st.builds("{}/{}".format, WORDS, WORDS), commit=st.just(COMMIT)
)
STORES = st.builds(
    S3Source,
    bucket=st.sampled_from(["abc", "a.b", "a-b"]),
    prefix=st.lists(WORDS, max_size=4).map("/".join),
    version=st.none() | st.sampled_from(["v1", "v-1"]),
)
FILES = st.none() | st.sampled_from(["*Q4*", "*Q8*"])


@given(a=st.tuples(HUBS | STORES, FILES), b=st.tuples(HUBS | STORES, FILES))
def test_two_sources_never_share_a_directory(a, b):
    """`a--b/c` and `a/b--c`, two prefixes, two patterns: none is taken for another."""
    names = [model_directory(*one) for one in (a, b)]
    assert (names[0] == names[1]) == (a == b)
    assert all("/" not in name and len(name) <= 160 and name[0] != "." for name in names)


@given(source=HUBS | STORES)
def test_a_source_reads_as_it_is_written(source):
    try:
        assert parse_source(str(source)) == source
    except SourceError:
        assert isinstance(source, S3Source) or len(source.repository) > 90


@pytest.mark.parametrize(
    "text",
    [
        "", "Qwen/Qwen3-8B", "hf://Qwen/Qwen3-8B", "hf://Qwen/Qwen3-8B@main",
        f"hf://Qwen@{COMMIT}", f"hf://../x@{COMMIT}", f"hf://a/b@{COMMIT.upper()}", "s3://",
        "s3://b/../x", "s3://b/a//b", "s3://bucket/x@", "https://host/model",
        f"hf://a/b\n@{COMMIT}",
    ],
)  # fmt: skip
def test_what_is_no_source_is_refused_with_a_sentence(text):
    with pytest.raises(SourceError) as caught:
        parse_source(text)
    assert len(str(caught.value)) > 20


def remote(*paths, size_bytes=1000):
    return [RemoteFile(path=path, size_bytes=size_bytes, identity=path) for path in paths]


def chosen(*paths, pattern=None, indexed=None):
    return {file.path for file in model_files(remote(*paths), pattern, indexed)}


@pytest.mark.parametrize(
    ("paths", "left_out"),
    [
        (["config.json", "model.safetensors"], ["pytorch_model.bin", "model.gguf"]),
        (["config.json", "pytorch_model.bin"], ["optimizer.pt", "training_args.bin", "model.h5"]),
        (["config.json", "tokenizer.model", "tekken.json", "vocab.txt", "merges.txt",
          "chat_template.jinja", "modeling_x.py", "model.safetensors"],
         ["original/params.json", "original/consolidated.00.pth", "consolidated.safetensors",
          "onnx/config.json", "README.md", "LICENSE", "images/a.png", ".github/x.yml"]),
        (["config.json", "1_Pooling/config.json", "2_Dense/model.safetensors",
          "modules.json", "model.safetensors"], ["2_Dense/pytorch_model.bin"]),
        (["consolidated.safetensors", "params.json", "tekken.json"], []),
        (["model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf"], ["mmproj-f16.gguf"]),
    ],
)  # fmt: skip
def test_an_engine_gets_what_it_loads_and_nothing_twice(paths, left_out):
    """Of layouts that are published: what engines read, and the copies beside it."""
    assert chosen(*paths, *left_out) == set(paths)


def test_one_of_several_checkpoints_is_that_of_the_index():
    paths = ("model-a.safetensors", "model-b.safetensors", "config.json", INDEX)
    assert needs_index(remote(*paths), None)
    assert chosen(*paths, indexed={"model-a.safetensors"}) == {
        "model-a.safetensors", "config.json", INDEX,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "pattern", "code"),
    [
        (["config.json"], None, ExitCode.NOT_FOUND),
        (["a-Q4.gguf", "a-Q8.gguf"], None, ExitCode.USAGE),
        (["a-Q4.gguf", "a-Q8.gguf"], "*", ExitCode.USAGE),
        (["a-Q4.gguf", "a-Q8.gguf"], "*Q2*", ExitCode.NOT_FOUND),
        (["model.safetensors"], "*Q2*", ExitCode.NOT_FOUND),
    ],
)
def test_no_weights_or_too_many_are_refused(paths, pattern, code):
    with pytest.raises(FetchError) as caught:
        chosen(*paths, pattern=pattern)
    assert caught.value.code == code


def test_a_gguf_file_is_chosen_in_its_folder():
    """Repositories sort sizes into folders; the pattern is of the name or of the whole path."""
    paths = ("Q4/a-Q4.gguf", "Q8/a-Q8.gguf")
    assert chosen(*paths, pattern="*Q8.gguf") == {"Q8/a-Q8.gguf"}
    assert chosen(*paths, pattern="Q4/*") == {"Q4/a-Q4.gguf"}


def cached(name, gib, *, used_at=0.0, is_whole=True, is_in_use=False, reserved_gib=0):
    return CachedModel(
        directory=name, num_bytes=gib * GIB, last_used_seconds=used_at, is_whole=is_whole,
        is_in_use=is_in_use, reserved_bytes=reserved_gib * GIB,
    )  # fmt: skip


def leaving(gib, models, *, free_gib, limit_gib=None):
    volume = Volume(free_bytes=free_gib * GIB, keep_free_bytes=GIB)
    limit = None if limit_gib is None else limit_gib * GIB
    found = models_to_evict("new", gib * GIB, gib * GIB, models, volume, limit)
    return [one.directory for one in found]


def test_nothing_leaves_where_there_is_room():
    assert leaving(10, [cached("old", 100)], free_gib=11) == []


def test_the_least_lately_used_leave_and_no_more_than_needed():
    """20 GiB and 1 to stay free; 5 are: of three unused ones of 10, the oldest two."""
    models = [
        cached("b", 10, used_at=2.0), cached("a", 10, used_at=1.0), cached("c", 10, used_at=3.0),
        cached("used", 50, used_at=0.5, is_in_use=True),
    ]  # fmt: skip
    assert leaving(20, models, free_gib=5) == ["a", "b"]


def test_what_an_aborted_fetch_left_goes_first():
    models = [cached("old", 10, used_at=1.0), cached("broken", 10, is_whole=False)]
    assert leaving(5, models, free_gib=0) == ["broken"]


def test_room_that_another_fetch_was_promised_is_not_given_twice():
    """30 GiB are free; another pod has 25 of its 60 to write: 5 are left, of which 1 stays free."""
    other = cached("other", 35, is_whole=False, is_in_use=True, reserved_gib=25)
    assert leaving(4, [other], free_gib=30) == []
    with pytest.raises(FetchError) as caught:
        leaving(5, [other], free_gib=30)
    assert caught.value.code == ExitCode.NO_SPACE


def test_a_limit_of_the_cache_counts_what_is_promised_too():
    models = [cached("a", 10, used_at=1.0), cached("b", 10, used_at=2.0)]
    assert leaving(10, models, free_gib=500, limit_gib=30) == []
    assert leaving(10, models, free_gib=500, limit_gib=29) == ["a"]
    with pytest.raises(FetchError, match="raise --max-cache-bytes"):
        leaving(40, models, free_gib=500, limit_gib=30)


@given(
    models=st.lists(
        st.builds(
            cached, st.uuids().map(str), st.integers(0, 50), used_at=st.floats(0, 9),
            is_whole=st.booleans(), is_in_use=st.booleans(), reserved_gib=st.integers(0, 5),
        ),
        max_size=6,
    ),
    gib=st.integers(1, 60), free_gib=st.integers(0, 100), limit_gib=st.none() | st.integers(1, 200),
)  # fmt: skip
def test_what_is_used_never_leaves_and_what_is_let_in_fits(models, gib, free_gib, limit_gib):
    try:
        names = leaving(gib, models, free_gib=free_gib, limit_gib=limit_gib)
    except FetchError:
        return
    gone = [one for one in models if one.directory in names]
    assert not any(one.is_in_use for one in gone)
    reserved = sum(one.reserved_bytes for one in models) // GIB
    freed = sum(one.num_bytes for one in gone) // GIB
    assert free_gib + freed >= gib + reserved + 1
    held = sum(one.num_bytes for one in models) // GIB - freed + reserved + gib
    assert limit_gib is None or held <= limit_gib


def test_a_pod_is_gone_only_when_a_later_list_lacks_it():
    """The list was made at 1,000 s: what was noted after it may be newer than the list."""
    live = LivePods(pods=frozenset({"a"}), at_seconds=1000.0)
    assert is_alive("a", 10.0, live)
    assert not is_alive("b", 10.0, live)
    assert is_alive("b", 1001.0, live)
    assert is_alive("b", 900.0, live), "clocks may differ by minutes"
    assert is_alive("b", 10.0, None), "nobody has said who lives"


def settings(*options, **environment):
    source = f"hf://a/b@{COMMIT}"
    return settings_of(parse_options([source, "--cache", "/cache", *options]), environment)


@pytest.mark.parametrize(
    "options",
    [
        ["--adapter", "sql"], ["--adapter", "a=hf://x"], ["--max-cache-bytes", "-1"],
        ["--max-cache-bytes", "1Gi"], ["--parallel", "0"], ["--port", "70000"], ["--file", ""],
        ["--nonsense"],
        ["--adapter", f"a=hf://a/b@{COMMIT}", "--adapter", f"a=hf://a/c@{COMMIT}"],
    ],
)  # fmt: skip
def test_options_that_make_no_sense_end_with_a_sentence(options):
    with pytest.raises(FetchError) as caught:
        settings(*options)
    assert caught.value.code == ExitCode.USAGE


def test_the_environment_says_which_pods_live():
    found = settings(POD_UID="u1", MEMROUTE_LIVE_PODS="u1,u2 u3", MEMROUTE_LIVE_PODS_AT="12.5")
    assert found.pod == "u1"
    assert found.live_pods == LivePods(pods=frozenset({"u1", "u2", "u3"}), at_seconds=12.5)
    assert settings(MEMROUTE_LIVE_PODS="u1").live_pods is None
    assert settings(MEMROUTE_LIVE_PODS="u1", MEMROUTE_LIVE_PODS_AT="nan").live_pods is None
    with pytest.raises(FetchError):
        settings(POD_UID="../../x")


def test_the_page_of_the_program_says_what_the_program_does(repository):
    """Options, exit codes, phases and variables are looked up there at night."""
    text = (repository / "docs" / "reference" / "fetch.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row[1])}
    options = {
        flag
        for action in options_parser()._actions
        for flag in action.option_strings
        if flag not in {"-h", "--help", "--version"}
    }
    assert {name for name in told if name.startswith("--")} == options
    codes = {row[1].strip(" `"): row[2].strip(" `") for row in rows if row[1].strip(" `").isdigit()}
    assert codes == {str(int(code)): code.name for code in ExitCode}
    assert {phase.value for phase in Phase} <= told
    assert {f"`{suffix}`" for suffix in SMALL_SUFFIXES} <= set(re.findall(r"`\.\w+`", text))
