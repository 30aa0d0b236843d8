"""What a hub says of a model, and every way in which it does not."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_hub
from fake_hub import GOOD_TOKEN, POOR_TOKEN, SHARDS, FakeHub, Repository, commit_of, tiny_files
from memroute.footprint import num_parameters
from memroute_hub import FactsSource, HubError, HubReason, model_from_document, parse_name
from memroute_hub.client import open_hub
from memroute_hub.documents import UnreadableDocumentError, parse_object
from memroute_hub.facts import RepositoryFile, weight_files
from memroute_hub.reading import MAX_BYTES, SMALL_INDEX_BYTES
from memroute_hub.settings import HubSettings, SettingsError, Token, checked_endpoint

LISTED_BYTES = sum(len(tiny_files()[name]) for name in SHARDS)


async def no_pause(_seconds):
    """Tries follow each other at once."""


@pytest.fixture(autouse=True)
def on_loopback():
    with fake_hub.loopback_sessions():
        yield


@pytest.fixture
def hub():
    repositories = {
        "org/tiny": Repository(tiny_files(), older={"v1": tiny_files(num_hidden_layers=1)}),
        "org/gated": Repository(tiny_files(), is_gated=True),
        "org/private": Repository(tiny_files(), is_private=True),
        "org/disabled": Repository(tiny_files(), is_disabled=True),
    }
    with FakeHub(repositories) as running:
        yield running


async def resolve(hub, text, *, token=None, cache=None, offline=False, timeout=20.0):
    settings = HubSettings(
        endpoint=hub.url,
        token=Token(value=token),
        is_offline=offline,
        cache_folder=cache,
        timeout_seconds=timeout,
    )
    async with open_hub(settings, no_pause) as client:
        return await client.resolve(parse_name(text))


async def refusal(hub, text, **how):
    with pytest.raises(HubError) as caught:
        await resolve(hub, text, **how)
    return caught.value


async def test_the_facts_are_those_of_one_commit_and_no_weights_are_read(hub):
    """A branch moves between two requests: files of two commits would describe no model."""
    model = await resolve(hub, "org/tiny")
    assert model.commit == commit_of(tiny_files())
    assert model.revision == "main"
    assert model.source is FactsSource.HUB
    assert [one.path for one in model.weight_files] == list(SHARDS)
    assert model.checkpoint_bytes == LISTED_BYTES
    assert model.index_total_bytes == 65536 + 32768
    assert model.tokenizer_max_tokens is None  # 10^30 is no limit
    assert model.generation_max_tokens == 256
    assert not any(path.endswith(".safetensors") for path in hub.paths)
    assert all(model.commit in path for path in hub.paths if "/resolve/" in path)
    assert not any(request.token for request in hub.requests)


async def test_the_architecture_is_the_same_object_for_the_same_facts(hub):
    """Footprints are remembered by it. 2 layers of 64: worked out by the catalogue's own reader."""
    first, second = await resolve(hub, "org/tiny"), await resolve(hub, "org/tiny@main")
    assert first.architecture() is second.architecture()
    # Tables 2 x 512 x 64; per layer q and o 2 x 64^2, k and v 2 x 64 x 32, MLP 3 x 64 x 128,
    # two norms of 64; the last norm.
    per_layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    assert num_parameters(first.architecture()) == 2 * 512 * 64 + 2 * per_layer + 64


async def test_a_tag_is_another_model_than_the_branch(hub):
    old, new = await resolve(hub, "org/tiny@v1"), await resolve(hub, "org/tiny")
    assert (old.config["num_hidden_layers"], new.config["num_hidden_layers"]) == (1, 2)
    assert old.commit != new.commit
    assert (await resolve(hub, f"org/tiny@{old.commit}")).config == old.config


async def test_a_pull_request_can_be_named(hub):
    hub.repositories["org/tiny"].older["refs/pr/3"] = tiny_files(num_hidden_layers=3)
    assert (await resolve(hub, "org/tiny@refs/pr/3")).config["num_hidden_layers"] == 3


async def test_a_quantization_beside_config_json_is_in_the_configuration(hub):
    """ModelOpt writes hf_quant_config.json: without it NVFP4 is taken for 16 bit, four times it."""
    quantization = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    files = tiny_files() | {"hf_quant_config.json": json.dumps(quantization).encode()}
    hub.repositories["org/nvfp4"] = Repository(files)
    model = await resolve(hub, "org/nvfp4")
    assert model.config["quantization_config"]["quant_method"] == "modelopt"
    assert model.architecture().quantization_config["quantization"]["quant_algo"] == "NVFP4"


@pytest.mark.parametrize(
    ("file", "said", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128}, "awq"),
        ("quantization_config.json", {"quant_method": "auto-round", "bits": 4}, "auto-round"),
    ],
)
async def test_files_of_older_tools_are_in_the_configuration_too(hub, file, said, method):
    hub.repositories["org/old"] = Repository(tiny_files() | {file: json.dumps(said).encode()})
    model = await resolve(hub, "org/old")
    assert model.config["quantization_config"] == {"quant_method": method, **said}


async def test_mixed_precision_may_name_its_layers_in_the_file_alone(hub):
    """Older ModelOpt checkpoints have half of it inline: the other half is asked for."""
    own = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    layers = {"model.layers.0.mlp.up_proj": {"quant_algo": "FP8"}}
    beside = json.dumps({"quantization": {"quantized_layers": layers}}).encode()
    files = tiny_files(quantization_config=own) | {"hf_quant_config.json": beside}
    hub.repositories["org/mixed"] = Repository(files)
    found = (await resolve(hub, "org/mixed")).config["quantization_config"]
    assert found == own | {"quantized_layers": layers}


async def test_what_config_json_says_of_its_quantization_wins(hub):
    own = {"quant_method": "fp8"}
    files = tiny_files(quantization_config=own) | {"hf_quant_config.json": b'{"quantization": {}}'}
    hub.repositories["org/fp8"] = Repository(files)
    assert (await resolve(hub, "org/fp8")).config["quantization_config"] == own


@pytest.mark.parametrize(
    ("name", "token", "reason", "words"),
    [
        ("org/none", None, HubReason.REPOSITORY_NOT_FOUND, ["org/none", "private", "HF_TOKEN"]),
        ("org/none", GOOD_TOKEN, HubReason.REPOSITORY_NOT_FOUND, ["org/none", "private"]),
        ("org/private", POOR_TOKEN, HubReason.REPOSITORY_NOT_FOUND, ["token's account"]),
        ("org/tiny@v9", None, HubReason.REVISION_NOT_FOUND, ["v9", "branch"]),
        ("org/gated", None, HubReason.TOKEN_REQUIRED, ["gated", "/org/gated", "HF_TOKEN"]),
        ("org/gated", POOR_TOKEN, HubReason.ACCESS_NOT_GRANTED, ["not been granted", "/org/gated"]),
        ("org/tiny", "hf_wrong", HubReason.TOKEN_INVALID, ["does not accept", "expired"]),
        ("org/disabled", None, HubReason.REPOSITORY_DISABLED, ["disabled"]),
    ],
)
async def test_a_refusal_says_what_to_do(hub, name, token, reason, words):
    """At 3 a.m. nobody wants to learn what 401 means here: it means four things."""
    error = await refusal(hub, name, token=token)
    assert error.reason is reason
    assert all(word in error.message for word in words), error.message
    assert not error.is_transient
    assert "\n" not in error.message


async def test_with_access_gated_and_private_models_are_read(hub):
    assert (await resolve(hub, "org/gated", token=GOOD_TOKEN)).is_gated
    assert (await resolve(hub, "org/private", token=GOOD_TOKEN)).checkpoint_bytes == LISTED_BYTES


async def test_no_token_reaches_another_host(hub):
    """A file that the hub sends elsewhere for, to its CDN: those logs are not the hub's."""
    elsewhere = f"{hub.cdn_url}/org/gated/{hub.repositories['org/gated'].commit}/config.json"
    hub.faults["config.json"] = [fake_hub.redirect(elsewhere)]
    await resolve(hub, "org/gated", token=GOOD_TOKEN)
    asked = [request for request in hub.requests if request.is_cdn]
    assert len(asked) == 1
    assert asked[0].token is None
    assert all(request.token == GOOD_TOKEN for request in hub.requests if not request.is_cdn)


async def test_a_rate_limit_says_when_to_ask_again_and_is_not_pressed(hub):
    hub.faults["api"] = [fake_hub.status(429, Retry_After="17")]
    error = await refusal(hub, "org/tiny")
    assert (error.reason, error.retry_after_seconds) == (HubReason.RATE_LIMITED, 17)
    assert "17 s" in error.message
    assert error.is_transient
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"api";r=0;t=55', "Retry_After": "3"}, 55),
        ({"Retry_After": "999999999"}, 3600),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, None),
    ],
)
async def test_how_long_to_wait_is_read_in_every_form(hub, headers, seconds):
    hub.faults["config.json"] = [fake_hub.status(429, **headers)]
    assert (await refusal(hub, "org/tiny")).retry_after_seconds == seconds


@pytest.mark.parametrize("fault", [fake_hub.cut(20), fake_hub.status(503), fake_hub.status(502)])
async def test_what_passes_is_tried_again(hub, fault):
    """A reset in the middle of a body, or a bad gateway: the third try is the last."""
    hub.faults |= {"config.json": [fault, fault], "api": [fault]}
    assert (await resolve(hub, "org/tiny")).config["hidden_size"] == 64
    hub.faults["config.json"] = [fault, fault, fault]
    error = await refusal(hub, "org/tiny")
    assert error.reason in {HubReason.HUB_UNREACHABLE, HubReason.HUB_FAILING}
    assert error.is_transient


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "fault"),
    [("api", fake_hub.stall()), ("config.json", fake_hub.stall(after_bytes=10))],
)
async def test_a_hub_that_says_nothing_holds_nobody_up(hub, file, fault):
    hub.faults[file] = [fault]
    error = await refusal(hub, "org/tiny", timeout=0.3)
    assert error.reason is HubReason.HUB_TIMEOUT
    assert "0.3 s" in error.message


async def test_no_network_is_told_with_the_remedy(hub):
    hub.close()
    error = await refusal(hub, "org/tiny")
    assert error.reason is HubReason.HUB_UNREACHABLE
    assert "HF_ENDPOINT" in error.message
    assert "Connect call failed" in error.message, "as the operating system says it"


async def test_a_name_that_resolves_nowhere_is_no_network(hub):
    hub.url = "http://nowhere.invalid:1"
    assert (await refusal(hub, "org/tiny")).reason is HubReason.HUB_UNREACHABLE


@pytest.mark.parametrize("file", ["api", "config.json"])
async def test_a_login_page_is_no_hub(hub, file):
    """A captive portal answers 200 and HTML to everything."""
    hub.faults[file] = [fake_hub.body(b"<html>Welcome!</html>", "text/html; charset=utf-8")]
    error = await refusal(hub, "org/tiny")
    assert error.reason is HubReason.NOT_A_HUB
    assert "proxy" in error.message


@pytest.mark.parametrize(
    "data",
    [b"[]", b"{}", b"Hello", b'{"sha": "main", "siblings": []}', b'{"sha": null}', b"\xff\xfe"],
)
async def test_an_answer_that_names_no_commit_is_no_hub(hub, data):
    hub.faults["api"] = [fake_hub.body(data)]
    assert (await refusal(hub, "org/tiny")).reason is HubReason.NOT_A_HUB


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"mmproj-f16.gguf": b"x"}, ["mmproj-f16.gguf"]),
        ({"adapter_config.json": b"{}"}, ["adapter", "trained on"]),
        ({"model_index.json": b"{}", "unet/x.bin": b"x"}, ["pipeline"]),
        ({"params.json": b"{}"}, ["Mistral"]),
        ({"README.md": b"x"}, ["README.md"]),
        ({}, ["empty"]),
    ],
)
async def test_without_a_config_json_it_says_what_is_there(hub, files, words):
    hub.repositories["org/odd"] = Repository(files)
    error = await refusal(hub, "org/odd")
    assert error.reason is HubReason.CONFIG_MISSING
    assert all(word in error.message for word in words), error.message


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": [' + b"[]," * 600_000 + b"1]}",
    ],
)
async def test_a_config_json_that_is_none_is_told(hub, config):
    hub.repositories["org/bad"] = Repository(tiny_files() | {"config.json": config})
    error = await refusal(hub, "org/bad")
    assert error.reason is HubReason.CONFIG_UNREADABLE
    assert "config.json of org/bad" in error.message
    assert not error.is_transient


async def test_a_config_json_of_gigabytes_is_not_read(hub):
    """By its size in the list where that is true, else while it comes."""
    hub.faults["config.json"] = [fake_hub.endless]
    error = await refusal(hub, "org/tiny")
    assert error.reason is HubReason.CONFIG_UNREADABLE
    assert "more than 8 MiB" in error.message
    huge = tiny_files() | {"config.json": b" " * (MAX_BYTES["config.json"] + 1)}
    hub.repositories["org/huge"] = Repository(huge)
    before = len(hub.requests)
    assert (await refusal(hub, "org/huge")).reason is HubReason.CONFIG_UNREADABLE
    assert len(hub.requests) == before + 1


async def test_odd_files_that_only_add_are_left_out(hub):
    """A tokenizer's nonsense is no reason not to know what the weights need."""
    files = tiny_files() | {"tokenizer_config.json": b"<>", "generation_config.json": b"[]"}
    hub.repositories["org/odd"] = Repository(files | {"model.safetensors.index.json": b"{"})
    model = await resolve(hub, "org/odd")
    assert (model.tokenizer_max_tokens, model.generation_max_tokens) == (None, None)
    assert (model.index_total_bytes, model.checkpoint_bytes) == (None, LISTED_BYTES)


async def test_a_mirror_without_sizes_in_its_list_is_asked_for_the_long_one(hub):
    hub.repositories["org/mirrored"] = Repository(tiny_files(), has_sizes=False)
    hub.page_size = 2
    model = await resolve(hub, "org/mirrored")
    assert model.checkpoint_bytes == LISTED_BYTES
    assert sum("/tree/" in path for path in hub.paths) == 3


async def test_a_mirror_without_a_long_list_is_no_failure(hub):
    hub.repositories["org/mirrored"] = Repository(tiny_files(), has_sizes=False)
    hub.faults["tree"] = [fake_hub.status(404)]
    assert (await resolve(hub, "org/mirrored")).checkpoint_bytes == 65536 + 32768


async def test_without_any_size_the_index_says_what_the_tensors_have(hub):
    hub.repositories["org/mirrored"] = Repository(tiny_files(), has_sizes=False)
    hub.faults["tree"] = [fake_hub.body(b"[]")]
    assert (await resolve(hub, "org/mirrored")).checkpoint_bytes == 65536 + 32768


async def test_a_large_index_is_read_only_where_the_list_leaves_something_open(hub):
    """That of a mixture of experts has 20 MiB, and says nothing new of files with sizes."""
    files = tiny_files()
    index = json.loads(files["model.safetensors.index.json"]) | {"x": "y" * SMALL_INDEX_BYTES}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories["org/large"] = Repository(files)
    assert (await resolve(hub, "org/large")).checkpoint_bytes == LISTED_BYTES
    assert not any("index.json" in path for path in hub.paths)
    # A second checkpoint beside it: only the index says which of them engines load.
    hub.repositories["org/two"] = Repository(files | {"other.safetensors": b"x" * 10**6})
    assert (await resolve(hub, "org/two")).checkpoint_bytes == LISTED_BYTES


async def test_a_list_that_goes_on_elsewhere_is_not_followed(hub):
    """The token goes with each request for the list: only to the hub."""

    def elsewhere(handler, code, data, headers):
        link = f'<{hub.cdn_url}/steal>; rel="next"'
        handler.send(code, data, headers | {"Link": link})

    hub.repositories["org/mirrored"] = Repository(tiny_files(), has_sizes=False)
    hub.faults["tree"] = [elsewhere]
    await resolve(hub, "org/mirrored", token=GOOD_TOKEN)
    assert not any(request.is_cdn for request in hub.requests)


async def test_a_commit_is_asked_once_and_a_branch_with_one_request(hub, tmp_path):
    first = await resolve(hub, "org/tiny", cache=tmp_path)
    hub.requests.clear()
    again = await resolve(hub, f"org/tiny@{first.commit}", cache=tmp_path)
    assert hub.requests == []
    assert again.source is FactsSource.CACHE
    assert again.document() == first.document() | {"revision": first.commit}
    moved = await resolve(hub, "org/tiny", cache=tmp_path)
    assert len(hub.requests) == 1
    assert (moved.commit, moved.revision, moved.stale_because) == (first.commit, "main", None)


async def test_a_branch_that_has_moved_is_read_anew(hub, tmp_path):
    await resolve(hub, "org/tiny", cache=tmp_path)
    hub.repositories["org/tiny"] = Repository(tiny_files(num_hidden_layers=5))
    assert (await resolve(hub, "org/tiny", cache=tmp_path)).config["num_hidden_layers"] == 5


async def test_a_hub_that_is_down_leaves_what_was_known_and_says_so(hub, tmp_path):
    await resolve(hub, "org/tiny", cache=tmp_path)
    hub.faults["api"] = [fake_hub.status(503)] * 3
    model = await resolve(hub, "org/tiny", cache=tmp_path)
    assert "503" in model.stale_because
    assert model.config["hidden_size"] == 64


async def test_a_model_that_was_taken_away_is_not_answered_from_the_cache(hub, tmp_path):
    await resolve(hub, "org/tiny", cache=tmp_path)
    del hub.repositories["org/tiny"]
    error = await refusal(hub, "org/tiny", cache=tmp_path)
    assert error.reason is HubReason.REPOSITORY_NOT_FOUND


async def test_offline_the_cache_answers_and_nothing_is_asked(hub, tmp_path):
    known = await resolve(hub, "org/tiny", cache=tmp_path)
    hub.requests.clear()
    model = await resolve(hub, "org/tiny", cache=tmp_path, offline=True)
    assert (model.commit, model.stale_because) == (known.commit, "this is offline")
    error = await refusal(hub, "org/tiny@v1", cache=tmp_path, offline=True)
    assert error.reason is HubReason.HUB_OFFLINE
    assert (await refusal(hub, "org/tiny", offline=True)).reason is HubReason.HUB_OFFLINE
    assert hub.requests == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"commit": "x"}', "\0", "9" * 100])
async def test_a_cache_that_somebody_has_spoilt_is_read_anew(hub, tmp_path, text):
    await resolve(hub, "org/tiny", cache=tmp_path)
    for path in tmp_path.rglob("*.json"):
        path.write_text(text)
    model = await resolve(hub, "org/tiny", cache=tmp_path)
    assert len(hub.requests) > 6
    assert (await resolve(hub, f"org/tiny@{model.commit}", cache=tmp_path)) == replace(
        model, revision=model.commit, source=FactsSource.CACHE
    )


async def test_a_cache_that_cannot_be_written_is_no_failure(hub, tmp_path):
    (tmp_path / "v1").write_text("a file where a folder should be")
    assert (await resolve(hub, "org/tiny", cache=tmp_path)).source is FactsSource.HUB


@pytest.mark.parametrize(
    "text",
    ["tiny", "a/b/c", "../x", "org/", "/tiny", "org/..", "org/t iny", "org/tiny@", "org/tiny@../x",
     "org/tiny@-x", "org/tiny\n", "https://x/y", "org/tiny@a b", "o" * 300 + "/x", "org/tiny?x"],
)  # fmt: skip
def test_what_cannot_be_a_name_is_asked_of_nobody(text):
    with pytest.raises(HubError) as caught:
        parse_name(text)
    assert caught.value.reason is HubReason.MODEL_NAME_INVALID


@pytest.mark.parametrize("text", ["org/a--b", "org/x..y", "org/x.git", f"org/{'x' * 97}"])
async def test_what_no_hub_allows_is_asked_of_none(hub, text):
    assert (await refusal(hub, text)).reason is HubReason.MODEL_NAME_INVALID
    assert hub.requests == []


@pytest.mark.parametrize(
    ("files", "indexed", "chosen"),
    [
        (["model.safetensors"], [], ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], [], ["model.safetensors"]),
        (["consolidated.safetensors"], [], ["consolidated.safetensors"]),
        (["a.safetensors", "b.safetensors"], ["a.safetensors"], ["a.safetensors"]),
        (["a.safetensors"], ["gone.safetensors"], ["a.safetensors"]),
        (["model.safetensors", "pytorch_model.bin"], [], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], [], ["pytorch_model.bin"]),
        (["original/x.pth", "onnx/model.bin", "model.safetensors"], [], ["model.safetensors"]),
        (["original/x.pth"], [], []),
        (["adapter_model.safetensors", "model.safetensors"], [], ["model.safetensors"]),
    ],
)
def test_the_weights_are_what_an_engine_would_load(files, indexed, chosen):
    """Twice the same weights in a repository are not twice the memory."""
    listed = [RepositoryFile(path=path, size_bytes=1) for path in files]
    assert [one.path for one in weight_files(listed, indexed)] == chosen


def test_a_token_is_read_anew_and_never_told(tmp_path):
    """Secrets are rotated under a running operator, and messages end in statuses."""
    file = tmp_path / "token"
    token = Token(file=file)
    with pytest.raises(HubError) as caught:
        token.read()
    assert str(file) in caught.value.message
    file.write_text("hf_one\n")
    assert token.read() == "hf_one"
    file.write_text("hf_two")
    assert token.read() == "hf_two"
    file.write_text("hf_sec ret")
    with pytest.raises(HubError) as caught:
        token.read()
    assert "hf_sec" not in caught.value.message
    file.write_text("")
    assert token.read() is None
    assert Token(file=tmp_path / "none", is_file_needed=False).read() is None


@pytest.mark.parametrize(
    "text", ["ftp://x", "hub", "http://", "https://u:p@x", "https://x?y=1", "http://x:99999", "h t"]
)
def test_an_endpoint_that_can_be_none_is_refused(text):
    with pytest.raises(SettingsError):
        checked_endpoint(text)


def test_the_endpoint_is_the_options_then_the_environments(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf/")
    assert checked_endpoint(None) == "https://mirror.example/hf"
    assert checked_endpoint("http://other:8080/") == "http://other:8080"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.slow
@given(JSON)
def test_facts_from_anywhere_are_facts_or_refused(document):
    """Caches and statuses are anybody's to edit."""
    try:
        parsed = parse_object(json.dumps(document).encode())
    except UnreadableDocumentError:
        return
    with pytest.raises(ValueError, match="no facts"):
        model_from_document(parsed)


async def test_facts_survive_being_kept(hub):
    model = await resolve(hub, "org/tiny")
    again = model_from_document(json.loads(json.dumps(model.document())))
    assert replace(again, source=model.source) == model
