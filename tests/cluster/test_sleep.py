"""Models that sleep on the emulated fleet, with the real operator, router and engines.

Three models of 24.7 GiB each on one L40S of 44.4 GiB: no two of them are awake together.
"""

import concurrent.futures
import time

import httpx
import pytest

from cluster_support import (
    Recorder,
    apply,
    condition,
    get_deployment,
    pods_of,
    program_address,
    wait_condition,
    wait_event,
    wait_ready,
)
from memroute_operator.sleeping.mark import ANNOTATION_SLEEP, MarkedState, read_mark
from memroute_simulator.emulated_cluster import KubectlError
from mortal_operator import mortal_operators

MODEL = "Qwen/Qwen3-4B"
NAMES = ("a", "b", "c")
SLOWLY = {"engine": {"args": ["--simulator-time-scale=2"]}}
# A client's patience in seconds: two other models are served before it, each for 30 s at least.
PATIENCE_SECONDS = 600


@pytest.fixture
def router_url(cluster):
    return f"http://{program_address(cluster, 'router')}:8000"


def deploy(cluster, namespace, name, spec=None, **sleep):
    apply(
        cluster, namespace, name,
        model={"name": MODEL, "servedName": f"{namespace}-{name}"},
        memory={"maxContextTokens": 8192, "concurrency": 12},
        placement={"mode": "Shared", "nodeSelector": {"kubernetes.io/hostname": "gpu-b"}},
        sleep={"afterSeconds": 10} | sleep, **(spec or {}),
    )  # fmt: skip


def ask(router_url, model):
    """One request as a patient client makes it: what is refused with a time is asked again then.

    Returns the number of tries. Raises for whatever else than an answer comes.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    ends = time.monotonic() + PATIENCE_SECONDS
    tries = 0
    while True:
        tries += 1
        left = max(1.0, ends - time.monotonic())
        answer = httpx.post(
            f"{router_url}/v1/chat/completions", json=body, timeout=left, trust_env=False
        )
        again = answer.headers.get("retry-after")
        if answer.status_code in (429, 503) and again and time.monotonic() < ends:
            time.sleep(min(float(again), 5.0))
            continue
        answer.raise_for_status()
        assert answer.json()["choices"][0]["message"]["content"]
        return tries


def marks(cluster, namespace):
    """State of each model's sleep, as it is written on its pods."""
    found = {}
    for pod in pods_of(cluster, namespace):
        mark = read_mark(pod["metadata"].get("annotations", {}).get(ANNOTATION_SLEEP))
        name = pod["metadata"]["labels"]["memroute.dev/model-deployment"]
        found[name] = MarkedState.AWAKE if mark is None else mark.state
    return found


def test_models_that_do_not_fit_together_sleep_and_wake_and_lose_no_request(
    cluster, namespace, router_url, fleet
):
    """No two are awake at once, each answers all that ask, and a status says what sleeps where."""
    with Recorder(cluster, fleet) as recorder:
        for name in NAMES:
            deploy(cluster, namespace, name)
        for name in NAMES:
            wait_ready(cluster, namespace, name)
        uids = {pod["metadata"]["uid"] for pod in pods_of(cluster, namespace)}
        with concurrent.futures.ThreadPoolExecutor(max_workers=9) as clients:
            asked = [
                clients.submit(ask, router_url, f"{namespace}-{name}")
                for name in NAMES
                for _ in range(3)
            ]
            answers = [one.result() for one in asked]
        assert len(answers) == 9

        def all_sleep():
            return set(marks(cluster, namespace).values()) == {MarkedState.ASLEEP}

        cluster.wait_for("all to sleep", all_sleep)

        def is_told():
            found = get_deployment(cluster, namespace, "a")["status"].get("sleep") or {}
            return found.get("asleep") == 1 and found

        told = cluster.wait_for("the status to say so", is_told)
        (one,) = told["replicas"]
        assert (one["state"], one["node"]) == ("Asleep", "gpu-b")
        assert told["lentBytes"] > 20 * 2**30
        ready = condition(cluster, namespace, "a", "Ready")
        assert (ready["status"], ready["reason"]) == ("True", "Asleep")
        assert "sleeps on gpu-b/GPU-" in condition(cluster, namespace, "a", "Asleep")["message"]
        assert ask(router_url, f"{namespace}-b") >= 1
    assert not recorder.overbooked
    assert not recorder.failed_engines
    assert not recorder.out_of_memory
    assert {pod["metadata"]["uid"] for pod in pods_of(cluster, namespace)} == uids
    for reason in ("FellAsleep", "Woken"):
        wait_event(cluster, namespace, reason)


def test_an_operator_killed_in_the_middle_of_a_wake_or_a_sleep_converges(
    cluster, namespace, router_url, fleet
):
    """SIGKILL each time that an engine is seen on the way: the next operator goes on from there."""
    names = NAMES[:2]
    with mortal_operators(cluster) as start, Recorder(cluster, fleet) as recorder:
        operator = start()
        for name in names:
            # So slow that whoever looks sees each state, on any machine.
            deploy(cluster, namespace, name, SLOWLY, afterSeconds=3600)
        for name in names:
            wait_ready(cluster, namespace, name)
        killed = []
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as clients:
            for name in names:
                asked = clients.submit(ask, router_url, f"{namespace}-{name}")
                for state in (MarkedState.FALLING_ASLEEP, MarkedState.WAKING):
                    while not asked.done():
                        if state in marks(cluster, namespace).values():
                            operator.kill()
                            operator.wait()
                            killed.append(state)
                            operator = start()
                            break
                        time.sleep(0.02)
                asked.result()
        assert {MarkedState.FALLING_ASLEEP, MarkedState.WAKING} <= set(killed)

        def is_settled():
            return set(marks(cluster, namespace).values()) == {
                MarkedState.ASLEEP,
                MarkedState.AWAKE,
            }

        cluster.wait_for("one to be awake and one asleep", is_settled)
    assert not recorder.overbooked
    assert not recorder.failed_engines
    assert not recorder.out_of_memory


def wait_asleep(cluster, namespace, name):
    cluster.wait_for(
        f"{name} to sleep",
        lambda: marks(cluster, namespace).get(name) is MarkedState.ASLEEP,
    )


def test_an_engine_that_does_not_wake_is_told_of_and_replaced(cluster, namespace, router_url):
    """Five tries with growing waits; whoever asked is served by the replica that comes after it."""
    deploy(cluster, namespace, "a")
    wait_ready(cluster, namespace, "a")
    (before,) = pods_of(cluster, namespace)
    engine = f"http://{before['status']['podIP']}:8000"
    wait_asleep(cluster, namespace, "a")
    fault = {"is_wake_failing": True}
    httpx.post(f"{engine}/simulator/faults", json=fault, trust_env=False).raise_for_status()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as clients:
        asked = clients.submit(ask, router_url, f"{namespace}-a")

        def is_told():
            found = condition(cluster, namespace, "a", "SleepFailing")
            return found["reason"] == "SleepFailed" and found["message"]

        told = cluster.wait_for("the failure to be told", is_told)
        assert "does not wake (/wake_up) (HTTP 500): the fault is_wake_failing is on" in told
        assert "and after 5 it is replaced" in told
        assert asked.result()
    (after,) = pods_of(cluster, namespace)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    event = wait_event(cluster, namespace, "ReplicaFailed")["message"]
    assert "its engine did not wake in 5 tries" in event
    cluster.wait_for(
        "nothing to be told of it any more",
        lambda: condition(cluster, namespace, "a", "SleepFailing")["status"] is None,
    )


def test_a_newcomer_that_crashes_gives_the_room_back_that_a_sleeper_has_lent_it(
    cluster, namespace, router_url
):
    """Its container is started again and again: no reason for another model's clients to wait."""
    deploy(cluster, namespace, "a", afterSeconds=15)
    wait_ready(cluster, namespace, "a")
    wait_asleep(cluster, namespace, "a")
    crashes = {
        "engine": {"args": ["--simulator-ending", "segmentation-fault"]},
        "rollout": {"progressDeadlineSeconds": 20},
    }
    deploy(cluster, namespace, "b", crashes)
    wait_condition(cluster, namespace, "b", "Ready", "EngineCrashed")
    assert ask(router_url, f"{namespace}-a")
    event = wait_event(cluster, namespace, "ReplicaFailed")["message"]
    assert f"{namespace}/a is asked for, and had lent it its room" in event
    assert marks(cluster, namespace)["a"] is MarkedState.AWAKE


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"placement": {"mode": "Exclusive"}}, "sleep is for placement.mode Shared"),
        ({"engine": {"type": "SGLang"}}, "sleep is for engine.type VLLM"),
        ({"sleep": {"afterSeconds": 9}}, "spec.sleep.afterSeconds"),
        ({"memory": {"weightsOnHostGiB": 4}}, "sleep and memory.weightsOnHostGiB"),
    ],
)
def test_what_cannot_sleep_is_refused_by_the_api_server(cluster, namespace, spec, says):
    with pytest.raises(KubectlError, match=says):
        apply(cluster, namespace, "m", **({"sleep": {}} | spec))
