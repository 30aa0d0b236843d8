"""What one client or engine can make the router hold has an end, and others are answered meanwhile.

``python -m bench.bounds`` holds a running router against its ``--max-memory``; these are the kinds
that it has found, one by one.
"""

import asyncio
import tracemalloc

import pytest

from memroute_router.http.budget import BodyBudget
from memroute_router.lifecycle.documents import DocumentRoom, document_bytes
from memroute_router.lifecycle.events import MAX_EVENT_BYTES, EventStream
from memroute_router.memory import MemoryWatch, documents_bytes, num_connections
from memroute_router.surface import ROUTES
from router_rig import (
    Rig,
    begin_stream,
    body,
    exchange,
    held,
    raw,
    read_answer,
    send_chunk,
    until,
    whole,
)

KIB, MIB = 1024, 1024**2


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0", body_bytes=64 * MIB)
    await it.start()
    yield it
    await it.stop()


def limited(rig, num_bytes, *, slow_seconds=0.0):
    """As if so little might be held, and whoever is slow is slow at once."""
    budget = rig.router.server.budget
    budget._max_bytes, budget._max_large_bytes = num_bytes, int(0.9 * num_bytes)
    budget._slow_seconds = slow_seconds
    return budget


async def begin(rig, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(data)
    return reader, writer


def pouring(first, repeated):
    """An engine whose answer has no end; it ends when nobody takes it any more."""

    async def script(_engine, writer):
        writer.write(first)
        while True:
            writer.write(repeated)
            await writer.drain()

    return script


CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


@pytest.mark.parametrize(
    ("first", "repeated", "status", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\n" + CHUNKED, CHUNK, 503, "engine-push-back"),
        (b"HTTP/1.1 502 Gone\r\n" + CHUNKED, CHUNK, 502, "engine-error"),
        (b"HTTP/1.1 200 OK\r\nx-long: ", b"x" * 60_000, 502, "replicas-failed"),
        (b"HTTP/1.1 200 OK\r\n", b"x-many: 1\r\n" * 5000, 502, "replicas-failed"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, 502, "replicas-failed"),
        (b"HTTP/1.1 103 Early\r\nx-long: ", b"x" * 60_000, 502, "replicas-failed"),
        (
            b"HTTP/1.1 503 Busy\r\n" + CHUNKED + b"1\r\nx\r\n0\r\nx-long: ",
            b"x" * 60_000,
            502,
            "replicas-failed",
        ),
    ],
    ids=["refusal", "bad gateway", "field", "fields", "interim", "interim field", "trailer"],
)
async def test_what_an_engine_says_without_an_end_is_read_to_a_bound(
    rig, engine_factory, first, repeated, status, reason
):
    """810 MiB were resident three seconds after 32 requests to an engine that refused at length."""
    engine = await engine_factory(pouring(first, repeated))
    rig.add("a", engine.port)
    told, headers, _ = await exchange(rig.port, raw(body()))
    assert (told, headers["x-memroute-reason"]) == (status, reason)
    async with asyncio.timeout(5):
        await engine.cancelled.wait()


async def test_a_trailer_without_an_end_breaks_off_the_stream(rig, engine_factory):
    first = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + CHUNKED
    event = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    first += b"%x\r\n%s\r\n0\r\nx-long: " % (len(event), event)
    rig.add("a", (await engine_factory(pouring(first, b"x" * 60_000))).port)
    status, _, content = await exchange(rig.port, raw(body(stream=True)))
    assert status == 200
    assert b"stream-broken" in content


async def test_chunks_whose_sizes_come_alone_are_no_framing_without_an_end(rig, engine_factory):
    """Some engines write the size of a chunk, the chunk and its end by themselves, for hours."""

    async def script(_engine, writer):
        begin_stream(writer)
        for _ in range(300):
            for piece in (b"000000000000400\r\n", b"x" * 1024, b"\r\n"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    rig.add("a", (await engine_factory(script)).port)
    status, _, content = await exchange(rig.port, raw(body(stream=True)))
    assert (status, len(content)) == (200, 300 * 1024)


def slow(kind):
    """What a slow client has sent so far, 50 KB."""
    if kind == "head":
        return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-long: " + b"v" * (50 * KIB)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n"
    return head + b" " * (50 * KIB)


@pytest.mark.parametrize("kind", ["head", "body"])
async def test_who_sends_slowly_makes_room_for_who_comes_at_once(rig, engine_factory, kind):
    """Ten thousand that never come to an end hold what there is, and honest clients got 503."""
    rig.add("a", (await engine_factory(whole())).port)
    budget = limited(rig, 470 * KIB, slow_seconds=3600.0)
    clients = [await begin(rig, slow(kind)) for _ in range(9)]
    await until(lambda: budget.held_bytes >= 9 * 50 * KIB)
    budget._slow_seconds = 0.0
    large = raw(body(user="u" * 45_000))
    assert (await exchange(rig.port, large))[0] == 200
    status, headers, _ = await read_answer(clients[0][0])
    assert (status, headers["x-memroute-reason"]) == (503, "router-exhausted")
    assert (await exchange(rig.port, raw(body())))[0] == 200
    for _, writer in clients:
        writer.close()
    await until(lambda: budget.held_bytes == 0 and not budget._slow)


async def test_who_has_just_begun_makes_no_room(rig, engine_factory):
    """Else each large body that comes ends the one before it, and none is ever whole."""
    rig.add("a", (await engine_factory(whole())).port)
    budget = limited(rig, 300 * KIB, slow_seconds=3600.0)
    clients = [await begin(rig, slow("body")) for _ in range(5)]
    await until(lambda: budget.held_bytes >= 5 * 50 * KIB)
    status, _, _ = await exchange(rig.port, raw(body(user="u" * 60_000)))
    assert status == 503
    assert budget.held_bytes >= 5 * 50 * KIB
    for _, writer in clients:
        writer.close()


async def test_what_waits_behind_a_request_makes_room(rig, engine_factory):
    """Sixteen to a connection, each with 60 KB of fields: the small part was theirs for minutes."""
    never = asyncio.Event()
    rig.add("a", (await engine_factory(held(never))).port, capacity=10**6)
    budget = limited(rig, 300 * KIB, slow_seconds=3600.0)
    fields = b"host: x\r\nx-long: " + b"v" * (50 * KIB)
    behind = raw(body()).replace(b"host: x", fields)
    reader, writer = await begin(rig, raw(body()) + behind * 4)
    await until(lambda: budget.held_bytes > 200 * KIB)
    budget._slow_seconds = 0.0
    another = asyncio.create_task(exchange(rig.port, behind * 1))
    third = asyncio.create_task(exchange(rig.port, behind * 1))
    await until(lambda: len(rig.router.services.journal.recent) or rig.num_leases == 3)
    assert rig.num_leases == 3
    never.set()
    assert [(await another)[0], (await third)[0]] == [200, 200]
    assert (await read_answer(reader))[0] == 200
    status, headers, _ = await read_answer(reader)
    assert (status, headers["x-memroute-reason"]) == (503, "router-exhausted")
    assert await reader.read() == b""
    writer.close()
    await until(lambda: budget.held_bytes == 0 and not budget._slow)


async def test_heads_count_while_a_request_waits_for_its_answer(rig, engine_factory):
    """60 KB of fields for the engine are kept as its body is, and dropped at the first byte."""
    never, begins = asyncio.Event(), asyncio.Event()

    async def script(_engine, writer):
        await begins.wait()
        begin_stream(writer)
        send_chunk(writer)
        await writer.drain()
        await never.wait()

    rig.add("a", (await engine_factory(script)).port)
    budget = rig.router.server.budget
    asked = raw(body(stream=True)).replace(b"host: x", b"host: x\r\nx-a: " + b"v" * 60_000)
    reader, writer = await begin(rig, asked)
    await until(lambda: budget.held_bytes > 60_000)
    (connection,) = rig.router.server._state.connections
    begins.set()
    await reader.readuntil(b"\r\n\r\n")
    assert budget.held_bytes == 0
    assert connection._exchange.lines == b""
    never.set()
    writer.close()


@pytest.mark.parametrize("size", [30_000, 70_000])
async def test_a_pipelined_request_is_not_blamed_for_the_bytes_before_it(rig, engine_factory, size):
    """One read has several requests and the beginning of one: all of it was held against that."""
    rig.add("a", (await engine_factory(whole())).port, capacity=10**9)
    large = raw(body(user="u" * size))
    last = raw(body(user="v" * 1000)).replace(b"host: x", b"host: x\r\nx-a: " + b"v" * 9000)
    for part in (5000, len(last) - 500):
        reader, writer = await begin(rig, large * 8 + last[:part])
        for _ in range(8):
            assert (await read_answer(reader))[0] == 200
        writer.write(last[part:])
        assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_nothing_is_kept_of_what_comes_after_a_refusal(rig, engine_factory):
    """Its connection lives as long as the request before it, which may be a stream of hours."""
    never = asyncio.Event()
    rig.add("a", (await engine_factory(held(never))).port)
    _, writer = await begin(rig, raw(body()) + b"nonsense\r\n\r\n")
    await until(lambda: rig.router.server.num_connections)
    (connection,) = rig.router.server._state.connections
    await until(lambda: connection._last_words)
    writer.write(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000 + b"x-long: " + b"v" * MIB)
    await writer.drain()
    await until(lambda: connection._transport.get_extra_info("socket") is not None)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert connection._reader._head.num_fields <= 1
    assert rig.router.server.budget.held_bytes == len(body())
    writer.close()
    never.set()


async def test_no_document_waits_with_its_request(rig, engine_factory):
    """A body of 32 MB is a gigabyte as objects, and a request may wait for minutes."""
    never = asyncio.Event()
    rig.add("a", (await engine_factory(held(never))).port)
    _, writer = await begin(rig, raw(body()))
    await until(lambda: rig.num_leases)
    (connection,) = rig.router.server._state.connections
    assert connection._exchange.sink._intake is None
    never.set()
    writer.close()


WORST = {
    "lists": b'"x":[' + b"[]," * 100_000 + b"[]]",
    "objects": b'"x":[' + b'{"a":1},' * 40_000 + b"1]",
    "keys": b'"x":{' + b",".join(b'"%07d":1' % n for n in range(30_000)) + b"}",
    "numbers": b'"x":[' + b"99999," * 50_000 + b"1]",
    "wide text": b'"x":"' + "\N{GRINNING FACE}".encode() + b"word " * 60_000 + b'"',
    "escaped": b'"x":"\\ud83d\\ude00' + b"word " * 60_000 + b'"',
}


@pytest.mark.parametrize("kind", WORST)
async def test_a_body_that_would_be_too_large_as_objects_is_refused_before_it_is_read(
    rig, engine_factory, kind
):
    """32 MiB of empty lists took 1.5 GB, and the kernel ended the router."""
    rig.add("a", (await engine_factory(whole())).port, capacity=10**9)
    room = DocumentRoom(3 * MIB)
    object.__setattr__(rig.router.services.intake, "documents", room)
    large = body()[:-1] + b"," + WORST[kind] + b"}"
    status, _, content = await exchange(rig.port, raw(large))
    assert status == 413
    assert b"the router has 3 for that" in content
    assert room.held_bytes == 0
    rig.router.journal.flush()
    assert " cause=document-too-large " in rig.lines[-1]
    assert (await exchange(rig.port, raw(body(user="u" * 300_000))))[0] == 200
    assert room.held_bytes == 0


async def test_where_documents_wait_for_their_tokens_others_are_told_to_come_back(
    rig, engine_factory, monkeypatch
):
    rig.add("a", (await engine_factory(whole())).port, capacity=10**9)
    room = DocumentRoom(3 * MIB)
    object.__setattr__(rig.router.services.intake, "documents", room)
    waiting = []
    tokenizers = rig.router.tokenizers
    monkeypatch.setattr(rig.pools.by_model["m"], "settings", None)
    monkeypatch.setattr(type(tokenizers), "of", lambda *_: object())
    monkeypatch.setattr(tokenizers, "folder", object())
    monkeypatch.setattr(type(tokenizers), "media", lambda *_: None)

    def encode(_self, _tokenizer, _document, on_done):
        waiting.append(on_done)
        return True

    monkeypatch.setattr(type(tokenizers), "encode", encode)
    large = raw(body(user="u" * 600_000))
    first = asyncio.create_task(exchange(rig.port, large))
    await until(lambda: waiting)
    status, headers, _ = await exchange(rig.port, large)
    assert (status, headers["x-memroute-reason"]) == (503, "router-exhausted")
    assert headers["retry-after"] == "1"
    waiting.pop()(None)
    assert (await first)[0] == 200
    assert room.held_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORST)
def test_a_document_takes_no_more_than_is_estimated(kind):
    """By CPython's own count of what was made: lists, dicts, strings and numbers."""
    parse = ROUTES[b"/v1/chat/completions"].parse
    parse(body(), b"application/json")
    large = b'{"model":"m","messages":[{"role":"user","content":"a"}],' + WORST[kind] + b"}"
    tracemalloc.start()
    try:
        parse(large, b"application/json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= document_bytes(large) + 64 * KIB


def test_a_long_event_is_passed_on_in_pieces_where_there_is_no_room_for_it():
    """An event may have a megabyte, and a thousand streams of an engine gone wild a gigabyte."""
    budget = BodyBudget(300 * KIB)
    streams = [EventStream(budget=budget) for _ in range(3)]
    for stream in streams:
        assert stream.pass_on(b"data: {" + b"x" * 50_000) == b""
    assert budget.held_bytes == 0  # short ones are not counted
    passed = [b"", b"", b""]
    for number, stream in enumerate(streams):
        passed[number] += stream.pass_on(b"x" * 50_000)
        passed[number] += stream.pass_on(b"x" * 50_000)
    assert budget.held_bytes <= 300 * KIB
    assert any(passed)
    assert not all(passed)
    for number, stream in enumerate(streams):
        passed[number] += stream.pass_on(b"}\n\n")
    assert {len(each) for each in passed} == {len(b"data: {}\n\n") + 150_000}
    assert budget.held_bytes == 0
    last = EventStream(budget=budget)
    last.pass_on(b"data: " + b"x" * 100_000)
    assert budget.held_bytes > 100_000
    last.end()
    assert budget.held_bytes == 0
    uncounted = EventStream()
    assert uncounted.pass_on(b"data: " + b"x" * (MAX_EVENT_BYTES - 6)) == b""
    assert uncounted.pass_on(b"x") != b""


class Holder:
    """A slow client of so many bytes."""

    def __init__(self, budget, num_bytes):
        self._budget, self.num_bytes = budget, num_bytes

    def give_up(self):
        held, self.num_bytes = self.num_bytes, 0
        self._budget.give_back(held)


def test_the_slowest_makes_room_first_and_no_more_than_is_needed():
    budget = BodyBudget(100)
    holders = [Holder(budget, 20) for _ in range(5)]
    for holder in holders:
        assert budget.take(20, 20)
        budget.slow(holder)
    assert not budget.take(1, 1)  # none has been slow for a second
    budget._slow_seconds = 0.0
    budget.not_slow(holders[1])
    assert budget.take(30, 30)
    assert [holder.num_bytes for holder in holders] == [0, 20, 0, 20, 20]
    assert budget.held_bytes == 90
    assert not budget.take(200, 200)
    assert [holder.num_bytes for holder in holders] == [0, 20, 0, 0, 0]


def test_free_memory_is_given_back_near_the_limit_and_not_all_the_time():
    resident, trimmed = [100], []
    watch = MemoryWatch(1000, resident_bytes=lambda: resident[0], trim=lambda: trimmed.append(1))
    watch.tick(1.0)
    resident[0] = 900
    watch.tick(1.1)
    assert not trimmed  # it looks twice a second
    for tenth in range(20, 100):
        watch.tick(tenth / 10)
    assert len(trimmed) == 2
    MemoryWatch(1).tick(1.0)  # this process: it does not fail


def test_the_parts_of_the_limit_leave_room_for_what_is_not_counted():
    """Worked by hand for 1 GiB: 128 MiB of its own, and of 896 a quarter for each part."""
    assert documents_bytes(1024 * MIB) == 224 * MIB
    assert num_connections(1024 * MIB) == 14_336
    assert num_connections(1) == 256
    assert documents_bytes(1) == 128 * MIB


async def test_an_idle_connection_keeps_nothing_of_its_last_head(rig, engine_factory):
    """Ten thousand clients that wait after 60 KB of fields held 350 MB; an engine's, likewise."""

    async def script(_engine, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: " + b"v" * 60_000)
        writer.write(b"\r\n\r\n{}")

    rig.add("a", (await engine_factory(script)).port)
    asked = raw(body()).replace(b"host: x", b"host: x\r\nx-a: " + b"v" * 60_000)
    reader, writer = await begin(rig, asked)
    assert (await read_answer(reader))[0] == 200
    (connection,) = rig.router.server._state.connections
    assert connection._reader._head.num_bytes == 0
    assert [kept.head.num_bytes for kept in rig.replicas[0].upstream.idle][-1] == 0
    writer.close()
