"""What a simulated engine with KV cache on its host says of it: events, metrics, usage.

Counts are those of a vLLM 0.32 on its CPU build with a worker that copies in plain memory: prompts
of 600 tokens (4 blocks of 128), 32 blocks on the device.
"""

import asyncio
import contextlib
import json
import re

import msgpack
import pytest
import zmq
import zmq.asyncio
from aiohttp.test_utils import TestClient, TestServer

from engine_probe import FLAGS, TINY
from memroute.traffic.prefixes import BlockIndex, Tier, block_keys
from memroute_router.prompts.block_events import apply_events
from memroute_simulator.engine.arguments import parse_arguments
from memroute_simulator.engine.http.app import EngineServer
from memroute_simulator.engine.offloading import OffloadingConfig, OffloadingConfigError
from ports import free_port
from router_rig import Rig, exchange, raw, until

CHUNK_BYTES = 131_072


def transfer(num_chunks, **extra):
    """The flag of a tier of so many chunks of one block."""
    config = {
        "kv_connector": "OffloadingConnector", "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": num_chunks * CHUNK_BYTES, **extra},
    }  # fmt: skip
    return "--kv-transfer-config", json.dumps(config)


@contextlib.asynccontextmanager
async def engine(folder, *flags):
    """A client of a running engine, and where it publishes and replays."""
    ports = free_port(), free_port()
    events = {
        "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{ports[0]}",
        "replay_endpoint": f"tcp://*:{ports[1]}",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(TINY))
    arguments = parse_arguments(
        ["--model", str(folder), *FLAGS, "--simulator-time-scale", "0.01",
         "--kv-events-config", json.dumps(events), *flags]
    )  # fmt: skip
    server = EngineServer(arguments, arguments.standalone_spec())
    stepping = asyncio.create_task(server.run())
    client = TestClient(TestServer(server.application(), host="127.0.0.1"))
    await client.start_server()
    try:
        yield client, ports[1]
    finally:
        await client.close()
        stepping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stepping


async def complete(client, first, output=8):
    """Tokens of a prompt of 600 that were cached."""
    prompt = [first] * 600
    body = {"model": "tiny", "prompt": prompt, "max_tokens": output, "ignore_eos": True}
    async with client.post("/v1/completions", json=body) as response:
        assert response.status == 200
        details = (await response.json())["usage"]["prompt_tokens_details"]
        return (details or {}).get("cached_tokens", 0)


async def replayed(port):
    """Every event since the engine's start."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    events = []
    try:
        socket.connect(f"tcp://127.0.0.1:{port}")
        await socket.send_multipart((b"", (0).to_bytes(8, "big")))
        while True:
            frames = await asyncio.wait_for(socket.recv_multipart(), 30)
            if int.from_bytes(frames[-2], "big", signed=True) < 0:
                return events
            events += msgpack.unpackb(frames[-1])[1]
    finally:
        socket.close(linger=0)
        context.term()


async def page(client):
    async with client.get("/metrics") as response:
        return (await response.read()).decode()


def value(text, name, labels=""):
    match = re.search(rf"^{re.escape(name)}\{{[^}}]*{labels}[^}}]*\}} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else None


async def test_hits_bytes_and_stores_are_those_of_a_real_engine(tmp_path):
    """A cold; again from the device; after ten others from the host: 512 tokens, 524,288 bytes."""
    async with engine(tmp_path, *transfer(48)) as (client, _):
        assert await complete(client, 10) == 0
        assert await complete(client, 10) == 512
        for number in range(10):
            assert await complete(client, 20 + number) == 0
        assert await complete(client, 10) == 512
        text = await page(client)
    by_tier = "vllm:prompt_tokens_cached_by_source_total"
    assert value(text, by_tier, 'source="device"') == 512
    assert value(text, by_tier, 'source="host"') == 512
    by_source = "vllm:prompt_tokens_by_source_total"
    assert value(text, by_source, 'source="external_kv_transfer"') == 512
    assert value(text, by_source, 'source="local_cache_hit"') == 512
    assert value(text, "vllm:kv_offload_load_bytes_total") == 524_288
    assert value(text, "vllm:kv_offload_store_bytes_total") == 11 * 524_288
    assert value(text, "vllm:kv_offload_store_size_count") == 11
    assert value(text, "vllm:kv_offload_total_bytes_total", 'transfer_type="CPU_to_GPU"') == 524_288
    assert value(text, "vllm:external_prefix_cache_hits_total") == 512
    # Twelve prompts that the device had nothing of, and what it lacked of the thirteenth.
    assert value(text, "vllm:external_prefix_cache_queries_total") == 12 * 600 + 88
    assert value(text, "vllm:kv_offload_cpu_cache_usage_perc") == 0
    assert value(text, "vllm:kv_offload_allocation_failure_total") is None
    # The size is shown where its own flag says it, and nowhere else.
    assert 'kv_offloading_size="None"' in text


async def test_a_tier_that_is_too_small_refuses_and_finds_nothing(tmp_path):
    async with engine(tmp_path, *transfer(3)) as (client, _):
        await complete(client, 10)
        text = await page(client)
    assert value(text, "vllm:kv_offload_allocation_failure_total") >= 1
    assert value(text, "vllm:kv_offload_load_bytes_total") is None


async def test_an_engine_without_a_tier_has_none_of_its_families(tmp_path):
    async with engine(tmp_path) as (client, _):
        assert "kv_offload_" not in (await page(client)).replace("kv_offloading_", "")


async def test_chunks_are_told_by_a_placeholder_unless_asked_otherwise(tmp_path):
    async with engine(tmp_path, *transfer(20)) as (client, replay):
        for number in range(12):
            await complete(client, 10 + number)
        events = await replayed(replay)
    stored = [one for one in events if one["type"] == "BlockStored" and one["medium"] == "CPU"]
    assert len(stored) == 48
    assert stored[0] == {
        "type": "BlockStored", "block_hashes": stored[0]["block_hashes"],
        "parent_block_hash": None, "token_ids": [], "block_size": 0, "lora_id": None,
        "medium": "CPU", "lora_name": None, "group_idx": 0,
    }  # fmt: skip
    on_device = {
        name
        for one in events
        if one["type"] == "BlockStored" and one["medium"] == "GPU"
        for name in one["block_hashes"]
    }
    assert {name for one in stored for name in one["block_hashes"]} <= on_device


@pytest.mark.slow
async def test_chunks_are_told_whole_when_asked(tmp_path):
    """48 came, 7 times 4 hashes went: what a real engine told of the same prompts."""
    flags = transfer(20, self_describing_kv_events=True)
    async with engine(tmp_path, *flags) as (client, replay):
        for number in range(12):
            await complete(client, 10 + number)
        events = await replayed(replay)
    stored = [one for one in events if one["type"] == "BlockStored" and one["medium"] == "CPU"]
    removed = [one for one in events if one["type"] == "BlockRemoved" and one["medium"] == "CPU"]
    assert len(stored) == 48
    assert [len(one["block_hashes"]) for one in removed] == [4] * 7
    kinds = [one["type"] for one in events if one["medium"] == "GPU"]
    assert (kinds.count("BlockStored"), kinds.count("BlockRemoved")) == (12, 18)
    assert stored[0]["token_ids"] == [10] * 128
    assert stored[1]["parent_block_hash"] == stored[0]["block_hashes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("describes", [False, True])
@pytest.mark.parametrize("size", [1, 2])
async def test_a_router_knows_by_them_what_lies_where(tmp_path, describes, size):
    """Twelve prompts through a device of seven and a host of ten: the last ten are on the host."""
    flags = transfer(40, blocks_per_chunk=size, self_describing_kv_events=describes)
    async with engine(tmp_path, *flags) as (client, replay):
        for number in range(12):
            await complete(client, 10 + number)
        index = BlockIndex()
        index.follow("a")
        apply_events(index, "a", await replayed(replay), rank=0)
    known = []
    for number in range(12):
        keys = block_keys([10 + number] * 600, 128)
        on_device = index.match(keys)
        host = index.behind(keys, on_device).get("a", (0, 0))[0]
        known.append((on_device.get("a", 0), host))
    assert index.num_orphans == 0
    assert known[:2] == [(0, 0), (0, 0)]
    assert all(device + host == 4 for device, host in known[2:])
    assert known[-1] == (4, 0)
    assert (0, 4) in known


async def test_a_reset_leaves_the_host_and_says_so_by_one_event(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    async with engine(tmp_path, *transfer(48)) as (client, replay):
        await complete(client, 10)
        async with client.post("/reset_prefix_cache") as response:
            assert response.status == 200
        assert await complete(client, 10) == 512
        events = await replayed(replay)
        assert value(await page(client), "vllm:kv_offload_load_bytes_total") == 524_288
    assert [one["type"] for one in events].count("AllBlocksCleared") == 1


async def test_a_prompt_goes_where_only_the_host_has_it(tmp_path):
    """Two engines; one has had the prompt on its device, and ten others since."""
    prompt = [7] * 600
    rig = Rig("--kv-events", "--scrape-seconds", "60")
    await rig.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for number in range(2):
                folder = tmp_path / str(number)
                folder.mkdir()
                client, _ = await stack.enter_async_context(engine(folder, *transfer(48)))
                clients.append(client)
            await complete(clients[1], 7)
            for number in range(10):
                await complete(clients[1], 20 + number)
            for name, client in zip("ab", clients, strict=True):
                rig.router.on_upsert(rig.add(name, client.port))
            index = rig.pools.by_model["m"].dispatcher.cached.blocks
            await until(lambda: index.num_blocks("default/b", Tier.HOST) == 44)
            assert "default/b" not in index.match(block_keys(prompt, 128))
            rig.pools.configure({})
            rig.trust_all()
            fields = {"model": "m", "prompt": prompt, "max_tokens": 1}
            data = json.dumps(fields).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
            _, headers, _ = await exchange(
                rig.port, head + b"content-length: %d\r\n\r\n%b" % (len(data), data)
            )
            assert headers["x-memroute-replica"] == "default/b"
            # Half of 512: nobody has said how fast its host is.
            assert "256 tokens cached" in headers["x-memroute-decision"]
            status, _, body = await exchange(
                clients[1].port, raw(json.dumps(fields | {"model": "tiny"}).encode(),
                                     b"/v1/completions"),
            )  # fmt: skip
            assert status == 200
            assert json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"] == 512
            _, _, metrics = await exchange(
                rig.ops_port, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
            )
            assert b"kv_event_host_blocks{" in metrics
    finally:
        await rig.router.kv_events.close()
        await rig.stop()


@pytest.mark.parametrize(
    ("size", "text", "why"),
    [
        (None, "[]", "no JSON object"),
        (1.0, '{"kv_connector":"LMCacheMPConnector"}', "LMCacheMPConnector"),
        (1.0, '{"kv_connector_extra_config":7}', "no JSON object"),
        (1.0, '{"kv_connector_extra_config":{"block_size":32,"blocks_per_chunk":2}}', "the same"),
        (1.0, '{"kv_connector_extra_config":{"blocks_per_chunk":0}}', "blocks_per_chunk"),
    ],
)
def test_a_connector_that_cannot_be_read_is_said(size, text, why):
    with pytest.raises(OffloadingConfigError, match=why):
        OffloadingConfig.parse(size, text)


def test_both_flags_together_are_one_tier():
    """Size by its flag, the rest by the connector's own keys."""
    extra = {"block_size": 256, "self_describing_kv_events": True, "eviction_policy": "lru"}
    config = OffloadingConfig.parse(2.0, json.dumps({"kv_connector_extra_config": extra}))
    assert (config.size_bytes, config.is_shown) == (2 << 30, True)
    assert config.chunk_blocks(128) == 2
    assert config.describes_events
    with pytest.raises(OffloadingConfigError, match="no multiple"):
        config.chunk_blocks(96)
    assert OffloadingConfig.parse(None, None) is None
    assert OffloadingConfig.parse(0.0, None) is None
