"""What the router learns from answers as they pass, over real sockets."""

import asyncio
import contextlib
import errno
import gzip
import json
from dataclasses import replace

import pytest

from memroute_router.http.client import Endpoint
from memroute_router.lifecycle.outcomes import Outcome
from router_rig import (
    CHUNK,
    Rig,
    begin_stream,
    body,
    exchange,
    raw,
    reset,
    send_chunk,
    until,
    whole,
)

USAGE = b'{"choices":[],"usage":{"prompt_tokens":2048,"completion_tokens":1234}}'
ENGINE_DEAD = (
    b'data: {"error":{"message":"EngineCore encountered an issue","type":"InternalServerError",'
    b'"code":500}}\n\n'
)


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    yield it
    await it.stop()


def stream_of(*pieces):
    """An engine that sends each piece by itself, and ends well."""

    async def script(_engine, writer):
        begin_stream(writer)
        for piece in pieces:
            send_chunk(writer, piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    return script


def record_of(rig):
    return rig.router.journal.recent[-1]


@pytest.mark.parametrize(
    "after", [b"20", b'"usa', b'_tokens":1', b'{"choices":[],"usage":{"prompt']
)
async def test_the_usage_is_read_wherever_a_read_ends(rig, engine_factory, after):
    """It was 20 prompt tokens instead of 2,048 when a read of the socket ended behind them."""
    at = USAGE.index(after) + len(after)
    continued = asyncio.Event()

    async def script(_engine, writer):
        length = str(len(USAGE)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: " + length + b"\r\n\r\n" + USAGE[:at])
        await writer.drain()
        await continued.wait()
        writer.write(USAGE[at:])

    engine = await engine_factory(script)
    rig.add("a", engine.port)
    asked = asyncio.create_task(exchange(rig.port, raw(body())))
    await until(lambda: engine.requests)
    (pool,) = rig.pools.by_model.values()
    await until(lambda: any(waiter._attempt.is_answering for waiter in pool._waiters.values()))
    continued.set()
    status, _, content = await asked
    assert (status, content) == (200, USAGE)
    assert (record_of(rig).prompt_tokens, record_of(rig).output_tokens) == (2048, 1234)


async def test_the_usage_of_a_stream_is_read_and_what_was_cached(rig, engine_factory):
    told = USAGE[:-2] + b',"prompt_tokens_details":{"cached_tokens":1024}}}'
    event = b"data: " + told + b"\n\n"
    engine = await engine_factory(
        stream_of(CHUNK, CHUNK, event[:60], event[60:], b"data: [DONE]\n\n")
    )
    rig.add("a", engine.port)
    assert (await exchange(rig.port, raw(body(stream=True))))[0] == 200
    record = record_of(rig)
    assert (record.prompt_tokens, record.output_tokens, record.cached_tokens) == (2048, 1234, 1024)
    rig.router.journal.flush()
    assert "prompt_tokens=2048 cached_tokens=1024 output_tokens=1234" in rig.lines[-1]


async def test_events_are_counted_in_any_legal_spelling(rig, engine_factory):
    """Without the space after the colon none was seen: the clock of the whole replica stood."""
    seen = asyncio.Event()
    go_on = asyncio.Event()

    async def script(_engine, writer):
        begin_stream(writer)
        for _ in range(10):
            send_chunk(writer, b'data:{"token":{"text":"a"}}\r\n\r\n')
        await writer.drain()
        seen.set()
        await go_on.wait()
        writer.write(b"0\r\n\r\n")

    engine = await engine_factory(script)
    rig.add("a", engine.port)
    asked = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    await seen.wait()
    (pool,) = rig.pools.by_model.values()
    await until(lambda: [lease.num_events for lease in pool._waiters] == [10])
    go_on.set()
    assert (await asked)[0] == 200


async def test_an_error_at_the_end_of_a_stream_is_the_engines_error(rig, engine_factory):
    """A vLLM whose engine core has died answers so, for ever and fast: 200, an error, [DONE]."""
    engine = await engine_factory(stream_of(ENGINE_DEAD, b"data: [DONE]\n\n"))
    rig.add("a", engine.port)
    for _ in range(5):
        assert not rig.replicas[0].health.is_out
        status, _, content = await exchange(rig.port, raw(body(stream=True)))
        assert (status, content) == (200, ENGINE_DEAD + b"data: [DONE]\n\n")
    assert {record.outcome for record in rig.router.journal.recent} == {Outcome.ENGINE_ERROR}
    assert rig.replicas[0].health.is_out, "five errors in a row"
    rig.router.journal.flush()
    assert 'refusal="the engine ended its stream with an error (500)"' in "".join(rig.lines)
    assert rig.reserved == 0


async def test_an_engine_that_fails_in_every_answer_is_out_though_each_begins_well(
    rig, engine_factory
):
    """A first token is no proof of health where no answer comes to its end."""
    engine = await engine_factory(stream_of(CHUNK, CHUNK, ENGINE_DEAD, b"data: [DONE]\n\n"))
    rig.add("a", engine.port)
    for _ in range(5):
        await exchange(rig.port, raw(body(stream=True)))
    assert rig.replicas[0].health.is_out


async def test_an_error_that_is_the_requests_fault_takes_no_replica_out(rig, engine_factory):
    refused = b'data: {"error":{"message":"bad","type":"BadRequestError","code":400}}\n\n'
    engine = await engine_factory(stream_of(refused, b"data: [DONE]\n\n"))
    rig.add("a", engine.port)
    for _ in range(8):
        await exchange(rig.port, raw(body(stream=True)))
    assert {record.outcome for record in rig.router.journal.recent} == {Outcome.SERVED}
    assert not rig.replicas[0].health.is_out


async def test_one_stream_that_ends_well_brings_a_replica_back(rig, engine_factory):
    engine = await engine_factory(stream_of(CHUNK, b"data: [DONE]\n\n"))
    replica = rig.add("a", engine.port)
    replica.health.fault(now_seconds=0.0)
    assert (await exchange(rig.port, raw(body(stream=True))))[0] == 200
    assert not replica.health.is_out


async def test_a_stream_that_began_before_a_fault_does_not_bring_its_replica_back(
    rig, engine_factory
):
    """What an engine began in better times says nothing of now."""
    go_on = asyncio.Event()

    async def script(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        await writer.drain()
        await go_on.wait()
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    engine = await engine_factory(script)
    replica = rig.add("a", engine.port)
    asked = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    (pool,) = rig.pools.by_model.values()
    await until(lambda: [lease.num_events for lease in pool._waiters] == [1])
    replica.health.fault(now_seconds=rig.pools.now_seconds())
    go_on.set()
    assert (await asked)[0] == 200
    assert replica.health.is_out


async def test_a_compressed_stream_passes_at_once_and_is_not_counted(rig, engine_factory):
    """No end of an event can be found in it: it was held back to its end."""
    packed = gzip.compress(CHUNK * 50)
    go_on = asyncio.Event()

    async def script(_engine, writer):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
        writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
        send_chunk(writer, packed[:-5])
        await writer.drain()
        await go_on.wait()
        send_chunk(writer, packed[-5:])
        writer.write(b"0\r\n\r\n")

    engine = await engine_factory(script)
    rig.add("a", engine.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw(body(stream=True)))
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-encoding: gzip" in head
        await reader.readline()
        assert await reader.readexactly(len(packed) - 5) == packed[:-5]
    (pool,) = rig.pools.by_model.values()
    ((lease, waiter),) = pool._waiters.items()
    assert waiter._attempt.is_answering
    assert (lease.num_events, lease.is_paused) == (1, True), "that it began is all that shows"
    go_on.set()
    await until(lambda: not rig.num_leases)
    record = record_of(rig)
    assert (record.outcome, record.output_tokens) == (Outcome.SERVED, None)
    writer.close()


async def test_engines_are_not_asked_to_compress(rig, engine_factory):
    """What the router cannot read teaches it nothing."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    data = body()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip, br\r\n"
    await exchange(rig.port, head + b"content-length: %d\r\n\r\n%s" % (len(data), data))
    assert b"accept-encoding" not in engine.requests[0][0].lower()


@pytest.mark.slow
async def test_an_answer_whose_client_is_slow_is_known_to_be_out_of_sight(rig, engine_factory):
    """Its replica goes on; only the router does not see it."""

    async def fast(_engine, writer):
        begin_stream(writer)
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                send_chunk(writer, CHUNK * 500)
                await writer.drain()
        writer.write(b"0\r\n\r\n")

    engine = await engine_factory(fast)
    rig.add("a", engine.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
    writer.write(raw(body(stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    (pool,) = rig.pools.by_model.values()
    (lease,) = pool._waiters
    await until(lambda: lease.is_paused)
    paused = lease.is_paused
    while not reader.at_eof() and lease.is_paused:
        await reader.read(65536)
    assert paused
    assert not lease.is_paused
    writer.close()
    await until(lambda: not rig.num_leases)


async def test_a_body_is_let_go_with_the_first_byte_of_its_answer(rig, engine_factory):
    """A stream lasts for minutes, and no other replica will get the request."""
    go_on = asyncio.Event()

    async def script(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        await writer.drain()
        await go_on.wait()
        writer.write(b"0\r\n\r\n")

    engine = await engine_factory(script)
    rig.add("a", engine.port)
    asked = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    (pool,) = rig.pools.by_model.values()
    await until(lambda: any(w._attempt.is_answering for w in pool._waiters.values()))
    (waiter,) = pool._waiters.values()
    assert (waiter._intake, waiter._exchange.body) == (None, b"")
    go_on.set()
    assert (await asked)[0] == 200


async def test_the_log_says_why_and_a_client_cannot_forge_its_lines(rig, engine_factory):
    """The model is the client's to name, newlines, quotes and terminal codes included."""
    engine = await engine_factory(reset)
    rig.add("a", engine.port)
    forged = 'x\nINFO request id=1 outcome=served\x1b[2J "'
    assert (await exchange(rig.port, raw(body(model=forged))))[0] == 404
    assert (await exchange(rig.port, raw(body(model="y" * 9000))))[0] == 404
    assert (await exchange(rig.port, raw(body())))[0] == 502
    rig.router.journal.flush()
    lines = "".join(rig.lines).splitlines()
    assert len(lines) == 3
    assert r'model="x\nINFO request id=1 outcome=served\x1b[2J ' in lines[0]
    assert "model=" + "y" * 128 + " outcome=unknown-model" in lines[1]
    assert all(line.isprintable() and len(line) < 1500 for line in lines)
    assert 'refusal="1 replica(s) failed before answering: default/a"' in lines[2]
    assert max(len(json.dumps(r.document())) for r in rig.router.journal.recent) < 2000


async def test_a_name_that_no_resolver_can_be_asked_for_is_a_replica_that_failed(rig):
    """Its requests were never told, and waited until their clients left."""
    replica = rig.add("a", 80)
    rig.pools.remove_replica("default/a")
    endpoint = Endpoint("a" * 80 + ".example", 80)
    rig.pools.upsert_replica(replace(replica.info, endpoint=endpoint))
    status, headers, _ = await exchange(rig.port, raw(body()))
    assert (status, headers["x-memroute-reason"]) == (502, "replicas-failed")


async def nonsense(_engine, writer):
    writer.write(b"\x00nonsense\r\n\r\n")
    await writer.drain()


async def silence(engine, _writer):
    await engine.reader.read()
    return False


@pytest.mark.parametrize(
    ("script", "cause"),
    [(reset, "connection-lost"), (nonsense, "malformed"), (silence, "timeout")],
    ids=["reset", "nonsense", "silence"],
)
async def test_a_retry_says_what_happened_to_the_attempt_before(engine_factory, script, cause):
    rig = Rig("--first-byte-timeout-seconds", "0.3")
    await rig.start()
    bad, good = await engine_factory(script), await engine_factory(whole())
    rig.add("bad", bad.port)
    rig.add("good", good.port)
    rig.prefer("bad")
    assert (await exchange(rig.port, raw(body())))[0] == 200
    (pool,) = rig.pools.by_model.values()
    assert rig.router.metrics.of(pool).retries == {cause: 1}
    await rig.stop()


async def test_a_request_whose_replica_leaves_the_fleet_goes_elsewhere(rig, engine_factory):
    """A node that died sends no reset: who waits for it is told by discovery."""
    gone, good = await engine_factory(silence), await engine_factory(whole())
    rig.add("gone", gone.port)
    rig.add("good", good.port)
    rig.prefer("gone")
    asked = asyncio.create_task(exchange(rig.port, raw(body())))
    await until(lambda: gone.requests)
    rig.router.on_gone(rig.pools.remove_replica("default/gone"))
    assert (await asked)[0] == 200
    (pool,) = rig.pools.by_model.values()
    assert rig.router.metrics.of(pool).retries == {"replica-gone": 1}


async def test_retries_are_counted_by_what_happened_not_by_its_words(
    rig, engine_factory, monkeypatch
):
    """The cause is typed: whatever an error's text says. Two of three attempts find a replica."""

    async def hopeless(*_args, **_kwargs):
        raise OSError(errno.ECONNREFUSED, "nothing arrived in time, they say")

    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    rig.add("b", engine.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", hopeless)
    writer.write(raw(body()))
    async with asyncio.timeout(30):
        assert b" 502 " in await reader.readline()
    writer.close()
    (pool,) = rig.pools.by_model.values()
    assert rig.router.metrics.of(pool).retries == {"no-connection": 2}
