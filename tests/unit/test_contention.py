import asyncio
from dataclasses import replace

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
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
    ReplicaKey,
    Reservation,
    WantedReplica,
    plan,
    uses,
)
from memroute.sizing.occupancy import Occupancies
from memroute.units import GIB
from memroute_simulator.nodes.devices import DeviceTable
from memroute_simulator.nodes.kubelet_server import Driver
from memroute_simulator.nodes.machines import MACHINES

QWEN = architecture_for_model("Qwen/Qwen3-0.6B")
SHAPE = ReplicaShape(architecture=QWEN, max_context_tokens=4096, concurrency=4)
FOOTPRINT = replica_footprint(SHAPE)


def device(index, gib=80, node="a"):
    return Device(
        node=node, index=index, uuid=f"GPU-{node}-{index}", product="H100",
        usable_bytes=gib * GIB, usable_source="dcgm",
    )  # fmt: skip


def node(*devices, name="a"):
    return Node(name=name, mode=PlacementMode.SHARED, devices=devices, has_fresh_metrics=True)


def wanted(name, gib, share, index=0):
    """A replica that needs so many GiB, and takes such a share of a device's time."""
    more = gib * GIB - FOOTPRINT.total_bytes
    return WantedReplica(
        key=ReplicaKey(namespace="ns", name=name, index=index),
        shape=SHAPE,
        footprint=replace(FOOTPRINT, kv_cache_bytes=FOOTPRINT.kv_cache_bytes + more),
        mode=PlacementMode.SHARED,
        occupancies_by_product={} if share is None else {"H100": share},
    )


def held(owner, uuid, gib, share):
    return Reservation(
        owner=f"ns/{owner}", deployment=f"ns/{owner}", node="a",
        device_bytes={uuid: gib * GIB}, ready_seconds=100, occupancy_ratio=share,
    )  # fmt: skip


def test_of_devices_as_good_by_bytes_the_one_with_more_time_left_is_taken():
    """40 GiB are free on both: one runs an engine that never waits, the other one that mostly does.

    By bytes alone the first name would have it, and the two would halve each other.
    """
    inventory = Inventory(
        nodes=(node(device(0), device(1)),),
        reservations=(held("busy", "GPU-a-0", 40, 0.95), held("small", "GPU-a-1", 40, 0.35)),
    )
    (placed,) = plan(inventory, [wanted("m", 20, 0.9)])
    assert placed.device_uuids == ("GPU-a-1",)
    assert placed.contention == pytest.approx(1.25)
    assert "engines on its device want 1.2 times its time" in placed.why


def test_the_same_holds_between_nodes():
    """Nodes that are as good by bytes, in another order of names."""
    inventory = Inventory(
        nodes=(node(device(0)), node(device(0, node="b"), name="b")),
        reservations=(held("busy", "GPU-a-0", 40, 0.95),
                      replace(held("small", "GPU-b-0", 40, 0.35), node="b")),
    )  # fmt: skip
    (placed,) = plan(inventory, [wanted("m", 20, 0.9)])
    assert placed.node == "b"


def test_bytes_come_before_time_unless_a_limit_is_set():
    """10 GiB fit tightly beside an engine that never waits, loosely on a device of their own."""
    inventory = Inventory(
        nodes=(node(device(0), device(1)),), reservations=(held("busy", "GPU-a-0", 60, 0.95),)
    )
    (by_bytes,) = plan(inventory, [wanted("m", 10, 0.9)])
    assert by_bytes.device_uuids == ("GPU-a-0",)
    (limited,) = plan(replace(inventory, max_contention=1.5), [wanted("m", 10, 0.9)])
    assert limited.device_uuids == ("GPU-a-1",)
    assert limited.contention == pytest.approx(0.9)


def test_a_limit_refuses_nobody():
    """Where nothing else fits, the limit is exceeded: a slow model is better than none."""
    inventory = Inventory(
        nodes=(node(device(0)),), reservations=(held("busy", "GPU-a-0", 40, 1.0),),
        max_contention=1.0,
    )  # fmt: skip
    (placed,) = plan(inventory, [wanted("m", 20, None)])
    assert placed.contention == 2.0


def test_one_engine_alone_is_within_any_limit():
    inventory = Inventory(nodes=(node(device(0)),), max_contention=1.0)
    (placed,) = plan(inventory, [wanted("m", 20, None)])
    assert isinstance(placed, Placed)
    assert "its time" not in placed.why


def test_a_limit_costs_no_large_replica_its_place():
    """Two of 30 GiB would take a device each, and the one of 70 would have none: bytes decide."""
    inventory = Inventory(nodes=(node(device(0), device(1)),), max_contention=1.0)
    asked = [wanted("a", 30, 1.0), wanted("b", 30, 1.0), wanted("c", 70, 1.0)]
    assert all(isinstance(one, Placed) for one in plan(inventory, asked))


SIZES = st.tuples(st.integers(6, 70), st.sampled_from([0.2, 0.5, 0.95, None]))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, max_size=9), st.integers(1, 4), st.sampled_from([1.0, 1.5, 2.0]))
def test_no_limit_ever_places_fewer_and_no_device_is_promised_more_than_it_has(
    sizes, devices, limit
):
    """As many models with the limit as without; and occupancies alone change no number."""
    inventory = Inventory(nodes=(node(*(device(n) for n in range(devices))),))
    asked = [wanted(f"m{n}", gib, share) for n, (gib, share) in enumerate(sizes)]
    blind = [replace(one, occupancies_by_product={"H100": 0.0}) for one in asked]

    def count(inventory, asked):
        found = [one for one in plan(inventory, asked) if isinstance(one, Placed)]
        for uuid in {uuid for one in found for uuid in one.device_uuids}:
            promised = sum(one.bytes_per_device for one in found if uuid in one.device_uuids)
            assert promised <= 80 * GIB
        return len(found)

    assert count(inventory, asked) == count(inventory, blind)
    assert count(replace(inventory, max_contention=limit), asked) >= count(inventory, asked)


def test_what_is_counted_in_is_counted_out():
    """A ledger that has released and restored everything knows the same as before."""
    inventory = Inventory(
        nodes=(node(device(0)),),
        reservations=tuple(held(f"m{n}", "GPU-a-0", 5, 0.1 * n) for n in range(7)),
    )
    ledger = Ledger(inventory)
    for number in range(7):
        ledger.restore(ledger.release(f"ns/m{number}"))
    assert ledger.contention(device(0)) == pytest.approx(2.1)
    (use,) = uses(inventory)
    assert use.devices[0].contention == pytest.approx(2.1)


def test_small_models_wait_more_and_what_is_not_known_is_missing():
    """0.6B on an H100 waits a third of its step for launches, 14B a twelfth."""
    small = Occupancies(SHAPE)["NVIDIA-H100-80GB-HBM3"]
    qwen_14b = ReplicaShape(
        architecture=architecture_for_model("Qwen/Qwen3-14B"), max_context_tokens=4096,
        concurrency=4,
    )  # fmt: skip
    large = Occupancies(qwen_14b)["NVIDIA-H100-80GB-HBM3"]
    assert small < 0.75
    assert 0.85 < large < 1
    assert Occupancies(SHAPE).get("a-card-of-next-year") is None


async def busy(session, server, path, ratio):
    async with session.post(server.make_url(f"{path}/busy"), json={"busy_ratio": ratio}) as answer:
        return await answer.json()


def test_engines_of_an_emulated_device_hear_how_many_others_have_work():
    """Half busy counts as half; on another device, or ended, as nobody."""

    async def play():
        table = DeviceTable("n", MACHINES["h100"].gpus, cluster="c")
        driver = Driver(table)
        first, second = table.devices[:2]
        paths = {
            name: driver.open(name, [gpu])
            for name, gpu in (("a", first), ("b", first), ("c", second))
        }
        for name, gpu in (("a", first), ("b", first), ("c", second)):
            table.allocate(name, gpu.uuid, GIB)
        async with TestServer(driver.application()) as server, aiohttp.ClientSession() as session:
            for name in ("a", "b", "c"):
                said = await busy(session, server, paths[name], 0.5)
            assert said == {"num_busy": 1, "is_shared": False, "mechanism": "time-slices"}
            said = await busy(session, server, paths["a"], 1.0)
            assert said == {"num_busy": 1.5, "is_shared": True, "mechanism": "time-slices"}
            driver.link = "pcie5-peer"
            async with session.get(server.make_url(f"{paths['a']}/devices")) as answer:
                assert [one["link"] for one in await answer.json()] == ["pcie5-peer"]
            driver.close("b")
            assert (await busy(session, server, paths["a"], 1.0))["num_busy"] == 1

    asyncio.run(play())
