"""How far weights are, how their fetching ends, and which nodes have them."""

import copy
import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.units import GIB
from memroute_fetch.failures import ExitCode
from memroute_operator.failures import failure_of
from memroute_operator.memory import PlanMemory
from memroute_operator.readings.pages import open_page_reader
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ReplicaState
from memroute_operator.weights import reports as reports_module
from memroute_operator.weights.book import BOOK_NAME, MAX_PAIRS, merged, read_book
from memroute_operator.weights.progress import FetchProgress, read_progress, told
from memroute_operator.weights.reports import FetchReports, find_fetching
from operator_rig import Rig, mdep, node, operator_rig
from planned_objects import NOW, deployment, pod_of
from served_pages import counter, says, serving

CACHE = ("--model-cache-path=/var/cache/memroute",)
COMMIT = "0123456789" * 4
PAGE = {
    "phase": "downloading", "bytes_done": 41 * GIB, "bytes_total": 142 * GIB,
    "bytes_from_cache": 0, "bytes_read_from_source": 41 * GIB, "bytes_per_second": 310e6,
    "message": "",
}  # fmt: skip


def words(seconds=0.0, **more):
    return told(read_progress(json.dumps(PAGE | more)), standing_seconds=seconds)


def test_how_far_a_download_is_stands_in_a_line():
    """101 GiB at 310 MB/s are 5.83 minutes: 6."""
    assert words() == "41 of 142 GiB (310 MB/s, about 6 min left)"
    assert words(bytes_per_second=None) == "41 of 142 GiB"
    assert words(bytes_total=None) == "41 GiB (310 MB/s)"
    assert words(bytes_per_second=1e6) == "41 of 142 GiB (1 MB/s, about 30 h left)"
    assert (
        words(bytes_done=GIB // 2, bytes_total=GIB) == "0.5 of 1.0 GiB (310 MB/s, about 1 min left)"
    )


def test_what_else_it_does_is_told():
    assert "waits for another replica" in words(phase="waiting")
    assert words(phase="evicting", bytes_done=0) == "0.0 of 142 GiB (makes room in the cache)"
    assert words(phase="verifying", bytes_done=142 * GIB) == (
        "142 of 142 GiB (verifies what has come)"
    )
    assert words(phase="brewing") == "41 of 142 GiB (brewing)"


def test_a_download_that_stands_still_is_told_and_one_that_is_slow_is_not():
    """No time is told that grows by itself: a status would be written for nothing."""
    assert "nothing has moved for more than 2 min" in words(121.0)
    assert words(121.0) == words(3600.0)
    assert "nothing has moved" not in words(119.0, bytes_per_second=1000.0)
    assert "nothing has moved" not in words(3600.0, phase="waiting"), "another one's affair"


@pytest.mark.slow
@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(
                st.sampled_from([*PAGE, "x"]), inner
            ),
        ).map(json.dumps),
    )
)  # fmt: skip
def test_whatever_a_page_says_is_a_line_at_the_most(page):
    """It comes from a tenant's pod."""
    progress = read_progress(page)
    if progress is not None:
        line = told(progress, standing_seconds=0.0)
        assert line.isprintable()
        assert len(line) < 400


def test_a_hostile_page_costs_nothing():
    assert read_progress("[" * 100_000) is None
    assert read_progress('{"phase": 1}') is None
    odd = read_progress('{"phase": "downloading", "bytes_done": 1e999, "bytes_total": -1}')
    assert odd == FetchProgress(phase="downloading")


# Reading them

RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def fetching_pod(index=0, *, state="running", code=None, message="", **more):
    """A replica whose fetcher is like this."""
    pod = pod_of(deployment(**more), index, ready=False)
    container = {"name": "memroute-fetch", "state": RUNNING, "lastState": {}}
    ended = {"terminated": {"exitCode": code, "message": message, "reason": "Error"}}
    if state == "terminated":
        container["state"] = ended
    elif code is not None:
        container["lastState"] = ended
    if state == "waiting":
        container["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    pod["status"] |= {
        "phase": "Pending", "podIP": "127.0.0.1", "initContainerStatuses": [container],
        "containerStatuses": [
            {"name": "engine", "restartCount": 0,
             "state": {"waiting": {"reason": "PodInitializing"}}}
        ],
    }  # fmt: skip
    pod["spec"]["nodeName"] = "a"
    pod["spec"]["volumes"].append({"name": "memroute-weights", "hostPath": {"path": "/c"}})
    return pod


async def test_fetchers_are_read_while_they_run_and_forgotten_after(monkeypatch):
    reports, pod = FetchReports(), fetching_pod()
    uid = pod["metadata"]["uid"]
    assert find_fetching([pod, fetching_pod(1, state="terminated", code=0)]) == [pod]
    async with (
        serving(says(json.dumps(PAGE)), path="/progress") as port,
        open_page_reader() as reader,
    ):
        monkeypatch.setattr(reports_module, "PROGRESS_PORT", port)
        await reports.scrape(reader, reports.due([pod], 0.0), counter())
    assert reports.words(1.0) == {uid: "41 of 142 GiB (310 MB/s, about 6 min left)"}
    assert "nothing has moved" in reports.words(500.0)[uid]
    moved = read_progress(json.dumps(PAGE | {"bytes_done": 42 * GIB}))
    reports.note(uid, moved, 500.0)
    assert reports.words(501.0)[uid].startswith("42 of 142 GiB (310")
    assert reports.due([], 502.0) == []
    assert reports.words(502.0) == {}


@pytest.mark.parametrize("page", ["no json", "{}", "x" * 20_000])
async def test_what_is_no_fetcher_is_asked_less_and_less(monkeypatch, page):
    """Any pod of a tenant may be there, or a NetworkPolicy before it."""
    reports, pod, asked = FetchReports(), fetching_pod(), 0
    async with serving(says(page), path="/progress") as port, open_page_reader() as reader:
        monkeypatch.setattr(reports_module, "PROGRESS_PORT", port)
        for now in range(0, 600, 5):
            due = reports.due([pod], float(now))
            asked += len(due)
            await reports.scrape(reader, due, partial(float, now))
    assert reports.words(600.0) == {}
    assert 3 <= asked <= 12


# How they end


ENDS = {
    ExitCode.CHECKSUM: "WeightsChecksumWrong",
    ExitCode.NOT_FOUND: "WeightsNotFound",
    ExitCode.NO_NETWORK: "SourceUnreachable",
    ExitCode.NO_SPACE: "CacheFull",
    ExitCode.CACHE_UNUSABLE: "CacheUnusable",
    ExitCode.DENIED: "WeightsDenied",
    ExitCode.USAGE: "FetcherOutdated",
    ExitCode.BUG: "FetchFailed",
    137: "FetchEnded",
}


@pytest.mark.parametrize("code", ENDS)
def test_each_end_of_a_fetcher_is_told_with_its_own_sentence(code):
    said = "142 GiB are missing, and 80 GiB are free"
    found = failure_of(fetching_pod(state="waiting", code=int(code), message=said))
    assert (found.name, found.evidence) == (ENDS[code], said)
    assert said in read_replica(fetching_pod(state="waiting", code=int(code), message=said)).failure


def test_a_fetcher_that_tries_again_downloads_and_says_why_it_had_ended():
    replica = read_replica(fetching_pod(code=69, message="no route to the hub"))
    assert (replica.state, replica.failure) == (ReplicaState.DOWNLOADING, None)
    assert replica.last_end.name == "SourceUnreachable"


def test_a_long_download_is_no_slow_start():
    """An engine that has just been started would be called stuck, after an hour of downloading."""
    memory = PlanMemory()
    (before,) = memory.stamp([read_replica(fetching_pod())], now_seconds=0.0, now=NOW)
    (still,) = memory.stamp([read_replica(fetching_pod())], now_seconds=3600.0, now=NOW)
    assert (before.seen.unready_seconds, still.seen.unready_seconds) == (0.0, 3600.0)
    done = read_replica(fetching_pod(state="terminated", code=0))
    assert done.state is ReplicaState.STARTING
    (started,) = memory.stamp([done], now_seconds=3610.0, now=NOW)
    assert started.seen.unready_seconds == 0.0
    (later,) = memory.stamp([done], now_seconds=3640.0, now=NOW)
    assert later.seen.unready_seconds == 30.0


def test_only_a_full_disk_of_a_node_sends_a_replica_elsewhere():
    full = fetching_pod(state="waiting", code=73)
    assert read_replica(full).is_out_of_disk
    assert not read_replica(fetching_pod(state="waiting", code=69)).is_out_of_disk
    claim = copy.deepcopy(full)
    claim["spec"]["volumes"][-1] = {
        "name": "memroute-weights", "persistentVolumeClaim": {"claimName": "w"},
    }  # fmt: skip
    assert not read_replica(claim).is_out_of_disk, "a claim is as full anywhere"


# Which nodes have them


def test_what_nobody_has_shown_for_longest_is_forgotten_first():
    """An object has a bound, and so has what a person may have put there."""
    many = {f"k{i}": frozenset(f"n{j}" for j in range(64)) for i in range(100)}
    found = merged(many, {"k0": frozenset({"new"})}, ())
    assert sum(map(len, found.values())) <= MAX_PAIRS
    assert "new" in found["k0"]
    assert "k1" not in found
    assert merged({"k": frozenset("ab")}, {}, ["b"]) == {"k": frozenset("b")}
    assert merged({"k": frozenset("ab")}, {}, []) == {"k": frozenset("ab")}
    odd = {"a": "[1", "b": '{"x": 1}', "c": '["n", 5, ""]', "d": None, "e": "[" * 9999}
    assert read_book({"data": odd}) == {"c": frozenset({"n"})}
    assert read_book({"data": 3}) == {}


def cached(name, **more):
    """A ModelDeployment whose weights are cached on its node, on a whole device."""
    obj = mdep(name, **more)
    obj["spec"]["model"] |= {
        "servedName": name, "source": {"hub": {"revision": COMMIT}}, "config": CONFIG,
    }  # fmt: skip
    return obj


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 3072, "vocab_size": 151936, "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16", "tie_word_embeddings": True,
}  # fmt: skip


def key_of(rig):
    """The one pod that there is."""
    (key,) = rig.cluster.objects["pods"]
    return key


def fetch_ends(rig, code):
    """The fetcher of the one pod ends so."""
    ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": "said"}
    state = {"terminated": ended} if code == 0 else {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {} if code == 0 else {"terminated": ended}
    container = {"name": "memroute-fetch", "state": state, "lastState": last}

    def change(pod):
        pod["status"]["initContainerStatuses"] = [container]

    rig.cluster.change("pods", key_of(rig), change)


@pytest.mark.slow
async def test_which_node_has_weights_outlives_pods_and_the_operator():
    """Nothing serves the model any more, another operator leads: the node is found again."""
    nodes = [node("a"), node("b")]
    only_b = cached("m")
    only_b["spec"]["placement"]["nodeSelector"] = {"kubernetes.io/hostname": "b"}
    nodes[1]["metadata"]["labels"]["kubernetes.io/hostname"] = "b"
    async with operator_rig(nodes=nodes, mdeps=[only_b], argv=CACHE) as rig:
        await rig.until("a pod", rig.cluster.pods)
        fetch_ends(rig, 0)
        await rig.steps(2)
        (text,) = rig.cluster.objects["configmaps"][f"memroute-system/{BOOK_NAME}"]["data"].values()
        assert json.loads(text) == ["b"]
        rig.cluster.remove("modeldeployments", "default/m")
        await rig.until("it to go", lambda: not rig.cluster.pods())
        await rig.stop()
        again = Rig(rig.cluster, rig._client, argv=CACHE)
        await again.start()
        try:
            await again.list_and_step()
            again.cluster.put("modeldeployments", cached("n"))
            await again.until("a pod", again.cluster.pods)
            (pod,) = again.cluster.pods()
            assert (
                "has the weights" in pod["metadata"]["annotations"]["memroute.dev/placement-reason"]
            )
        finally:
            await again.stop()


@pytest.mark.slow
async def test_a_node_without_space_is_left_and_told():
    """Kubelet would restart the fetcher there for ever."""
    async with operator_rig(nodes=[node("a"), node("b")], mdeps=[cached("m")], argv=CACHE) as rig:
        await rig.until("a pod", rig.cluster.pods)
        (first,) = rig.cluster.pods()
        fetch_ends(rig, ExitCode.NO_SPACE)

        def is_elsewhere():
            pods = rig.cluster.pods()
            return pods and pods[0]["metadata"]["uid"] != first["metadata"]["uid"]

        await rig.until("another pod", is_elsewhere, at_most=120)
        (second,) = rig.cluster.pods()
        assert _node_of(second) != _node_of(first)
        assert any("no space for the weights" in said for said in rig.events("ReplicaFailed"))


def _node_of(pod):
    reservation = pod["metadata"]["annotations"]["memroute.dev/reservation"]
    return json.loads(reservation)["node"]


async def test_how_far_a_replica_is_stands_in_its_status():
    async with operator_rig(nodes=[node("a")], mdeps=[cached("m")], argv=CACHE) as rig:
        rig.cluster.is_ready_at_once = False
        await rig.until("a pod", rig.cluster.pods)
        pod = rig.cluster.objects["pods"][key_of(rig)]

        def running(pod):
            container = {"name": "memroute-fetch", "state": RUNNING, "lastState": {}}
            pod["status"]["initContainerStatuses"] = [container]
            pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
            pod["spec"]["nodeName"] = "a"

        rig.cluster.change("pods", key_of(rig), running)
        rig.readings.fetches.note(pod["metadata"]["uid"], read_progress(json.dumps(PAGE)), rig.now)
        await rig.steps(2)
        status = rig.cluster.objects["modeldeployments"]["default/m"]["status"]
        (placement,) = status["placements"]
        assert placement["state"] == "Downloading"
        assert placement["progress"].startswith("41 of 142 GiB (310 MB/s")
        name = pod["metadata"]["name"]
        assert f"{name} Downloading 41 of 142 GiB" in rig.condition("default/m")["message"]
        assert rig.condition("default/m", "Degraded") == {}
