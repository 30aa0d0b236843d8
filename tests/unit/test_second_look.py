from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.placement import (
    Device,
    Inventory,
    Node,
    Placed,
    PlacementMode,
    PlacementStrategy,
    Refused,
    ReplicaKey,
    WantedReplica,
    plan,
)
from memroute.placement.packing import fullest
from memroute.placement.problem import Home
from memroute.placement.solver import Solver
from memroute.units import GIB

SHAPE = ReplicaShape(
    architecture=architecture_for_model("Qwen/Qwen3-0.6B"), max_context_tokens=1024, concurrency=1
)


def shared(name, *sizes, labels=None):
    """A shared node with devices of so many GiB."""
    devices = tuple(
        Device(node=name, index=i, uuid=f"GPU-{name}-{i}", product=f"P{size}",
               usable_bytes=size * GIB, usable_source="dcgm")
        for i, size in enumerate(sizes)
    )  # fmt: skip
    return Node(name=name, mode=PlacementMode.SHARED, devices=devices, labels=labels or {})


def needs(name, size, *, index=0, devices=1, **facts):
    """A replica that needs so many GiB on each of its devices."""
    footprint = replica_footprint(SHAPE)
    more = size * GIB - footprint.total_bytes
    footprint = replace(
        footprint, kv_cache_bytes=footprint.kv_cache_bytes + more, num_devices=devices
    )
    return WantedReplica(
        key=ReplicaKey(namespace="default", name=name, index=index),
        shape=SHAPE,
        footprint=footprint,
        mode=PlacementMode.SHARED,
        **facts,
    )


def names(decisions):
    """Node by replica; None where it was refused."""
    return [one.node if isinstance(one, Placed) else None for one in decisions]


def in_order(inventory, wanted):
    """What the plan is without a second look."""
    solver = Solver(inventory)
    return tuple(solver.place(replica) for replica in wanted)


def test_who_may_go_anywhere_makes_room_for_who_may_not():
    """The older one takes node a, the first of two alike; the younger may use node a alone."""
    inventory = Inventory(nodes=(shared("a", 80, labels={"zone": "east"}), shared("b", 80)))
    wanted = [needs("anywhere", 60), needs("picky", 60, node_selector={"zone": "east"})]
    assert names(in_order(inventory, wanted)) == ["a", None]
    assert names(plan(inventory, wanted)) == ["b", "a"]


def test_small_replicas_leave_a_node_to_a_group():
    """30 + 50 fill a device of 80; put on one device each, they would leave no pair of 70."""
    inventory = Inventory(nodes=(shared("a", 80, 80), shared("b", 80, 80)))
    wanted = [
        *(needs(f"m{i}", size) for i, size in enumerate((30, 50, 30, 50))),
        needs("pair", 79, devices=2),
    ]
    assert None not in names(plan(inventory, wanted))


def test_a_device_is_filled_by_what_fits_together():
    """41 and 39, 42 and 38: tightest fit in order puts 39 beside 38 and has no room for 42."""
    inventory = Inventory(nodes=(shared("a", 80, 80),))
    wanted = [needs("m", 38), needs("n", 39), needs("o", 42), needs("p", 41)]
    assert names(in_order(inventory, wanted)) == ["a", "a", "a", None]
    decisions = plan(inventory, wanted)
    assert names(decisions) == ["a"] * 4
    assert "packed with all that is wanted" in decisions[0].why


def test_who_asked_to_be_spread_stays_where_it_is():
    """Its node was chosen for its siblings: bytes are no reason to put two on one node."""
    inventory = Inventory(nodes=(shared("a", 80, labels={"zone": "east"}), shared("b", 80)))
    spread = [
        needs("m", 30, index=i, strategy=PlacementStrategy.SPREAD) for i in range(2)
    ]  # fmt: skip
    picky = needs("picky", 60, node_selector={"zone": "east"})
    assert names(plan(inventory, [*spread, picky])) == ["a", "b", None]


def test_who_comes_home_stays_there():
    """What ran on a node before has its files there, and its status says so."""
    inventory = Inventory(nodes=(shared("a", 80, labels={"zone": "east"}), shared("b", 80)))
    home = Home(node="a", device_uuids=("GPU-a-0",))
    wanted = [needs("m", 60, home=home), needs("picky", 60, node_selector={"zone": "east"})]
    assert names(plan(inventory, wanted)) == ["a", None]


def test_a_younger_one_that_found_a_place_keeps_it():
    """As in the plan in order: who fits is not refused for who does not. Nobody may lose by it."""
    inventory = Inventory(nodes=(shared("a", 80, labels={"zone": "east"}), shared("b", 80)))
    picky = needs("picky", 60, node_selector={"zone": "east"})
    wanted = [needs("anywhere", 60), picky, needs("young", 60)]
    assert names(plan(inventory, wanted)) == ["a", None, "b"]


def test_a_refusal_tells_of_the_plan_that_is_carried_out():
    """Its numbers are read as *now*: they must not be of a plan that was dropped."""
    inventory = Inventory(nodes=(shared("a", 80, labels={"zone": "east"}), shared("b", 80)))
    wanted = [
        needs("anywhere", 60),
        needs("picky", 60, node_selector={"zone": "east"}),
        needs("late", 70, node_selector={"zone": "east"}),
    ]
    decisions = plan(inventory, wanted)
    assert names(decisions) == ["b", "a", None]
    assert isinstance(decisions[2], Refused)
    assert "held by default/picky-0" in decisions[2].message
    again = Solver(inventory)
    again.place_all(wanted)
    assert again.ledger.by_owner.keys() == {"default/anywhere-0", "default/picky-0"}


sizes = st.integers(8, 80)
clusters = st.lists(st.lists(st.sampled_from((24, 48, 80)), min_size=1, max_size=4), min_size=1,
                    max_size=4)  # fmt: skip
requests = st.lists(
    st.tuples(sizes, st.sampled_from((1, 1, 1, 2)), st.sampled_from((None, "even"))),
    min_size=2, max_size=14,
)  # fmt: skip


@pytest.mark.slow
@given(clusters, requests)
def test_nobody_loses_a_place_and_no_device_its_bytes(devices, asked):
    """The promise of the second look, and the invariants of every plan, on any small cluster."""
    nodes = tuple(
        shared(f"n{n}", *own, labels={"half": "even"} if n % 2 == 0 else {})
        for n, own in enumerate(devices)
    )
    wanted = [
        needs(f"m{i}", size, devices=num, node_selector={} if half is None else {"half": half})
        for i, (size, num, half) in enumerate(asked)
    ]
    inventory = Inventory(nodes=nodes)
    before, after = in_order(inventory, wanted), plan(inventory, wanted)
    for replica, old, new in zip(wanted, before, after, strict=True):
        assert old.key == new.key == replica.key
        assert isinstance(new, Placed) or isinstance(old, Refused)
    used = dict.fromkeys((d.uuid for node in nodes for d in node.devices), 0)
    by_uuid = {d.uuid: d for node in nodes for d in node.devices}
    for replica, one in zip(wanted, after, strict=True):
        if isinstance(one, Placed):
            assert len(set(one.device_uuids)) == replica.footprint.num_devices
            assert {by_uuid[uuid].node for uuid in one.device_uuids} == {one.node}
            for uuid in one.device_uuids:
                used[uuid] += replica.footprint.total_bytes
    assert all(used[uuid] <= by_uuid[uuid].usable_bytes for uuid in used)
    assert plan(inventory, wanted) == after


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), max_size=4),
)
def test_fullest_is_the_largest_sum_there_is(capacity, items):
    """Compared with all combinations."""
    items.sort(reverse=True)
    total, counts = fullest(capacity, items)
    every = product(*(range(available + 1) for _, available in items))
    sums = [sum(n * size for n, (size, _) in zip(some, items, strict=True)) for some in every]
    assert total == max(one for one in sums if one <= capacity)
    assert total == sum(n * size for n, (size, _) in zip(counts, items, strict=True))
    assert all(n <= available for n, (_, available) in zip(counts, items, strict=True))
