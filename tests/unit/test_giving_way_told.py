"""The operator as a whole: classes read, marks written, Events on both sides, a dry run first."""

import pytest

from cluster_stub import refuse
from operator_rig import mdep, node, operator_rig
from preempted_cluster import priority_class

WAITS = "default/vip"


def vip():
    """Of two of them, one fits a device beside nobody."""
    obj = mdep("vip", concurrency=38, model="Qwen/Qwen3-8B")
    obj["spec"]["placement"]["preemption"] = "LowerPriority"
    obj["spec"]["template"] = {"spec": {"priorityClassName": "high"}}
    return obj


def low():
    return mdep("low", concurrency=20, model="Qwen/Qwen3-8B")


async def started(rig):
    rig.cluster.put("priorityclasses", priority_class("high", 1000))
    await rig.list_and_step()
    await rig.until("the lower one to serve", lambda: rig.is_ready("default/low"))
    rig.cluster.put("modeldeployments", vip())


def events(rig, reason):
    found = rig.cluster.objects["events"].values()
    return [one["involvedObject"]["name"] for one in found if one["reason"] == reason]


@pytest.mark.slow
async def test_a_lower_one_gives_way_and_events_are_on_both_sides():
    """Whoever looks at either of the two reads who left for whom."""
    async with operator_rig(nodes=[node()], mdeps=[low()]) as rig:
        await started(rig)
        await rig.until("the higher one to serve", lambda: rig.is_ready(WAITS), at_most=300)
        assert events(rig, "GivesWay") == ["low"]
        assert events(rig, "Preempts") == ["vip"]
        placed = rig.condition("default/low", "Placed")
        assert "gave way to default/vip (priority 1000 > 0) and needs" in placed["message"]


@pytest.mark.slow
async def test_nobody_leaves_for_a_pod_that_would_be_refused():
    """It is told on the one that waits; the other serves on and says nothing."""
    async with operator_rig(nodes=[node()], mdeps=[low()]) as rig:
        await started(rig)
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "no PriorityClass with name high was found")
            if (call.method, call.plural) == ("POST", "pods")
            else None
        )
        await rig.steps(30)
        (pod,) = rig.cluster.pods()
        assert pod["metadata"]["name"].startswith("low-")
        assert "memroute.dev/gives-way" not in pod["metadata"]["annotations"]
        told = rig.condition(WAITS, "Placed")
        assert told["reason"] == "PodRefused"
        assert "so nobody gives way to it: no PriorityClass with name high" in told["message"]
        assert rig.condition("default/low", "Progressing")["reason"] == "Complete"
        assert not events(rig, "GivesWay")
