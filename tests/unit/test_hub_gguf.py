"""GGUF files of a hub: chosen by name, read by Range, sized to the byte, pinned by commit."""

import asyncio
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fake_hub import FakeHub, Repository, loopback_sessions, status, tiny_files
from gguf_files import F16, TinyLlama, header, tiny_gguf
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.footprint.engine_type import EngineType
from memroute.footprint.gguf import read_gguf_header
from memroute.footprint.gguf_facts import architecture_of, is_gguf
from memroute_cli.main import app
from memroute_hub import FactsSource, HubError, HubReason, parse_name
from memroute_hub.client import open_hub
from memroute_hub.gguf_files import WINDOWS, is_meant
from memroute_hub.settings import HubSettings, Token
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep, node, operator_rig

REPOSITORY = "org/tiny-GGUF"
SMALL, LARGE = "tiny-F16.gguf", "tiny-wide-F16.gguf"


@pytest.fixture(autouse=True)
def on_loopback():
    with loopback_sessions():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A repository as converters make it: two sizes, a projector, no config.json."""
    folder = tmp_path_factory.mktemp("gguf")
    tiny_gguf(folder / SMALL)
    # A vocabulary past the first window, as those of 150,000 tokens are.
    tiny_gguf(folder / LARGE, TinyLlama(vocabulary=120_000, hidden=32, heads=1, head_dim=32))
    found = {name: (folder / name).read_bytes() for name in (SMALL, LARGE)}
    return found | {"mmproj-F16.gguf": b"GGUF", "README.md": b"x"}


@pytest.fixture
def hub(files, monkeypatch):
    with FakeHub({REPOSITORY: Repository(dict(files))}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


async def no_pause(_seconds):
    pass


async def resolve(hub, file, *, cache=None, offline=False, text=REPOSITORY):
    settings = HubSettings(
        endpoint=hub.url, token=Token(value=None), is_offline=offline, cache_folder=cache
    )
    async with open_hub(settings, no_pause) as client:
        return await client.resolve(replace(parse_name(text), file=file))


async def refusal(hub, file, **how):
    with pytest.raises(HubError) as raised:
        await resolve(hub, file, **how)
    return raised.value


@pytest.mark.slow
@pytest.mark.parametrize("file", [SMALL, "*tiny-f16.GGUF"])
async def test_a_file_is_known_by_its_header(hub, files, file):
    """What it weighs is what its tensors do, to the byte; the footprint is the file's own."""
    found = await resolve(hub, file)
    whole = read_gguf_header(files[SMALL])
    assert (found.file, found.checkpoint_bytes) == (SMALL, whole.tensor_bytes)
    assert is_gguf(found.config)
    architecture = found.architecture()
    assert (architecture.family, len(architecture.layers)) == ("llama", 2)
    assert architecture.max_context_tokens == 4096
    assert architecture.checkpoint_bytes == whole.tensor_bytes
    assert architecture is architecture_of(found.config_text, found.checkpoint_bytes)
    shape = ReplicaShape(
        architecture=architecture, max_context_tokens=512, concurrency=2,
        engine=EngineType.LLAMA_CPP,
    )  # fmt: skip
    assert replica_footprint(shape).weights.expected == pytest.approx(whole.tensor_bytes, rel=0.01)


@pytest.mark.slow
async def test_a_long_header_is_read_in_windows_and_no_weights_are(hub, files):
    """Of a file of 40 GB some megabytes are asked for, and nothing twice."""
    found = await resolve(hub, LARGE)
    header_bytes = len(files[LARGE]) - found.checkpoint_bytes
    assert header_bytes > WINDOWS[0], "else this shows nothing"
    assert hub.bytes_sent[LARGE] < header_bytes + WINDOWS[1]
    assert found.architecture().vocab_size == 120_000


@pytest.mark.slow
async def test_which_files_there_are_is_said_where_nobody_has_chosen(hub):
    """One sentence: sizes, what is no model left out, and where to say it."""
    for file, words in (
        (None, ("has no config.json, but GGUF files: ", f"{SMALL} (", f"{LARGE} (")),
        ("Q4.gguf", ("has no file Q4.gguf, but", SMALL)),
        ("*.gguf", ("*.gguf means several files", SMALL, LARGE)),
    ):
        error = await refusal(hub, file)
        assert error.reason is HubReason.FILE_NEEDED
        assert all(word in error.message for word in words), error.message
        assert "--file, or spec.model.file with engine.type LlamaCPP" in error.message
        assert "mmproj" not in error.message


async def test_the_only_model_needs_no_name(hub, files):
    hub.repositories["org/one"] = Repository({SMALL: files[SMALL], "mmproj-F16.gguf": b"GGUF"})
    assert (await resolve(hub, None, text="org/one")).file == SMALL


async def test_parts_are_one_model(hub, files):
    """llama.cpp is given the first; what it loads is all of them. One that lacks is told."""
    names = [f"big/tiny-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    part = header({"split.no": (4, 1)}, [("blk.1.ffn_up.weight", (64, 128), F16)]) + bytes(16384)
    parts = dict(zip(names, [files[SMALL], part, part], strict=True))
    hub.repositories["org/split"] = Repository(parts)
    found = await resolve(hub, names[0], text="org/split")
    assert [one.path for one in found.weight_files] == names
    first = read_gguf_header(files[SMALL]).tensor_bytes
    assert found.checkpoint_bytes == first + 2 * len(part)
    assert found.checkpoint_bytes == pytest.approx(first + 2 * 16384, rel=0.01)
    assert (await resolve(hub, names[1], text="org/split")).file == names[0]
    del parts[names[2]]
    hub.repositories["org/split"] = Repository(parts)
    error = await refusal(hub, names[0], text="org/split")
    assert "2 of the 3 parts of big/tiny-00001-of-00003.gguf" in error.message


async def test_what_is_no_gguf_file_says_so(hub):
    hub.repositories["org/odd"] = Repository({"a.gguf": b"<html>login"})
    error = await refusal(hub, "a.gguf", text="org/odd")
    assert error.reason is HubReason.CONFIG_UNREADABLE
    assert "a.gguf of org/odd cannot be read" in error.message
    hub.repositories["org/odd"] = Repository({"a.gguf": b"GGUF\x03\x00\x00\x00"})
    assert "does not end within 8 bytes" in (await refusal(hub, "a.gguf", text="org/odd")).message


async def test_a_failure_that_passes_is_tried_again(hub):
    hub.faults[SMALL] = [status(502)]
    assert (await resolve(hub, SMALL)).file == SMALL


async def test_what_was_read_of_a_commit_is_not_read_again(hub, tmp_path):
    """As other facts: offline too, and each file on its own."""
    first = await resolve(hub, SMALL, cache=tmp_path)
    sent = dict(hub.bytes_sent)
    again = await resolve(hub, SMALL, cache=tmp_path, text=f"{REPOSITORY}@{first.commit}")
    assert hub.bytes_sent == sent
    assert again.source is FactsSource.CACHE
    assert (again.file, again.checkpoint_bytes) == (first.file, first.checkpoint_bytes)
    assert again.architecture() is first.architecture()
    assert (await resolve(hub, SMALL, cache=tmp_path, offline=True)).commit == first.commit
    assert (await refusal(hub, LARGE, cache=tmp_path, offline=True)).reason is (
        HubReason.HUB_OFFLINE
    )


async def test_a_repository_that_has_both_is_read_by_what_was_asked_for(hub, files):
    hub.repositories["org/both"] = Repository(tiny_files() | {SMALL: files[SMALL]})
    assert (await resolve(hub, None, text="org/both")).file is None
    assert (await resolve(hub, SMALL, text="org/both")).file == SMALL


@pytest.mark.parametrize(
    ("path", "wanted", "meant"),
    [
        ("Q4/a.gguf", "Q4/a.gguf", True), ("Q4/a.gguf", "a.gguf", True),
        ("Q4/a-Q4_K_M.gguf", "*q4_k_m*", True), ("a.gguf", "b.gguf", False), ("a.gguf", None, True),
    ],
)  # fmt: skip
def test_a_file_is_meant_by_path_name_or_pattern(path, wanted, meant):
    assert is_meant(path, wanted) is meant


# memroute plan


def plan(*arguments):
    result = CliRunner().invoke(app, ["plan", "-a", "L4", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_a_file_is_planned_for_llama_cpp(hub, files):
    """Its manifest asks for that engine, that file and that commit."""
    code, text, _ = plan(REPOSITORY, "--file", SMALL, "--context", "2048", "--output", "json")
    assert code == 0
    (found,) = json.loads(text)["plans"]
    assert found["facts"]["checkpointBytes"] == read_gguf_header(files[SMALL]).tensor_bytes
    spec = found["modelDeployment"]["spec"]
    assert spec["engine"] == {"type": "LlamaCPP"}
    assert spec["model"] == {
        "name": REPOSITORY,
        "source": {"hub": {"revision": hub.repositories[REPOSITORY].commit}},
        "file": SMALL,
    }
    code, text, _ = plan(REPOSITORY, "--file", SMALL, "--context", "2048")
    assert code == 0
    assert f"of weights in {SMALL}" in text


@pytest.mark.usefixtures("hub")
def test_a_plan_without_a_file_says_which_there_are():
    code, _, errors = plan(REPOSITORY)
    assert code == 2
    assert f"memroute plan: {REPOSITORY} has no config.json, but GGUF files: {SMALL} (" in errors


# The operator


def of_file(file=SMALL, **model):
    obj = mdep("m", model=REPOSITORY, maxContextTokens=1024)
    obj["spec"]["engine"] |= {"type": "LlamaCPP", "image": "ggml-org/llama.cpp:server-cuda"}
    obj["spec"]["model"] |= {"file": file, **model}
    return obj


@pytest.mark.slow
async def test_the_operator_pins_the_file_and_plans_by_it(hub, files):
    """No config in the spec, no checkpointBytes: the header has both. Another file is another."""
    settings = HubSettings(endpoint=hub.url, token=Token(value=None), is_offline=False)
    async with (
        open_hub(settings) as client,
        operator_rig(
            nodes=[node("a", gpus=1)], mdeps=[of_file()], argv=["--hub-endpoint", hub.url],
            resolve_model=client.resolve,
        ) as rig,
    ):  # fmt: skip

        def status_of():
            return rig.cluster.objects["modeldeployments"]["default/m"].get("status", {})

        asking = asyncio.create_task(rig.reconciler.hub_models.run())
        try:
            await rig.until("it serves", lambda: rig.is_ready("default/m"))
            pin = status_of()["model"]
            assert pin["file"] == SMALL
            assert pin["checkpointBytes"] == read_gguf_header(files[SMALL]).tensor_bytes

            def other(obj):
                obj["spec"]["model"]["file"] = LARGE
                obj["metadata"]["generation"] += 1

            rig.cluster.change("modeldeployments", "default/m", other)
            await rig.until("its pin", lambda: status_of()["model"]["file"] == LARGE)
        finally:
            asking.cancel()
    read = read_deployment(of_file() | {"status": {"model": pin}})
    assert read.footprint.weights.expected == pytest.approx(pin["checkpointBytes"], rel=0.01)
    assert read_deployment(of_file(LARGE) | {"status": {"model": pin}}).pin is None
    said = read_deployment(of_file(checkpointBytes=2**30) | {"status": {"model": pin}})
    assert said.footprint.weights.expected == pytest.approx(2**30, rel=0.01)
