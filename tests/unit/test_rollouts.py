"""Rollouts: beside the old replica where there is room, in its place where there is none.

One H100 has 79.2 GiB. Qwen3-8B with 8,192 tokens needs 21.3 GiB for 2 sequences, 41.6 for 20.
"""

import copy
from dataclasses import replace

import pytest

from memroute_kube.resources import LABEL_REPLICA
from memroute_operator.failures import ALL
from memroute_operator.failures.lasting import LASTING
from memroute_operator.plan import Delete, MarkDraining, plan_step
from memroute_operator.pod.pod_names import CODE_LENGTH, NUM_CODES, code_of, replica_key
from memroute_operator.replicas.placed_by import placed_by
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ANNOTATION_PLACED_BY, Seen
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.revisions import last_good_document
from memroute_operator.spec.rollout_spec import Bounds, read_rollout
from memroute_operator.spec.target_revision import as_targeted, with_history
from planned_objects import GPU, SHARED, claimed, context, deployment, facts, pod_of

GATED = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {
        "terminated": {"exitCode": 2, "message": "error: unrecognized arguments: --no-such-flag"}
    },
    "name": "engine",
    "restartCount": 2,
}


def kinds(step):
    return [(type(a).__name__, getattr(getattr(a, "replica", None), "pod_name", None))
            for a in step.actions]  # fmt: skip


def with_status(of, **status):
    """The deployment, read again with a status."""
    return with_history(read_deployment(of.obj | {"status": status}), read_deployment)


def failing(pod):
    """The pod, as its engine refuses a flag and kubelet starts it again and again."""
    pod = copy.deepcopy(pod)
    pod["status"] |= {"containerStatuses": [GATED], "conditions": []}
    return pod


# Names


def test_names_say_the_revision_and_no_order():
    """What reads an index out of a name, or waits for the next one, is wrong from now on."""
    of = deployment()
    names = [replica_key(of, slot).pod_name for slot in range(3)]
    assert all(name.startswith(f"m-{of.revision[:5]}-") for name in names)
    assert len({name[-CODE_LENGTH:] for name in names}) == 3


def test_every_slot_of_an_object_has_a_code_of_its_own():
    """Two slots of one name would be one pod, and the other is never created."""
    assert len({code_of("u1", slot) for slot in range(20_000)}) == 20_000
    assert NUM_CODES > 400_000
    assert code_of("u1", 0) != code_of("u2", 0)


def test_the_longest_name_makes_a_whole_host_name():
    of = replace(deployment(), name="x" * 52)
    assert len(replica_key(of, 1999).pod_name) == 63


def test_replicas_with_an_index_are_adopted():
    """An upgrade restarts nothing: what is missing beside them has a free slot and a new name."""
    of = deployment(replicas=3)
    (create,) = plan_step(facts([of], [pod_of(of, 0), pod_of(of, 2)]), context()).actions
    assert create.placed.key == replica_key(of, 1)


# What is said


@pytest.mark.parametrize(
    ("said", "replicas", "bounds"),
    [
        ({}, 3, Bounds(surge=1, unavailable=None, kept=0)),
        ({"maxSurge": "25%", "maxUnavailable": "25%"}, 10, Bounds(surge=3, unavailable=2, kept=0)),
        ({"maxSurge": 0}, 3, Bounds(surge=0, unavailable=1, kept=0)),
        ({"maxSurge": 0, "maxUnavailable": "10%"}, 3, Bounds(surge=0, unavailable=1, kept=0)),
        ({"partition": "50%"}, 3, Bounds(surge=1, unavailable=None, kept=2)),
        ({"partition": 9}, 3, Bounds(surge=1, unavailable=None, kept=3)),
    ],
)
def test_amounts_are_numbers_or_shares_as_deployments_have_them(said, replicas, bounds):
    assert read_rollout({"rollout": said}).bounds(replicas) == bounds


@pytest.mark.parametrize("said", ["25", "-1%", "x%", -1, True, 1.5])
def test_other_amounts_are_no_amounts(said):
    with pytest.raises(TypeError):
        read_rollout({"rollout": {"maxSurge": said}})


# Surge


def test_a_successor_starts_beside_the_old_replica_where_there_is_room():
    """And the old one serves until it does: no request waits for weights to be loaded."""
    old, new = deployment(), deployment(concurrency=2)
    step = plan_step(facts([new], [pod_of(old)]), context())
    (create,) = step.actions
    assert create.placed.key == replica_key(new, 1)
    told = step.outcomes["default/m"]
    assert "starts beside" in told.rollout
    assert not told.is_draining_first
    starting = pod_of(new, 1, ready=False)
    step = plan_step(facts([new], [pod_of(old), starting]), context())
    assert step.actions == []
    assert step.outcomes["default/m"].rollout is not None
    step = plan_step(facts([new], [pod_of(old), pod_of(new, 1)]), context())
    assert kinds(step) == [("MarkDraining", "m-0")]
    assert step.outcomes["default/m"].rollout is None


def test_without_room_beside_it_the_old_replica_leaves_first_and_says_why():
    old, new = deployment(concurrency=20), deployment(concurrency=19)
    step = plan_step(facts([new], [pod_of(old)]), context())
    assert kinds(step) == [("ClaimRoom", "m-0")]
    told = step.outcomes["default/m"]
    assert told.is_draining_first
    assert "drains m-0 first: no node has 40.5 GiB free for its successor" in told.rollout
    # What has begun goes on, even if there is room by now.
    pod = claimed(pod_of(old), step.actions[0])
    free = replace(SHARED, name="b", devices=(replace(GPU, node="b", uuid="GPU-b-0"),))
    step = plan_step(facts([new], [pod], nodes=(SHARED, free)), context())
    assert kinds(step) == [("MarkDraining", "m-0")]
    assert step.outcomes["default/m"].rollout == told.rollout, "and so does what is told"


def test_the_next_one_does_not_change_what_is_told_of_the_first():
    """It said "drains m-0 first: another one leaves first already"."""
    old, new = deployment(replicas=2, concurrency=12), deployment(replicas=2, concurrency=11)
    pods = [pod_of(old, 0), pod_of(old, 1)]
    first = plan_step(facts([new], pods), context())
    pods[0] = claimed(pods[0], first.actions[0])
    second = plan_step(facts([new], pods), context())
    told = second.outcomes["default/m"].rollout
    assert "drains m-0 first: no node has" in told


def test_nobody_leaves_first_who_must_always_serve():
    """MaxUnavailable 0 on a full cluster: the rollout waits for room, and says so."""
    old = deployment(concurrency=20)
    new = deployment(concurrency=19, rollout={"maxUnavailable": 0})
    step = plan_step(facts([new], [pod_of(old)]), context())
    assert step.actions == []
    assert "waiting for room" in step.outcomes["default/m"].rollout
    assert "maxUnavailable is 0" in step.outcomes["default/m"].rollout


def test_a_quota_of_pods_is_no_end_of_a_rollout():
    """The pod beside the old one is refused for ever; in its place it is not."""
    old, new = deployment(), deployment(concurrency=2)
    refused = context(no_surge={"default/m": "a quota"}, held_back=frozenset({"default/m/"}))
    step = plan_step(facts([new], [pod_of(old)]), refused)
    assert kinds(step) == [("ClaimRoom", "m-0")]
    assert "drains m-0 first: a quota" in step.outcomes["default/m"].rollout


def test_a_surge_is_no_larger_than_it_may_be():
    old = deployment(replicas=2, concurrency=2)
    node = replace(
        SHARED, devices=tuple(replace(GPU, index=i, uuid=f"GPU-a-{i}") for i in range(4))
    )
    pods = [pod_of(old, 0), pod_of(old, 1)]
    for surge, number in ((1, 1), (2, 2), ("100%", 2), (9, 2)):
        new = deployment(replicas=2, concurrency=3, rollout={"maxSurge": surge})
        step = plan_step(facts([new], pods, nodes=(node,)), context())
        assert [kind for kind, _ in kinds(step)] == ["Create"] * number


def test_a_surge_that_flaps_calls_the_old_replica_back():
    """The old one drains already; requests come back to it rather than to nobody."""
    old, new = deployment(), deployment(concurrency=2)
    draining = pod_of(old, **{"memroute.dev/draining": "2026-01-01T00:00:00+00:00"})
    pods = [draining, pod_of(new, 1, ready=False)]
    known = facts([new], pods, m_1=Seen(serving_seconds=30.0, unready_seconds=1.0))
    (action,) = plan_step(known, context()).actions
    assert isinstance(action, MarkDraining)
    assert not action.draining


def test_scaling_down_in_the_middle_takes_the_old_replicas():
    old, new = deployment(replicas=3, concurrency=2), deployment(replicas=2, concurrency=3)
    node = replace(
        SHARED, devices=tuple(replace(GPU, index=i, uuid=f"GPU-a-{i}") for i in range(4))
    )
    pods = [pod_of(old, 0), pod_of(old, 1), pod_of(old, 2), pod_of(new, 3, ready=False)]
    step = plan_step(facts([new], pods, nodes=(node,)), context())
    assert kinds(step) == [("MarkDraining", "m-2")]
    pods[3] = pod_of(new, 3)
    step = plan_step(facts([new], pods, nodes=(node,)), context())
    assert kinds(step) == [("MarkDraining", "m-1"), ("MarkDraining", "m-2")]


# Canary


def test_a_partition_keeps_so_many_of_the_old_revision():
    old = deployment(replicas=3, concurrency=2)
    new = deployment(replicas=3, concurrency=3, rollout={"partition": 2})
    node = replace(
        SHARED, devices=tuple(replace(GPU, index=i, uuid=f"GPU-a-{i}") for i in range(4))
    )
    step = plan_step(facts([new], [pod_of(old, i) for i in range(3)], nodes=(node,)), context())
    assert [kind for kind, _ in kinds(step)] == ["Create"]
    pods = [pod_of(old, 0), pod_of(old, 1), pod_of(new, 3)]
    step = plan_step(facts([new], pods, nodes=(node,)), context())
    assert step.actions == []
    assert step.outcomes["default/m"].num_old == 2


def test_a_replica_of_the_old_revision_that_ends_is_made_again_as_it_was():
    """A canary of one of three stays one of three when a node is lost."""
    old = deployment(replicas=3, concurrency=2)
    good = last_good_document(old.obj, old.revision)
    new = deployment(replicas=3, concurrency=3, rollout={"partition": 2})
    new = with_status(new, lastGood=good)
    (create,) = plan_step(facts([new], [pod_of(old, 0), pod_of(new, 2)]), context()).actions
    assert create.deployment.revision == old.revision
    assert create.deployment.footprint.total_bytes == old.footprint.total_bytes
    assert create.deployment.uid == new.uid


def test_a_spec_that_cannot_be_takes_no_replica_away_for_good():
    """A typing error in an edit, and then a node is lost: what served is made again as it was."""
    old = deployment(replicas=2, concurrency=2)
    good = last_good_document(old.obj, old.revision)
    wrong = deployment(replicas=2, maxContextTokens=10_000_000)
    assert wrong.footprint is None
    assert plan_step(facts([wrong], [pod_of(old)]), context()).actions == []
    (create,) = plan_step(
        facts([with_status(wrong, lastGood=good)], [pod_of(old)]), context()
    ).actions
    assert create.deployment.revision == old.revision


# Failures


def test_a_revision_that_a_person_must_mend_is_halted_at_once():
    """A flag that no engine has: the old replica serves, and none is drained for it."""
    old, new = deployment(replicas=2, concurrency=2), deployment(replicas=2, concurrency=3)
    pods = [pod_of(old, 0), pod_of(old, 1), failing(pod_of(new, 2))]
    step = plan_step(facts([new], pods), context())
    assert step.actions == []
    failed = step.outcomes["default/m"].failed
    assert (failed.revision, failed.reason) == (new.revision, "FlagUnknown")
    assert "m-2: " in failed.message


def test_the_last_good_revision_comes_back():
    """What failed is in the status, and so is what served: an operator that starts knows both."""
    old, new = deployment(), deployment(concurrency=2)
    pods = [pod_of(old), failing(pod_of(new, 1))]
    failed = plan_step(facts([new], pods), context()).outcomes["default/m"].failed
    good = last_good_document(old.obj, old.revision)
    status = {"lastGood": good, "rollout": {"failed": failed.document()}}
    back = as_targeted(with_status(new, **status))
    assert (back.revision, back.spec_revision) == (old.revision, new.revision)
    step = plan_step(facts([back], pods), context())
    assert kinds(step) == [("Delete", "m-1")]
    # It was drained first on a full cluster: it is created again.
    step = plan_step(facts([back], []), context())
    (create,) = step.actions
    assert create.placed.key == replica_key(old, 0)
    # With onFailure Halt nothing is taken back, and nothing goes on.
    halt = deployment(concurrency=2, rollout={"onFailure": "Halt"})
    halted = as_targeted(with_status(halt, **status))
    assert halted.revision == new.revision
    step = plan_step(facts([halted], pods), context())
    assert step.actions == []
    # An edit starts anew, and so does another number in retry.
    for again in (deployment(concurrency=3), deployment(concurrency=2, rollout={"retry": 1})):
        assert as_targeted(with_status(again, **status)).failed is None


@pytest.mark.parametrize("rollout", [{}, {"maxUnavailable": 1}, {"maxUnavailable": "100%"}])
def test_a_halt_takes_no_old_replica_and_leaves_the_failed_one(rollout):
    """Neither by what may be away, nor because its node is cordoned: another would fail, too."""
    old = deployment(replicas=2, concurrency=2)
    new = deployment(replicas=2, concurrency=3, rollout={"onFailure": "Halt"} | rollout)
    pods = [pod_of(old, 0), pod_of(old, 1), failing(pod_of(new, 2))]
    other = replace(SHARED, name="b", devices=(replace(GPU, node="b", uuid="GPU-b-0"),))
    step = plan_step(facts([new], pods, nodes=(SHARED, other)), context())
    assert step.outcomes["default/m"].failed is not None
    assert step.actions == []
    cordoned = replace(SHARED, unusable_reason="Cordoned")
    step = plan_step(facts([new], pods, nodes=(cordoned, other)), context())
    assert kinds(step) == [("Delete", "m-2")], "it leaves the node, and no other follows it"


def test_scaling_to_nothing_starts_no_successor_any_more():
    old, new = deployment(concurrency=2), deployment(replicas=0, concurrency=3)
    step = plan_step(facts([new], [pod_of(old), pod_of(new, 1, ready=False)]), context())
    assert sorted(kinds(step)) == [("MarkDraining", "m-0"), ("MarkDraining", "m-1")]


def test_a_halted_revision_that_is_mended_outside_goes_on():
    """The Secret was missing; somebody has created it, and kubelet has started the engine."""
    old = deployment()
    new = deployment(concurrency=2, rollout={"onFailure": "Halt"})
    failed = {"revision": new.revision, "reason": "SecretMissing", "message": "m", "retry": 0}
    halted = with_status(new, rollout={"failed": failed})
    step = plan_step(facts([halted], [pod_of(old), pod_of(new, 1)]), context())
    assert kinds(step) == [("MarkDraining", "m-0")]
    assert step.outcomes["default/m"].failed is None


def test_a_deadline_counts_from_the_node_on():
    """A replica that waits behind another's start, or for room, has not failed."""
    old = deployment()
    new = deployment(concurrency=2, rollout={"progressDeadlineSeconds": 300})
    pods = [pod_of(old), pod_of(new, 1, ready=False)]
    for seconds, is_failed in ((None, False), (299.0, False), (301.0, True)):
        seen = Seen(unready_seconds=999.0, starting_seconds=seconds)
        known = facts([new], pods, m_1=replace(seen, unready_seconds=1.0))
        outcome = plan_step(known, context()).outcomes["default/m"]
        assert (outcome.failed is not None) is is_failed
    assert outcome.failed.reason == "ProgressDeadlineExceeded"
    assert "within 300 s" in outcome.failed.message


def test_a_first_revision_that_fails_is_nobodys_rollout():
    """There is nothing to halt and nothing to return to."""
    of = deployment()
    step = plan_step(facts([of], [failing(pod_of(of))]), context())
    assert step.outcomes["default/m"].failed is None


def test_what_lasts_is_a_failure_that_is_told():
    """A name that no table has would never stall anything."""
    assert {one.name for one in ALL} >= LASTING


def test_room_for_the_way_back_is_given_to_nobody():
    """41.6 GiB leave for 21.3 that do not serve yet: an older model that waits gets none of it."""
    good, new = deployment(concurrency=20), deployment(concurrency=2)
    waiting = deployment("c", uid="c", concurrency=20)
    new = with_status(new, lastGood=last_good_document(good.obj, good.revision))
    smaller = [pod_of(new, ready=False)]
    step = plan_step(facts([waiting, new], smaller), context())
    assert [kind for kind, _ in kinds(step)] == []
    assert step.outcomes["default/c"].refused
    # Once it has served in full, it has.
    proven = with_status(new, lastGood=last_good_document(new.obj, new.revision))
    step = plan_step(facts([waiting, proven], [pod_of(new)]), context())
    assert [kind for kind, _ in kinds(step)] == ["Create"]


def test_what_a_reading_shows_of_an_engine_that_hangs_is_its_own():
    """41.6 GiB loaded and never served: its successor of 61.8 counts on them, not beside them."""
    old, new = deployment(concurrency=20), deployment(concurrency=38)
    used = old.footprint.total_bytes
    gpu = replace(GPU, live_free_bytes=GPU.usable_bytes - used, live_age_seconds=35.0)
    hanging = facts(
        [new], [pod_of(old, ready=False)], nodes=(replace(SHARED, devices=(gpu,)),),
        m_0=Seen(unready_seconds=600.0),
    )  # fmt: skip
    assert kinds(plan_step(hanging, context())) == [("ClaimRoom", "m-0")]


# Placement


def _stamped(of, pod):
    pod["metadata"]["annotations"][ANNOTATION_PLACED_BY] = placed_by(of)
    return pod


def test_an_edit_of_the_node_selector_moves_what_runs():
    """One at a time, beside the old one; pods that do not say what they were placed by stay."""
    old = deployment(replicas=2, concurrency=2)
    new = replace(old, node_selector={"pool": "b"})
    free = replace(
        SHARED, name="b", labels={"pool": "b"}, devices=(replace(GPU, node="b", uuid="GPU-b-0"),)
    )
    pods = [_stamped(old, pod_of(old, i)) for i in range(2)]
    step = plan_step(facts([new], pods, nodes=(SHARED, free)), context())
    (create,) = step.actions
    assert create.placed.node == "b"
    # Nothing matches: nothing moves.
    assert plan_step(facts([new], pods, nodes=(SHARED,)), context()).actions == []
    for stamp in (None, placed_by(new)):
        for pod in pods:
            annotations = pod["metadata"]["annotations"]
            annotations.pop(ANNOTATION_PLACED_BY, None)
            if stamp is not None:
                annotations[ANNOTATION_PLACED_BY] = stamp
        assert plan_step(facts([new], pods, nodes=(SHARED, free)), context()).actions == []


def test_an_edit_to_spread_moves_those_that_share_a_node():
    old = deployment(replicas=2, concurrency=2)
    spread = read_deployment(
        old.obj
        | {"spec": old.obj["spec"] | {"placement": {"mode": "Shared", "strategy": "Spread"}}}
    )
    free = replace(SHARED, name="b", devices=(replace(GPU, node="b", uuid="GPU-b-0"),))
    pods = [_stamped(old, pod_of(old, i)) for i in range(2)]
    (create,) = plan_step(facts([spread], pods, nodes=(SHARED, free)), context()).actions
    assert create.placed.node == "b"
    # Nowhere is better: all stay.
    assert plan_step(facts([spread], pods), context()).actions == []


# Who goes


def test_of_equals_the_one_goes_that_leaves_most_in_one_piece():
    """3 replicas: two share a GPU with nobody else's, one with a large model."""
    three, two = deployment(replicas=3, concurrency=2), deployment(replicas=2, concurrency=2)
    gpus = tuple(replace(GPU, index=i, uuid=f"GPU-a-{i}") for i in range(2))
    pods = [pod_of(three, i) for i in range(3)]
    text = pods[0]["metadata"]["annotations"]["memroute.dev/reservation"]
    pods[0]["metadata"]["annotations"]["memroute.dev/reservation"] = text.replace(
        "GPU-a-0", "GPU-a-1"
    )
    step = plan_step(facts([two], pods, nodes=(replace(SHARED, devices=gpus),)), context())
    assert kinds(step) == [("MarkDraining", "m-0")]


def test_who_goes_is_told_why():
    three, two = deployment(replicas=3, concurrency=2), deployment(replicas=2, concurrency=2)
    broken = pod_of(three, 0, ready=False)
    broken["status"]["containerStatuses"] = [{"state": {"waiting": {"reason": "X"}}}]
    (action,) = plan_step(
        facts([two], [broken, pod_of(three, 1), pod_of(three, 2)]), context()
    ).actions
    assert isinstance(action, Delete)
    assert action.why == "fewer replicas are wanted, and this one does not run"


def test_two_rollouts_on_a_full_cluster_end():
    """Each could surge if the other did not: who comes first does, and the other leaves first."""
    old = [deployment(name, uid=name, concurrency=2) for name in "abc"]
    new = [deployment(name, uid=name, concurrency=3) for name in "abc"]
    step = plan_step(facts(new, [pod_of(one) for one in old]), context())
    assert [kind for kind, _ in kinds(step)] == ["ClaimRoom"] * 3


def test_reading_a_pod_takes_nothing_from_its_name():
    of = deployment()
    pod = pod_of(of)
    pod["metadata"]["name"] = "anything-r7"
    pod["metadata"]["labels"][LABEL_REPLICA] = "5"
    assert read_replica(pod).index == 5
