from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import architecture_for_model
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.placement import (
    Device,
    Inventory,
    Ledger,
    Node,
    Placed,
    PlacementMode,
    PlacementStrategy,
    Refused,
    RefusedReason,
    ReplicaKey,
    Reservation,
    WantedReplica,
    plan,
)
from memroute.units import GIB

LLAMA_3_1_70B = architecture_for_model("meta-llama/Llama-3.1-70B")
QWEN3_0_6B = architecture_for_model("Qwen/Qwen3-0.6B")
QWEN3_8B = architecture_for_model("Qwen/Qwen3-8B")

H100 = int(79.2 * GIB)
L40S = int(44.4 * GIB)
SIZES = {"H100": H100, "L40S": L40S, "L4": 22 * GIB}


def device(node, index, usable=H100, **facts):
    defaults = {"uuid": f"GPU-{node}-{index}", "product": "H100", "usable_source": "dcgm"}
    return Device(node=node, index=index, usable_bytes=usable, **(defaults | facts))


def shared_node(name, *devices):
    return Node(name=name, mode=PlacementMode.SHARED, devices=devices, has_fresh_metrics=True)


def exclusive_node(name, *devices, **facts):
    return Node(
        name=name,
        mode=PlacementMode.EXCLUSIVE,
        devices=devices,
        num_allocatable=len(devices),
        **facts,
    )


def wanted(name="m", index=0, architecture=QWEN3_8B, mode=PlacementMode.SHARED, **facts):
    shape = ReplicaShape(
        architecture=architecture,
        max_context_tokens=facts.pop("context", 8192),
        concurrency=facts.pop("concurrency", 4),
        tensor_parallel_size=facts.pop("tp", 1),
    )
    return WantedReplica(
        key=ReplicaKey(namespace="default", name=name, index=index),
        shape=shape,
        footprint=replica_footprint(shape),
        mode=mode,
        **facts,
    )


def test_free_is_what_is_left_once_everything_promised_has_grown():
    """80 GiB; a foreign process holds 10; ours is promised 30 and has loaded 5: 40 are free.

    max(promised, measured) would say 50, and 10 of them would be missing later.
    """
    gpu = device("a", 0, 80 * GIB, live_free_bytes=65 * GIB)
    promised = Reservation(
        owner="default/m-0", deployment="default/m", node="a", device_bytes={gpu.uuid: 30 * GIB}
    )
    inventory = Inventory(nodes=(shared_node("a", gpu),), reservations=(promised,))
    # What has loaded is not attributed: until the engine serves, all 30 are still to come.
    assert Ledger(inventory).free_bytes(gpu) == 35 * GIB
    serving = replace(promised, ready_seconds=60.0)
    grown = replace(gpu, live_free_bytes=40 * GIB, live_age_seconds=45.0)
    inventory = Inventory(nodes=(shared_node("a", grown),), reservations=(serving,))
    assert Ledger(inventory).free_bytes(grown) == 40 * GIB


def test_stale_readings_fall_back_to_what_was_promised():
    gpu = device("a", 0, 80 * GIB, live_free_bytes=None)
    promised = Reservation(
        owner="default/m-0", deployment="default/m", node="a", device_bytes={gpu.uuid: 30 * GIB}
    )
    inventory = Inventory(nodes=(shared_node("a", gpu),), reservations=(promised,))
    assert Ledger(inventory).free_bytes(gpu) == 50 * GIB


def test_packing_takes_the_tightest_device():
    """A 23.6 GiB replica fits both; the H100 stays whole for what fits nowhere else."""
    inventory = Inventory(
        nodes=(shared_node("a", device("a", 0)), shared_node("b", device("b", 0, L40S)))
    )
    assert plan(inventory, [wanted()])[0].node == "b"


def test_spreading_prefers_the_node_without_siblings():
    inventory = Inventory(
        nodes=(shared_node("a", device("a", 0)), shared_node("b", device("b", 0, L40S)))
    )
    replicas = [wanted(index=i, strategy=PlacementStrategy.SPREAD) for i in range(2)]
    assert {decision.node for decision in plan(inventory, replicas)} == {"a", "b"}


def test_a_tensor_parallel_group_stays_on_one_node_and_one_product():
    """Two devices of different products on one node are no pair, nor are two nodes."""
    odd = shared_node("odd", device("odd", 0), device("odd", 1, product="H200"))
    single = shared_node("single", device("single", 0))
    pair = shared_node("pair", device("pair", 0), device("pair", 1))
    decision = plan(Inventory(nodes=(odd, single, pair)), [wanted(tp=2)])[0]
    assert (decision.node, len(decision.device_uuids)) == ("pair", 2)


def test_an_exclusive_replica_is_judged_by_the_least_free_device_it_could_be_given():
    """A foreign process on one GPU: the device plugin does not know, and may hand it out."""
    dirty = exclusive_node(
        "dirty", device("dirty", 0, live_free_bytes=H100), device("dirty", 1, live_free_bytes=GIB)
    )
    decision = plan(Inventory(nodes=(dirty,)), [wanted(mode=PlacementMode.EXCLUSIVE)])[0]
    assert isinstance(decision, Refused)
    clean = exclusive_node("clean", device("clean", 0, live_free_bytes=H100))
    decision = plan(Inventory(nodes=(dirty, clean)), [wanted(mode=PlacementMode.EXCLUSIVE)])[0]
    assert decision.node == "clean"
    assert decision.bytes_per_device == H100


def test_devices_that_run_pods_are_not_taken_for_foreign_use():
    """Without attribution by the exporter, the fullest device is taken to be the running pod's."""
    node = exclusive_node(
        "n",
        device("n", 0, live_free_bytes=4 * GIB),
        device("n", 1, live_free_bytes=H100),
    )
    running = Reservation(
        owner="default/x-0",
        deployment="default/x",
        node="n",
        num_exclusive_devices=1,
        ready_seconds=60.0,
    )
    inventory = Inventory(nodes=(node,), reservations=(running,))
    decision = plan(inventory, [wanted(mode=PlacementMode.EXCLUSIVE)])[0]
    assert isinstance(decision, Placed)


def test_never_is_told_from_not_now():
    small = shared_node("a", device("a", 0, L40S))
    never = plan(Inventory(nodes=(small,)), [wanted(architecture=LLAMA_3_1_70B)])[0]
    assert never.reason is RefusedReason.NO_DEVICE_LARGE_ENOUGH
    held = Reservation(
        owner="default/other-0",
        deployment="default/other",
        node="a",
        device_bytes={"GPU-a-0": 30 * GIB},
    )
    not_now = plan(Inventory(nodes=(small,), reservations=(held,)), [wanted()])[0]
    assert not_now.reason is RefusedReason.INSUFFICIENT_HBM
    assert "default/other-0 30.0 GiB" in not_now.message
    # 44.4 - 30.0 = 14.4 GiB are free; 23.6 are needed.
    assert "has 14.4 GiB free, short by 9.2 GiB" in not_now.message


def test_a_device_without_a_name_cannot_be_shared():
    unnamed = shared_node("a", device("a", 0, uuid=None))
    decision = plan(Inventory(nodes=(unnamed,)), [wanted()])[0]
    assert decision.reason is RefusedReason.DEVICES_UNKNOWN


def test_no_eligible_node_says_why_each_is_none():
    nodes = (
        exclusive_node("a", device("a", 0)),
        replace(shared_node("b", device("b", 0)), unusable_reason="Cordoned"),
    )
    decision = plan(Inventory(nodes=nodes), [wanted()])[0]
    assert decision.reason is RefusedReason.NO_ELIGIBLE_NODE
    assert "1 Cordoned, 1 NotShared" in decision.message


def test_the_message_names_a_change_that_would_really_fit():
    """70B at 16 bit needs 147.6 GiB on one H100; on two, or at 4 bit on one, it fits."""
    node = shared_node("a", device("a", 0), device("a", 1))
    refused = plan(Inventory(nodes=(node,)), [wanted(architecture=LLAMA_3_1_70B)])[0]
    assert (
        "would fit now with an AWQ checkpoint (quantization=AWQ), or tensorParallelSize=2"
        in refused.message
    )
    accepted = plan(Inventory(nodes=(node,)), [wanted(architecture=LLAMA_3_1_70B, tp=2)])[0]
    assert isinstance(accepted, Placed)


@st.composite
def clusters(draw):
    nodes = []
    for number in range(draw(st.integers(1, 4))):
        name = f"n{number}"
        product = draw(st.sampled_from(sorted(SIZES)))
        shared = draw(st.booleans())
        devices = []
        for index in range(draw(st.integers(1, 3))):
            usable = SIZES[product]
            live = draw(st.none() | st.integers(0, usable))
            devices.append(device(name, index, usable, product=product, live_free_bytes=live))
        build = shared_node if shared else exclusive_node
        nodes.append(build(name, *devices))
    return Inventory(nodes=tuple(nodes))


REPLICAS = st.lists(
    st.tuples(
        st.sampled_from([QWEN3_0_6B, QWEN3_8B, LLAMA_3_1_70B]),
        st.sampled_from(PlacementMode),
        st.sampled_from(PlacementStrategy),
        st.sampled_from([1, 2]),
    ),
    max_size=8,
)


@pytest.mark.slow
@given(clusters(), REPLICAS)
def test_no_device_is_ever_promised_more_than_it_has(inventory, asked):
    replicas = [
        wanted(f"m{i}", 0, architecture, mode, strategy=strategy, tp=tp)
        for i, (architecture, mode, strategy, tp) in enumerate(asked)
    ]
    promised: dict[str, int] = {}
    taken: dict[str, int] = {}
    decisions = plan(inventory, replicas)
    for decision in decisions:
        if isinstance(decision, Refused):
            assert decision.message
            continue
        node = next(n for n in inventory.nodes if n.name == decision.node)
        assert node.mode is decision.mode
        for uuid in decision.device_uuids:
            assert uuid in {d.uuid for d in node.devices}
            promised[uuid] = promised.get(uuid, 0) + decision.bytes_per_device
        if decision.mode is PlacementMode.EXCLUSIVE:
            taken[node.name] = taken.get(node.name, 0) + decision.num_devices
    for node in inventory.nodes:
        assert taken.get(node.name, 0) <= node.num_allocatable
        for gpu in node.devices:
            limit = gpu.usable_bytes
            if gpu.live_free_bytes is not None:
                limit = min(limit, gpu.live_free_bytes)
            assert promised.get(gpu.uuid, 0) <= limit
    assert plan(inventory, replicas) == decisions


@pytest.mark.parametrize("mode", list(PlacementMode))
def test_an_empty_cluster_refuses_without_failing(mode):
    assert isinstance(plan(Inventory(nodes=()), [wanted(mode=mode)])[0], Refused)


def test_of_equal_nodes_the_one_with_the_weights_is_taken_and_says_so():
    nodes = tuple(exclusive_node(name, device(name, 0)) for name in "abc")
    replica = wanted(mode=nodes[0].mode, nodes_with_weights=frozenset({"c"}))
    (found,) = plan(Inventory(nodes=nodes), [replica])
    assert found.node == "c"
    assert "tightest fit, has the weights, leaves" in found.why
    (other,) = plan(Inventory(nodes=nodes), [wanted(mode=nodes[0].mode)])
    assert other.node == "a"
    assert "weights" not in other.why.partition(": ")[2]


def test_weights_are_no_reason_for_a_larger_kind_of_device():
    """An L40S is enough: the H100 is kept for who needs it."""
    nodes = (
        shared_node("small", device("small", 0, usable=L40S, product="L40S")),
        shared_node("large", device("large", 0)),
    )
    replica = wanted(nodes_with_weights=frozenset({"large"}))
    assert plan(Inventory(nodes=nodes), [replica])[0].node == "small"


def test_weights_are_no_reason_where_it_does_not_fit():
    """A belief that is wrong must cost a download, and nothing else."""
    nodes = (shared_node("a", device("a", 0)), shared_node("b", device("b", 0, usable=10 * GIB)))
    for names in ({"b"}, {"gone"}, {"a", "b"}):
        replica = wanted(nodes_with_weights=frozenset(names))
        assert plan(Inventory(nodes=nodes), [replica])[0].node == "a"


def test_a_spread_goes_before_weights():
    """One node lost must not take both."""
    nodes = tuple(shared_node(name, device(name, 0)) for name in "abc")
    replicas = [
        wanted(index=index, strategy=PlacementStrategy.SPREAD, nodes_with_weights=frozenset("b"))
        for index in range(2)
    ]
    first, second = plan(Inventory(nodes=nodes), replicas)
    assert first.node == "b"
    assert second.node != "b"
