"""Models that sleep on the emulated fleet, with the real operator, router and engines."""

import concurrent.futures

import pytest

from cluster_support import (
    Recorder,
    apply,
    condition,
    get_deployment,
    pods_of,
    wait_event,
    wait_ready,
)
from memroute_operator.sleeping.mark import MarkedState
from memroute_simulator.emulated_cluster import KubectlError
from sleepers import ask, deploy, marks

NAMES = ("a", "b", "c")


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
