"""What is said of each node agrees with what the planner does, and a hint leads to a place."""

import copy
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint, smaller_alternatives
from memroute.placement import (
    Device,
    Inventory,
    Node,
    Placed,
    PlacementMode,
    Refused,
    ReplicaKey,
    Reservation,
    SchedulingNeeds,
    Taint,
    TaintEffect,
    Toleration,
    WantedReplica,
    plan,
    uses,
    verdicts,
)
from memroute.units import GIB
from memroute_operator.engines.registry import engine_of
from memroute_operator.explaining.remedies import PLACES
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep

MODELS = [
    architecture_for_model(name)
    for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-70B")
]
SIZES = {"L4": 22 * GIB, "H100": 79 * GIB}
TAINT = Taint(key="sku", value="gpu", effect=TaintEffect.NO_SCHEDULE)


@st.composite
def fleets(draw):
    """Nodes that are shared or whole, cordoned, tainted, labelled, mixed, in slices, in use."""
    nodes, reservations = [], []
    for number in range(draw(st.integers(0, 4))):
        name, mode = f"n{number}", draw(st.sampled_from(PlacementMode))
        is_slice = draw(st.booleans()) and draw(st.booleans())
        products = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3))
        devices = tuple(
            Device(
                node=name, index=index, uuid=f"GPU-{name}-{index}", product=product,
                usable_bytes=SIZES[product], usable_source="dcgm", is_slice=is_slice,
                live_free_bytes=draw(st.none() | st.integers(0, SIZES[product])),
                live_age_seconds=1.0,
            )
            for index, product in enumerate(products)
        )  # fmt: skip
        nodes.append(
            Node(
                name=name, mode=mode, devices=devices,
                labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
                taints=draw(st.sampled_from([(), (), (TAINT,)])),
                unusable_reason=draw(st.sampled_from([None, None, "Cordoned", "NotReady"])),
                num_allocatable=len(devices) if mode is PlacementMode.EXCLUSIVE else 0,
                num_foreign_devices=draw(st.integers(0, len(devices)))
                if mode is PlacementMode.EXCLUSIVE else 0,
            )
        )  # fmt: skip
        if draw(st.booleans()):
            shared = mode is PlacementMode.SHARED
            held = {devices[0].uuid: draw(st.integers(1, 30)) * GIB} if shared else {}
            reservations.append(
                Reservation(
                    owner=f"default/held-{number}", deployment="default/held", node=name,
                    device_bytes=held,
                    num_exclusive_devices=0 if shared else 1,
                    exclusive_bytes=0 if shared else 10 * GIB, ready_seconds=60.0,
                )
            )  # fmt: skip
    return Inventory(nodes=tuple(nodes), reservations=tuple(reservations))


REPLICAS = st.tuples(
    st.integers(0, len(MODELS) - 1),
    st.sampled_from([1, 2]),
    st.sampled_from(PlacementMode),
    st.sampled_from([{}, {}, {"zone": "a"}]),
)


def wanted(asked):
    """Built here and not drawn: an architecture is pages long where an example is printed."""
    model, tensor_parallel_size, mode, selector = asked
    shape = ReplicaShape(
        architecture=MODELS[model], max_context_tokens=8192, concurrency=4,
        tensor_parallel_size=tensor_parallel_size,
    )  # fmt: skip
    return WantedReplica(
        key=ReplicaKey(namespace="default", name="m", index=0),
        shape=shape, footprint=replica_footprint(shape), mode=mode, node_selector=selector,
    )  # fmt: skip


@pytest.mark.slow
@given(fleets(), REPLICAS)
def test_a_node_says_yes_just_where_the_planner_places(inventory, asked):
    """A table of nodes that all say no, under a replica that is placed, would be believed."""
    replica = wanted(asked)
    answers = verdicts(inventory, replica)
    placed = plan(inventory, [replica])[0]
    assert any(one.fits for one in answers) == isinstance(placed, Placed)
    for node in inventory.nodes:
        (answer,) = (one for one in answers if one.node == node.name)
        alone = plan(replace(inventory, nodes=(node,)), [replica])[0]
        assert answer.fits == isinstance(alone, Placed), answer
        assert answer.why
    if isinstance(placed, Placed):
        assert next(one for one in answers if one.node == placed.node).fits


@pytest.mark.slow
@given(fleets())
def test_what_is_free_of_a_node_is_never_more_than_it_has(inventory):
    for one in uses(inventory):
        assert 0 <= one.free_bytes <= one.usable_bytes
        for device in one.devices:
            free, promised = device.free_bytes, device.promised_bytes
            assert free is None or 0 <= free <= device.device.usable_bytes
            assert promised is None or promised >= 0


def followed(inventory, replica, message):
    """The cluster and the replica as the hint of a refusal would have them; None without one."""
    if "tolerate the taint" in message:
        tolerated = Toleration(key="sku", value="gpu", effect="NoSchedule")
        return inventory, replace(replica, scheduling=SchedulingNeeds(tolerations=(tolerated,)))
    if found := re.search(r"kubectl uncordon (\S+)", message):
        nodes = (
            replace(node, unusable_reason=None) if node.name == found[1] else node
            for node in inventory.nodes
        )
        return replace(inventory, nodes=tuple(nodes)), replica
    if found := re.search(r"take (\S+)=\S+ out of placement.nodeSelector", message):
        rest = {k: v for k, v in replica.node_selector.items() if k != found[1]}
        return inventory, replace(replica, node_selector=rest)
    if found := re.search(r"placement.mode=(\w+)", message):
        return inventory, replace(replica, mode=PlacementMode(found[1].lower()))
    return None


@pytest.mark.slow
@given(fleets(), REPLICAS)
def test_what_a_refusal_says_would_open_a_node_does(inventory, asked):
    """Followed word by word, and planned by the same planner."""
    replica = wanted(asked)
    refused = plan(inventory, [replica])[0]
    if not isinstance(refused, Refused) or refused.reason.value != "NoEligibleNode":
        return
    changed = followed(inventory, replica, refused.message)
    if changed is None:
        assert "it fits" not in refused.message
        return
    then = plan(changed[0], [changed[1]])[0]
    assert isinstance(then, Placed), refused.message
    assert f"it fits {then.node} now" in refused.message


ENGINES = {
    "VLLM": {}, "SGLang": {},
    "LlamaCPP": {"file": "Qwen3-8B-Q8_0.gguf", "checkpointBytes": 40 * GIB},
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_every_change_of_the_spec_that_is_suggested_is_one_that_its_engine_takes(engine):
    """Written into the object and read by the operator, it has the bytes that it was tried with."""
    obj = mdep("m", model="Qwen/Qwen3-8B")
    obj["spec"]["engine"] = {"type": engine, "image": "registry.example/engine:v1"}
    obj["spec"]["model"] |= ENGINES[engine]
    for one in smaller_alternatives(read_deployment(obj).shape):
        edited = copy.deepcopy(obj)
        part, field = PLACES[one.field]
        edited["spec"][part][field] = one.value
        deployment = read_deployment(edited)
        assert deployment.failure is None
        assert engine_of(deployment.engine).refusal(edited["spec"]) is None
        assert deployment.footprint.total_bytes == one.footprint.total_bytes


@pytest.mark.slow
@given(fleets(), REPLICAS)
def test_a_smaller_shape_that_is_said_to_fit_now_does(inventory, asked):
    """Word by word: each change behind "would fit now with", made alone."""
    replica = wanted(asked)
    refused = plan(inventory, [replica])[0]
    if not isinstance(refused, Refused) or "would fit now with " not in refused.message:
        return
    told = refused.message.partition("would fit now with ")[2].partition(";")[0].split(", or ")
    by_change = {one.change: one for one in smaller_alternatives(replica.shape)}
    for change in told:
        smaller = replace(replica, footprint=by_change[change].footprint)
        assert isinstance(plan(inventory, [smaller])[0], Placed), change


def whole(index, *, pod=None, used=0):
    free = 79 * GIB - used
    return Device(
        node="n", index=index, uuid=f"GPU-{index}", product="H100", usable_bytes=79 * GIB,
        usable_source="dcgm", live_free_bytes=free, live_age_seconds=3.0, assigned_pod=pod,
    )  # fmt: skip


def test_whole_devices_are_told_by_who_has_them():
    """Ours by its promise, a stranger's as foreign, what nobody's pod uses as foreign too."""
    ours = Reservation(
        owner="default/m-0", deployment="default/m", node="n", num_exclusive_devices=1,
        exclusive_bytes=70 * GIB, ready_seconds=60.0,
    )  # fmt: skip
    node = Node(
        name="n", mode=PlacementMode.EXCLUSIVE, num_allocatable=4, num_foreign_devices=1,
        devices=(
            whole(0, pod="default/m-0", used=69 * GIB), whole(1, pod="team/notebook", used=5 * GIB),
            whole(2, used=2 * GIB), whole(3),
        ),
    )  # fmt: skip
    live = frozenset({"default/m-0", "team/notebook"})
    (use,) = uses(Inventory(nodes=(node,), reservations=(ours,), live_pods=live))
    told = [
        (one.promised_bytes, one.observed_bytes, one.foreign_bytes, one.free_bytes)
        for one in use.devices
    ]
    gib = [tuple(number // GIB for number in row) for row in told]
    assert gib == [(70, 69, 0, 0), (0, 5, 79, 0), (0, 2, 2, 77), (0, 0, 0, 79)]
    assert (use.num_free_devices, use.promised_bytes) == (2, 70 * GIB)
    assert use.free_bytes == 2 * 77 * GIB, "which one a pod would be given is kubelet's choice"
    assert use.age_seconds == 3.0


def test_a_whole_device_whose_replica_has_left_is_free_before_it_is_read_again():
    """For up to a minute it was shown as used by somebody else's processes, and not free."""
    node = Node(
        name="n", mode=PlacementMode.EXCLUSIVE, num_allocatable=1,
        devices=(whole(0, pod="default/gone-0", used=69 * GIB),),
    )  # fmt: skip
    (use,) = uses(Inventory(nodes=(node,), reservations=(), live_pods=frozenset()))
    (device,) = use.devices
    assert (device.observed_bytes, device.foreign_bytes) == (69 * GIB, 0)
    assert device.free_bytes == use.free_bytes == 79 * GIB, "what the planner goes by"


def test_whole_devices_that_nobody_attributes_are_not_guessed():
    """Without attribution it is not known which of two a replica has: unknown is no number."""
    ours = Reservation(
        owner="default/m-0", deployment="default/m", node="n", num_exclusive_devices=1,
        exclusive_bytes=70 * GIB,
    )  # fmt: skip
    node = Node(
        name="n", mode=PlacementMode.EXCLUSIVE, num_allocatable=2, devices=(whole(0), whole(1))
    )
    (use,) = uses(Inventory(nodes=(node,), reservations=(ours,)))
    assert [one.promised_bytes for one in use.devices] == [None, None]
    assert [one.free_bytes for one in use.devices] == [None, None]
    assert use.promised_bytes == 70 * GIB
    assert use.num_free_devices == 1
