"""What a step has done is told once for all replicas that fared alike."""

from types import SimpleNamespace

import pytest

from memroute_operator.actions.backoff import Failure
from memroute_operator.plan import Create, Delete
from memroute_operator.replicas.reading import read_replica
from memroute_operator.status.step_events import MAX_TOLD, StepEvents
from operator_rig import mdep, node, operator_rig
from planned_objects import deployment, pod_of


def placed(name):
    key = SimpleNamespace(pod_name=name)
    return SimpleNamespace(key=key, node="a", why="tightest fit")


@pytest.mark.slow
def test_many_replicas_are_one_event():
    """A thousand replicas that are placed at once are no thousand Events."""
    events = StepEvents()
    for index in range(1000):
        events.on_done(
            Create(deployment=deployment(), placed=placed(f"m-{index}"), is_gated=False), None
        )
    (event,) = events.events()
    assert (event.reason, event.is_normal) == ("ReplicasPlaced", True)
    assert event.message.startswith("m-0 on a: tightest fit; m-1 on a")
    assert event.message.endswith(f"and {1000 - MAX_TOLD} more")


def test_what_was_given_up_wakes_somebody_and_what_was_not_wanted_does_not():
    of = deployment(replicas=4)
    replicas = [read_replica(pod_of(of, index)) for index in range(4)]
    failure = Failure(
        reason="PodFailed", message="m-3 failed", count=1, retry_seconds=10, due_seconds=10
    )
    events = StepEvents()
    events.on_done(Delete(replica=replicas[0], why="node a is unreachable", force=True), None)
    events.on_done(Delete(replica=replicas[1], why="kube-scheduler", avoid_node=True), None)
    events.on_done(Delete(replica=replicas[2], why="fewer replicas are wanted"), None)
    events.on_done(Delete(replica=replicas[3], why="Evicted", avoid_node=True), failure)
    found = {one.reason: (one.is_normal, one.message) for one in events.events()}
    assert found == {
        "ReplicasLost": (False, "m-0: node a is unreachable; m-1: kube-scheduler"),
        "ReplicasRemoved": (True, "m-2: fewer replicas are wanted"),
        "ReplicaFailed": (False, "m-3 failed; tried again in 10 s"),
    }


@pytest.mark.slow
async def test_a_model_that_starts_scales_and_shrinks_has_one_event_for_each():
    """From nothing to two, to one: what ``kubectl describe`` shows is the story, in its order."""
    async with operator_rig(nodes=[node(gpus=2)], mdeps=[mdep("m", replicas=2)]) as rig:
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        await rig.steps(5)
        rig.cluster.change(
            "modeldeployments", "default/m",
            lambda obj: (obj["spec"].update(replicas=1), obj["metadata"].update(generation=2)),
        )  # fmt: skip
        await rig.until("one is gone", lambda: len(rig.cluster.pods()) == 1, at_most=90)
        await rig.steps(3)
        reasons = [
            event["reason"]
            for event in rig.cluster.objects["events"].values()
            if event["involvedObject"]["kind"] == "ModelDeployment"
        ]
        for reason in ("ReplicasPlaced", "ReplicasRemoved"):
            assert reasons.count(reason) == 1
        assert reasons.index("ReplicasPlaced") < reasons.index("Serving")
        assert "Placing" not in reasons
