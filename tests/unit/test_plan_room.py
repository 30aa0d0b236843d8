"""Room that is held: what rollouts, lagging readings and hanging pods must not cost.

One H100 has 79.2 GiB. Qwen3-8B with 8,192 tokens needs 21.3 GiB for 2 sequences, 41.6 for 20.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from memroute.placement import Inventory, Ledger, Node, PlacementMode
from memroute.units import GIB
from memroute_kube.resources import ANNOTATION_DRAINING
from memroute_operator.memory import PlanMemory
from memroute_operator.plan import ClaimRoom, Create, Delete, MarkDraining, plan_step
from memroute_operator.pod.pod_names import replica_key
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import Seen
from planned_objects import (
    EXCLUSIVE,
    GPU,
    NOW,
    SHARED,
    claimed,
    context,
    deployment,
    facts,
    pod_of,
)

DRAINED = (NOW - timedelta(seconds=5)).isoformat()


def older(of, minutes):
    """The same deployment, made so long before."""
    return replace(of, created_at=f"2025-12-31T23:{59 - minutes:02}:00Z")


def kinds(step):
    return [(type(a).__name__, getattr(getattr(a, "replica", None), "pod_name", None))
            for a in step.actions]  # fmt: skip


def test_two_rollouts_in_one_step_do_not_count_on_the_same_bytes():
    """21.3 + 21.3 serve; both are edited to 41.6: 83.2 of 79.2. One rolls out, one serves on."""
    old = [deployment(name, uid=name, concurrency=2) for name in "ab"]
    new = [deployment(name, uid=name, concurrency=20) for name in "ab"]
    step = plan_step(facts(new, [pod_of(one) for one in old]), context())
    assert kinds(step) == [("ClaimRoom", "a-0")]
    assert step.outcomes["default/b"].rollout_blocked is not None
    pods = [claimed(pod_of(old[0]), step.actions[0]), pod_of(old[1])]
    step = plan_step(facts(new, pods), context())
    assert kinds(step) == [("MarkDraining", "a-0")]
    assert step.outcomes["default/b"].rollout_blocked is not None


def test_room_of_a_drained_replica_does_not_go_to_an_older_one_that_waits():
    """C waits for 41.6 GiB; A, younger, serves with 40.5 and is edited to 39.3: A stays."""
    waiting = older(deployment("c", uid="c", concurrency=20), 30)
    old, new = (deployment("a", uid="a", concurrency=n) for n in (19, 18))
    claim = plan_step(facts([waiting, new], [pod_of(old)]), context()).actions[0]
    assert isinstance(claim, ClaimRoom)
    pod = claimed(pod_of(old, **{ANNOTATION_DRAINING: DRAINED}), claim)
    (delete,) = plan_step(facts([waiting, new], [pod]), context()).actions
    assert isinstance(delete, Delete)
    pod["metadata"]["deletionTimestamp"] = NOW.isoformat()
    assert plan_step(facts([waiting, new], [pod]), context()).actions == []
    # Its pod has gone. What was claimed is remembered until the successor is there.
    memory = PlanMemory()
    known = [replace(read_replica(pod), owner_uid="a")]
    memory.stamp(known, now_seconds=0.0, now=NOW)
    memory.stamp([], now_seconds=1.0, now=NOW)
    claims = memory.departed_claims([waiting, new])
    step = plan_step(facts([waiting, new], []), context(departed_claims=claims))
    (create,) = step.actions
    assert isinstance(create, Create)
    assert create.placed.key.name == "a"
    assert step.outcomes["default/c"].refused


def test_an_operator_that_was_killed_in_between_gives_the_room_back_to_who_ran_there():
    """The claim was in the killed operator's memory; the status says who ran there."""
    waiting = older(deployment("c", uid="c", concurrency=20), 30)
    new = deployment("a", uid="a", concurrency=18)
    placement = {"replica": 0, "node": "a", "devices": ["GPU-a-0"], "hbmBytes": 40 * GIB}
    new.obj["status"] = {"placements": [placement]}
    # The exporter still shows what the pod that has gone used: nobody gets it before it does not.
    used = replace(GPU, live_free_bytes=39 * GIB, live_age_seconds=35.0)
    step = plan_step(
        facts([waiting, new], [], nodes=(replace(SHARED, devices=(used,)),)), context()
    )
    assert step.actions == []
    free = replace(GPU, live_free_bytes=GPU.usable_bytes, live_age_seconds=35.0)
    step = plan_step(
        facts([waiting, new], [], nodes=(replace(SHARED, devices=(free,)),)), context()
    )
    (create,) = step.actions
    assert create.placed.key.name == "a"


def test_foreign_use_that_shows_after_the_claim_is_not_overlooked():
    """Claimed while the exporter was away; by the time its room is wanted, others use it."""
    old, new = deployment(concurrency=20), deployment(concurrency=38)
    claim = plan_step(facts([new], [pod_of(old)]), context()).actions[0]
    memory = PlanMemory()
    pod = claimed(pod_of(old, **{ANNOTATION_DRAINING: DRAINED}), claim)
    memory.stamp([replace(read_replica(pod), owner_uid="m")], now_seconds=0.0, now=NOW)
    memory.stamp([], now_seconds=1.0, now=NOW)
    for at, used, fits in ((11.0, 60 * GIB, False), (11.0, 10 * GIB, True)):
        gpu = replace(GPU, live_free_bytes=GPU.usable_bytes - used, live_age_seconds=5.0)
        step = plan_step(
            facts(
                [new], [], nodes=(replace(SHARED, devices=(gpu,)),),
                departed=memory.departed(now_seconds=at),
            ),
            context(departed_claims=memory.departed_claims([new])),
        )  # fmt: skip
        assert [type(one) for one in step.actions] == ([Create] if fits else [])
        assert bool(step.outcomes["default/m"].refused) is not fits


def test_foreign_use_beside_the_old_replica_stays_counted():
    """20 GiB foreign, old 41.6, new 61.8 of 79.2: it does not fit, so the old one serves on."""
    old, new = deployment(concurrency=20), deployment(concurrency=38)
    free = GPU.usable_bytes - 20 * GIB - old.footprint.total_bytes
    gpu = replace(GPU, live_free_bytes=free, live_age_seconds=35.0)
    node = replace(SHARED, devices=(gpu,))
    step = plan_step(facts([new], [pod_of(old)], nodes=(node,)), context())
    assert step.actions == []
    assert step.outcomes["default/m"].rollout_blocked is not None
    pod = pod_of(old, **{ANNOTATION_DRAINING: DRAINED})
    (action,) = plan_step(facts([new], [pod], nodes=(node,)), context()).actions
    assert isinstance(action, MarkDraining)
    assert not action.draining


def test_an_edit_that_fits_only_in_part_takes_no_further_replica():
    """m-0 left for a spec that was edited again under way, and fits no more: m-1, m-2 stay.

    A smaller spec is not held up by what fits nowhere: it may be what makes room for it.
    """
    old, larger, smaller = (deployment(replicas=3, concurrency=n) for n in (12, 30, 2))
    step = plan_step(facts([larger], [pod_of(old, 1), pod_of(old, 2)]), context())
    assert step.outcomes["default/m"].refused
    assert step.actions == []
    old = deployment(replicas=3, concurrency=18)
    other = deployment("other", uid="o", concurrency=18)
    step = plan_step(facts([smaller, other], [pod_of(old, 1), pod_of(other)]), context())
    assert step.outcomes["default/m"].refused
    assert kinds(step) == [("ClaimRoom", "m-1")]


def test_a_claim_that_is_edited_back_is_dropped():
    old, new = deployment(concurrency=20), deployment(concurrency=30)
    claim = plan_step(facts([new], [pod_of(old)]), context()).actions[0]
    pod = claimed(pod_of(old, **{ANNOTATION_DRAINING: DRAINED}), claim)
    mark, drop = plan_step(facts([old], [pod]), context()).actions
    assert (mark.draining, drop.placed) == (False, None)
    # And its room is free for others in that very step.
    other = deployment("other", uid="o", concurrency=15)
    step = plan_step(facts([old, other], [pod]), context())
    assert any(isinstance(action, Create) for action in step.actions)


def test_a_claim_counts_with_what_it_adds_to_its_predecessor():
    """41.6 grow to 61.8 in place: 17.4 of 79.2 are left for others, not 37.6."""
    old, new = deployment(concurrency=20), deployment(concurrency=38)
    claim = plan_step(facts([new], [pod_of(old)]), context()).actions[0]
    replica = read_replica(claimed(pod_of(old), claim))
    ledger = Ledger(Inventory(nodes=(SHARED,), reservations=replica.reservations()))
    assert ledger.free_bytes(GPU) == GPU.usable_bytes - new.footprint.total_bytes


def test_growth_is_pending_until_a_younger_reading_shows_it():
    """20 GiB foreign; ours became ready after the reading: 35.6 GiB are free, not 55.6."""
    one = deployment()
    gpu = replace(GPU, live_free_bytes=GPU.usable_bytes - 20 * GIB, live_age_seconds=43.0)
    node = replace(SHARED, devices=(gpu,))
    need = one.footprint.total_bytes
    for serving, foreign in ((10.0, 20 * GIB), (60.0, 0)):
        known = facts([one], [pod_of(one)], (node,), m_0=Seen(serving_seconds=serving))
        left = GPU.usable_bytes - need - max(foreign, 20 * GIB - need)
        assert Ledger(known.inventory).free_bytes(gpu) == left


def test_a_count_of_requests_from_before_the_mark_is_not_idle():
    """Routers are read every 5 s: a zero of 4 s ago says nothing of a replica drained for 5."""
    one, two = deployment(replicas=1), deployment(replicas=2)
    pods = [pod_of(two, 0), pod_of(two, 1, **{ANNOTATION_DRAINING: DRAINED})]
    assert plan_step(facts([one], pods), context(in_flight_age_seconds=4.0)).actions == []
    (action,) = plan_step(facts([one], pods), context(in_flight_age_seconds=3.0)).actions
    assert isinstance(action, Delete)


@pytest.mark.parametrize("unknown", [{"in_flight": None}, {"in_flight_age_seconds": None}])
def test_unknown_is_not_idle(unknown):
    """A router that cannot be read may be in the middle of forty answers."""
    one, two = deployment(replicas=1), deployment(replicas=2)
    pods = [pod_of(two, 0), pod_of(two, 1, **{ANNOTATION_DRAINING: DRAINED})]
    step = plan_step(facts([one], pods), context(**unknown))
    assert step.actions == []
    assert step.has_timers
    long_ago = (NOW - timedelta(seconds=61)).isoformat()
    pods = [pod_of(two, 0), pod_of(two, 1, **{ANNOTATION_DRAINING: long_ago})]
    (action,) = plan_step(facts([one], pods), context(**unknown)).actions
    assert isinstance(action, Delete)


def test_a_flap_of_readiness_does_not_end_a_drain():
    """Two failed probes of a loaded engine: its forty requests go on."""
    one, two = deployment(replicas=1), deployment(replicas=2)
    pods = [pod_of(two, 0), pod_of(two, 1, ready=False, **{ANNOTATION_DRAINING: DRAINED})]
    step = plan_step(facts([one], pods), context(in_flight={"default/m-1": 40}))
    assert step.actions == []


def test_what_has_ended_or_was_unready_for_long_is_not_drained():
    one, two = deployment(replicas=1), deployment(replicas=2)
    down = pod_of(two, 1, ready=False)
    down["status"]["containerStatuses"] = [{"state": {"terminated": {"exitCode": 1}}}]
    (action,) = plan_step(facts([one], [pod_of(two, 0), down]), context()).actions
    assert isinstance(action, Delete)
    unready = facts([one], [pod_of(two, 0), pod_of(two, 1, ready=False)],
                    m_1=Seen(unready_seconds=61.0))  # fmt: skip
    (action,) = plan_step(unready, context()).actions
    assert isinstance(action, Delete)


def test_an_edit_while_all_flap_takes_none_of_them():
    old, new = deployment(replicas=3), deployment(replicas=3, concurrency=2)
    pods = [pod_of(old, index, ready=False) for index in range(3)]
    busy = context(in_flight={f"default/m-{index}": 20 for index in range(3)})
    assert plan_step(facts([new], pods), busy).actions == []


def test_an_engine_that_flaps_does_not_hold_up_the_start_of_another():
    a, b = deployment("a", uid="a"), deployment("b", uid="b")
    pods = [pod_of(a, ready=False), pod_of(b, gated=True, ready=False)]
    known = facts([a, b], pods, a_0=Seen(serving_seconds=600.0, unready_seconds=2.0))
    assert kinds(plan_step(known, context())) == [("OpenGate", "b-0")]


def test_scaling_down_takes_what_serves_nobody():
    """3 to 2 while m-0 crash-loops: m-0 goes, not m-2, which serves."""
    two, three = deployment(replicas=2), deployment(replicas=3)
    broken = pod_of(three, 0, ready=False)
    broken["status"]["containerStatuses"] = [
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 9}
    ]
    pods = [broken, pod_of(three, 1), pod_of(three, 2)]
    step = plan_step(facts([two], pods), context())
    assert kinds(step) == [("Delete", "m-0")]
    assert step.outcomes["default/m"].kept == {"default/m-1", "default/m-2"}
    # What is left has the indices 1 and 2: nothing is missing, and nothing is too many.
    assert plan_step(facts([two], pods[1:]), context()).actions == []


def test_of_what_serves_the_one_on_a_cordoned_node_goes_then_the_youngest():
    two, three = deployment(replicas=2), deployment(replicas=3)
    pods = [pod_of(three, index) for index in range(3)]
    (action,) = plan_step(facts([two], pods), context()).actions
    assert action.replica.index == 2
    moved = pods[0]
    text = moved["metadata"]["annotations"]["memroute.dev/reservation"]
    moved["metadata"]["annotations"]["memroute.dev/reservation"] = text.replace('"a"', '"b"')
    other = Node(name="b", mode=PlacementMode.SHARED, unusable_reason="Cordoned")
    step = plan_step(facts([two], pods, nodes=(SHARED, other)), context())
    assert kinds(step)[0] == ("MarkDraining", "m-0")


def test_a_pod_that_hangs_in_terminating_is_named_and_replaced_elsewhere():
    """A process in D state: its device stays counted, its successor starts on the next one."""
    of = deployment()
    pod = pod_of(of, ready=False)
    pod["metadata"] |= {
        "deletionTimestamp": (NOW - timedelta(seconds=121)).isoformat(),
        "deletionGracePeriodSeconds": 60,
    }
    second = replace(GPU, index=1, uuid="GPU-a-1")
    node = replace(SHARED, devices=(GPU, second))
    step = plan_step(facts([of], [pod], nodes=(node,)), context())
    (create,) = step.actions
    # Another slot, so another name; the name of the one that hangs is taken.
    assert create.placed.key == replica_key(of, 1)
    assert create.placed.device_uuids == ("GPU-a-1",)
    assert not create.is_gated
    assert [one.pod_name for one in step.outcomes["default/m"].stuck] == ["m-0"]
    assert step.outcomes["default/m"].kept == {create.placed.key.pod}
    held = Ledger(facts([of], [pod], nodes=(node,)).inventory)
    assert held.reserved_bytes(GPU) == of.footprint.total_bytes


def test_a_replica_queued_behind_a_hanging_pod_moves_where_it_can_start():
    of, other = deployment(), deployment("other", uid="u2")
    hanging = pod_of(of, ready=False)
    hanging["metadata"] |= {
        "deletionTimestamp": (NOW - timedelta(seconds=500)).isoformat(),
        "deletionGracePeriodSeconds": 60,
    }
    queued = pod_of(other, gated=True, ready=False)
    node = replace(SHARED, devices=(GPU, replace(GPU, index=1, uuid="GPU-a-1")))
    step = plan_step(facts([other], [hanging, queued], nodes=(node,)), context())
    (claim,) = [action for action in step.actions if isinstance(action, ClaimRoom)]
    assert claim.placed.device_uuids == ("GPU-a-1",)
    # With nowhere else to go it stays.
    step = plan_step(facts([other], [hanging, queued]), context())
    assert step.actions == []


def test_an_overbooked_device_is_noticed_and_its_youngest_replica_drained():
    """Two operators that did not see each other: 83.2 of 79.2 GiB."""
    a, b = (deployment(name, uid=name, concurrency=20) for name in "ab")
    younger = pod_of(b)
    younger["metadata"]["creationTimestamp"] = "2026-01-01T00:00:09Z"
    step = plan_step(facts([a, b], [pod_of(a), younger]), context())
    assert kinds(step) == [("MarkDraining", "b-0")]
    (over,) = step.overbooked
    assert over.over_bytes == 2 * a.footprint.total_bytes - GPU.usable_bytes
    assert (over.pods, over.drained) == (("default/b-0", "default/a-0"), ("default/b-0",))
    assert step.outcomes["default/a"].overbooked == [over]
    # It leaves, and is not called back; the other one stays.
    younger["metadata"]["annotations"][ANNOTATION_DRAINING] = DRAINED
    step = plan_step(facts([a, b], [pod_of(a), younger]), context())
    assert kinds(step) == [("Delete", "b-0")]


def test_a_fleet_that_is_overbooked_at_once_is_not_drained_at_once():
    """A driver update keeps 1 GiB more for itself, and every full device has too much promised.

    Its engines serve, with their memory: one replica of a ModelDeployment at a time leaves, and
    a tenth of the fleet. What does not serve yet leaves at once.
    """
    gpus = tuple(replace(GPU, index=i, uuid=f"GPU-a-{i}") for i in range(8))
    a, b = (deployment(name, uid=name, concurrency=19, replicas=8) for name in "ab")
    pods = [_on(pod_of(of, i, ready=True), gpus[i].uuid) for of in (a, b) for i in range(8)]
    for pod in pods[8:]:
        pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:09Z"
    pods[15]["status"]["conditions"] = []
    small = tuple(replace(one, usable_bytes=one.usable_bytes - 2 * GIB) for one in gpus)
    node = replace(SHARED, devices=small)
    step = plan_step(facts([a, b], pods, nodes=(node,)), context())
    assert len(step.overbooked) == 8
    # Each says who leaves now and who waits: not that eight are drained while two are.
    assert {pod for one in step.overbooked for pod in one.waiting} == {
        f"default/b-{i}" for i in range(1, 7)
    }
    told = {one.device: one.message for one in step.overbooked}
    assert "default/b-0 leaves it" in told["GPU-a-0"]
    assert "its turn" not in told["GPU-a-0"]
    assert "default/b-3 leaves it when its turn comes" in told["GPU-a-3"]
    assert kinds(step) == [("MarkDraining", "b-7"), ("MarkDraining", "b-0")]
    # It goes on with that one, and with the next one when it has gone.
    pods[8]["metadata"]["annotations"][ANNOTATION_DRAINING] = DRAINED
    pods[8]["metadata"]["deletionTimestamp"] = NOW.isoformat()
    step = plan_step(facts([a, b], pods[:15], nodes=(node,)), context())
    assert not [one for one in kinds(step) if one[0] == "MarkDraining"]
    step = plan_step(facts([a, b], [*pods[:8], *pods[9:15]], nodes=(node,)), context())
    assert ("MarkDraining", "b-1") in kinds(step)
    assert sum(kind == "MarkDraining" for kind, _ in kinds(step)) == 1


def test_a_rollout_waits_for_the_replica_that_leaves_an_overbooked_device():
    """Both at once would be two of two replicas that serve nobody."""
    other = deployment("a", uid="a", concurrency=20)
    old = deployment("b", uid="b", concurrency=20, replicas=2)
    new = deployment("b", uid="b", concurrency=19, replicas=2, rollout={"maxSurge": 0})
    gpus = tuple(replace(GPU, index=i, uuid=f"GPU-a-{i}") for i in range(4))
    pods = [pod_of(other), pod_of(old, 0), _on(pod_of(old, 1), "GPU-a-1")]
    for pod in pods[1:]:
        pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:09Z"
    step = plan_step(facts([other, new], pods, nodes=(replace(SHARED, devices=gpus),)), context())
    assert kinds(step) == [("MarkDraining", "b-0")]


def _on(pod, uuid):
    annotations = pod["metadata"]["annotations"]
    text = annotations["memroute.dev/reservation"]
    annotations["memroute.dev/reservation"] = text.replace("GPU-a-0", uuid)
    return pod


@pytest.mark.parametrize("assigned", [None, "default/m-0"])
def test_devices_of_an_exclusive_engine_are_full_for_shared_placement(assigned):
    """The label was put on a node in use: nobody else is promised its GPU."""
    exclusive, other = deployment(mode="Exclusive"), deployment("other", uid="u2")
    gpu = replace(EXCLUSIVE.devices[0], assigned_pod=assigned)
    flipped = replace(EXCLUSIVE, mode=PlacementMode.SHARED, devices=(gpu,))
    pod = pod_of(exclusive, ready=False, node="x")
    step = plan_step(facts([exclusive, other], [pod], nodes=(flipped,)), context())
    assert step.outcomes["default/other"].refused
    assert not any(isinstance(action, Create) for action in step.actions)


def test_a_shared_engine_is_in_the_way_where_the_label_was_taken_off():
    shared, other = deployment(), deployment("other", uid="u2", mode="Exclusive")
    plain = replace(SHARED, mode=PlacementMode.EXCLUSIVE, num_allocatable=1)
    step = plan_step(facts([shared, other], [pod_of(shared)], nodes=(plain,)), context())
    assert step.outcomes["default/other"].refused


def test_a_device_attributed_to_a_pod_that_has_gone_is_free():
    """dcgm-exporter collects every 30 s: an idle GPU is no reason for InsufficientHBM."""
    of = deployment(mode="Exclusive")
    gpu = replace(
        EXCLUSIVE.devices[0],
        live_free_bytes=4 * GIB,
        live_age_seconds=35.0,
        assigned_pod="default/m-0",
    )
    node = replace(EXCLUSIVE, devices=(gpu,), has_fresh_metrics=True)
    gone = facts([of], [], nodes=(node,), live_pods=frozenset())
    assert kinds(plan_step(gone, context())) == [("Create", None)]
    there = facts([of], [], nodes=(node,), live_pods=frozenset({"default/m-0"}))
    assert plan_step(there, context()).actions == []


def test_a_pod_that_was_gated_for_long_is_given_its_seconds_with_the_scheduler():
    """Its condition keeps the time of its creation: what counts is since when we saw it refused."""
    of = deployment()
    pod = pod_of(of, ready=False)
    del pod["spec"]["nodeName"]
    pod["status"] = {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "lastTransitionTime": (NOW - timedelta(seconds=120)).isoformat(),
                "message": "0/9 nodes are available: 9 Insufficient nvidia.com/gpu.",
            }
        ],
    }
    memory = PlanMemory()
    for seconds, actions in ((0.0, []), (4.0, []), (6.0, ["Delete"])):
        (replica,) = memory.stamp([read_replica(pod)], now_seconds=seconds, now=NOW)
        step = plan_step(facts([of], [pod], m_0=replica.seen), context())
        assert [type(action).__name__ for action in step.actions] == actions
    assert step.actions[0].avoid_node
    assert "9 Insufficient nvidia.com/gpu" in step.actions[0].why


def test_clocks_that_differ_change_nothing():
    """A mark of a clock that is an hour ahead is as old as we have seen it."""
    two = deployment(replicas=2)
    ahead = (NOW + timedelta(hours=1)).isoformat()
    memory = PlanMemory()
    pod = read_replica(pod_of(two, 1, **{ANNOTATION_DRAINING: ahead}))
    memory.stamp([pod], now_seconds=10.0, now=NOW)
    (later,) = memory.stamp([pod], now_seconds=17.0, now=NOW)
    assert later.seen.draining_seconds == 7.0


def test_a_restart_of_the_engine_makes_its_growth_pending_again():
    of = deployment()
    memory = PlanMemory()
    memory.stamp([read_replica(pod_of(of))], now_seconds=0.0, now=NOW)
    flapping = read_replica(pod_of(of, ready=False))
    (flapping,) = memory.stamp([flapping], now_seconds=60.0, now=NOW)
    assert flapping.seen.serving_seconds == 60.0
    restarted = pod_of(of, ready=False)
    restarted["status"]["containerStatuses"] = [{"restartCount": 1, "state": {"running": {}}}]
    (restarted,) = memory.stamp([read_replica(restarted)], now_seconds=61.0, now=NOW)
    assert restarted.seen.serving_seconds is None


def test_a_replica_leaves_a_cordoned_node_when_its_successor_fits_elsewhere():
    of = deployment(replicas=2, rollout={"maxSurge": 0})
    pods = [pod_of(of, 0), pod_of(of, 1)]
    cordoned = replace(SHARED, unusable_reason="Cordoned")
    free = replace(SHARED, name="b", devices=(replace(GPU, node="b", uuid="GPU-b-0"),))
    step = plan_step(facts([of], pods, nodes=(cordoned, free)), context())
    (claim,) = step.actions
    assert (claim.replica.index, claim.placed.node) == (0, "b")
    pods[0] = claimed(pods[0], claim)
    # Nobody knows whether that node has the image: it comes first.
    step = plan_step(facts([of], pods, nodes=(cordoned, free)), context())
    assert kinds(step) == [("FetchAhead", "m-0")]
    assert "Fetching ahead begins on b; m-0 serves meanwhile" in step.outcomes[of.key].moves
    at_once = replace(of, rollout=replace(of.rollout, fetch_ahead=False))
    step = plan_step(facts([at_once], pods, nodes=(cordoned, free)), context())
    assert kinds(step) == [("MarkDraining", "m-0")]
    # Without room elsewhere it serves on, and so it does when the node is uncordoned.
    assert plan_step(facts([of], pods[1:], nodes=(cordoned,)), context()).actions == []
    step = plan_step(facts([of], pods, nodes=(SHARED, free)), context())
    assert [type(action).__name__ for action in step.actions] == ["ClaimRoom"]


def test_no_device_free_is_not_answered_with_a_smaller_model():
    """It fits an empty cluster as it is: what helps is a device, not fp8."""
    full = replace(EXCLUSIVE, num_foreign_devices=1)
    step = plan_step(facts([deployment(mode="Exclusive")], [], nodes=(full,)), context())
    message = step.outcomes["default/m"].refused[0].message
    assert "fits once others release enough" in message
    assert "would fit an empty cluster" not in message


def test_one_explanation_serves_all_replicas_of_a_kind():
    """1,000 replicas that fit nowhere took 80 s, each explained for itself."""
    big = deployment(replicas=1000, concurrency=64)
    step = plan_step(facts([big], []), context())
    assert len(step.outcomes["default/m"].refused) == 1000
    assert step.num_explained == 1


def test_a_footprint_is_added_up_once(monkeypatch):
    """A plan asks for the total of a footprint for each device it looks at."""
    of = deployment(replicas=8, mode="Exclusive")
    nodes = tuple(replace(EXCLUSIVE, name=f"n{i}") for i in range(8))
    sums = []
    monkeypatch.setattr(type(of.footprint), "total", property(sums.append))
    plan_step(facts([of], [], nodes=nodes), context())
    assert sums == []


def test_what_an_annotation_says_is_bounded():
    """A forged reservation of negative bytes once made 1,011 GiB of a device of 79."""
    pod = pod_of(deployment())
    name = "memroute.dev/reservation"
    text = pod["metadata"]["annotations"][name]
    size = str(deployment().footprint.total_bytes)
    for spoilt in ("-1", "1e400", "true", '"x"', "[]", str(2**60)):
        pod["metadata"]["annotations"][name] = text.replace(size, spoilt)
        assert read_replica(pod) is None
    pod["metadata"]["annotations"] |= {
        name: text,
        "memroute.dev/kv-capacity-tokens": "abc",
        ANNOTATION_DRAINING: "0001-01-01T00:00:00+14:00",
        "memroute.dev/successor": text.replace(size, "-1"),
    }
    replica = read_replica(pod)
    assert replica.is_draining
    assert (replica.kv_capacity_tokens, replica.successor) == (0, None)


def test_a_pod_that_is_bound_is_not_deleted_for_having_waited():
    """It serves: that kube-scheduler found no room for it once is a condition nobody took back."""
    of = deployment()
    pod = pod_of(of)
    pod["status"]["conditions"].append(
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "lastTransitionTime": (NOW - timedelta(seconds=60)).isoformat(),
        }
    )
    assert plan_step(facts([of], [pod]), context()).actions == []
