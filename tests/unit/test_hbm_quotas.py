"""HBM quotas of namespaces: who waits, with which numbers, and that nobody is evicted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_stub import refuse
from memroute.placement import HBMQuotas, Ledger, RefusedReason, excess
from memroute.units import GIB
from memroute_operator.plan import ClaimRoom, Create, plan_step
from memroute_operator.rules.hbm_quotas import QUOTAS_NAME, read_quotas
from operator_rig import mdep, node, operator_rig
from planned_cluster import USABLE_BYTES
from preempted_cluster import PriorityCluster

# Of Qwen3-8B at these concurrencies: 18.6 and 41.6 GiB.
SMALL, MIDDLE = 1, 20


def quotas(**sizes):
    return HBMQuotas(by_namespace={name: size * GIB for name, size in sizes.items()})


def held(cluster):
    return Ledger(cluster.facts(cluster.planners[0]).inventory).held_bytes("default")


def test_a_replica_over_the_quota_waits_with_the_numbers():
    """And the one that fits beside it is placed: whoever comes first has the quota."""
    cluster = PriorityCluster(4, 1)
    cluster.quotas = quotas(default=50)
    cluster.add("m", concurrency=MIDDLE, replicas=2)
    step = cluster.run(60)
    assert len(cluster.serving("m")) == 1
    (told,) = step.outcomes["default/m"].refused.values()
    assert told.reason is RefusedReason.QUOTA_EXCEEDED
    assert told.message == (
        "needs 41.6 GiB, and namespace default has 41.6 GiB of its quota of 50.0 GiB; it is "
        "placed once others of the namespace leave, or its quota is raised"
    )
    cluster.quotas = quotas(default=90)
    cluster.run(60)
    assert len(cluster.serving("m")) == 2


def test_what_needs_more_than_all_of_the_quota_is_told_so():
    """Waiting would not help."""
    cluster = PriorityCluster(1, 1)
    cluster.quotas = quotas(default=30)
    cluster.add("m", concurrency=MIDDLE)
    (told,) = cluster.run(10).outcomes["default/m"].refused.values()
    assert "more than all of the quota" in told.message


def test_within_a_quota_the_highest_priority_is_placed_first():
    """As for room."""
    cluster = PriorityCluster(4, 1)
    cluster.quotas = quotas(default=50)
    cluster.add("old", concurrency=MIDDLE, priority="low")
    cluster.add("young", concurrency=MIDDLE, priority="high")
    cluster.run(60)
    assert (len(cluster.serving("old")), len(cluster.serving("young"))) == (0, 1)


@pytest.mark.slow
def test_a_lowered_quota_evicts_nothing_and_says_so():
    """What serves was promised its room; a rollout to the same size goes through, too."""
    cluster = PriorityCluster(4, 1)
    cluster.add("m", concurrency=MIDDLE, replicas=2)
    cluster.run(60)
    cluster.quotas = quotas(default=50)
    step = cluster.run(60)
    assert len(cluster.serving("m")) == 2
    assert step.outcomes["default/m"].over_quota == (
        "namespace default has 83.2 GiB, and a quota of 50.0 GiB: nothing is evicted for that, "
        "and new replicas wait"
    )
    cluster.edit_spec("m", lambda spec: spec["engine"].update(env=[{"name": "A", "value": "1"}]))
    cluster.run(600)
    assert len(cluster.serving("m")) == 2
    assert {one.revision for one in cluster.serving("m")} != {None}
    cluster.edit("m", concurrency=30)
    step = cluster.run(30)
    assert not [one for one in step.actions if isinstance(one, ClaimRoom)]
    blocked = step.outcomes["default/m"].rollout_blocked
    assert blocked.reason is RefusedReason.QUOTA_EXCEEDED


def test_a_replica_that_ends_counts_until_it_has_gone():
    """Its memory is still there."""
    cluster = PriorityCluster(2, 1)
    cluster.quotas = quotas(default=50)
    cluster.add("a", concurrency=MIDDLE)
    cluster.run(60)
    del cluster.deployments["a"]
    cluster.add("b", concurrency=MIDDLE)
    cluster.sync(cluster.planners[0])
    for _ in range(2):
        step = cluster.reconcile(cluster.planners[0])
        assert not [one for one in step.actions if isinstance(one, Create)]
    cluster.run(60)
    assert len(cluster.serving("b")) == 1


def test_other_namespaces_have_the_default():
    """An administrator need not name each of them."""
    found = read_quotas({"data": {"team-a": "640Gi", "_default": "80Gi", "team-b": "200GiB"}})
    assert found.limit_bytes("team-a") == 640 * GIB
    assert found.limit_bytes("any") == 80 * GIB
    assert "'200GiB' is no quantity" in found.problem("team-b")
    assert found.problem("team-a") is None
    assert read_quotas({}).is_unlimited


def test_a_quota_that_cannot_be_read_stops_what_is_new():
    """A typing error must not be no limit; who has no limit is not touched by it."""
    cluster = PriorityCluster(2, 1)
    cluster.quotas = read_quotas({"data": {"default": "50GiB"}})
    cluster.add("m", concurrency=SMALL)
    (told,) = cluster.run(10).outcomes["default/m"].refused.values()
    assert told.reason is RefusedReason.QUOTA_UNKNOWN
    assert "'50GiB' is no quantity" in told.message
    cluster.quotas = read_quotas({"data": {"other": "50GiB"}})
    cluster.run(60)
    assert len(cluster.serving("m")) == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from([1, 4, 12, 20, 38]), st.integers(1, 3)), max_size=5),
    st.integers(0, 300),
)
def test_no_placement_exceeds_the_quota(deployments, gib):
    """Whatever is wanted, and however it is packed."""
    cluster = PriorityCluster(2, 2)
    cluster.quotas = quotas(default=gib)
    for number, (concurrency, replicas) in enumerate(deployments):
        cluster.add(f"m{number}", concurrency=concurrency, replicas=replicas)
    cluster.run(40)
    assert held(cluster) <= gib * GIB
    assert all(cluster.promised(uuid) <= USABLE_BYTES for uuid in cluster.foreign)
    assert excess(cluster.quotas, "default", held(cluster)) is None


# The operator as a whole


@pytest.mark.slow
async def test_a_quota_is_read_enforced_shown_and_raised():
    """From the ConfigMap to the status and the metrics."""
    async with operator_rig(nodes=[node("a")], mdeps=[mdep("m", replicas=2)]) as rig:
        metadata = {"name": QUOTAS_NAME, "namespace": "memroute-system"}
        rig.cluster.put("configmaps", {"metadata": metadata, "data": {"default": "10Gi"}})
        await rig.list_and_step()
        await rig.until("one to serve", lambda: len(rig.cluster.objects["pods"]) == 1)
        await rig.steps(2)
        placed = rig.condition("default/m", "Placed")
        assert (placed["status"], placed["reason"]) == ("False", "QuotaExceeded")
        assert "of its quota of 10.0 GiB" in placed["message"]
        rig.cluster.put("configmaps", {"metadata": metadata, "data": {"default": "1Gi"}})
        await rig.reconciler.list_guarded()
        await rig.steps(2)
        assert rig.condition("default/m", "OverQuota")["reason"] == "QuotaLowered"
        assert len(rig.cluster.objects["pods"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("status", "is_placed"), [(403, True), (500, False)])
async def test_before_quotas_are_known_nothing_is_placed_unless_there_can_be_none(
    status, is_placed
):
    """A role of an older release has no right to read them: an upgrade must not stop placement."""
    async with operator_rig(nodes=[node("a", gpus=1)], mdeps=[mdep("m")]) as rig:
        rig.cluster.fault = lambda call: refuse(status, "No") if call.name == QUOTAS_NAME else None
        await rig.list_and_step()
        await rig.steps(3)
        assert bool(rig.cluster.objects["pods"]) is is_placed
        if not is_placed:
            assert rig.condition("default/m", "Placed")["reason"] == "QuotaUnknown"


def test_a_pod_that_is_on_its_way_counts():
    """Nobody has seen it yet; what was asked for it must not be given out a second time."""
    cluster = PriorityCluster(2, 1)
    cluster.quotas = quotas(default=50)
    cluster.add("a", concurrency=MIDDLE)
    planner = cluster.planners[0]
    facts = cluster.facts(planner)
    step = plan_step(facts, cluster.context(planner, facts))
    (create,) = step.actions
    held = create.placed.reservation()
    cluster.add("b", concurrency=MIDDLE)
    facts = cluster.facts(planner).with_held([held])
    context = replace(cluster.context(planner, facts), held_back=frozenset({create.placed.key.pod}))
    step = plan_step(facts, context)
    assert not step.actions
    assert step.outcomes["default/b"].refused[0].reason is RefusedReason.QUOTA_EXCEEDED
