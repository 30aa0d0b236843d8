"""What rollouts under load have in common: a model that is served, an edit, and how it ends."""

import asyncio
import time

from cluster_support import (
    apply,
    condition,
    get_deployment,
    pod_names,
    pods_of,
    router_of,
    wait_condition,
    wait_ready,
)
from memroute_kube.resources import is_condition_true
from router_load import Load, router_metric

# One stream in so many seconds: some are under way all the time.
INTERVAL_SECONDS = 0.1
BROKEN = {"args": ["--no-such-flag"]}


def served(cluster, namespace, name, **spec):
    """A model that a router serves, and load for it."""
    model = {"name": "Qwen/Qwen3-0.6B", "servedName": f"{namespace}-{name}"}
    apply(cluster, namespace, name, model=model, **spec)
    wait_ready(cluster, namespace, name)
    url = router_of(cluster)
    cluster.wait_for(
        "the router to see the replicas",
        lambda: all(
            router_metric(url, "replica_routable").get(pod) == 1
            for pod in pod_names(cluster, namespace, name)
        ),
    )
    return model, Load(url, f"{namespace}-{name}")


def under_load(loads, action):
    """Run ``action`` while all loads run, and a while longer."""

    def act():
        action()
        time.sleep(2)  # traffic after it is load as well

    async def everything():
        acting = asyncio.create_task(asyncio.to_thread(act))
        await asyncio.gather(*(load.run_until(acting.done, INTERVAL_SECONDS) for load in loads))
        await acting

    asyncio.run(everything())


def rollout_of(cluster, namespace, name):
    return get_deployment(cluster, namespace, name)["status"].get("rollout", {})


def wait_phase(cluster, namespace, name, phase):
    def found():
        rollout = rollout_of(cluster, namespace, name)
        return rollout if rollout.get("phase") == phase else None

    return cluster.wait_for(f"{name}: {phase}", found)


def check_returned(cluster, namespace, name, before):
    """The broken revision is told, and the last good one serves."""
    rollout = wait_phase(cluster, namespace, name, "Returned")
    assert rollout["failed"]["reason"] == "FlagUnknown"
    assert "no such flag: --no-such-flag" in rollout["message"]
    ready = wait_condition(cluster, namespace, name, "Ready", "RolloutHalted")
    assert ready["status"] == "False"
    assert condition(cluster, namespace, name, "Stalled")["reason"] == "RolloutHalted"
    cluster.wait_for(
        f"{name} to be available",
        lambda: condition(cluster, namespace, name, "Available")["status"] == "True",
    )
    cluster.wait_for(
        "the last good revision alone",
        lambda: (
            [is_condition_true(pod, "Ready") for pod in pods_of(cluster, namespace, name)]
            == [True] * before
        ),
    )
    for pod in pods_of(cluster, namespace, name):
        assert "--no-such-flag" not in pod["spec"]["containers"][0]["args"]


def replaced(cluster, namespace, name, before):
    """Whether none of the pods of before is there any more, and as many others are."""
    names = pod_names(cluster, namespace, name)
    return len(names) == len(before) and not before & set(names)


def assert_all_served(*loads):
    for load in loads:
        assert load.ends
        assert [end for end in load.ends if end[1] != "served"] == [], load.outcomes()
