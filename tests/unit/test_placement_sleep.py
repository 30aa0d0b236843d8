"""Sleepers lend their bytes to each other, and replicas pin memory of their nodes."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.hierarchy.sleep import DEVICE_REST_BYTES
from memroute.placement import (
    Departed,
    Device,
    Inventory,
    Ledger,
    Node,
    Placed,
    PlacementMode,
    Refused,
    RefusedReason,
    Reservation,
    SleepHold,
    Solver,
    fleet_use,
    plan,
    uses,
    verdicts,
)
from memroute.units import GIB
from memroute_operator.plan import wanted_replica
from planned_objects import context, deployment

USABLE = 80 * GIB
GPU = Device(
    node="a", index=0, uuid="GPU-0", product="NVIDIA-H100-80GB-HBM3", usable_bytes=USABLE,
    usable_source="dcgm",
)  # fmt: skip
REST = DEVICE_REST_BYTES


def held(name, size, *, sleeps=True, asleep=False, settled=math.inf, ready=600.0, **others):
    sleep = SleepHold(rest_bytes=REST, is_asleep=asleep, settled_seconds=settled)
    return Reservation(
        owner=f"default/{name}-0", deployment=f"default/{name}", node="a",
        device_bytes={"GPU-0": size}, ready_seconds=ready, sleep=sleep if sleeps else None,
        **others,
    )  # fmt: skip


def ledger(*reservations, used=None, age=1.0, departed=()):
    device = GPU
    if used is not None:
        device = replace(GPU, live_free_bytes=USABLE - used, live_age_seconds=age)
    node = Node(name="a", mode=PlacementMode.SHARED, devices=(device,))
    return Ledger(Inventory(nodes=(node,), reservations=reservations, departed=departed)), device


def test_a_sleeper_counts_in_full_for_one_that_never_sleeps_and_as_its_rest_for_one_that_does():
    """80 GiB, 50 asleep: 30 are free for one that never sleeps, 80 - 1.2 for one that does."""
    it, device = ledger(held("m", 50 * GIB, asleep=True))
    assert it.free_bytes(device) == 30 * GIB
    assert it.free_bytes(device, rest_bytes=REST) == USABLE - REST
    assert it.lent_bytes(device) == 50 * GIB - REST


def test_one_that_falls_asleep_or_wakes_counts_in_full_for_all():
    it, device = ledger(held("m", 50 * GIB, settled=None))
    assert it.free_bytes(device, rest_bytes=REST) == 30 * GIB


def test_no_sleeper_is_placed_where_another_could_not_wake_any_more():
    """78 GiB asleep, and one that rests: 80 - 78 - 1.2 = 0.8 GiB are too few for a third rest."""
    large, small = held("m", 78 * GIB, asleep=True), held("n", 20 * GIB, asleep=True)
    it, device = ledger(large, small)
    assert it.free_bytes(device, rest_bytes=REST) == 0
    it, device = ledger(large)
    assert it.free_bytes(device, rest_bytes=REST) == USABLE - REST


def test_sleepers_that_are_promised_more_than_there_is_are_not_overbooked_while_they_sleep():
    """50 + 50 GiB of 80, one of them asleep: nobody has to leave. Both awake: 20 GiB too many."""
    one = held("m", 50 * GIB)
    it, device = ledger(one, held("n", 50 * GIB, asleep=True))
    assert it.over_bytes(device) == 0
    assert it.free_bytes(device) == 0
    it, device = ledger(one, held("n", 50 * GIB))
    assert it.over_bytes(device) == 20 * GIB


def test_what_a_reading_shows_of_a_sleeper_is_its_rest_and_the_remainder_is_foreign():
    """21.2 GiB in use, of a sleeper 1.2: 20 GiB are of others, and not hidden by its promise.

    With 30 GiB of others, 50 for the sleeper's wake and 1.2 for a second rest are too many. What
    it may keep beyond 1.2, up to 3.6, is not certainly of others.
    """
    it, device = ledger(held("m", 50 * GIB, asleep=True), used=20 * GIB + REST)
    assert it.foreign_bytes(device) == 20 * GIB
    assert it.certainly_foreign_bytes(device) == 20 * GIB - 2 * REST
    assert it.free_bytes(device, rest_bytes=REST) == USABLE - 20 * GIB - REST
    it, device = ledger(held("m", 50 * GIB, asleep=True), used=30 * GIB + REST)
    assert it.free_bytes(device, rest_bytes=REST) == 0


@pytest.mark.parametrize("is_asleep", [True, False])
def test_a_reading_from_before_it_fell_asleep_or_woke_shows_nothing_that_is_certain(is_asleep):
    """Settled for 2 s, read 5 s ago: its 50 GiB may be in the reading, or only its rest."""
    one = held("m", 50 * GIB, asleep=is_asleep, settled=2.0)
    it, device = ledger(one, used=50 * GIB, age=5.0)
    assert it.certainly_foreign_bytes(device) == 0
    assert it.foreign_bytes(device) == 50 * GIB - REST


def test_who_wakes_counts_on_what_is_not_certainly_of_others():
    """The reading still shows who has just fallen asleep: it has confirmed that it does."""
    gone = held("m", 50 * GIB, asleep=True, settled=1.0)
    it, device = ledger(gone, held("n", 50 * GIB, asleep=True), used=50 * GIB + REST, age=5.0)
    assert it.wakeable_bytes(device) == USABLE - 2 * REST


@pytest.mark.parametrize(("kept_gib", "can_wake"), [(1.2, True), (3.0, True), (6.0, False)])
def test_one_that_fills_its_device_wakes_though_it_keeps_more_than_is_counted(kept_gib, can_wake):
    """79 GiB of 80; 6 GiB in use while it sleeps are not all its own."""
    it, device = ledger(held("m", 79 * GIB, asleep=True), used=int(kept_gib * GIB))
    assert (it.wakeable_bytes(device) >= 79 * GIB - REST) is can_wake


def test_a_sleeper_that_ended_may_still_be_in_a_reading_with_what_it_kept():
    ended = Departed(device_bytes={"GPU-0": REST}, ended_seconds=1.0)
    it, device = ledger(used=REST, age=5.0, departed=(ended,))
    assert it.certainly_foreign_bytes(device) == 0


def test_a_successor_starts_awake_so_its_predecessors_room_is_called_back():
    """50 GiB asleep and a claim of 50 for its successor: nothing is lent while that is there."""
    own = held("m", 50 * GIB, asleep=True)
    claim = replace(
        held("m", 50 * GIB), owner="default/m-0 (its successor)", replaces="default/m-0"
    )
    it, device = ledger(own, claim)
    assert it.lent_bytes(device) == 0
    assert it.reserved_bytes(device) == 50 * GIB
    taken = it.release("default/m-0")
    assert it.reserved_bytes(device) == it.lent_bytes(device) == 0
    it.restore(taken)
    assert (it.reserved_bytes(device), it.lent_bytes(device)) == (50 * GIB, 0)


@pytest.mark.parametrize(("claimed", "lent"), [(50, 0), (60, 0), (20, 30), (1, 50)])
def test_a_claim_on_a_sleepers_room_calls_back_what_it_needs_of_it(claimed, lent):
    """50 GiB asleep give way to one of higher priority: nobody else may have that room meanwhile.

    20 GiB of it claimed leave 30 lent. A claim below what it keeps asleep calls nothing back.
    """
    own = held("m", 50 * GIB, asleep=True)
    claim = held("p", claimed * GIB, sleeps=False)
    it, device = ledger(own)
    it.book_way(claim, [own.owner])
    assert it.lent_bytes(device) == (50 * GIB - REST if lent == 50 else lent * GIB)
    assert it.reserved_bytes(device) == max(50, claimed) * GIB
    it.drop_way(claim.owner)
    assert it.lent_bytes(device) == 50 * GIB - REST


SIZES = st.integers(2 * GIB, 79 * GIB)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add-fixed", "sleep", "wake", "end"]), st.integers(0, 7), SIZES
    ),
    max_size=40,
)


@given(actions=ACTIONS)
def test_whatever_comes_and_goes_what_is_there_fits_and_each_sleeper_can_wake_when_others_sleep(
    actions,
):
    """For every history, what is in use is at most what there is.

    So is what never sleeps with the rests and the largest sleeper awake.
    """
    it, device = ledger()
    there = {}
    for number, (action, which, size) in enumerate(actions):
        names = sorted(there)
        chosen = names[which % len(names)] if names else None
        if action.startswith("add"):
            sleeps = action == "add"
            if it.free_bytes(device, rest_bytes=REST if sleeps else None) >= size:
                one = held(f"m{number}", size, sleeps=sleeps)
                it.book(one)
                there[one.owner] = one
        elif chosen is None:
            continue
        elif action == "end":
            it.release(chosen)
            it.restore(())
            del there[chosen]
        elif there[chosen].sleep is not None:
            one = there[chosen]
            is_asleep = action == "sleep"
            grows = size_of(one) - REST
            if not is_asleep and one.sleep.is_asleep and it.wakeable_bytes(device) < grows:
                continue
            it.change_sleep(chosen, is_asleep=is_asleep)
            there[chosen] = replace(one, sleep=replace(one.sleep, is_asleep=is_asleep))
        check(there.values(), it, device)


def size_of(one):
    return one.device_bytes["GPU-0"]


def check(there, it, device):
    in_use = sum(size_of(one) - one.lent_on("GPU-0") for one in there)
    assert in_use <= USABLE
    assert it.reserved_bytes(device) - it.lent_bytes(device) == in_use
    fixed = sum(size_of(one) for one in there if one.sleep is None)
    sleepers = [size_of(one) for one in there if one.sleep is not None]
    for size in sleepers:
        assert fixed + size + REST * (len(sleepers) - 1) <= USABLE


def wants(name="m", *, level="WeightsOnHost", **memory):
    of = deployment(name, uid=f"u-{name}", **memory)
    of.obj["spec"]["sleep"] = {"afterSeconds": 300, "level": level}
    return of, wanted_replica(of, 0, context())


def on(host_bytes, *reservations):
    node = Node(name="a", mode=PlacementMode.SHARED, devices=(GPU,), host_bytes=host_bytes)
    return Inventory(nodes=(node,), reservations=reservations)


def test_a_node_without_the_memory_that_a_replica_pins_is_refused_with_both_numbers():
    """8B: 15.3 GiB of weights twice, 2 GiB, and what any pod of it asks for."""
    _, wanted = wants()
    (refused,) = plan(on(30 * GIB), [wanted])
    assert isinstance(refused, Refused)
    assert refused.reason is RefusedReason.INSUFFICIENT_HOST_MEMORY
    need = f"{wanted.host_bytes / GIB:.1f} GiB"
    said = f"it needs {need} of host memory (by spec.sleep); a has 30.0 GiB free of 30.0 GiB"
    assert said in refused.message
    assert "it would not fit an empty cluster" in refused.message
    (verdict,) = verdicts(on(30 * GIB), wanted)
    assert not verdict.fits
    assert "30.0 GiB of 30.0 GiB host memory free" in verdict.why


def test_a_node_that_has_the_memory_and_no_device_is_not_said_to_be_short_of_it():
    """``b`` has the most memory free: what is short there is its device's."""
    _, wanted = wants()
    full = replace(held("n", 79 * GIB, sleeps=False), node="b", device_bytes={"GPU-1": 79 * GIB})
    nodes = (
        Node(name="a", mode=PlacementMode.SHARED, devices=(GPU,), host_bytes=30 * GIB),
        Node(
            name="b", mode=PlacementMode.SHARED, host_bytes=900 * GIB,
            devices=(replace(GPU, node="b", uuid="GPU-1"),),
        ),
    )  # fmt: skip
    (refused,) = plan(Inventory(nodes=nodes, reservations=(full,)), [wanted])
    assert refused.reason is RefusedReason.INSUFFICIENT_HOST_MEMORY
    assert "; a has 30.0 GiB free of 30.0 GiB; it fits once others" in refused.message


def test_what_others_pin_is_not_promised_again():
    """Twice what it pins, less one GiB, which another has: it fits once, and not beside that."""
    _, wanted = wants()
    size = 2 * wanted.host_bytes - GIB
    (placed,) = plan(on(size), [wanted])
    assert isinstance(placed, Placed)
    assert placed.host_bytes == wanted.host_bytes
    (refused,) = plan(on(size, placed.reservation()), [wanted])
    assert refused.reason is RefusedReason.INSUFFICIENT_HOST_MEMORY
    assert "once others release enough" in refused.message
    first, second = plan(on(size), [wanted, replace(wanted, key=replace(wanted.key, index=1))])
    assert isinstance(first, Placed)
    assert second.reason is RefusedReason.INSUFFICIENT_HOST_MEMORY


def test_a_node_that_does_not_say_what_memory_it_has_is_kube_schedulers_to_judge():
    _, wanted = wants()
    assert isinstance(plan(on(None), [wanted])[0], Placed)


def test_one_that_pins_nothing_is_not_judged_by_the_nodes_memory():
    wanted = wanted_replica(deployment(), 0, context())
    assert wanted.host_bytes == 0
    assert isinstance(plan(on(0), [wanted])[0], Placed)


def test_a_sleeper_is_placed_on_what_others_lend_and_one_that_never_sleeps_is_not():
    _, wanted = wants()
    fixed = wanted_replica(deployment("fixed", uid="u9"), 0, context())
    resident = held("big", 70 * GIB, asleep=True)
    solver = Solver(on(2048 * GIB, resident))
    assert isinstance(solver.place(fixed), Refused)
    placed = solver.place(wanted)
    assert isinstance(placed, Placed)
    assert placed.rest_bytes == REST
    assert solver.ledger.wakeable_bytes(GPU) < 70 * GIB - REST


def test_usage_tells_what_is_lent():
    (node,) = uses(on(None, held("m", 50 * GIB, asleep=True)))
    (device,) = node.devices
    assert (device.promised_bytes, device.lent_bytes) == (50 * GIB, 50 * GIB - REST)
    assert fleet_use([node]).free_bytes == 30 * GIB
