"""Replicas of lower priority give way where that is asked, and nowhere else."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from memroute.catalog import architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.placement import (
    Device,
    HBMQuotas,
    Inventory,
    Node,
    PlacementMode,
    Preemptor,
    Refused,
    RefusedReason,
    ReplicaKey,
    Reservation,
    Solver,
    Victim,
    WantedReplica,
)
from memroute.units import GIB
from memroute_operator.plan import Create, Delete, GiveWay, MarkDraining
from memroute_operator.replicas.giving_way import read_gives_way
from memroute_operator.rules.priorities import read_priority_classes
from preempted_cluster import PriorityCluster, priority_class

# Of Qwen3-8B: 18.6, 41.6 and 52.8 GiB. Two of the middle ones do not fit 80 GiB.
SMALL, MIDDLE, LARGE = 1, 20, 30


def cluster_with(*deployments, nodes=1, devices=1):
    """A cluster in which those serve. Each: name, concurrency, replicas, priority."""
    cluster = PriorityCluster(nodes, devices)
    for name, concurrency, replicas, priority in deployments:
        cluster.add(name, concurrency=concurrency, replicas=replicas, priority=priority)
        cluster.run(60)
    return cluster


def short(replica):
    """Its ModelDeployment and its slot, whatever its pod is called."""
    return f"{replica.deployment_name}-{replica.index}"


def serving(cluster):
    return sorted(short(r) for r in cluster.replicas() if r.is_ready and not r.is_draining)


def one_step(cluster):
    cluster.sync(cluster.planners[0])
    return cluster.reconcile(cluster.planners[0])


def refusal(step, name, index=0):
    return step.outcomes[f"default/{name}"].refused[index]


def ways(step):
    return sorted(short(one.replica) for one in step.actions if isinstance(one, GiveWay))


def test_nobody_gives_way_unless_that_is_asked():
    """A platform that has set priorities for another reason must not lose replicas by it."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.add("vip", concurrency=LARGE, priority="high")
    assert not ways(one_step(cluster))
    cluster.run()
    assert serving(cluster) == ["low-0"]


@pytest.mark.slow
def test_a_replica_of_lower_priority_gives_way_and_both_sides_say_so():
    """Written first, drained, ended, and the one that waits is there; nobody else got the room."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    step = one_step(cluster)
    (way,) = step.actions
    assert isinstance(way, GiveWay)
    assert way.why == (
        f"{way.replica.key} gives way to default/vip (priority 1000 > -10), which needs 52.8 GiB "
        "on node n0"
    )
    waits = refusal(step, "vip")
    assert waits.reason is RefusedReason.PREEMPTING
    assert f"{way.replica.key} (priority -10 < 1000)" in waits.message
    step = cluster.run()
    assert serving(cluster) == ["vip-0"]
    told = refusal(step, "low")
    assert told.reason is RefusedReason.INSUFFICIENT_HBM
    assert told.message.startswith("gave way to default/vip (priority 1000 > -10) and needs 41.6")


@pytest.mark.parametrize("priority", ["high", "urgent"])
def test_equal_and_higher_priorities_never_give_way(priority):
    """Else two models would take each other's place for ever."""
    cluster = cluster_with(("m", MIDDLE, 1, priority))
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    step = cluster.run()
    assert serving(cluster) == ["m-0"]
    assert "no replicas of lower priority (below 1000) on one node" in refusal(step, "vip").message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("polite", "PriorityClass polite has the preemptionPolicy Never"),
        ("gone", "PriorityClass gone is not there"),
    ],
)
def test_a_class_that_may_not_or_is_not_known_takes_nobodys_place(name, words):
    """The administrator's word on the class counts, whatever a ModelDeployment asks."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.add("vip", concurrency=LARGE, priority=name, preempts=True)
    step = cluster.run()
    assert serving(cluster) == ["low-0"]
    assert words in refusal(step, "vip").message


@pytest.mark.slow
def test_nobody_gives_way_for_nothing():
    """What lower ones hold beside one of equal priority is not enough: all go on serving."""
    cluster = cluster_with(("same", MIDDLE, 1, "high"), ("low", SMALL, 1, "low"))
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    cluster.run()
    assert serving(cluster) == ["low-0", "same-0"]


def test_foreign_processes_stay_and_are_counted():
    """Whoever leaves frees what it was promised, and not what others use beside it."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.foreign["GPU-n0-0"] = 30 * GIB
    cluster.run(120)
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    cluster.run()
    assert serving(cluster) == ["low-0"]


def test_the_lowest_give_way_though_they_are_more():
    """A priority says who is to go first: two of -10 rather than one of 0."""
    held = [shared("normal", "n", {0: 60}), shared("a", "m", {0: 35}), shared("b", "m", {0: 35})]
    nodes = [node_of("n", 1), node_of("m", 1)]
    _, found = choose(nodes, held, wanted(38), [0, -10, -10])
    assert found.victims == ("default/a", "default/b")


def test_a_model_that_keeps_other_replicas_gives_way_first():
    """Of equals, nobody should lose its only replica."""
    cluster = cluster_with(("only", MIDDLE, 1, "low"), ("many", MIDDLE, 2, "low"), nodes=3)
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    (way,) = one_step(cluster).actions
    assert way.replica.deployment_name == "many"


def test_who_waits_with_the_highest_priority_is_placed_first():
    """Age decides among equals only."""
    cluster = PriorityCluster(1, 1)
    cluster.add("old", concurrency=MIDDLE, priority="low")
    cluster.add("young", concurrency=MIDDLE, priority="high")
    cluster.run(60)
    assert serving(cluster) == ["young-0"]


@pytest.mark.slow
def test_the_room_of_the_first_that_left_is_held_until_the_last_has():
    """Else a third would take it, and everybody would have left for nothing."""
    cluster = cluster_with(("a", MIDDLE // 2, 1, "low"), ("b", MIDDLE // 2, 1, "low"))
    assert serving(cluster) == ["a-0", "b-0"]
    cluster.add("vip", concurrency=38, priority="high", preempts=True)
    assert ways(one_step(cluster)) == ["a-0", "b-0"]
    cluster.delete(next(r for r in cluster.replicas() if short(r) == "a-0"))
    cluster.advance(10)
    cluster.add("thief", concurrency=SMALL)
    step = one_step(cluster)
    assert not [one for one in step.actions if isinstance(one, Create)]
    # The exporter's page is older than the end of the first: that is no reason to give up.
    assert refusal(step, "vip").reason is RefusedReason.PREEMPTING
    assert not ways(step)
    cluster.run()
    assert serving(cluster) == ["vip-0"]


def test_an_operator_that_is_killed_in_between_goes_on_where_it_was():
    """What was begun is on the pods, though a fresh operator does not know what readings show."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    one_step(cluster)
    cluster.restart(cluster.planners[0])
    step = one_step(cluster)
    assert refusal(step, "vip").reason is RefusedReason.PREEMPTING
    cluster.run()
    assert serving(cluster) == ["vip-0"]


@pytest.mark.parametrize("how", ["deleted", "edited", "asks no more", "room elsewhere"])
def test_who_gives_way_stays_when_nobody_waits_for_it_any_more(how):
    """Its mark and its drain are taken back."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"), nodes=2)
    cluster.nodes["n1"] = {"cordoned"}
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    one_step(cluster)
    cluster.advance(1)
    assert any(isinstance(one, MarkDraining) for one in one_step(cluster).actions)
    if how == "deleted":
        del cluster.deployments["vip"]
    elif how == "edited":
        cluster.edit("vip", concurrency=SMALL)
    elif how == "asks no more":
        cluster.edit_spec("vip", lambda spec: spec["placement"].pop("preemption"))
    else:
        cluster.nodes["n1"] = set()
    cluster.advance(1)
    one_step(cluster)
    (low,) = [r for r in cluster.replicas() if r.deployment_name == "low"]
    assert low.gives_way is None
    cluster.run(60)
    assert "low-0" in serving(cluster)


def test_requests_in_flight_end_before_a_replica_gives_way():
    """It drains as any other: to the last answer, or to the drain's time-out."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    (low,) = cluster.replicas()
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    for _ in range(4):
        one_step(cluster)
        cluster.requests[low.uid] = 3
        cluster.scrape(cluster.planners[0])
        cluster.advance(2)
        cluster.requests[low.uid] = 3
        assert not [one for one in one_step(cluster).actions if isinstance(one, Delete)]


@pytest.mark.slow
def test_the_next_replica_waits_until_the_one_before_it_serves():
    """A revision that does not come up takes one replica's place, not those of a cluster."""
    cluster = cluster_with(("low", MIDDLE, 3, "low"), nodes=3)
    cluster.add("vip", concurrency=LARGE, replicas=3, priority="high", preempts=True)
    step = one_step(cluster)
    assert len(ways(step)) == 1
    assert "one of its replicas at a time" in refusal(step, "vip", 1).message
    cluster.run(600)
    assert serving(cluster) == ["vip-0", "vip-1", "vip-2"]


@pytest.mark.parametrize("what", ["refused", "failed"])
def test_nobody_gives_way_to_what_has_just_failed(what):
    """Its pods are not accepted, or end before their time: it would free room for nobody."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    if what == "refused":
        cluster.held_back = frozenset({"default/vip/"})
    else:
        cluster.avoided = {"default/vip": frozenset({"n9"})}
    assert not ways(one_step(cluster))


def test_nobody_gives_way_to_a_replica_over_its_quota():
    """It could not be placed even then."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.quotas = HBMQuotas(by_namespace={"default": 50 * GIB})
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    step = one_step(cluster)
    assert not ways(step)
    assert refusal(step, "vip").reason is RefusedReason.QUOTA_EXCEEDED


def test_a_paused_model_gives_way_to_nobody():
    """spec.paused says that nothing of its replicas is changed."""
    cluster = cluster_with(("low", MIDDLE, 1, "low"))
    cluster.edit_spec("low", lambda spec: spec.update(paused=True))
    cluster.add("vip", concurrency=LARGE, priority="high", preempts=True)
    assert not ways(one_step(cluster))


@pytest.mark.parametrize(
    "text",
    [
        None, 7, "", "{", "[]", "{}", '{"for":{},"priority":1,"claim":{}}',
        '{"for":{"namespace":"a","name":"b","uid":"c","index":-1},"priority":1,"claim":{}}',
    ],
)  # fmt: skip
def test_a_mark_that_nobody_wrote_is_none(text):
    """Whoever may edit pods may write anything there."""
    assert read_gives_way(text) is None


def test_classes_are_resolved_as_kubernetes_does():
    """Of several global defaults the lowest counts; without a default, 0."""
    classes = read_priority_classes(
        [
            priority_class("a", 100, globalDefault=True),
            priority_class("b", 50, globalDefault=True, preemptionPolicy="Never"),
            priority_class("c", 7),
            {"metadata": {}, "value": "x"},
        ]
    )
    assert (classes.of(None).value, classes.of(None).may_preempt) == (50, False)
    assert classes.of("c").value == 7
    assert classes.of("x") is None
    assert read_priority_classes([]).of(None).value == 0


# The choice alone

QWEN3_8B = architecture_for_model("Qwen/Qwen3-8B")
FOOTPRINTS = {
    (size, tp): replica_footprint(
        ReplicaShape(
            architecture=QWEN3_8B,
            max_context_tokens=8192,
            concurrency=size,
            tensor_parallel_size=tp,
        )
    )
    for size in (1, 30, 38)
    for tp in (1, 2)
}


def wanted(size=30, tp=1, mode=PlacementMode.SHARED):
    shape = ReplicaShape(
        architecture=QWEN3_8B,
        max_context_tokens=8192,
        concurrency=size,
        tensor_parallel_size=tp,
    )
    return WantedReplica(
        key=ReplicaKey(namespace="default", name="vip", index=0),
        shape=shape,
        footprint=FOOTPRINTS[size, tp],
        mode=mode,
    )


def node_of(name, devices, mode=PlacementMode.SHARED, resource="nvidia.com/gpu", is_slice=False):
    exclusive = mode is PlacementMode.EXCLUSIVE
    return Node(
        name=name,
        mode=mode,
        devices=tuple(
            Device(
                node=name, index=i, uuid=f"GPU-{name}-{i}", product="H100",
                usable_bytes=(40 if is_slice else 80) * GIB, usable_source="dcgm",
                is_slice=is_slice,
            )
            for i in range(devices)
        ),
        num_allocatable=devices if exclusive else 0,
        resource=resource,
    )  # fmt: skip


def whole(owner, node, count=1, resource="nvidia.com/gpu"):
    return Reservation(
        owner=f"default/{owner}",
        deployment=f"default/{owner}",
        node=node,
        num_exclusive_devices=count,
        exclusive_bytes=80 * GIB,
        resource=resource,
        ready_seconds=600.0,
    )


def victim(reservation, priority=0, *, value=1000):
    return Victim(
        owner=reservation.owner,
        deployment=reservation.deployment,
        node=reservation.node,
        priority=priority,
        is_serving=True,
        value=value,
    )


def choose(nodes, held, replica, priorities, priority=1000):
    solver = Solver(Inventory(nodes=tuple(nodes), reservations=tuple(held)))
    victims = [victim(one, p) for one, p in zip(held, priorities, strict=True)]
    found = Preemptor(solver, victims).preempt(replica, priority, solver.eligible(replica))
    return solver, found


def test_whole_devices_are_given_up_as_few_as_will_do():
    """Two of four devices are wanted: one replica that has two goes, not two that have one."""
    node = node_of("a", 4, PlacementMode.EXCLUSIVE)
    held = [whole("one", "a"), whole("two", "a", 2), whole("three", "a")]
    replica = wanted(tp=2, mode=PlacementMode.EXCLUSIVE)
    _, found = choose([node], held, replica, [0, 0, 0])
    assert found.victims == ("default/two",)
    assert (found.placed.node, found.placed.num_devices) == ("a", 2)


def test_a_slice_is_given_up_for_a_slice_of_that_kind():
    """A node is there once for each resource; the others' slices are not looked at."""
    slices = node_of("a", 1, PlacementMode.EXCLUSIVE, "nvidia.com/mig-3g.40gb", is_slice=True)
    gpus = node_of("a", 1, PlacementMode.EXCLUSIVE)
    held = [whole("slice", "a", resource="nvidia.com/mig-3g.40gb"), whole("gpu", "a")]
    replica = wanted(size=1, mode=PlacementMode.EXCLUSIVE)
    _, found = choose([slices, gpus], held, replica, [0, 5])
    assert found.victims == ("default/slice",)
    assert found.placed.resource == "nvidia.com/mig-3g.40gb"


def shared(owner, node, device_gib):
    return Reservation(
        owner=f"default/{owner}",
        deployment=f"default/{owner}",
        node=node,
        device_bytes={f"GPU-{node}-{i}": size * GIB for i, size in device_gib.items()},
        ready_seconds=600.0,
    )


def test_the_ranks_of_a_group_get_devices_of_one_node():
    """Each of two devices must be large enough once others have gone."""
    held = [shared("a", "n", {0: 70}), shared("b", "n", {1: 70}), shared("c", "m", {0: 70})]
    _, found = choose([node_of("n", 2), node_of("m", 1)], held, wanted(38, tp=2), [0, 0, 0])
    assert found.victims == ("default/a", "default/b")


CLUSTERS = st.lists(
    st.tuples(
        st.integers(0, 1),  # node
        st.sampled_from([(0,), (1,), (0, 1)]),
        st.integers(15, 45),
        st.sampled_from([-10, 0, 0, 500, 1000]),
    ),
    min_size=8,
    max_size=14,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
@given(CLUSTERS, st.sampled_from([(30, 1), (38, 1), (38, 2)]))
def test_after_they_have_gone_it_fits_and_nobody_has_gone_for_nothing(cluster, kind):
    """The invariants: strictly lower, it fits then, none of them could stay, always the same."""
    nodes = [node_of(name, 2) for name in ("n0", "n1")]
    free = {device.uuid: 80 for node in nodes for device in node.devices}
    held, priorities = [], []
    for number, (node, devices, size, priority) in enumerate(cluster):
        uuids = [f"GPU-n{node}-{i}" for i in devices]
        if all(free[uuid] >= size for uuid in uuids):
            for uuid in uuids:
                free[uuid] -= size
            held.append(shared(f"m{number}", f"n{node}", dict.fromkeys(devices, size)))
            priorities.append(priority)
    replica = wanted(*kind)
    assume(
        isinstance(
            Solver(Inventory(nodes=tuple(nodes), reservations=tuple(held))).place(replica), Refused
        )
    )
    solver, found = choose(nodes, held, replica, priorities)
    assert found == choose(nodes, held, replica, priorities)[1]
    worth = dict(zip((one.owner for one in held), priorities, strict=True))

    def fits_without(gone):
        left = tuple(one for one in held if one.owner not in gone)
        on = tuple(node for node in nodes if found is None or node.name == found.placed.node)
        placed = Solver(Inventory(nodes=on, reservations=left)).place(replica)
        return hasattr(placed, "node")

    if found is None:
        assert not fits_without({owner for owner, p in worth.items() if p < 1000})
        return
    assert all(worth[owner] < 1000 for owner in found.victims)
    assert fits_without(set(found.victims))
    for one in found.victims:
        assert not fits_without(set(found.victims) - {one})
    # Its claim is counted: whoever comes now does not get that room.
    for device in (d for node in nodes for d in node.devices):
        promised = sum(one.device_bytes.get(device.uuid, 0) for one in held)
        claimed = solver.ledger.ways["default/vip#0"].claim.device_bytes.get(device.uuid, 0)
        going = sum(
            one.device_bytes.get(device.uuid, 0) for one in held if one.owner in found.victims
        )
        expected = 80 * GIB - promised + going - max(going, claimed)
        assert solver.ledger.free_bytes(device) == max(0, expected)
