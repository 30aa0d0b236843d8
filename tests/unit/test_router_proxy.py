"""The data path over real sockets: our server, our client side, scripted engines."""

import asyncio
import contextlib
import errno
import json
import random
import socket
import time

import pytest

from memroute_router.lifecycle.outcomes import Outcome
from router_rig import (
    CHUNK,
    Rig,
    begin_stream,
    body,
    exchange,
    held,
    raw,
    read_answer,
    reset,
    send_chunk,
    until,
    whole,
)


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    yield it
    await it.stop()


async def test_bytes_go_through_unchanged_and_the_lease_comes_back(rig, engine_factory):
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    sent = body(temperature=0.123456789)
    status, headers, content = await exchange(rig.port, raw(sent))
    assert (status, content) == (200, b'{"ok":true}')
    assert engine.requests[0][1] == sent
    assert headers["x-request-id"]
    assert rig.reserved == 0


async def test_a_replica_that_dies_before_its_first_byte_is_replaced(rig, engine_factory):
    """The client never notices."""
    dead, alive = await engine_factory(reset), await engine_factory(whole())
    rig.add("dead", dead.port)
    rig.add("alive", alive.port)
    rig.prefer("dead")
    status, _, _ = await exchange(rig.port, raw(body()))
    assert status == 200
    assert len(dead.requests) == 1
    # And it is not asked again before it has been read.
    await exchange(rig.port, raw(body()))
    assert len(dead.requests) == 1
    assert rig.reserved == 0


async def test_a_head_without_a_body_is_no_first_byte(rig, engine_factory):
    """Streaming engines send their head at once, long before the first token."""

    async def head_then_death(_engine, writer):
        begin_stream(writer)
        await writer.drain()
        await asyncio.sleep(0.05)
        return await reset(_engine, writer)

    async def good(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    dead, alive = await engine_factory(head_then_death), await engine_factory(good)
    rig.add("dead", dead.port)
    rig.add("alive", alive.port)
    rig.prefer("dead")
    status, _, content = await exchange(rig.port, raw(body(stream=True)))
    assert status == 200
    assert content == CHUNK + b"data: [DONE]\n\n"
    assert len(dead.requests) == 1


async def test_a_stream_that_breaks_ends_with_an_error_clients_raise(rig, engine_factory):
    async def broken(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        await writer.drain()
        await asyncio.sleep(0.05)
        return await reset(_engine, writer)

    engine = await engine_factory(broken)
    rig.add("a", engine.port)
    status, _, content = await exchange(rig.port, raw(body(stream=True)))
    assert status == 200
    assert content.startswith(CHUNK)
    events = content.decode().split("\n\n")
    error = json.loads(events[1].removeprefix("data: "))["error"]
    assert "the replica was lost" in error["message"]
    assert "default/a" not in error["message"]
    assert events[2] == "data: [DONE]"
    assert rig.reserved == 0


async def test_a_client_that_leaves_cancels_the_engines_work(rig, engine_factory):
    started = asyncio.Event()

    async def endless(_engine, writer):
        begin_stream(writer)
        started.set()
        while True:
            send_chunk(writer)
            await writer.drain()
            await asyncio.sleep(0.01)

    engine = await engine_factory(endless)
    rig.add("a", engine.port)
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw(body(stream=True)))
    await started.wait()
    assert rig.reserved > 0
    writer.close()
    async with asyncio.timeout(30):
        await engine.cancelled.wait()
    assert rig.reserved == 0


async def test_an_engine_that_pushes_back_is_not_broken_and_another_is_asked(rig, engine_factory):
    full = await engine_factory(whole(b'{"error":"busy"}', b"503 Service Unavailable"))
    free = await engine_factory(whole())
    rig.add("full", full.port)
    rig.add("free", free.port)
    rig.prefer("full")
    status, _, _ = await exchange(rig.port, raw(body()))
    assert status == 200
    assert len(full.requests) == 1
    assert not any(replica.health.is_out for replica in rig.replicas)


async def test_when_all_push_back_the_client_hears_it_and_when_to_come_back(rig, engine_factory):
    full = await engine_factory(whole(b'{"error":"busy"}', b"503 Service Unavailable"))
    rig.add("full", full.port)
    status, headers, content = await exchange(rig.port, raw(body()))
    assert (status, content) == (503, b'{"error":"busy"}')
    assert headers["retry-after"] == "2"
    assert headers["x-memroute-reason"] == "engine-push-back"


async def test_when_all_fail_the_client_is_told(rig, engine_factory):
    dead = await engine_factory(reset)
    rig.add("a", dead.port)
    status, headers, content = await exchange(rig.port, raw(body()))
    assert status == 502
    assert headers["x-memroute-reason"] == "replicas-failed"
    assert "default/a" not in content.decode()
    assert rig.reserved == 0


async def test_a_saturated_replica_is_429_with_a_reason_and_a_time(rig, engine_factory):
    """5 + 50 tokens hold more than half of 100: the same again is over the watermark of 95."""
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    first = asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))
    while not engine.requests:
        await asyncio.sleep(0.01)
    status, headers, content = await exchange(rig.port, raw(body(max_tokens=50)))
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert json.loads(content)["error"]["code"] == "saturated"
    release.set()
    assert (await first)[0] == 200


async def test_refusals_say_why(rig, engine_factory):
    engine = await engine_factory(whole())
    rig.add("a", engine.port, context=1000)
    status, headers, content = await exchange(rig.port, raw(body(max_tokens=5000)))
    assert (status, headers["x-memroute-reason"]) == (400, "never-fits")
    status, _, content = await exchange(rig.port, raw(body(model="nope")))
    assert status == 404
    assert "models: m" in json.loads(content)["error"]["message"]
    status, _, _ = await exchange(rig.port, raw(b"{"))
    assert status == 400
    assert engine.requests == []


async def test_the_client_may_ask_why(rig, engine_factory):
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    data = body()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
    _, headers, _ = await exchange(
        rig.port, head + b"content-length: %d\r\n\r\n%s" % (len(data), data)
    )
    assert headers["x-memroute-replica"] == "default/a"
    assert "projected kv use" in headers["x-memroute-decision"]
    assert b"x-memroute-explain" not in engine.requests[0][0]


async def test_requests_on_one_connection_are_answered_in_order(rig, engine_factory):
    """Pipelined and kept alive; the engine's connection is kept too."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw(body(model="nope")) + raw(body()) + raw(body()))
    statuses = [(await read_answer(reader))[0] for _ in range(3)]
    assert statuses == [404, 200, 200]
    assert engine.num_open == 1
    writer.close()


async def test_an_idle_connection_that_the_engine_closed_is_no_failure(rig, engine_factory):
    async def once(_engine, writer):
        await whole()(_engine, writer)
        await writer.drain()
        return False

    engine = await engine_factory(once)
    rig.add("a", engine.port)
    for _ in range(5):
        assert (await exchange(rig.port, raw(body())))[0] == 200
    assert not any(replica.health.is_out for replica in rig.replicas)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (raw(b"x" * 20_000), 413),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", 413),
    ],
)
async def test_malformed_and_oversized_requests_get_an_answer(rig, data, status):
    assert (await exchange(rig.port, data, until_closed=True))[0] == status


@pytest.mark.slow
async def test_a_slow_client_slows_the_engine_down(rig, engine_factory):
    """Nothing may pile up in the router: the engine's own socket has to fill."""
    sent = 0
    piece = CHUNK * 2000

    async def fast(_engine, writer):
        nonlocal sent
        begin_stream(writer)
        while sent < 400:
            send_chunk(writer, piece)
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    engine = await engine_factory(fast)
    rig.add("a", engine.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
    writer.write(raw(body(stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.3)
    # 400 pieces are 37 MB; kernel buffers hold some megabytes, the router some 100 KB.
    assert sent < 300
    writer.close()


@pytest.mark.slow
async def test_a_slow_reader_does_not_slow_the_others(rig, engine_factory):
    """Twenty clients that take nothing; one beside them gets its stream at once.

    Large events, not many: answers that nobody reads go on growing in the ledger, as fast as their
    events came.
    """
    large = CHUNK.replace(b"x", b"x" * 24_000)

    async def endless(engine, writer):
        begin_stream(writer)
        if b"quick" in engine.requests[-1][1]:
            for _ in range(50):
                send_chunk(writer)
            writer.write(b"0\r\n\r\n")
            return True
        with contextlib.suppress(ConnectionError):
            while not writer.transport.is_closing():
                send_chunk(writer, large)
                await writer.drain()
        return False

    engine = await engine_factory(endless)
    rig.add("a", engine.port, capacity=10_000_000)
    slow = []
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
        writer.write(raw(body(stream=True)))
        await reader.readuntil(b"\r\n\r\n")
        slow.append(writer)
    async with asyncio.timeout(30):
        status, _, content = await exchange(rig.port, raw(body(stream=True, user="quick")))
    assert (status, content) == (200, CHUNK * 50)
    for writer in slow:
        writer.transport.abort()
    await until(lambda: not rig.num_leases)


@pytest.mark.slow
async def test_a_client_that_takes_nothing_is_let_go_after_a_while(engine_factory):
    """It holds a lease, and an engine that waits for it."""
    rig = Rig("--stalled-client-seconds", "0.3")
    await rig.start()

    async def endless(_engine, writer):
        begin_stream(writer)
        with contextlib.suppress(ConnectionError):
            while not writer.transport.is_closing():
                send_chunk(writer, CHUNK * 2000)
                await writer.drain()
        return False

    engine = await engine_factory(endless)
    rig.add("a", engine.port, capacity=10_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
    writer.write(raw(body(stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: not rig.num_leases)
    assert [record.outcome for record in rig.router.journal.recent] == [Outcome.CLIENT_GONE]
    writer.close()
    await rig.stop()


async def test_a_request_that_must_wait_has_its_turn(engine_factory):
    """Two of 55 tokens do not fit into 100 at once: the second is held, then served."""
    rig = Rig("--max-queue-seconds", "5")
    await rig.start()
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    both = [asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50)))) for _ in range(2)]
    await until(lambda: rig.num_held == 1 and engine.requests)
    assert len(engine.requests) == 1
    release.set()
    assert [(await each)[0] for each in both] == [200, 200]
    assert max(record.queue_seconds or 0 for record in rig.router.journal.recent) > 0
    await rig.stop()


async def test_a_request_that_waits_in_vain_is_told_when_to_come_back(engine_factory):
    rig = Rig("--max-queue-seconds", "0.3")
    await rig.start()
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    first = asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))
    while not engine.requests:
        await asyncio.sleep(0.005)
    status, headers, content = await exchange(rig.port, raw(body(max_tokens=50)))
    assert (status, headers["x-memroute-reason"]) == (504, "queue-timeout")
    assert int(headers["retry-after"]) >= 1
    assert "waited for its time (0.3 s)" in json.loads(content)["error"]["message"]
    release.set()
    assert (await first)[0] == 200
    await rig.stop()


@pytest.mark.slow
async def test_retries_have_a_budget(engine_factory):
    """A fleet that fails gets no multiple of its load: a hundred in hand, a fifth, ten a second."""
    rig = Rig("--max-queue-seconds", "0")
    await rig.start()
    engines = [await engine_factory(whole(b"{}", b"503 Service Unavailable")) for _ in range(3)]
    for index, engine in enumerate(engines):
        rig.add(f"r{index}", engine.port)
    begun = time.monotonic()
    for _ in range(150):
        assert (await exchange(rig.port, raw(body())))[0] == 503
    seconds = time.monotonic() - begun
    asked = sum(len(engine.requests) for engine in engines)
    assert 250 <= asked <= 150 + 100 + 150 * 0.2 + 10 * seconds
    await rig.stop()


@pytest.mark.parametrize(
    ("flags", "way"),
    [
        ([], b"127.0.0.1"),
        (["--trust-headers"], b"10.1.1.1, 127.0.0.1"),
        (["--trusted-proxies", "10.0.0.0/8,127.0.0.1"], b"10.1.1.1, 127.0.0.1"),
        (["--trusted-proxies", "10.0.0.0/8"], b"127.0.0.1"),
    ],
)
async def test_tracing_fields_travel_and_the_way_is_noted(flags, way, engine_factory):
    """What a client says of its own way is believed only from who is known to tell the truth."""
    rig = Rig(*flags)
    await rig.start()
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    data = body()
    fields = (
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
        b"x-request-id: mine-1\r\nx-forwarded-for: 10.1.1.1\r\nproxy-connection: x\r\n"
        b"connection: x-secret\r\nx-secret: 1\r\nauthorization: Bearer key\r\n"
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.example\r\n" + fields
    _, headers, _ = await exchange(
        rig.port, head + b"content-length: %d\r\n\r\n%s" % (len(data), data)
    )
    seen = engine.requests[0][0]
    assert headers["x-request-id"] == "mine-1"
    for line in (
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        b"x-request-id: mine-1\r\n", b"x-forwarded-for: %b\r\n" % way,
        b"x-forwarded-host: api.example\r\n", b"x-forwarded-proto: http\r\n",
        b"authorization: Bearer key\r\n",
    ):  # fmt: skip
        assert line in seen
    assert b"x-secret" not in seen
    assert b"proxy-connection" not in seen
    (line,) = [line for line in rig.lines if "mine-1" in line] or [""]
    assert "key" not in line
    await rig.stop()


async def test_a_connection_too_many_is_told_so():
    """Rather than the process running out of files in the middle of something."""
    rig = Rig("--max-connections", "2")
    await rig.start()
    first = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    status, headers, _ = await read_answer(reader)
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
    assert await reader.read() == b""
    for _, each in [*first, (reader, writer)]:
        each.close()
    await rig.stop()


async def test_what_this_process_lacks_is_no_fault_of_the_replica(rig, engine_factory, monkeypatch):
    """Else a router without file descriptors would take the whole fleet out."""

    async def no_files(*_args, **_kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", no_files)
    status, headers, _ = await exchange_with_socket(rig.port, raw(body()))
    assert (status, headers["x-memroute-reason"]) == (503, "router-exhausted")
    assert headers["retry-after"] == "1"
    assert not any(replica.health.is_out for replica in rig.replicas)
    assert rig.reserved == 0


async def exchange_with_socket(port, data):
    """As ``exchange``, without the loop's own way to connect."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: asyncio.StreamReaderProtocol(reader), sock
    )
    transport.write(data)
    answer = await read_answer(reader)
    transport.close()
    return answer


@pytest.mark.slow
async def test_no_lease_is_left_after_any_mixture_of_ends(rig, engine_factory):
    """Served, refused, broken, retried, abandoned: 200 requests, and the ledger is empty."""
    rng = random.Random(3)

    async def erratic(_engine, writer):
        fate = rng.random()
        if fate < 0.3:
            return await reset(_engine, writer)
        if fate < 0.6:
            return await whole()(_engine, writer)
        begin_stream(writer)
        for _ in range(rng.randint(0, 5)):
            send_chunk(writer)
            await asyncio.sleep(0.001)
        if fate < 0.8:
            return await reset(_engine, writer)
        writer.write(b"0\r\n\r\n")
        return True

    for name in "abc":
        rig.add(name, (await engine_factory(erratic)).port)

    async def one():
        rig.trust_all()
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(rng.choice([0.005, 5])):
                await exchange(rig.port, raw(body(stream=rng.random() < 0.7)))

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(20)))
    await until(lambda: not rig.reserved)
