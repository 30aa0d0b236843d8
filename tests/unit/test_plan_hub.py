"""``memroute plan`` for models that only a hub knows."""

import json

import pytest
import yaml
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import fake_hub
from fake_hub import GOOD_TOKEN, POOR_TOKEN, TINY_CONFIG, FakeHub, Repository, tiny_files
from memroute_cli.main import app

CATALOGUED = "Qwen/Qwen3-8B"


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A person without a token, a cache or a proxy."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "saved-token"))
    with fake_hub.loopback_sessions():
        yield


@pytest.fixture
def hub(monkeypatch):
    repositories = {
        "org/tiny": Repository(tiny_files(), older={"v1": tiny_files(num_hidden_layers=1)}),
        "org/gated": Repository(tiny_files(), is_gated=True),
        "org/gguf": Repository({"tiny-Q4_K_M.gguf": b"GGUF"}),
        CATALOGUED: Repository(tiny_files()),
    }
    with FakeHub(repositories) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def plan(*arguments):
    """Exit status, output and errors. What is raised is a bug."""
    result = CliRunner().invoke(app, ["plan", "-a", "L4", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def facts(*arguments):
    status, text, errors = plan(*arguments, "--output", "json")
    assert status == 0, errors
    return json.loads(text)["plans"][0]["facts"]


def test_a_model_that_only_the_hub_knows_is_planned_with_its_commit(hub):
    commit = hub.repositories["org/tiny"].commit
    status, text, _ = plan("org/tiny", "--context", "2048")
    assert status == 0
    flat = " ".join(text.split())
    assert f"facts: {hub.url}, main = {commit}; 0.0 GiB of weights in 2 files" in flat
    assert "ends answers after 256 tokens" in text
    found = facts("org/tiny", "--context", "2048")
    assert (found["commit"], found["revision"]) == (commit, "main")
    assert found["checkpointBytes"] == sum(len(tiny_files()[name]) for name in fake_hub.SHARDS)
    assert not any(path.endswith(".safetensors") for path in hub.paths)


def test_an_unknown_family_is_sized_by_its_files(hub):
    """The hub says what weights weigh: nobody has to look for --checkpoint."""
    hub.repositories["org/new"] = Repository(tiny_files(model_type="acme"))
    status, text, _ = plan("org/new", "--context", "2048")
    assert status == 0
    assert "bounded by full attention" in text


def test_a_configuration_that_leaves_a_size_out_is_sized_by_its_files(hub):
    """Many lean on the defaults of their class; the hub knows what the files weigh."""
    files = tiny_files()
    config = json.loads(files["config.json"])
    del config["intermediate_size"]
    hub.repositories["org/short"] = Repository(files | {"config.json": json.dumps(config).encode()})
    status, text, _ = plan("org/short", "--context", "1024", "--prompt-tokens", "512")
    assert status == 0
    assert "leaves out sizes that the formula needs" in text


def test_a_manifest_says_which_commit_it_is_of(hub):
    status, text, _ = plan("org/tiny", "--context", "2048", "--manifest")
    assert status == 0
    assert text.startswith(f"# org/tiny as on {hub.url}, main = ")
    commit = hub.repositories["org/tiny"].commit
    assert yaml.safe_load(text)["spec"]["model"] == {
        "name": "org/tiny",
        "source": {"hub": {"revision": commit}},
    }


def test_a_name_of_the_catalogue_asks_nobody(hub):
    """It works without a network, and gives everybody the same answer."""
    assert facts(CATALOGUED) == {"source": "catalogue"}
    assert hub.requests == []


@pytest.mark.slow
def test_the_catalogue_shadows_no_revision(hub):
    """Whoever names a revision wants that one: the catalogue knows one version of each model."""
    found = facts(f"{CATALOGUED}@main", "--context", "2048")
    assert (found["source"], found["commit"]) == ("hub", hub.repositories[CATALOGUED].commit)
    status, _, errors = plan(f"{CATALOGUED}@v9")
    assert status == 2
    assert "no revision v9" in errors


@pytest.mark.usefixtures("hub")
def test_a_revision_is_another_model():
    plans = [
        json.loads(plan(name, "--context", "2048", "--output", "json")[1])["plans"][0]
        for name in ("org/tiny", "org/tiny@v1")
    ]
    assert plans[0]["options"][0]["weightsBytes"] > plans[1]["options"][0]["weightsBytes"]


def spoil(hub, file, fault):
    hub.faults[file] = [fault] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("org/none", None, ["knows no model org/none", "private"]),
        ("Qwen/Qwen3-9B", None, ["knows no model", "did you mean Qwen/Qwen3"]),
        ("org/tiny@v9", None, ["no revision v9"]),
        ("org/gated", None, ["gated", "HF_TOKEN or --hub-token-file", "/org/gated"]),
        ("org/gguf", None, ["tiny-Q4_K_M.gguf of org/gguf", "header does not end within 4 bytes"]),
        ("org/tiny", ("api", fake_hub.status(429, Retry_After="7")), ["try again in 7 s"]),
        ("org/tiny", ("api", fake_hub.status(500)), ["answered 500"]),
        ("org/tiny", ("api", fake_hub.body(b"<p>Log in", "text/html")), ["not answer as a hub"]),
        ("org/tiny", ("config.json", fake_hub.body(b"{")), ["config.json of org/tiny is not JSON"]),
        ("org/tiny", ("config.json", fake_hub.endless), ["more than 8 MiB"]),
        ("org/../tiny", None, ["is no name of a model"]),
    ],
)  # fmt: skip
def test_each_trouble_gets_one_sentence_and_status_2(hub, monkeypatch, name, fault, words):
    """Bar 6: unknown repository, gated, no config.json, and the rest of what hubs do."""
    monkeypatch.setattr("memroute_hub.transport.RETRY_SECONDS", ())
    if fault is not None:
        spoil(hub, *fault)
    status, text, errors = plan(name)
    assert (status, text) == (2, "")
    assert errors.startswith("memroute plan: ")
    assert errors.count("\n") == 1
    assert all(word in errors for word in words), errors


def test_no_network_is_told_with_what_to_do(hub):
    hub.close()
    status, _, errors = plan("org/tiny")
    assert status == 2
    assert "cannot be reached" in errors
    assert "--hub-endpoint" in errors


def test_a_token_comes_from_a_file_the_environment_or_the_login(hub, monkeypatch, tmp_path):
    options = ("org/gated", "--context", "2048")
    (tmp_path / "saved-token").write_text(GOOD_TOKEN)
    assert facts(*options)["isGated"]
    monkeypatch.setenv("HF_TOKEN", POOR_TOKEN)
    hub.repositories["org/gated"] = Repository(tiny_files(num_hidden_layers=3), is_gated=True)
    status, _, errors = plan(*options)
    assert status == 2
    assert "not been granted access" in errors
    (tmp_path / "token").write_text(GOOD_TOKEN)
    assert facts(*options, "--hub-token-file", str(tmp_path / "token"))["isGated"]
    status, _, errors = plan(*options, "--hub-token-file", str(tmp_path / "none"))
    assert status == 2
    assert "there is no such file" in errors


def test_another_hub_can_be_named(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    assert facts("org/tiny", "--context", "2048", "--hub-endpoint", hub.url)["endpoint"] == hub.url
    status, _, errors = plan("org/tiny", "--hub-endpoint", "hub.example")
    assert status == 2
    assert "--hub-endpoint" in errors


@pytest.mark.slow
def test_offline_what_was_read_before_serves(hub, monkeypatch):
    """A laptop in a train, a build without egress."""
    online = facts("org/tiny", "--context", "2048")
    hub.requests.clear()
    offline = facts("org/tiny", "--context", "2048", "--offline")
    assert (offline["source"], offline["commit"]) == ("cache", online["commit"])
    assert "offline" in offline["staleBecause"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert facts("org/tiny", "--context", "2048") == offline
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert facts(CATALOGUED, "--offline") == {"source": "catalogue"}
    for name in ("org/other", f"{CATALOGUED}@main"):
        status, _, errors = plan(name, "--offline")
        assert status == 2
        assert "not in the cache" in errors
    assert f"plan {CATALOGUED} without a revision" in errors
    assert hub.requests == []


def test_a_hub_that_is_down_leaves_what_was_known(hub, monkeypatch):
    monkeypatch.setattr("memroute_hub.transport.RETRY_SECONDS", ())
    plan("org/tiny", "--context", "2048")
    spoil(hub, "api", fake_hub.status(503))
    status, text, _ = plan("org/tiny", "--context", "2048")
    assert status == 0
    assert "may have moved since it was read" in text


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([10**15, 10**30, 2.5, 1e300]),
    st.text(max_size=4), st.lists(st.integers(0, 2), max_size=3),
    st.dictionaries(st.sampled_from(["quant_method", "x"]), st.text(max_size=4), max_size=2),
)  # fmt: skip
FIELDS = st.sampled_from(
    [*TINY_CONFIG, "quantization_config", "rope_scaling", "layer_types", "sliding_window",
     "text_config", "vision_config", "head_dim", "num_local_experts", "tie_word_embeddings"]
)  # fmt: skip


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.dictionaries(FIELDS, VALUES, min_size=1, max_size=4))
def test_no_config_json_ends_in_a_traceback(hub, changes):
    """Whoever owns a repository may write anything into it: an answer, or a sentence."""
    hub.repositories["org/odd"] = Repository(tiny_files(**changes))
    status, _, errors = plan("org/odd", "--context", "64", "--prompt-tokens", "8",
                             "--output-tokens", "8")  # fmt: skip
    assert status in {0, 1} or errors.startswith("memroute plan: ")
