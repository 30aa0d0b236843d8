"""Sleep and wake when something fails meanwhile: the operator, an engine, a newcomer."""

import concurrent.futures
import time

import httpx

from cluster_support import (
    ANSWER_SECONDS,
    Recorder,
    condition,
    pods_of,
    wait_condition,
    wait_event,
    wait_ready,
    wait_replicas,
)
from memroute_operator.sleeping.mark import MarkedState
from mortal_operator import mortal_operators
from sleepers import ask, deploy, marks, wait_asleep

SLOWLY = {"engine": {"args": ["--simulator-time-scale=2"]}}


def test_an_operator_killed_in_the_middle_of_a_wake_or_a_sleep_converges(
    cluster, namespace, router_url, fleet
):
    """SIGKILL each time that an engine is seen on the way: the next operator goes on from there."""
    names = ("a", "b")
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


def test_an_engine_that_does_not_wake_is_told_of_and_replaced(cluster, namespace, router_url):
    """Five tries with growing waits; whoever asked is served by the replica that comes after it."""
    deploy(cluster, namespace, "a")
    wait_ready(cluster, namespace, "a")
    (before,) = pods_of(cluster, namespace)
    engine = f"http://{before['status']['podIP']}:8000"
    wait_asleep(cluster, namespace, "a")
    fault = {"is_wake_failing": True}
    httpx.post(
        f"{engine}/simulator/faults", json=fault, timeout=ANSWER_SECONDS, trust_env=False
    ).raise_for_status()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as clients:
        asked = clients.submit(ask, router_url, f"{namespace}-a")

        def is_told():
            found = condition(cluster, namespace, "a", "SleepFailing")
            return found["reason"] == "SleepFailed" and found["message"]

        told = cluster.wait_for("the failure to be told", is_told)
        assert "does not wake (/wake_up) (HTTP 500): the fault is_wake_failing is on" in told
        assert "and after 5 it is replaced" in told
        assert asked.result()
    wait_replicas(cluster, namespace, "a", 1, without=[before["metadata"]["uid"]])
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
    # At once: 15 s later it may sleep again.
    assert marks(cluster, namespace)["a"] is MarkedState.AWAKE
    event = wait_event(cluster, namespace, "ReplicaFailed")["message"]
    assert f"{namespace}/a is asked for, and had lent it its room" in event
