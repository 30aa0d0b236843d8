"""Rollouts under load: on a free cluster beside the old replica, on a full one in its place."""

import asyncio
import time

import pytest

from cluster_support import (
    Recorder,
    apply,
    condition,
    get_deployment,
    pod_names,
    pods_of,
    program_address,
    wait_condition,
    wait_ready,
)
from memroute_kube.resources import is_condition_true
from router_load import Load, router_metric

# One stream in so many seconds: some are under way all the time.
INTERVAL_SECONDS = 0.1
BROKEN = {"args": ["--no-such-flag"]}
ONLY_GPU_C = {"kubernetes.io/hostname": "gpu-c"}


def served(cluster, namespace, name, **spec):
    """A model that a router serves, and load for it."""
    model = {"name": "Qwen/Qwen3-0.6B", "servedName": f"{namespace}-{name}"}
    apply(cluster, namespace, name, model=model, **spec)
    wait_ready(cluster, namespace, name, timeout_seconds=90)
    url = f"http://{program_address(cluster, 'router')}:8000"
    cluster.wait_for(
        "the router to see the replicas",
        lambda: all(
            router_metric(url, "replica_routable").get(pod) == 1
            for pod in pod_names(cluster, namespace, name)
        ),
    )
    return model, Load(url, f"{namespace}-{name}")


def under_load(load, action):
    """Run ``action`` while load runs, and a while longer."""

    def act():
        action()
        time.sleep(2)  # traffic after it is load as well

    async def everything():
        acting = asyncio.create_task(asyncio.to_thread(act))
        await load.run_until(acting.done, INTERVAL_SECONDS)
        await acting

    asyncio.run(everything())


def rollout_of(cluster, namespace, name):
    return get_deployment(cluster, namespace, name)["status"].get("rollout", {})


def wait_phase(cluster, namespace, name, phase, timeout_seconds=90):
    def found():
        rollout = rollout_of(cluster, namespace, name)
        return rollout if rollout.get("phase") == phase else None

    return cluster.wait_for(f"{name}: {phase}", found, timeout_seconds=timeout_seconds)


def check_returned(cluster, namespace, name, before):
    """The broken revision is told, and the last good one serves."""
    rollout = wait_phase(cluster, namespace, name, "Returned", timeout_seconds=120)
    assert rollout["failed"]["reason"] == "FlagUnknown"
    assert "no such flag: --no-such-flag" in rollout["message"]
    ready = condition(cluster, namespace, name, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RolloutHalted")
    assert condition(cluster, namespace, name, "Stalled")["reason"] == "RolloutHalted"
    assert condition(cluster, namespace, name, "Available")["status"] == "True"
    cluster.wait_for(
        "the last good revision alone",
        lambda: (
            [is_condition_true(pod, "Ready") for pod in pods_of(cluster, namespace, name)]
            == [True] * before
        ),
        timeout_seconds=60,
    )
    for pod in pods_of(cluster, namespace, name):
        assert "--no-such-flag" not in pod["spec"]["containers"][0]["args"]


@pytest.mark.timeout(400)
def test_a_free_cluster_loses_no_request_and_a_broken_revision_never_serves(
    cluster, namespace, fleet
):
    """Surge in shared mode; then a flag that no engine has; then an edit that cures it."""
    shared = {"placement": {"mode": "Shared"}, "replicas": 2}
    with Recorder(cluster, fleet) as recorder:
        model, load = served(cluster, namespace, "m", **shared)
        before = set(pod_names(cluster, namespace))

        def roll_out():
            apply(cluster, namespace, "m", model=model, memory={"maxContextTokens": 4096}, **shared)
            wait_phase(cluster, namespace, "m", "Progressing")
            assert rollout_of(cluster, namespace, "m").get("method") != "DrainFirst"
            wait_phase(cluster, namespace, "m", "Complete")
            wait_ready(cluster, namespace, "m")

        under_load(load, roll_out)
        cluster.wait_for(
            "the old ones to go",
            lambda: before.isdisjoint(names := pod_names(cluster, namespace)) and len(names) == 2,
            timeout_seconds=60,
        )

        def break_it():
            memory = {"maxContextTokens": 4096}
            apply(cluster, namespace, "m", model=model, memory=memory, engine=BROKEN, **shared)
            check_returned(cluster, namespace, "m", before=2)

        under_load(load, break_it)
        apply(cluster, namespace, "m", model=model, memory={"maxContextTokens": 2048}, **shared)
        wait_phase(cluster, namespace, "m", "Complete")
        wait_ready(cluster, namespace, "m")
    assert load.ends
    assert [end for end in load.ends if end[1] != "served"] == [], load.outcomes()
    assert recorder.overbooked == []


@pytest.mark.timeout(400)
def test_a_full_cluster_comes_to_an_end_and_gets_its_model_back(cluster, namespace, fleet):
    """Both devices of a node in exclusive mode: each replica leaves first, and says why."""
    full = {"placement": {"mode": "Exclusive", "nodeSelector": ONLY_GPU_C}, "replicas": 2}
    with Recorder(cluster, fleet) as recorder:
        model, load = served(cluster, namespace, "m", **full)

        def roll_out():
            apply(cluster, namespace, "m", model=model, memory={"maxContextTokens": 4096}, **full)
            told = wait_condition(cluster, namespace, "m", "Ready", "RolloutInProgress")
            cluster.wait_for(
                "why one leaves first",
                lambda: "no node has 1 free device(s)" in str(
                    rollout_of(cluster, namespace, "m").get("message")
                ),
            )  # fmt: skip
            assert told["status"] == "False"
            wait_phase(cluster, namespace, "m", "Complete", timeout_seconds=120)

        under_load(load, roll_out)
        # The second replica serves while the first one is replaced, and the other way round.
        assert [end for end in load.ends if end[1] != "served"] == [], load.outcomes()
        apply(cluster, namespace, "m", model=model, engine=BROKEN, **full)
        check_returned(cluster, namespace, "m", before=2)
    assert recorder.overbooked == []
