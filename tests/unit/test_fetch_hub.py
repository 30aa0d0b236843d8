"""What ``memroute-fetch`` does with a hub's models, and with everything that goes wrong there."""

import errno
import fcntl
import json
import os
import threading

import pytest

import fake_hub
from fake_hub import GOOD_TOKEN, SHARDS, FakeHub, Repository, safetensors, tiny_files
from fetching import Fetching, free_bytes, without_waits
from memroute_fetch import download
from memroute_fetch.disk import eviction
from memroute_fetch.disk.cache import ModelFolder
from memroute_fetch.failures import HUB_CODES, ExitCode
from memroute_hub import HubReason

FILES = tiny_files()
OTHERS = {
    "pytorch_model.bin": b"the same weights again" * 100,
    "original/consolidated.00.pth": b"and again" * 100,
    "original/params.json": b"{}",
    "onnx/model.onnx": b"and again" * 100,
    "README.md": b"# words",
    "assets/picture.png": b"a picture",
    ".gitattributes": b"*.bin filter=lfs",
}
GGUFS = {
    "tiny-Q4_K_M.gguf": b"GGUF four bits" * 1000,
    "tiny-Q8_0.gguf": b"GGUF eight bits" * 2000,
    "config.json": b"{}",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_waits(monkeypatch)
    with fake_hub.loopback_sessions():
        yield


@pytest.fixture
def hub():
    repositories = {
        "org/tiny": Repository(FILES | OTHERS),
        "org/gated": Repository(FILES, is_gated=True),
        "org/private": Repository(FILES, is_private=True),
        "org/gguf": Repository(GGUFS),
    }
    with FakeHub(repositories) as running:
        yield running


@pytest.fixture
def fetching(hub, tmp_path):
    return Fetching(tmp_path / "cache", hub.url)


def at(hub, name):
    return f"hf://{name}@{hub.repositories[name].commit}"


@pytest.mark.slow
def test_the_second_start_reads_no_byte_and_asks_nobody(hub, fetching):
    """A restart of an engine must not depend on a hub, nor pay for 140 GB twice."""
    source = at(hub, "org/tiny")
    assert fetching.run(source) == ExitCode.COMPLETE
    assert fetching.files(source) == FILES
    assert sum(hub.bytes_sent.values()) == sum(map(len, FILES.values()))
    asked, sent = len(hub.requests), dict(hub.bytes_sent)
    hub.close()
    assert fetching.run(source) == ExitCode.COMPLETE
    assert (len(hub.requests), hub.bytes_sent) == (asked, sent)
    assert fetching.summary["bytes_read_from_source"] == 0
    assert fetching.summary["bytes_from_cache"] == sum(map(len, FILES.values()))


@pytest.mark.slow
def test_files_that_no_engine_loads_stay_where_they_are(hub, fetching):
    """`.bin`, `original/` and ONNX are the same weights: three times the bytes for nothing."""
    fetching.run(at(hub, "org/tiny"))
    assert not set(hub.bytes_sent) & set(OTHERS)


def test_the_marker_says_what_lies_there(hub, fetching):
    source = at(hub, "org/tiny")
    fetching.run(source)
    marker = json.loads((fetching.folder(source) / ".memroute-complete.json").read_text())
    assert marker["source"] == source
    assert marker["commit"] == hub.repositories["org/tiny"].commit
    assert marker["bytes"] == sum(map(len, FILES.values()))
    told = {one["path"]: (one["size"], one["checked"]) for one in marker["files"]}
    assert told[SHARDS[0]] == (len(FILES[SHARDS[0]]), "sha256")
    assert told["config.json"] == (len(FILES["config.json"]), "git-sha1")


def test_a_download_that_breaks_goes_on_where_it_broke(hub, fetching):
    """Ranges: of 64 KiB, 20,000 bytes came before the connection was reset."""
    hub.faults[SHARDS[0]] = [fake_hub.cut(20_000)]
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.COMPLETE
    ranges = [r.byte_range for r in hub.requests if r.is_cdn and r.path.endswith(SHARDS[0])]
    assert ranges == [None, f"bytes=20000-{len(FILES[SHARDS[0]]) - 1}"]
    assert hub.bytes_sent[SHARDS[0]] == len(FILES[SHARDS[0]])


def test_a_source_that_ignores_ranges_is_read_from_the_beginning_again(hub, fetching):
    hub.faults[SHARDS[0]] = [fake_hub.cut(20_000), fake_hub.without_ranges]
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.COMPLETE
    assert hub.bytes_sent[SHARDS[0]] == 20_000 + len(FILES[SHARDS[0]])
    assert fetching.files(at(hub, "org/tiny")) == FILES


def test_the_next_start_goes_on_from_what_a_failed_one_left(hub, fetching):
    """The kubelet starts the container again: with a Range, not from the first byte."""
    source = at(hub, "org/tiny")
    hub.faults[SHARDS[0]] = [fake_hub.cut(30_000), *[fake_hub.status(503)] * 4]
    assert fetching.run(source) == ExitCode.NO_NETWORK
    assert "503" in fetching.said
    assert not fetching.is_whole(source)
    assert fetching.run(source) == ExitCode.COMPLETE
    assert hub.bytes_sent[SHARDS[0]] == len(FILES[SHARDS[0]])
    assert fetching.files(source) == FILES


def test_wrong_bytes_are_fetched_once_more(hub, fetching):
    """Plain HTTP compares sizes alone: one flipped bit would be served as a model."""
    hub.faults[SHARDS[0]] = [fake_hub.wrong(1000)]
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.COMPLETE
    assert fetching.files(at(hub, "org/tiny")) == FILES
    assert hub.bytes_sent[SHARDS[0]] == 2 * len(FILES[SHARDS[0]])


@pytest.mark.slow
@pytest.mark.parametrize("name", [SHARDS[0], "config.json"])
def test_bytes_that_are_wrong_twice_are_told_and_never_marked(hub, fetching, name):
    source = at(hub, "org/tiny")
    hub.faults[name] = [fake_hub.wrong(10)] * 2
    assert fetching.run(source) == ExitCode.CHECKSUM
    assert name in fetching.said
    assert "twice" in fetching.said
    assert not fetching.is_whole(source)
    assert fetching.run(source) == ExitCode.COMPLETE


def test_a_file_that_is_shorter_than_listed_is_told(hub, fetching):
    """A proxy that cuts, and says that this was all."""
    short = FILES[SHARDS[0]][:-5]
    hub.faults[SHARDS[0]] = [fake_hub.body(short, "application/octet-stream")] * 2
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.CHECKSUM
    assert f"{len(short):,} bytes where {len(FILES[SHARDS[0]]):,} are listed" in fetching.said


def test_a_file_that_was_changed_on_the_disk_is_fetched_anew(hub, fetching):
    """Somebody edits a cache, or a disk loses a block: the marker alone proves nothing."""
    source = at(hub, "org/tiny")
    fetching.run(source)
    path = fetching.folder(source) / SHARDS[1]
    path.write_bytes(b"x" * len(FILES[SHARDS[1]]))
    hub.bytes_sent.clear()
    assert fetching.run(source) == ExitCode.COMPLETE
    assert fetching.files(source) == FILES
    assert hub.bytes_sent == {SHARDS[1]: len(FILES[SHARDS[1]])}


def test_a_damaged_model_loses_its_marker_before_anybody_is_asked(hub, fetching):
    """The hub is down: whoever looks at the marker must not take the wreck for a model."""
    source = at(hub, "org/tiny")
    fetching.run(source)
    (fetching.folder(source) / SHARDS[1]).write_bytes(b"x")
    hub.close()
    assert fetching.run(source) == ExitCode.NO_NETWORK
    assert not fetching.is_whole(source)


def test_a_copied_cache_is_believed_by_its_bytes(hub, fetching):
    """Another time of the file and the same bytes: hashed, not fetched."""
    source = at(hub, "org/tiny")
    fetching.run(source)
    os.utime(fetching.folder(source) / SHARDS[1], (1, 1))
    hub.close()
    assert fetching.run(source) == ExitCode.COMPLETE


def test_verify_finds_what_size_and_time_do_not_show(hub, fetching):
    source = at(hub, "org/tiny")
    fetching.run(source)
    path = fetching.folder(source) / SHARDS[1]
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"x" * len(FILES[SHARDS[1]]))
    os.utime(path, ns=times)
    assert fetching.run(source, "--verify") == ExitCode.COMPLETE
    assert fetching.files(source) == FILES


def test_weights_that_somebody_put_there_before_are_used(hub, fetching):
    """A team copies a model by hand: its bytes are compared, and the rest is fetched."""
    source = at(hub, "org/tiny")
    fetching.folder(source).mkdir(parents=True)
    (fetching.folder(source) / SHARDS[0]).write_bytes(FILES[SHARDS[0]])
    (fetching.folder(source) / "old.bin").write_bytes(b"of an aborted try")
    assert fetching.run(source) == ExitCode.COMPLETE
    assert SHARDS[0] not in hub.bytes_sent
    assert fetching.files(source) == FILES


def test_what_aborted_tries_left_is_gone_when_the_model_is_whole(hub, fetching):
    """Two killed tries of a 30 MiB file left two orphans of huggingface_hub for ever."""
    source = at(hub, "org/tiny")
    hub.faults[SHARDS[0]] = [fake_hub.status(404)] * 2
    fetching.run(source)
    own = fetching.cache / ".memroute" / "models" / fetching.folder(source).name
    (own / "partial").mkdir(exist_ok=True)
    (own / "partial" / "ffff.part").write_bytes(b"of another version")
    assert fetching.run(source) == ExitCode.NOT_FOUND
    assert not (own / "partial" / "ffff.part").exists(), "it takes room that this version needs"
    assert fetching.run(source) == ExitCode.COMPLETE
    assert sorted(path.name for path in own.iterdir()) == ["last-used", "lock"]


@pytest.mark.parametrize(
    ("name", "token", "code", "words"),
    [
        ("org/gated", None, ExitCode.DENIED, "gated and no token was sent"),
        ("org/gated", fake_hub.POOR_TOKEN, ExitCode.DENIED, "has not been granted access"),
        ("org/gated", "hf_unknown", ExitCode.DENIED, "does not accept the token"),
        ("org/private", None, ExitCode.NOT_FOUND, "or it is private"),
        ("org/gated", GOOD_TOKEN, ExitCode.COMPLETE, ""),
    ],
)
def test_gates_are_told_apart(hub, fetching, monkeypatch, name, token, code, words):
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert fetching.run(at(hub, name)) == code
    assert words in fetching.said


def test_no_token_reaches_the_cdn(hub, fetching, monkeypatch):
    """Redirections lead to another host, which must not learn it."""
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    fetching.run(at(hub, "org/gated"))
    assert {request.token for request in hub.requests if request.is_cdn} == {None}
    assert {request.token for request in hub.requests if not request.is_cdn} == {GOOD_TOKEN}


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("hf://org/absent@" + "0" * 40, ExitCode.NOT_FOUND, "knows no model org/absent"),
        ("hf://org/tiny@" + "0" * 40, ExitCode.NOT_FOUND, "has no revision"),
        ("hf://org/tiny@main", ExitCode.USAGE, "names no commit"),
        ("org/tiny", ExitCode.USAGE, "is no source"),
    ],
)
def test_what_is_not_there_is_told(fetching, source, code, words):
    assert fetching.run(source) == code
    assert words in fetching.said


def test_no_network_is_told_with_what_to_do(hub, fetching):
    source = at(hub, "org/tiny")
    hub.close()
    assert fetching.run(source) == ExitCode.NO_NETWORK
    assert "cannot be reached" in fetching.said
    assert "HTTPS_PROXY" in fetching.said


def test_a_limit_of_requests_is_waited_for_when_it_is_short(hub, fetching):
    hub.faults[SHARDS[0]] = [fake_hub.status(429, Retry_After="0")]
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.COMPLETE


def test_a_limit_of_requests_that_is_long_is_told(hub, fetching):
    """An hour in an init container helps nobody: the kubelet starts it again."""
    hub.faults[SHARDS[0]] = [fake_hub.status(429, Retry_After="3000")]
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.NO_NETWORK
    assert "429" in fetching.said


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a/.memroute-complete.json", "x\x00y"],
)
def test_names_that_lead_elsewhere_are_refused(hub, fetching, path):
    """A tree is written by whoever owns the repository."""
    hub.repositories["org/evil"] = Repository(FILES | {path: b"root::0:0"})
    assert fetching.run(at(hub, "org/evil")) == ExitCode.CHECKSUM
    assert "would not lie in the model's own folder" in fetching.said
    assert hub.bytes_sent == {}


def test_a_link_in_the_cache_leads_nowhere(hub, fetching, tmp_path):
    """Another pod that may write into the cache must not choose what is overwritten."""
    source = at(hub, "org/tiny")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    fetching.folder(source).mkdir(parents=True)
    (fetching.folder(source) / "config.json").symlink_to(victim)
    assert fetching.run(source) == ExitCode.COMPLETE
    assert victim.read_bytes() == b"precious"
    assert fetching.files(source) == FILES


def test_one_gguf_file_is_chosen_by_its_pattern(hub, fetching):
    source = at(hub, "org/gguf")
    assert fetching.run(source) == ExitCode.USAGE
    assert "tiny-Q4_K_M.gguf" in fetching.said
    assert "--file" in fetching.said
    assert fetching.run(source, "--file", "*Q4_K_M.gguf") == ExitCode.COMPLETE
    found = fetching.files(source, "*Q4_K_M.gguf")
    assert found == {name: GGUFS[name] for name in ("tiny-Q4_K_M.gguf", "config.json")}
    assert fetching.run(source, "--file", "*Q2*") == ExitCode.NOT_FOUND


def test_a_long_list_of_a_mirror_is_read_to_its_end(hub, fetching):
    """Mirrors hand on the addresses of the hub behind them: the mirror is asked all the same."""
    hub.page_size = 4

    def mirrored(handler, code, data, headers):
        link = headers.get("Link", "").replace(hub.url, "https://hub.example")
        handler.send(code, data, headers | {"Link": link})

    hub.faults["tree"] = [mirrored] * 2
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.COMPLETE
    assert fetching.files(at(hub, "org/tiny")) == FILES


@pytest.mark.parametrize("fault", ["elsewhere", "breaks off", "nothing"])
def test_half_of_a_list_is_no_model(hub, fetching, fault):
    """A model without its second shard would be marked as whole."""
    hub.page_size = 4

    def elsewhere(handler, code, data, headers):
        handler.send(code, data, headers | {"Link": f'<{hub.cdn_url}/steal?a=b>; rel="next"'})

    def as_ever(handler, code, data, headers):
        handler.send(code, data, headers)

    def absent(handler, _code, _data, _headers):
        handler.error(404, "EntryNotFound", "no such page")

    hub.faults["tree"] = {
        "elsewhere": [elsewhere], "breaks off": [as_ever, absent],
        "nothing": [fake_hub.body(b"[]")],
    }[fault]  # fmt: skip
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.NO_NETWORK
    assert "list of files" in fetching.said
    assert not any(request.is_cdn for request in hub.requests)


def test_of_two_checkpoints_the_one_of_the_index_is_fetched(hub, fetching):
    """A converted copy beside the original: an engine loads what the index names."""
    index = {"metadata": {}, "weight_map": {"a": "model-fp8.safetensors"}}
    files = {
        "config.json": b"{}", "model-fp8.safetensors": b"eight bits",
        "model-bf16.safetensors": b"sixteen bits",
        "model.safetensors.index.json": json.dumps(index).encode(),
    }  # fmt: skip
    hub.repositories["org/two"] = Repository(files)
    assert fetching.run(at(hub, "org/two")) == ExitCode.COMPLETE
    del files["model-bf16.safetensors"]
    assert fetching.files(at(hub, "org/two")) == files


def test_a_volume_without_room_is_told_before_the_first_byte(hub, fetching, monkeypatch):
    free_bytes(monkeypatch, 50_000)
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.NO_SPACE
    assert "do not fit" in fetching.said
    assert hub.bytes_sent == {}


@pytest.mark.slow
def test_the_least_used_model_leaves_and_one_in_use_stays(hub, fetching):
    """Of two models, one is used by a pod that lives: the other one makes room."""
    hub.repositories["org/used"] = Repository(tiny_files(num_hidden_layers=3))
    hub.repositories["org/new"] = Repository(tiny_files(num_hidden_layers=4))
    size = str(2 * sum(map(len, FILES.values())) + 50_000)
    fetching.environment = {"POD_UID": "living"}
    fetching.run(at(hub, "org/used"), "--max-cache-bytes", size)
    fetching.environment = {"POD_UID": "dead"}
    fetching.run(at(hub, "org/tiny"), "--max-cache-bytes", size)
    fetching.environment = {
        "POD_UID": "new", "MEMROUTE_LIVE_PODS": "living,new",
        "MEMROUTE_LIVE_PODS_AT": "99999999999",
    }  # fmt: skip
    assert fetching.run(at(hub, "org/new"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    assert fetching.is_whole(at(hub, "org/used"))
    assert fetching.is_whole(at(hub, "org/new"))
    assert not fetching.folder(at(hub, "org/tiny")).exists()
    # All that is left is in use.
    fetching.environment["MEMROUTE_LIVE_PODS"] = "living,new,newer"
    assert fetching.run(at(hub, "org/tiny"), "--max-cache-bytes", size) == ExitCode.NO_SPACE
    assert "models in use stay" in fetching.said


def scoped(hub, tmp_path, name, **environment):
    """A pod's fetcher, in the folder of its group of one cache."""
    folder = tmp_path / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    return Fetching(folder, hub.url, environment=environment)


@pytest.mark.slow
def test_the_size_of_a_cache_is_that_of_all_its_folders(hub, tmp_path):
    """900 GiB of a node are 900, not 900 for each namespace. What is used least makes room."""
    hub.repositories["org/new"] = Repository(tiny_files(num_hidden_layers=4))
    one = sum(map(len, FILES.values()))
    size = str(2 * one + 50_000)
    team = scoped(hub, tmp_path, "namespace-team-a")
    assert team.run(at(hub, "org/tiny"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    public = scoped(hub, tmp_path, "public")
    assert public.run(at(hub, "org/tiny"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    assert team.is_whole(at(hub, "org/tiny")), "there was room for two"
    assert public.run(at(hub, "org/new"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    assert not team.folder(at(hub, "org/tiny")).exists()
    assert public.is_whole(at(hub, "org/tiny"))
    assert public.is_whole(at(hub, "org/new"))


def test_what_others_use_stays_and_its_name_is_not_told(hub, tmp_path):
    """A gated model of one team is nobody else's business, not even its name."""
    hub.repositories["org/secret"] = Repository(tiny_files(num_hidden_layers=4))
    size = str(sum(map(len, FILES.values())) + 50_000)
    team = scoped(hub, tmp_path, "namespace-team-a", POD_UID="living")
    assert team.run(at(hub, "org/secret"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    public = scoped(
        hub, tmp_path, "public", POD_UID="new", MEMROUTE_LIVE_PODS="living,new",
        MEMROUTE_LIVE_PODS_AT="99999999999",
    )  # fmt: skip
    assert public.run(at(hub, "org/tiny"), "--max-cache-bytes", size) == ExitCode.NO_SPACE
    assert "models in use stay (1 of others)" in public.said
    assert "secret" not in public.said
    assert team.is_whole(at(hub, "org/secret"))
    # It has ended.
    public.environment["MEMROUTE_LIVE_PODS"] = "new"
    assert public.run(at(hub, "org/tiny"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    assert not team.folder(at(hub, "org/secret")).exists()


def test_what_lies_beside_a_cache_by_chance_is_none_of_it(hub, fetching, tmp_path):
    """Folders of another name, or without a cache in them, are counted by nobody."""
    size = str(sum(map(len, FILES.values())) + 50_000)
    hub.repositories["org/new"] = Repository(tiny_files(num_hidden_layers=4))
    fetching.run(at(hub, "org/tiny"), "--max-cache-bytes", size)
    (fetching.cache.parent / "public").mkdir()
    beside = Fetching(fetching.cache.parent / "public", hub.url)
    (tmp_path / "namespace-photos").mkdir()
    (tmp_path / "namespace-photos" / "x.jpg").write_bytes(bytes(10**6))
    assert beside.run(at(hub, "org/new"), "--max-cache-bytes", size) == ExitCode.COMPLETE
    assert fetching.is_whole(at(hub, "org/tiny"))


def test_a_model_that_is_taken_into_use_just_before_it_would_leave_stays(
    hub, fetching, monkeypatch
):
    """Another pod starts between the decision and the deed: its weights are not taken away."""
    size = str(sum(map(len, FILES.values())) + 50_000)
    hub.repositories["org/new"] = Repository(tiny_files(num_hidden_layers=4))
    fetching.run(at(hub, "org/tiny"), "--max-cache-bytes", size)
    decide = eviction.models_to_evict

    def decide_late(*facts):
        leaving = decide(*facts)
        for one in leaving:
            ModelFolder(fetching.cache, one.directory).note_use("late")
        return leaving

    monkeypatch.setattr(eviction, "models_to_evict", decide_late)
    assert fetching.run(at(hub, "org/new"), "--max-cache-bytes", size) == ExitCode.NO_SPACE
    assert fetching.is_whole(at(hub, "org/tiny"))


def test_two_models_at_once_are_not_promised_the_same_room(hub, fetching, tmp_path, monkeypatch):
    """150,000 bytes are free and each model has 99,000: the second is refused, not cut off."""
    hub.repositories["org/new"] = Repository(tiny_files(num_hidden_layers=4))
    free_bytes(monkeypatch, 150_000)
    go_on = threading.Event()
    hub.faults[SHARDS[0]] = [fake_hub.held(0, go_on)]
    first = threading.Thread(target=fetching.run, args=(at(hub, "org/tiny"),))
    first.start()
    try:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "cache").symlink_to(fetching.cache, target_is_directory=True)
        other = Fetching(tmp_path / "other" / "cache", hub.url)
        while first.is_alive() and not any(request.is_cdn for request in hub.requests):
            first.join(0.01)
        assert other.run(at(hub, "org/new")) == ExitCode.NO_SPACE
        assert "models in use stay (hub--org--tiny" in other.said
    finally:
        go_on.set()
        first.join()
    assert fetching.is_whole(at(hub, "org/tiny"))
    assert other.run(at(hub, "org/new")) == ExitCode.COMPLETE


def test_without_a_list_of_pods_every_noted_one_is_alive(hub, fetching):
    """Nobody has said which pods are gone: a model that may be in use is not removed."""
    size = str(sum(map(len, FILES.values())) + 50_000)
    hub.repositories["org/new"] = Repository(tiny_files(num_hidden_layers=4))
    fetching.environment = {"POD_UID": "perhaps"}
    fetching.run(at(hub, "org/tiny"), "--max-cache-bytes", size)
    assert fetching.run(at(hub, "org/new"), "--max-cache-bytes", size) == ExitCode.NO_SPACE
    assert fetching.is_whole(at(hub, "org/tiny"))


def test_a_stop_keeps_what_came_so_far(hub, fetching):
    """SIGTERM in the middle: the next start has half of it already."""
    source = at(hub, "org/tiny")

    def stop(handler, code, data, headers):
        fetching.stopping.set()
        handler.send(code, data, headers)

    hub.faults["config.json"] = [stop]
    assert fetching.run(source, "--parallel", "1") == ExitCode.STOPPED
    assert "kept" in fetching.said
    fetching.stopping.clear()
    sent = dict(hub.bytes_sent)
    assert fetching.run(source) == ExitCode.COMPLETE
    assert {name: hub.bytes_sent[name] for name in SHARDS} == {name: sent[name] for name in SHARDS}


def test_adapters_are_fetched_beside_their_model(hub, fetching):
    """LoRA: two files each, in a folder of adapters, shared by name of source."""
    weights = safetensors({"lora_A": ("BF16", [8, 64], 1024)})
    adapter = {
        "adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": weights,
        "adapter_model.bin": b"the same again", "README.md": b"words",
        "checkpoint-100/adapter_model.safetensors": b"training",
    }  # fmt: skip
    hub.repositories["org/lora"] = Repository(adapter)
    source, lora = at(hub, "org/tiny"), at(hub, "org/lora")
    assert fetching.run(source, "--adapter", f"sql={lora}") == ExitCode.COMPLETE
    where = fetching.summary["adapters"]["sql"]
    folder = fetching.cache / where
    assert where.startswith("adapters/hub--org--lora--")
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", ".memroute-complete.json",
    }  # fmt: skip
    assert fetching.summary["bytes"] == sum(map(len, FILES.values())) + len(weights) + 8
    hub.close()
    twice = ("--adapter", f"sql={lora}", "--adapter", f"other={lora}")
    assert fetching.run(source, *twice) == ExitCode.COMPLETE
    assert fetching.summary["adapters"] == {"sql": where, "other": where}
    assert fetching.summary["bytes_read_from_source"] == 0


def test_a_model_that_is_given_as_an_adapter_is_told(hub, fetching):
    source = at(hub, "org/tiny")
    assert fetching.run(source, "--adapter", f"x={source}") == ExitCode.NOT_FOUND
    assert "it is no LoRA adapter" in fetching.said


def test_large_files_are_asked_for_in_segments(hub, fetching, monkeypatch):
    """CDNs send up to 50 GB for one request: larger files come in several."""
    monkeypatch.setattr(download, "SEGMENT_BYTES", 30_000)
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.COMPLETE
    asked = [one.byte_range for one in hub.requests if one.is_cdn and one.path.endswith(SHARDS[0])]
    last = len(FILES[SHARDS[0]]) - 1
    assert asked == ["bytes=0-29999", "bytes=30000-59999", f"bytes=60000-{last}"]
    assert fetching.files(at(hub, "org/tiny")) == FILES


def test_a_disk_that_runs_full_is_told_as_that(hub, fetching, monkeypatch):
    """Somebody else writes to the volume too: what was free is not any more."""
    source = at(hub, "org/tiny")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert fetching.run(source) == ExitCode.NO_SPACE
    assert "ran full" in fetching.said
    assert fetching.run(source) == ExitCode.COMPLETE


def test_a_volume_that_is_mounted_to_read_serves_when_it_holds_the_model(
    hub, fetching, monkeypatch
):
    """A claim that is filled once, and read by every node."""
    source = at(hub, "org/tiny")

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_CREAT | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *args, **kwargs)

    opened = os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert fetching.run(source) == ExitCode.CACHE_UNUSABLE
    assert "cannot be written" in fetching.said
    fetching.run(source)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert fetching.run(source) == ExitCode.COMPLETE


def test_a_file_system_without_locks_is_refused(hub, fetching, monkeypatch):
    """Two writers of one file that do not know of each other are worse than none."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert fetching.run(at(hub, "org/tiny")) == ExitCode.CACHE_UNUSABLE
    assert "has no locks" in fetching.said


def test_every_reason_of_a_hub_has_its_exit_code():
    assert set(HUB_CODES) == set(HubReason)
