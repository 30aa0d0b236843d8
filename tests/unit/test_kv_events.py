"""KV events over real sockets: read in both forms, in order, replayed over gaps."""

import asyncio
import contextlib
import json

import msgpack
import orjson
import pytest
import zmq
import zmq.asyncio

from engine_probe import FLAGS, TINY
from memroute.traffic.prefixes import BlockIndex, block_keys
from memroute_router.prompts.block_events import apply_events
from memroute_router.prompts.event_sources import read_sources
from memroute_simulator.engine.arguments import parse_arguments
from memroute_simulator.engine.http.app import EngineServer
from ports import free_port
from router_rig import Rig, exchange, raw, until, whole

STORED = {
    "type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": None,
    "token_ids": list(range(8)), "block_size": 4, "lora_id": None, "medium": "GPU",
    "lora_name": None, "extra_keys": [None, None],
}  # fmt: skip


def told(*events, rank=0):
    index = BlockIndex()
    index.follow("a")
    apply_events(index, "a", events, rank=rank)
    return index.match(block_keys(range(12), 4)).get("a", 0)


def test_maps_of_today_and_arrays_of_before_say_the_same():
    assert told(STORED) == 2
    assert told(["BlockStored", [11, 12], None, list(range(8)), 4, None]) == 2
    assert told(STORED, {"type": "BlockRemoved", "block_hashes": [12]}) == 1
    assert told(STORED, ["BlockRemoved", [12]]) == 1
    assert told(STORED, ["AllBlocksCleared"]) == 0
    assert told(STORED, {"type": "AllBlocksCleared"}) == 0


def test_hashes_may_be_bytes_and_ranks_name_the_same_block_alike():
    raw_names = STORED | {"block_hashes": [b"\x01" * 32, b"\x02" * 32]}
    assert told(raw_names) == 2
    index = BlockIndex()
    index.follow("a")
    for rank in (0, 1):
        apply_events(index, "a", [STORED], rank=rank)
    apply_events(index, "a", [["BlockRemoved", [11, 12]]], rank=1)
    assert index.match(block_keys(range(8), 4)) == {"a": 2}


def test_what_is_not_on_the_gpu_or_not_known_is_passed_over():
    assert told(STORED | {"medium": "CPU"}) == 0
    assert told(STORED | {"group_idx": 1}) == 0
    assert told({"type": "BlockDreamt"}, STORED, [], None, 7) == 2


@pytest.mark.parametrize(
    ("endpoint", "reached"),
    [("tcp://*:5557", "tcp://10.0.0.1:5557"), ("tcp://[::]:5557", "tcp://10.0.0.1:5557"),
     ("tcp://10.0.0.1:9", "tcp://10.0.0.1:9")],
)  # fmt: skip
def test_a_source_is_reached_where_its_engine_is(endpoint, reached):
    body = orjson.dumps({"0": {"endpoint": endpoint, "replay_endpoint": None, "topic": "kv"}})
    (source,) = read_sources(body, "10.0.0.1")
    assert (source.endpoint, source.replay_endpoint, source.topic) == (reached, None, "kv")


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5557", "ipc:///tmp/x", None])
def test_a_source_that_connects_itself_cannot_be_heard(endpoint):
    """An endpoint without a wildcard is connected to by the engine: nobody can connect there."""
    with pytest.raises(ValueError, match="nobody can connect"):
        read_sources(orjson.dumps({"0": {"endpoint": endpoint}}), "10.0.0.1")


class Publisher:
    """A rank's event sockets, scripted."""

    def __init__(self):
        self.context = zmq.asyncio.Context()
        self.live = self.context.socket(zmq.PUB)
        self.replay = self.context.socket(zmq.ROUTER)
        self.ports = [s.bind_to_random_port("tcp://127.0.0.1") for s in (self.live, self.replay)]
        self.batches = []
        self.asked = []
        self.task = asyncio.create_task(self._serve())

    def sources(self):
        endpoints = [f"tcp://*:{port}" for port in self.ports]
        return orjson.dumps({"0": {"endpoint": endpoints[0], "replay_endpoint": endpoints[1]}})

    async def say(self, *events, is_lost=False, at=None):
        sequence = len(self.batches)
        payload = msgpack.packb([sequence + 1.0 if at is None else at, list(events), 0])
        self.batches.append(payload)
        if not is_lost:
            await self.live.send_multipart((b"", sequence.to_bytes(8, "big"), payload))

    async def _serve(self):
        while True:
            client, *_, start = await self.replay.recv_multipart()
            first = int.from_bytes(start, "big")
            self.asked.append(first)
            for sequence, payload in list(enumerate(self.batches))[first:]:
                frames = (client, b"", sequence.to_bytes(8, "big"), payload)
                await self.replay.send_multipart(frames)
            await self.replay.send_multipart(
                (client, b"", (-1).to_bytes(8, "big", signed=True), b"")
            )

    async def close(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.context.destroy(linger=0)


@pytest.fixture
async def publisher():
    made = Publisher()
    yield made
    await made.close()


@pytest.fixture
async def rig():
    rig = Rig("--kv-events", "--scrape-seconds", "60")
    await rig.start()
    yield rig
    await rig.router.kv_events.close()
    await rig.stop()


def stored(number, tokens):
    """One block of four tokens, the first of its prompt."""
    return ["BlockStored", [number], None, tokens, 4, None]


def blocks(rig, *prompts):
    index = next(iter(rig.pools.by_model.values())).dispatcher.cached.blocks
    return [index.match(block_keys(tokens, 4)).get("default/a", 0) for tokens in prompts]


async def follow(rig, engine_factory, publisher):
    engine = await engine_factory(whole(publisher.sources()))
    replica = rig.add("a", engine.port)
    rig.router.on_upsert(replica)
    index = rig.pools.by_model["m"].dispatcher.cached.blocks
    await until(lambda: index.follows("default/a") and publisher.asked)
    await asyncio.sleep(0.1)
    return replica


ONE, TWO, THREE = [1] * 4, [2] * 4, [3] * 4


async def test_what_a_cache_holds_already_is_replayed_and_then_it_is_heard(
    rig, engine_factory, publisher
):
    await publisher.say(stored(1, ONE))
    await follow(rig, engine_factory, publisher)
    await until(lambda: blocks(rig, ONE) == [1])
    await publisher.say(stored(2, TWO), ["BlockRemoved", [1]])
    await until(lambda: blocks(rig, ONE, TWO) == [0, 1])
    assert publisher.asked == [0]


async def test_a_gap_is_replayed_and_counted(rig, engine_factory, publisher):
    await follow(rig, engine_factory, publisher)
    await publisher.say(stored(1, ONE))
    await until(lambda: blocks(rig, ONE) == [1])
    await publisher.say(stored(2, TWO), is_lost=True)
    await publisher.say(stored(3, THREE))
    await until(lambda: blocks(rig, ONE, TWO, THREE) == [1, 1, 1])
    assert publisher.asked == [0, 1]
    assert b"kv_event_gaps_total{" in rig.router.metrics.render()


async def test_a_gap_that_cannot_be_replayed_empties_what_is_known(rig, engine_factory, publisher):
    await follow(rig, engine_factory, publisher)
    await publisher.say(stored(1, ONE))
    await until(lambda: blocks(rig, ONE) == [1])
    await publisher.say(stored(2, TWO), is_lost=True)
    publisher.batches = [b""] * 0
    payload = msgpack.packb([9.0, [stored(3, THREE)], 0])
    await publisher.live.send_multipart((b"", (5).to_bytes(8, "big"), payload))
    await until(lambda: blocks(rig, ONE, THREE) == [0, 1])


async def test_an_engine_that_begins_anew_has_an_empty_cache(rig, engine_factory, publisher):
    await follow(rig, engine_factory, publisher)
    for number, tokens in ((1, ONE), (2, TWO)):
        await publisher.say(stored(number, tokens))
    await until(lambda: blocks(rig, ONE, TWO) == [1, 1])
    publisher.batches = []
    await publisher.say(stored(7, THREE), at=100.0)
    await until(lambda: blocks(rig, ONE, TWO, THREE) == [0, 0, 1])


async def test_a_replica_that_publishes_nothing_is_guessed_and_said_so_once(
    rig, engine_factory, caplog
):
    engine = await engine_factory(whole(b"{}", b"404 Not Found"))
    rig.router.on_upsert(rig.add("a", engine.port))
    await until(lambda: "KV events cannot be heard" in caplog.text)
    assert not rig.pools.by_model["m"].dispatcher.cached.blocks.follows("default/a")


async def test_a_replica_that_goes_is_heard_no_more(rig, engine_factory, publisher):
    replica = await follow(rig, engine_factory, publisher)
    index = rig.pools.by_model["m"].dispatcher.cached.blocks
    rig.pools.configure({})
    rig.router.on_gone(replica)
    await until(lambda: not index.follows("default/a"))


async def test_a_prompt_goes_where_its_blocks_are(rig, tmp_path):
    """Two simulated engines, asked directly before the router ever saw a request."""
    from aiohttp.test_utils import TestServer

    (tmp_path / "config.json").write_text(json.dumps(TINY))
    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for _ in range(2):
            live, replay = free_port(), free_port()
            config = {
                "enable_kv_cache_events": True, "publisher": "zmq",
                "endpoint": f"tcp://*:{live}", "replay_endpoint": f"tcp://*:{replay}",
            }  # fmt: skip
            arguments = parse_arguments(
                ["--model", str(tmp_path), *FLAGS, "--simulator-time-scale", "0.01",
                 "--kv-events-config", json.dumps(config)]
            )  # fmt: skip
            server = EngineServer(arguments, arguments.standalone_spec())
            stepping = asyncio.create_task(server.run())
            stack.callback(stepping.cancel)
            http = TestServer(server.application(), host="127.0.0.1")
            await http.start_server()
            stack.push_async_callback(http.close)
            ports.append(http.port)
        prompt = [7] * 700

        def ask(port, model):
            fields = {"model": model, "prompt": prompt, "max_tokens": 1}
            return exchange(port, raw(json.dumps(fields).encode(), b"/v1/completions"))

        assert (await ask(ports[1], "tiny"))[0] == 200
        for name, port in zip("ab", ports, strict=True):
            rig.router.on_upsert(rig.add(name, port))
        index = rig.pools.by_model["m"].dispatcher.cached.blocks
        await until(lambda: index.num_blocks("default/b") == 5)
        assert index.block_tokens == 128
        rig.pools.configure({})
        rig.trust_all()
        fields = {"model": "m", "prompt": prompt, "max_tokens": 1}
        data = json.dumps(fields).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
        _, headers, _ = await exchange(
            rig.port, head + b"content-length: %d\r\n\r\n%b" % (len(data), data)
        )
        assert headers["x-memroute-replica"] == "default/b"
        assert "640 tokens cached" in headers["x-memroute-decision"]


def test_a_rank_whose_cache_is_cleared_takes_nothing_from_the_others():
    """Data-parallel ranks cache apart; one that restarts has lost its own blocks alone."""
    index = BlockIndex()
    index.follow("r")
    for rank, hashes in ((0, [1]), (1, [1]), (2, [b"x"])):
        event = {
            "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None,
            "token_ids": [rank] * 16, "block_size": 16,
        }  # fmt: skip
        apply_events(index, "r", [event], rank=rank)
    assert index.num_blocks("r") == 3
    apply_events(index, "r", [{"type": "AllBlocksCleared"}], rank=1)
    assert index.num_blocks("r") == 2
    apply_events(index, "r", [["AllBlocksCleared"]], rank=0)
    assert index.names("r") == [b"rank 2/x"]


async def test_replicas_that_serve_any_name_are_heard_too(rig, engine_factory, publisher):
    """Pods of a pool that somebody else wrote: nobody can ask for it by the name it is kept by."""
    rig.pools.any_name.add("m")
    await publisher.say(stored(1, ONE))
    await follow(rig, engine_factory, publisher)
    await until(lambda: blocks(rig, ONE) == [1])
