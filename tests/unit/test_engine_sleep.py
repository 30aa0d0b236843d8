"""A simulated engine that sleeps: what vLLM 0.32 does, byte by byte on device and host."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys

import aiohttp
import msgpack
import pytest
import zmq
import zmq.asyncio
from aiohttp.test_utils import TestServer

from engine_rig import complete, engine, metrics, value
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.hierarchy import SleepLevel
from memroute.hierarchy.links import PCIE_5
from memroute.hierarchy.sleep import DEVICE_REST_BYTES, WAKE_SECONDS, sleep_of
from memroute.units import GIB
from memroute_simulator.engine.memory import EngineMemory
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.engine.startup import DriverClient, EngineStartError
from memroute_simulator.nodes.agent import NodeAgent
from memroute_simulator.nodes.container import ContainerProcess
from memroute_simulator.nodes.devices import DeviceTable
from memroute_simulator.nodes.host_memory import HostMemory, MemoryBudget, host_record
from memroute_simulator.nodes.kubelet_server import Driver
from memroute_simulator.nodes.machines import H100
from memroute_simulator.nodes.spec import NodeSpec
from ports import free_port

SLEEPY = "--enable-sleep-mode"
SLEEP_STATE = "vllm:engine_sleep_state"


@pytest.fixture(autouse=True)
def development(monkeypatch):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")


async def post(client, path, body=None):
    async with client.post(path, json=body) as response:
        return response.status, await response.text()


async def is_sleeping(client):
    async with client.get("/is_sleeping") as response:
        return (await response.json())["is_sleeping"]


async def streamed(client):
    _, _, answer = await complete(client, 900, stream=True)
    return answer


async def hangs(task):
    """The engine serves others' pages meanwhile, and not this request."""
    await asyncio.sleep(0.1)
    return not task.done()


@pytest.mark.parametrize("path", ["/sleep", "/wake_up", "/collective_rpc"])
async def test_without_the_variable_there_is_no_such_path(tmp_path, monkeypatch, path):
    monkeypatch.delenv("VLLM_SERVER_DEV_MODE")
    async with engine(tmp_path, SLEEPY) as (client, _):
        assert (await post(client, path))[0] == 404
        assert (await client.get("/is_sleeping")).status == 404


@pytest.mark.parametrize("level", [1, 2])
async def test_while_it_sleeps_it_is_healthy_and_a_request_hangs_until_it_wakes(tmp_path, level):
    state = {1: "weights_offloaded", 2: "discard_all"}[level]
    async with engine(tmp_path, SLEEPY, time_scale="0.01") as (client, _):
        assert (await post(client, f"/sleep?level={level}"))[0] == 200
        page = await metrics(client)
        assert value(page, SLEEP_STATE, f'sleep_state="{state}"') == 1
        assert value(page, SLEEP_STATE, 'sleep_state="awake"') == 0
        assert await is_sleeping(client)
        waiting = asyncio.create_task(complete(client, 5))
        assert await hangs(waiting)
        assert (await client.get("/health")).status == 200
        assert (await post(client, "/wake_up"))[0] == 200
        assert (await waiting)[0] == 200
        assert not await is_sleeping(client)
        assert value(await metrics(client), SLEEP_STATE, 'sleep_state="awake"') == 1


async def test_mode_wait_finishes_what_it_has_begun_and_nothing_new(tmp_path):
    async with engine(tmp_path, SLEEPY, time_scale="1") as (client, server):
        begun = asyncio.create_task(complete(client, 300))
        while not server.engine.schedulers[0].num_running:
            await asyncio.sleep(0.01)
        falling = asyncio.create_task(post(client, "/sleep?level=0&mode=wait"))
        while not server.engine.is_paused:
            await asyncio.sleep(0.01)
        late = asyncio.create_task(complete(client, 5))
        assert (await begun)[0] == 200
        assert (await falling)[0] == 200
        assert await hangs(late)
        await post(client, "/wake_up")
        assert (await late)[0] == 200


@pytest.mark.slow
async def test_mode_abort_ends_what_runs_as_it_is(tmp_path):
    async with engine(tmp_path, SLEEPY, time_scale="1") as (client, server):
        begun = asyncio.create_task(complete(client, 900))
        cut_off = asyncio.create_task(streamed(client))
        while server.engine.schedulers[0].num_running < 2:
            await asyncio.sleep(0.01)
        assert (await post(client, "/sleep?level=1&mode=abort"))[0] == 200
        status, _, answer = await begun
        (choice,) = json.loads(answer)["choices"]
        assert (status, choice["finish_reason"]) == (200, "abort")
        assert len(choice["text"].split()) < 900
        events = await cut_off
        assert b'"finish_reason":"abort"' in events
        assert events.endswith(b"data: [DONE]\n\n")
        assert server.engine.num_in_flight == 0


async def test_a_wake_that_comes_while_it_falls_asleep_wakes_it_after(tmp_path):
    async with engine(tmp_path, SLEEPY, time_scale="0.2") as (client, server):
        falling = asyncio.create_task(post(client, "/sleep?level=1&mode=wait"))
        while not server.engine.is_paused:
            await asyncio.sleep(0.01)
        assert (await post(client, "/wake_up"))[0] == 200
        assert (await falling)[0] == 200
        assert (await complete(client, 5))[0] == 200


async def test_a_part_that_sleeps_keeps_it_from_serving(tmp_path):
    """Its gauge says awake already: only ``/is_sleeping`` tells."""
    async with engine(tmp_path, SLEEPY, time_scale="0.01") as (client, _):
        await post(client, "/sleep?level=1")
        await post(client, "/wake_up?tags=weights")
        assert value(await metrics(client), SLEEP_STATE, 'sleep_state="awake"') == 1
        assert await is_sleeping(client)
        waiting = asyncio.create_task(complete(client, 5))
        assert await hangs(waiting)
        await post(client, "/wake_up?tags=kv_cache")
        assert (await waiting)[0] == 200


async def test_after_level_2_it_says_nonsense_until_its_weights_are_loaded_again(tmp_path):
    async with engine(tmp_path, SLEEPY, time_scale="0.01") as (client, _):
        await post(client, "/sleep?level=2")
        await post(client, "/wake_up")
        _, _, body = await complete(client, 5)
        assert json.loads(body)["choices"][0]["text"] == "!!!!!"
        async with client.get("/simulator/faults") as response:
            assert (await response.json())["are_weights_missing"] is True
        status, text = await post(client, "/collective_rpc", {"method": "reload_weights"})
        assert (status, json.loads(text)) == (200, {"results": [None]})
        _, _, body = await complete(client, 5)
        assert "!" not in json.loads(body)["choices"][0]["text"]


async def test_one_that_is_told_to_fail_its_wakes_sleeps_on_until_it_is_told_otherwise(tmp_path):
    async with engine(tmp_path, SLEEPY, time_scale="0.01") as (client, _):
        await post(client, "/sleep?level=1")
        await post(client, "/simulator/faults", {"is_wake_failing": True})
        status, text = await post(client, "/wake_up")
        assert (status, "is_wake_failing" in text) == (500, True)
        assert await is_sleeping(client)
        await post(client, "/simulator/faults", {"is_wake_failing": False})
        assert (await post(client, "/wake_up"))[0] == 200
        assert not await is_sleeping(client)


async def test_weights_that_are_loaded_where_none_are_mapped_end_it(tmp_path):
    async with engine(tmp_path, SLEEPY, time_scale="0.01") as (client, server):
        await post(client, "/sleep?level=2")
        status, text = await post(client, "/collective_rpc", {"method": "reload_weights"})
        assert (status, "illegal memory access" in text) == (500, True)
        async with asyncio.timeout(5):
            await server.engine.until_drained()
            while not server.engine.is_dead:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/sleep?level=3", None, 400),
        ("/sleep?mode=gently", None, 400),
        ("/collective_rpc", {}, 400),
        ("/collective_rpc", {"method": "shut_down"}, 500),
        ("/wake_up?tags=graphs", None, 200),
    ],
)
async def test_what_makes_no_sense_changes_nothing(tmp_path, path, body, status):
    async with engine(tmp_path, SLEEPY, time_scale="0.01") as (client, _):
        assert (await post(client, path, body))[0] == status
        assert (await complete(client, 5))[0] == 200


async def test_one_event_says_that_every_block_is_gone_with_the_first_step_after_it(tmp_path):
    """No step runs while it sleeps, so nobody hears of it before it has woken."""
    port = free_port()
    config = {
        "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://127.0.0.1:{port}",
    }  # fmt: skip
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.bind(f"tcp://127.0.0.1:{port}")
    socket.subscribe(b"")
    flags = (SLEEPY, "--kv-events-config", json.dumps(config))
    kinds = []

    async def heard(kind):
        while kind not in kinds:
            _, _, payload = await socket.recv_multipart()
            kinds.extend(event["type"] for event in msgpack.unpackb(payload)[1])

    try:
        async with engine(tmp_path, *flags, time_scale="0.01") as (client, _), asyncio.timeout(20):
            prompts = itertools.count(7)
            while not kinds:  # a subscriber joins in its own time
                await complete(client, 2, [next(prompts)] * 300)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await heard("BlockStored")
            kinds.clear()
            await post(client, "/sleep?level=1")
            await asyncio.sleep(0.1)
            assert kinds == []
            await post(client, "/wake_up")
            await complete(client, 2, [next(prompts)] * 300)
            await heard("AllBlocksCleared")
            assert kinds[0] == "AllBlocksCleared"
            assert "BlockRemoved" not in kinds
    finally:
        socket.close(linger=0)
        context.term()


# Bytes, against a driver and a node that count them.


class Node:
    """One H100 and the node's memory, behind the driver that emulated nodes have."""

    def __init__(self, host_gib=256):
        self.table = DeviceTable("n", (H100,), cluster="c")
        self.gpu = self.table.devices[0]
        self.host = HostMemory(host_gib * GIB)
        self.killed = []
        self.driver = Driver(self.table, host=self.host, on_held=self.on_held)

    def on_held(self, victim):
        if victim is not None:
            self.killed.append(victim)

    @contextlib.asynccontextmanager
    async def client(self, owner="pod/engine", budget=None):
        """What the process of a container knows of its driver."""
        path = self.driver.open(owner, [self.gpu], budget or MemoryBudget())
        async with (
            TestServer(self.driver.application()) as server,
            aiohttp.ClientSession() as session,
        ):
            yield DriverClient(str(server.make_url(path)), session)


EIGHT_B = EngineSpec(
    architecture=architecture_for_model("Qwen/Qwen3-8B"), accelerator=accelerator_by_name("H100")
)


def memory_of(driver, **facts):
    return EngineMemory(EIGHT_B.footprint, PCIE_5, name="Qwen/Qwen3-8B", driver=driver, **facts)


async def test_a_sleeper_keeps_a_rest_of_its_device_and_takes_all_again():
    node = Node()
    async with node.client() as driver:
        await driver.allocate(0, node.gpu.uuid, 40 * GIB, node.gpu.usable_bytes)
        memory = memory_of(driver)
        await memory.back_up(SleepLevel.WEIGHTS_ON_HOST)
        await memory.free_devices()
        assert node.gpu.used_bytes == DEVICE_REST_BYTES == memory.device_bytes
        await memory.take_devices({"weights"})
        # 8.19 B parameters of two bytes: 16.4 GB, beside the rest.
        assert node.gpu.used_bytes - DEVICE_REST_BYTES == pytest.approx(16.4e9, rel=0.02)
        await memory.take_devices({"kv_cache"})
        assert node.gpu.used_bytes == 40 * GIB


@pytest.mark.parametrize("first", ["weights", "kv_cache"])
async def test_whoever_wakes_where_somebody_else_is_is_refused_in_cudas_words(first):
    node = Node()
    async with node.client() as driver:
        await driver.allocate(0, node.gpu.uuid, 40 * GIB, node.gpu.usable_bytes)
        memory = memory_of(driver)
        await memory.free_devices()
        node.table.allocate("somebody", node.gpu.uuid, node.gpu.free_bytes - GIB)
        with pytest.raises(EngineStartError, match="CUDA out of memory"):
            await memory.take_devices({first})
        assert node.gpu.used_bytes <= node.gpu.usable_bytes


async def test_an_engine_that_cannot_wake_says_500_and_dies(tmp_path):
    """As vLLM's engine core does, and its server with it."""
    node = Node()
    async with node.client() as driver:
        await driver.allocate(0, node.gpu.uuid, 40 * GIB, node.gpu.usable_bytes)
        async with engine(tmp_path, SLEEPY, time_scale="0.01", driver=driver) as (client, server):
            await post(client, "/sleep?level=1")
            node.table.allocate("somebody", node.gpu.uuid, node.gpu.free_bytes)
            status, text = await post(client, "/wake_up")
            assert (status, "CUDA out of memory" in text) == (500, True)
            async with asyncio.timeout(5):
                while not server.engine.is_dead:
                    await asyncio.sleep(0.01)
            assert "CUDA out of memory" in server.engine.last_words
            assert (await client.get("/health")).status == 503


async def test_without_the_flag_it_answers_as_if_it_slept_and_frees_nothing(tmp_path):
    node = Node()
    async with node.client() as driver:
        await driver.allocate(0, node.gpu.uuid, 40 * GIB, node.gpu.usable_bytes)
        async with engine(tmp_path, driver=driver) as (client, _):
            status, text = await post(client, "/sleep?level=1")
            assert (status, json.loads(text)["status"]) == (200, "sleeping")
            assert await is_sleeping(client)
            assert (node.gpu.used_bytes, node.host.used_bytes) == (40 * GIB, 0)
            await post(client, "/wake_up")
            assert (await complete(client, 5))[0] == 200


async def test_the_backup_is_held_from_the_first_sleep_on_and_for_good():
    """At most what memroute reserves: 2 x 16.4 GB of weights and 2 GiB (``host_bytes_most``)."""
    node = Node()
    most = sleep_of(EIGHT_B.footprint, SleepLevel.WEIGHTS_ON_HOST, PCIE_5).host_bytes_most
    async with node.client() as driver:
        await driver.allocate(0, node.gpu.uuid, 40 * GIB, node.gpu.usable_bytes)
        memory = memory_of(driver, host_kv_bytes=10 * GIB)
        assert node.host.used_bytes == 0
        first = await memory.back_up(SleepLevel.WEIGHTS_ON_HOST)
        held = node.host.used_bytes
        assert 10 * GIB + 16.4e9 < held <= 10 * GIB + most
        await memory.free_devices()
        await memory.take_devices({"weights", "kv_cache"})
        assert node.host.used_bytes == held
        again = await memory.back_up(SleepLevel.WEIGHTS_ON_HOST)
        # Only the copy is left: 16.4 GB at 52 GB/s.
        assert again == pytest.approx(16.4 / 52, rel=0.02)
        assert first > 5 * again
        assert node.host.used_bytes == held


def test_a_wake_takes_what_memroute_says_that_it_takes():
    """The figures are ``memroute.hierarchy.sleep``'s: 1.5 s and the copy, or the storage."""
    memory = memory_of(None)
    for level in SleepLevel:
        expected = sleep_of(EIGHT_B.footprint, level, PCIE_5).wake_seconds
        took = sum(memory.wake_seconds(level, tag) for tag in ("weights", "kv_cache"))
        took += memory.reload_seconds if level is SleepLevel.NOTHING_KEPT else 0
        assert took == pytest.approx(expected)
        assert took > WAKE_SECONDS


# Whom the kernel kills.


async def test_a_container_that_passes_its_own_limit_is_killed():
    node = Node()
    budget = MemoryBudget.of({"resources": {"limits": {"memory": "20Gi"}}})
    assert budget.request_bytes == 20 * GIB
    async with node.client(budget=budget) as driver:
        await driver.hold_host(20 * GIB)
        assert node.killed == []
        await driver.hold_host(20 * GIB + 1)
        assert node.killed == ["pod/engine"]
        assert node.host.num_killed == 1
        node.driver.close("pod/engine")
        assert node.host.used_bytes == 0


def test_a_node_without_memory_kills_the_process_that_has_most_beyond_its_request():
    """100 GiB; b asks for little and holds 40: 400 + 950. a asks for all it has: 500 + 500."""
    host = HostMemory(100 * GIB)
    assert host.hold("a", 50 * GIB, MemoryBudget(request_bytes=50 * GIB)) is None
    assert host.hold("b", 40 * GIB, MemoryBudget(request_bytes=5 * GIB)) is None
    victim = host.hold("c", 11 * GIB, MemoryBudget(request_bytes=11 * GIB))
    assert victim == "b"
    assert host.peak_bytes == 100 * GIB
    assert host.record()["beyondRequest"] == ["b"]
    host.release("b")
    assert host.used_bytes == 61 * GIB


@pytest.mark.parametrize(
    ("budget", "is_killed"),
    [
        (MemoryBudget(request_bytes=30 * GIB, limit_bytes=30 * GIB), False),
        (MemoryBudget(request_bytes=30 * GIB), False),
        (MemoryBudget(), True),
    ],
)
def test_who_asked_for_nothing_goes_first(budget, is_killed):
    """Against one that holds three times as much, and asked for it."""
    host = HostMemory(100 * GIB)
    host.hold("large", 75 * GIB, MemoryBudget(request_bytes=75 * GIB))
    victim = host.hold("small", 26 * GIB, budget)
    assert (victim == "small") is is_killed


async def test_the_container_that_the_kernel_kills_says_so(tmp_path):
    """As kubelet tells it: 137, OOMKilled."""
    process = await ContainerProcess.start(["sleep", "60"], dict(os.environ), tmp_path / "0.log")
    process.kill_out_of_memory()
    code = await process.wait()
    ended = process.terminated_state(code)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_no_more_is_freed_than_is_held():
    node = Node()
    node.table.allocate("a", node.gpu.uuid, GIB)
    with pytest.raises(LookupError):
        node.table.free("a", node.gpu.uuid, GIB + 1)
    node.table.free("a", node.gpu.uuid, GIB)
    assert node.gpu.free_bytes == node.gpu.usable_bytes


@pytest.mark.slow
async def test_an_engine_of_a_node_sleeps_beside_another_and_dies_when_it_cannot_wake(tmp_path):
    """The process itself, as the node starts it: what its start took leaves, comes back, or not."""
    node, port = Node(), free_port()
    flags = ["--model", "Qwen/Qwen3-0.6B", "--port", str(port), "--max-model-len", "8192"]
    flags += ["--gpu-memory-utilization", "0.5", "--simulator-time-scale", "0.001", SLEEPY]
    path = node.driver.open("pod/engine", [node.gpu], MemoryBudget())
    async with TestServer(node.driver.application()) as driver, aiohttp.ClientSession() as client:
        url = str(driver.make_url(path))
        environment = os.environ | {"MEMROUTE_DRIVER_URL": url, "VLLM_SERVER_DEV_MODE": "1"}
        log = tmp_path / "0.log"
        command = [sys.executable, "-m", "memroute_simulator", "engine", *flags]
        process = await ContainerProcess.start(command, environment, log)
        try:
            engine_url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with client.get(f"{engine_url}/health") as response:
                            if response.status == 200:
                                break
                    await asyncio.sleep(0.1)
            awake = node.gpu.used_bytes
            assert awake > 30 * GIB
            assert node.host.used_bytes == 0
            for _ in range(2):
                async with client.post(f"{engine_url}/sleep?level=1&mode=wait") as response:
                    assert response.status == 200
                assert node.gpu.used_bytes == DEVICE_REST_BYTES
                assert node.host.used_bytes > 1.5e9, "0.75 B parameters of two bytes, and a runtime"
                async with client.post(f"{engine_url}/wake_up") as response:
                    assert response.status == 200
                assert node.gpu.used_bytes == awake
            async with client.post(f"{engine_url}/sleep") as response:
                assert response.status == 200
            node.table.allocate("somebody", node.gpu.uuid, 50 * GIB)
            async with client.post(f"{engine_url}/wake_up") as response:
                assert response.status == 500
            async with asyncio.timeout(30):
                assert await process.wait() == 1
            assert "CUDA out of memory. Tried to allocate" in log.read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            node.driver.close("pod/engine")
        assert node.host.used_bytes == 0


async def test_a_node_kills_whom_its_memory_does_not_hold_and_records_it(tmp_path):
    """A workstation of 256 GiB. The record is what tests of whole clusters read."""
    killed = []

    class Worker:
        def kill_out_of_memory(self, container):
            killed.append(container)

    agent = NodeAgent(
        client=None, session=None, network=7, ordinal=0, cluster_id="c", cluster_environment={},
        spec=NodeSpec.parse({"name": "n", "machine": "mixed"}), directory=tmp_path, tls=None,
        cluster_endpoint={},
    )  # fmt: skip
    agent._workers["uid"] = Worker()
    budget = MemoryBudget(request_bytes=30 * GIB, limit_bytes=40 * GIB)
    path = agent.open_driver("uid/engine", [], budget)
    async with (
        TestServer(agent._driver.application()) as server,
        aiohttp.ClientSession() as session,
    ):
        driver = DriverClient(str(server.make_url(path)), session)
        await driver.hold_host(35 * GIB)
        assert killed == []
        record = json.loads(host_record(tmp_path, "n").read_text())
        assert (record["totalBytes"], record["peakBytes"]) == (256 * GIB, 35 * GIB)
        assert record["beyondRequest"] == ["uid/engine"], "nobody has kept so much for it"
        await driver.hold_host(41 * GIB)
        assert killed == ["engine"]
        assert json.loads(host_record(tmp_path, "n").read_text())["numKilled"] == 1
