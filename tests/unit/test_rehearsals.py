"""A template that the API server refuses must not take a model down."""

import pytest

from cluster_stub import refuse
from operator_rig import mdep, node, operator_rig


def with_template(priority):
    obj = mdep("m")
    obj["spec"]["template"] = {"spec": {"priorityClassName": priority}}
    return obj


def edit(rig, priority):
    def change(obj):
        obj["spec"]["template"]["spec"]["priorityClassName"] = priority
        obj["metadata"]["generation"] += 1

    rig.cluster.change("modeldeployments", "default/m", change)


REFUSALS = {
    "a field that is none": refuse(400, "BadRequest", "strict decoding error: unknown field"),
    "a value that cannot be": refuse(422, "Invalid", 'Pod "m-0" is invalid'),
    "a policy": refuse(403, "Forbidden", 'violates PodSecurity "restricted:latest"'),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSALS)
async def test_the_old_replica_stays_while_the_new_pod_would_be_refused(what):
    """Drained first, it would be gone, and the new one would not come."""
    mdep = with_template("low")
    mdep["spec"]["rollout"] = {"maxSurge": 0}
    async with operator_rig(nodes=[node(gpus=2)], mdeps=[mdep]) as rig:
        await rig.until("the first", lambda: rig.is_ready("default/m"))
        (before,) = rig.cluster.pods()
        edit(rig, "typo")
        rig.cluster.fault = lambda call: (
            REFUSALS[what] if (call.method, call.plural) == ("POST", "pods") else None
        )
        await rig.steps(30)
        (after,) = rig.cluster.pods()
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert "memroute.dev/draining" not in after["metadata"]["annotations"]
        told = rig.condition("default/m", "Progressing")
        assert told["reason"] == "ActionRefused"
        assert "the pod of the new spec is refused, so the old one stays" in told["message"]
        rig.recover()
        edit(rig, "high")

        def replaced():
            pods = rig.cluster.pods()
            return [one["spec"]["priorityClassName"] for one in pods] == ["high"]

        await rig.until("the new one", replaced, at_most=200)


@pytest.mark.slow
async def test_a_successor_that_is_refused_beside_the_old_replica_is_told():
    """With a surge nothing is rehearsed: the pod itself is refused, and what serves goes on."""
    async with operator_rig(nodes=[node(gpus=2)], mdeps=[with_template("low")]) as rig:
        await rig.until("the first", lambda: rig.is_ready("default/m"))
        (before,) = rig.cluster.pods()
        edit(rig, "typo")
        rig.cluster.fault = lambda call: (
            REFUSALS["a policy"] if (call.method, call.plural) == ("POST", "pods") else None
        )
        await rig.steps(30)
        assert [one["metadata"]["uid"] for one in rig.cluster.pods()] == [before["metadata"]["uid"]]
        told = rig.condition("default/m", "Ready")
        assert told["reason"] == "RolloutBlocked"
        assert "violates PodSecurity" in told["message"]
        assert "the old replicas go on serving" in told["message"]


@pytest.mark.slow
async def test_a_quota_that_the_old_replica_fills_is_no_refusal():
    """Drained first, its share is free for the new one: a tight quota must not end rollouts."""
    async with operator_rig(nodes=[node(gpus=2)], mdeps=[with_template("low")]) as rig:
        await rig.until("the first", lambda: rig.is_ready("default/m"))
        edit(rig, "high")
        full = refuse(403, "Forbidden", "exceeded quota: pods, requested: pods=1")
        rig.cluster.fault = lambda call: (
            full
            if (call.method, call.plural) == ("POST", "pods")
            and any(pod["spec"]["priorityClassName"] == "low" for pod in rig.cluster.pods())
            else None
        )

        def replaced():
            pods = rig.cluster.pods()
            return [one["spec"]["priorityClassName"] for one in pods] == ["high"]

        await rig.until("the new one", replaced, at_most=200)


async def test_without_a_template_nothing_is_rehearsed():
    """It is the operator's own pod: one call less for each replica that is replaced."""
    async with operator_rig(nodes=[node(gpus=2)], mdeps=[mdep("m")]) as rig:
        await rig.until("the first", lambda: rig.is_ready("default/m"))

        def change(obj):
            obj["spec"]["engine"]["args"] = ["--seed", "1"]
            obj["metadata"]["generation"] += 1

        rig.cluster.change("modeldeployments", "default/m", change)
        posts = rig.cluster.count("POST", "pods")
        await rig.until(
            "another pod", lambda: rig.cluster.count("POST", "pods") > posts, at_most=200
        )
        await rig.until("it serves", lambda: rig.is_ready("default/m"), at_most=100)
        assert rig.cluster.count("POST", "pods") == posts + 1
