"""A node of which several resources can be asked for: MIG slices of strategy "mixed"."""

from dataclasses import replace

import pytest

from memroute.catalog import architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.placement import (
    Device,
    Home,
    Inventory,
    Ledger,
    Node,
    Placed,
    PlacementMode,
    PlacementStrategy,
    RefusedReason,
    ReplicaKey,
    Reservation,
    Solver,
    WantedReplica,
    plan,
)
from memroute.units import GIB

WHOLE = "nvidia.com/gpu"
SMALL = "nvidia.com/mig-1g.10gb"
LARGE = "nvidia.com/mig-3g.40gb"
SIZES = {WHOLE: int(79.2 * GIB), SMALL: int(9.7 * GIB), LARGE: int(39.2 * GIB)}
# Some 5 and 24 GiB.
TINY = "Qwen/Qwen3-0.6B"
MEDIUM = "Qwen/Qwen3-8B"


def pool(resource, count, name="a", **facts):
    devices = tuple(
        Device(
            node=name, index=index, uuid=None, product=resource, usable_bytes=SIZES[resource],
            usable_source="label", is_slice=resource != WHOLE,
        )
        for index in range(count)
    )  # fmt: skip
    return Node(
        name=name, mode=PlacementMode.EXCLUSIVE, devices=devices, num_allocatable=count,
        resource=resource, **facts,
    )  # fmt: skip


CUT = (pool(WHOLE, 1), pool(SMALL, 7), pool(LARGE, 2))


def wanted(model, index=0, *, context=2048, concurrency=1, tp=1, name="m", **facts):
    shape = ReplicaShape(
        architecture=architecture_for_model(model),
        max_context_tokens=context,
        concurrency=concurrency,
        tensor_parallel_size=tp,
    )
    return WantedReplica(
        key=ReplicaKey(namespace="default", name=name, index=index),
        shape=shape,
        footprint=replica_footprint(shape),
        mode=PlacementMode.EXCLUSIVE,
        **facts,
    )


def held(resource, count=1, node="a", owner="default/x-0", **facts):
    return Reservation(
        owner=owner, deployment="default/x", node=node, num_exclusive_devices=count,
        exclusive_bytes=SIZES.get(resource, 0), resource=resource, **facts,
    )  # fmt: skip


def resources(decisions):
    return [one.resource if isinstance(one, Placed) else one.reason for one in decisions]


def test_each_replica_gets_the_smallest_kind_that_it_fits_on():
    """Only the largest slices were planned on: sevenths stayed empty beside models of 5 GiB."""
    inventory = Inventory(nodes=CUT)
    many = [wanted(TINY, n) for n in range(8)] + [wanted(MEDIUM, n, name="n") for n in range(3)]
    decisions = plan(inventory, many)
    assert sorted(resources(decisions[:8])) == sorted([SMALL] * 7 + [LARGE])
    assert sorted(map(str, resources(decisions[8:]))) == sorted(
        [LARGE, WHOLE, str(RefusedReason.INSUFFICIENT_HBM)]
    )
    assert f"1 {SMALL} of a" in decisions[0].why


@pytest.mark.parametrize(
    ("reservation", "free"),
    [
        (held(SMALL, 3), {WHOLE: 1, SMALL: 4, LARGE: 2}),
        (held(LARGE, 2), {WHOLE: 1, SMALL: 7, LARGE: 0}),
        (held(None), {WHOLE: 0, SMALL: 7, LARGE: 2}),
        (held("nvidia.com/mig-2g.20gb"), {WHOLE: 0, SMALL: 7, LARGE: 2}),
        (held(SMALL, node="b"), {WHOLE: 1, SMALL: 7, LARGE: 2}),
    ],
    ids=["sevenths", "halves", "nobody says which", "a kind that is gone", "another node"],
)
def test_what_is_promised_counts_against_its_own_kind(reservation, free):
    """Where nobody knows the kind it still counts: what may be held is not given away."""
    ledger = Ledger(Inventory(nodes=CUT, reservations=(reservation,)))
    assert {node.resource: ledger.num_free_devices(node) for node in CUT} == free
    for booked in (ledger.release("default/x-0"),):
        assert [ledger.num_free_devices(node) for node in CUT] == [1, 7, 2]
        ledger.restore(booked)
    assert {node.resource: ledger.num_free_devices(node) for node in CUT} == free


def test_a_replica_comes_back_to_the_kind_that_was_claimed_for_it():
    """A claim on a half is not a place on a seventh, nor on the whole device."""
    home = Home(node="a", resource=LARGE, claimed_bytes=SIZES[LARGE])
    (back,) = plan(Inventory(nodes=CUT), [wanted(TINY, home=home)])
    assert back.resource == LARGE


def test_where_a_status_names_the_node_alone_the_tightest_kind_is_home():
    (back,) = plan(Inventory(nodes=CUT), [wanted(TINY, home=Home(node="a"))])
    assert back.resource == SMALL
    full = Inventory(nodes=CUT, reservations=(held(SMALL, 7),))
    (back,) = plan(full, [wanted(TINY, home=Home(node="a"))])
    assert back.resource == LARGE


def test_a_claim_is_kept_on_the_kind_of_which_it_was_made():
    """Its predecessor is on a seventh, and the successor needs a half: both are counted."""
    solver = Solver(Inventory(nodes=CUT, reservations=(held(SMALL),)))
    successor = wanted(MEDIUM, name="x")
    decision = solver.replace("default/x-0", successor)
    assert decision.resource == LARGE
    assert {n.resource: solver.ledger.num_free_devices(n) for n in CUT} == {
        WHOLE: 1, SMALL: 6, LARGE: 1,
    }  # fmt: skip
    assert solver.holds("default/x-0", successor)
    solver.drop_claim("default/x-0")
    assert [solver.ledger.num_free_devices(n) for n in CUT] == [1, 6, 2]


def test_replicas_are_spread_over_nodes_and_not_over_kinds_of_one():
    """Two kinds of one node are lost together."""
    nodes = (*CUT, pool(SMALL, 7, "b"))
    spread = [wanted(TINY, n, strategy=PlacementStrategy.SPREAD) for n in range(2)]
    assert {one.node for one in plan(Inventory(nodes=nodes), spread)} == {"a", "b"}


def test_no_tensor_parallel_group_spans_slices_where_whole_devices_are_there():
    nodes = (pool(WHOLE, 2), pool(SMALL, 7), pool(LARGE, 2))
    (group,) = plan(Inventory(nodes=nodes), [wanted(TINY, tp=2)])
    assert (group.resource, group.num_devices) == (WHOLE, 2)


def test_a_refusal_counts_a_node_once():
    """The other two would be looked for in vain."""
    inventory = Inventory(nodes=CUT)
    (refused,) = plan(inventory, [wanted("meta-llama/Llama-3.1-70B")])
    assert "10 device(s) on 1 node(s)" in refused.message


def test_devices_that_were_shared_before_count_against_their_own_kind_alone():
    """The label was taken off a node in use: a UUID of the whole devices is no slice."""
    whole = pool(WHOLE, 1)
    whole = replace(whole, devices=(replace(whole.devices[0], uuid="GPU-1"),))
    nodes = (whole, pool(SMALL, 7))
    shared = Reservation(
        owner="default/x-0", deployment="default/x", node="a", device_bytes={"GPU-1": GIB}
    )
    ledger = Ledger(Inventory(nodes=nodes, reservations=(shared,)))
    assert [ledger.num_free_devices(node) for node in nodes] == [0, 7]
