import copy
from dataclasses import replace
from datetime import timedelta

import pytest

from memroute.placement import Inventory, plan
from memroute.units import MIB
from memroute_kube.resources import ANNOTATION_DRAINING
from memroute_operator.gather import gather
from memroute_operator.plan import (
    ClaimRoom,
    Create,
    Delete,
    MarkDraining,
    OpenGate,
    plan_step,
    wanted_replica,
)
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.readings.device_metrics import DeviceMetrics, parse_exporter_page
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ReplicaState
from memroute_operator.status.status import deployment_status
from memroute_operator.store.projections import NODE_PROJECTION
from memroute_operator.store.store import Collection, Store
from planned_objects import (
    GPU,
    NOW,
    SHARED,
    claimed,
    context,
    deployment,
    facts,
    pod_of,
)


def test_what_is_missing_is_created():
    step = plan_step(facts([deployment(replicas=2)], []), context())
    assert [type(a) for a in step.actions] == [Create, Create]


def test_who_may_go_anywhere_is_created_where_it_is_in_nobodys_way():
    """Three of each fill a device. The older ones would take the first node, in order."""
    other = replace(GPU, node="b", uuid="GPU-b-0")
    nodes = (
        replace(SHARED, labels={"zone": "east"}),
        replace(SHARED, name="b", devices=(other,)),
    )
    picky = replace(deployment("picky", replicas=3, uid="u2"), node_selector={"zone": "east"})
    step = plan_step(facts([deployment("any", replicas=3), picky], [], nodes), context())
    created = [(one.placed.key.name, one.placed.node) for one in step.actions]
    assert created == [("any", "b")] * 3 + [("picky", "a")] * 3
    assert [one.is_gated for one in step.actions] == [False, True, True] * 2


def test_engines_start_one_at_a_time_on_a_device():
    """An engine asserts when free memory moves while it profiles: the second one is gated."""
    step = plan_step(facts([deployment(replicas=2)], []), context())
    assert [a.is_gated for a in step.actions] == [False, True]


def test_a_gate_opens_when_the_engine_before_it_serves():
    of = deployment(replicas=2)
    starting = [pod_of(of, 0, ready=False), pod_of(of, 1, gated=True, ready=False)]
    assert plan_step(facts([of], starting), context()).actions == []
    serving = [pod_of(of, 0), pod_of(of, 1, gated=True, ready=False)]
    (action,) = plan_step(facts([of], serving), context()).actions
    assert isinstance(action, OpenGate)
    assert action.replica.index == 1


def test_a_replica_that_serves_is_left_alone():
    of = deployment()
    assert plan_step(facts([of], [pod_of(of)]), context()).actions == []


def test_scaling_down_drains_before_it_deletes():
    one, two = deployment(replicas=1), deployment(replicas=2)
    pods = [pod_of(two, 0), pod_of(two, 1)]
    (action,) = plan_step(facts([one], pods), context()).actions
    assert isinstance(action, MarkDraining)
    assert action.replica.index == 1
    since = (NOW - timedelta(seconds=5)).isoformat()
    pods[1] = pod_of(two, 1, **{ANNOTATION_DRAINING: since})
    busy = context(in_flight={"default/m-1": 3})
    assert plan_step(facts([one], pods), busy).actions == []
    (action,) = plan_step(facts([one], pods), context()).actions
    assert isinstance(action, Delete)
    assert not action.force


def test_a_replica_does_not_leave_while_another_measures_its_memory():
    """An engine asserts when memory is freed under its profile: the leaving one waits its turn."""
    one, two, other = deployment(replicas=1), deployment(replicas=2), deployment("other", uid="u2")
    since = (NOW - timedelta(seconds=5)).isoformat()
    leaving = pod_of(two, 1, **{ANNOTATION_DRAINING: since})
    pods = [pod_of(two, 0), leaving, pod_of(other, ready=False)]
    assert plan_step(facts([one, other], pods), context()).actions == []
    pods[2] = pod_of(other)
    (action,) = plan_step(facts([one, other], pods), context()).actions
    assert isinstance(action, Delete)


def test_draining_does_not_wait_for_ever():
    one, two = deployment(replicas=1), deployment(replicas=2)
    since = (NOW - timedelta(seconds=61)).isoformat()
    pods = [pod_of(two, 0), pod_of(two, 1, **{ANNOTATION_DRAINING: since})]
    busy = context(in_flight={"default/m-1": 3})
    (action,) = plan_step(facts([one], pods), busy).actions
    assert isinstance(action, Delete)


def test_a_replica_that_is_wanted_again_stops_draining():
    two = deployment(replicas=2)
    since = (NOW - timedelta(seconds=5)).isoformat()
    pods = [pod_of(two, 0), pod_of(two, 1, **{ANNOTATION_DRAINING: since})]
    (action,) = plan_step(facts([two], pods), context()).actions
    assert isinstance(action, MarkDraining)
    assert not action.draining


def test_a_rollout_goes_one_replica_at_a_time():
    """Without a surge; with one: ``test_rollouts``."""
    old = deployment(replicas=2)
    new = deployment(replicas=2, concurrency=2, rollout={"maxSurge": 0})
    pods = [pod_of(old, 0), pod_of(old, 1)]
    (claim,) = plan_step(facts([new], pods), context()).actions
    assert isinstance(claim, ClaimRoom)
    (action,) = plan_step(facts([new], [claimed(pods[0], claim), pods[1]]), context()).actions
    assert isinstance(action, MarkDraining)
    assert action.replica.index == 0
    # While the first replacement starts, the second old one goes on serving.
    pods = [pod_of(new, 0, ready=False), pod_of(old, 1)]
    assert plan_step(facts([new], pods), context()).actions == []


def test_a_spec_that_would_not_fit_leaves_the_old_replica_serving():
    """KV cache for 64 sequences fits no H100; the replica that serves must not die for it."""
    old = deployment()
    new = deployment(concurrency=64)
    step = plan_step(facts([new], [pod_of(old)]), context())
    assert step.actions == []
    assert step.outcomes["default/m"].rollout_blocked is not None


def test_a_replica_may_grow_into_its_own_room():
    """What an outdated replica holds is free for its successor: 55 GiB twice fit no H100."""
    old, new = deployment(concurrency=32), deployment(concurrency=33)
    step = plan_step(facts([new], [pod_of(old)]), context())
    assert step.outcomes["default/m"].rollout_blocked is None
    assert isinstance(step.actions[0], ClaimRoom)


def test_a_lost_race_is_planned_again():
    of = deployment()
    pod = pod_of(of, ready=False)
    del pod["spec"]["nodeName"]
    since = NOW - timedelta(seconds=6)
    pod["status"]["conditions"].append(
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "lastTransitionTime": since.isoformat(),
        }
    )
    (action,) = plan_step(facts([of], [pod]), context()).actions
    assert isinstance(action, Delete)
    assert "kube-scheduler" in action.why
    avoiding = context(avoided_nodes={"default/m": frozenset({"a"})})
    step = plan_step(facts([of], []), avoiding)
    assert "RefusedByScheduler" in step.outcomes["default/m"].refused[0].message


def test_replicas_of_a_lost_node_are_replaced_by_force():
    """Nobody there will ever confirm a graceful deletion."""
    of = deployment()
    step = plan_step(facts([of], [pod_of(of)], lost=["a"]), context(lost_nodes=frozenset({"a"})))
    (action,) = step.actions
    assert isinstance(action, Delete)
    assert action.force


def test_pods_of_an_earlier_deployment_of_that_name_are_not_ours():
    before, now = deployment(uid="old"), deployment(uid="new")
    (action,) = plan_step(facts([now], [pod_of(before)]), context()).actions
    assert isinstance(action, Delete)


def test_orphans_are_deleted():
    (action,) = plan_step(facts([], [pod_of(deployment())]), context()).actions
    assert isinstance(action, Delete)


def test_a_deployment_that_is_being_deleted_wants_nothing():
    """With --cascade=foreground it stays for a while: its pods must not be made again."""
    store = Store()
    obj = deployment().obj
    store.model_deployments.upsert(obj)
    metrics = DeviceMetrics(scrape_seconds=1)
    assert len(gather(store, metrics, now_seconds=0).deployments) == 1
    leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "2"}
    store.model_deployments.upsert(obj | {"metadata": obj["metadata"] | leaving})
    assert gather(store, metrics, now_seconds=0).deployments == ()


def test_a_terminating_pod_keeps_its_bytes_and_its_name():
    of = deployment()
    pod = pod_of(of)
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert read_replica(pod).state is ReplicaState.TERMINATING
    assert read_replica(pod).reservation().device_bytes
    assert plan_step(facts([of], [pod]), context()).actions == []


def test_a_pod_without_a_readable_reservation_is_no_replica():
    pod = pod_of(deployment())
    for spoil in ("", "{", '{"v":99}'):
        broken = copy.deepcopy(pod)
        broken["metadata"]["annotations"]["memroute.dev/reservation"] = spoil
        assert read_replica(broken) is None


def arguments(pod):
    listed = pod["spec"]["containers"][0]["args"]
    return dict(zip(listed[::2], listed[1::2], strict=True))


def test_a_shared_engine_is_told_its_bytes_and_its_device():
    of = deployment()
    pod = pod_of(of)
    assert int(arguments(pod)["--kv-cache-memory-bytes"]) == of.footprint.kv_cache_bytes
    # vLLM ends at once where less than this share is free: its default would allow no neighbour.
    share = float(arguments(pod)["--gpu-memory-utilization"])
    needed = of.footprint.weights_bytes + of.footprint.kv_cache_bytes
    assert share == pytest.approx(needed / GPU.usable_bytes, abs=0.01)
    assert share * GPU.usable_bytes < of.footprint.total_bytes
    environment = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "GPU-a-0"
    assert "nodeName" not in replica_manifest(of)["spec"]


def test_an_exclusive_engine_is_told_its_share():
    """(79.2 - 0.6 context - 0.15 margin) / 79.2 = 0.9905: capped at 0.95."""
    pod = pod_of(deployment(mode="Exclusive"))
    assert arguments(pod)["--gpu-memory-utilization"] == "0.95"
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def replica_manifest(of):
    placed = plan(Inventory(nodes=(SHARED,)), [wanted_replica(of, 0, context())])[0]
    return replica_pod(of, placed, is_gated=False, default_image="i", shared_runtime_class=None)


@pytest.mark.parametrize(
    ("facts_", "reason"),
    [
        ({"model": "acme/unheard-of"}, "ModelUnknown"),
        ({"maxContextTokens": 200_000}, "ContextTooLong"),
    ],
)
def test_what_cannot_be_resolved_says_so_and_is_not_placed(facts_, reason):
    of = deployment(**facts_)
    step = plan_step(facts([of], []), context())
    assert step.actions == []
    status = deployment_status(
        of,
        [],
        step.outcomes["default/m"],
        assigned_devices={},
        stale_nodes=frozenset(),
        kv_projected_ratio=None,
        now=NOW,
    )
    conditions = {c["type"]: c for c in status["conditions"]}
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", reason)


def test_transition_times_move_only_when_the_status_flips():
    of = deployment()
    shown = status_of(of, [pod_of(of)], NOW)
    of.obj["status"] = shown
    later = status_of(of, [pod_of(of)], NOW + timedelta(hours=1))
    assert later["conditions"] == shown["conditions"]


def status_of(of, pods, now):
    known = facts([of], pods)
    return deployment_status(
        of,
        list(known.replicas),
        plan_step(known, context()).outcomes["default/m"],
        assigned_devices={},
        stale_nodes=frozenset(),
        kv_projected_ratio={"default/m-0": 0.6},
        now=now,
    )


def test_pressure_is_a_word_that_changes_rarely():
    of = deployment()
    assert status_of(of, [pod_of(of)], NOW)["kvPressure"] == "Moderate"


def versioned(version, name="p"):
    return {"metadata": {"namespace": "n", "name": name, "resourceVersion": str(version)}}


def test_the_store_never_goes_back_in_time():
    """Our own write is known before its event; an older event must not undo it."""
    pods = Collection(NODE_PROJECTION)
    assert pods.upsert(versioned(7))
    assert not pods.upsert(versioned(5))
    assert pods.delete(versioned(9))
    assert not pods.upsert(versioned(8))
    assert pods.get("n/p") is None


def test_a_full_list_drops_what_is_gone_and_keeps_what_is_newer():
    pods = Collection(NODE_PROJECTION)
    pods.upsert(versioned(3, "gone"))
    pods.upsert(versioned(30, "newer"))
    assert pods.replace([versioned(4, "listed")], 20)
    assert sorted(p["metadata"]["name"] for p in pods.values()) == ["listed", "newer"]


EXPORTER = """\
# TYPE DCGM_FI_DEV_FB_FREE gauge
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1",modelName="NVIDIA L4",Hostname="x"} 20000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",modelName="NVIDIA L4",namespace="n",pod="p"} 2590
DCGM_FI_DEV_FB_RESERVED{gpu="0",UUID="GPU-1",modelName="NVIDIA L4",hostname="x"} 444
DCGM_FI_DEV_FB_FREE{gpu="1",UUID="GPU-2",modelName="NVIDIA L4"} 9223372036854775794
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-2",modelName="NVIDIA L4"} 5
DCGM_FI_DEV_FB_FREE{gpu="2",UUID="GPU-3",GPU_I_ID="1",modelName="NVIDIA A100"} 7
"""


def test_an_exporters_page_gives_devices_in_bytes():
    """MiB; the total is free + used + reserved; a blank is unknown; a MIG slice is its own."""
    first, second = (one for one in parse_exporter_page(EXPORTER) if one.slice_id is None)
    assert first.total_bytes == 23034 * MIB
    assert first.assigned_pod == "n/p"
    assert first.product == "NVIDIA-L4"
    assert second.free_bytes is None
    assert second.total_bytes is None
