"""What becomes of a request when its replica dies: not delivered, died with it, or an error."""

import asyncio
import json
import re
from dataclasses import replace

import pytest

from memroute.traffic.dispatch import AdmissionMode, request_name
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.replicas.pool_settings import PoolSettings
from router_rig import (
    CHUNK,
    Engine,
    Rig,
    begin_stream,
    body,
    exchange,
    raw,
    read_answer,
    send_chunk,
    until,
    whole,
)

POISON = b"poison"


class Fleet:
    """A router and engines that die of what contains ``poison``."""

    def __init__(self, num, die, *flags):
        self.rig = Rig("--max-queue-seconds", "0", *flags)
        self._die = die
        self.killed = []
        self.engines = [Engine(self._serve) for _ in range(num)]

    async def _serve(self, engine, writer):
        request = engine.requests[-1][1]
        if POISON in request:
            return await self._die(self, engine, writer)
        return await whole()(engine, writer)

    def kill(self, engine, writer):
        """The process ends: every connection is reset, nobody listens any more."""
        if engine not in self.killed:
            self.killed.append(engine)
            engine._server.close()
        for each in list(engine.writers):
            each.transport.abort()
        writer.transport.abort()
        return False

    async def start(self):
        await self.rig.start()
        for number, engine in enumerate(self.engines):
            engine.writers = set()
            await engine.start()
            self.rig.add("abcdefgh"[number], engine.port)

        settings = PoolSettings(namespace="", deployment="m", admission=AdmissionMode.OFF)
        self.rig.pools.configure({"m": settings})

    def only(self, names):
        """These replicas get what comes from now on."""
        for replica in self.rig.replicas:
            replica.info = replace(replica.info, is_routable=replica.info.pod in names)
            replica.backend.is_routable = replica.info.is_routable

    async def stop(self):
        await self.rig.stop()
        for engine in self.engines:
            await engine.stop()

    async def ask(self, **fields):
        return await exchange(self.rig.port, raw(body(**fields)))

    def outcomes(self):
        return [record.outcome for record in self.rig.router.journal.recent]


async def at_once(fleet, engine, writer):
    return fleet.kill(engine, writer)


async def after_its_head(fleet, engine, writer):
    begin_stream(writer)
    await writer.drain()
    await asyncio.sleep(0.02)
    return fleet.kill(engine, writer)


async def after_a_while(fleet, engine, writer):
    await asyncio.sleep(0.4)
    return fleet.kill(engine, writer)


async def in_an_orderly_way(fleet, engine, writer):
    fleet.killed.append(engine)
    engine._server.close()
    writer.close()
    return False


async def answering_500(fleet, engine, writer):
    """As vLLM whose engine core has died: all answers are 500, then the server ends."""
    await whole(b'{"error":{"message":"EngineDeadError"}}', b"500 Internal Server Error")(
        engine, writer
    )
    await writer.drain()
    await asyncio.sleep(0.02)
    return fleet.kill(engine, writer)


async def saying_so_in_its_stream(fleet, engine, writer):
    """The same of a streamed answer: the first event is the error, and the stream ends well."""
    begin_stream(writer)
    send_chunk(writer, b'data: {"error":{"message":"EngineCore died","code":500}}\n\n')
    send_chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.02)
    return fleet.kill(engine, writer)


@pytest.fixture
async def fleet_of():
    fleets = []

    async def make(num, die=at_once, *flags):
        fleet = Fleet(num, die, *flags)
        fleets.append(fleet)
        await fleet.start()
        return fleet

    yield make
    for fleet in fleets:
        await fleet.stop()


@pytest.mark.slow
@pytest.mark.parametrize("die", [at_once, after_its_head, after_a_while, in_an_orderly_way])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_kills_two_engines_at_the_most(fleet_of, die, is_stream):
    """Also when its client sends it again, and again: five engines would be gone in a second."""
    fleet = await fleet_of(5, die)
    status, headers, content = await fleet.ask(user="poison", stream=is_stream)
    assert (status, headers["x-memroute-reason"]) == (502, "replicas-died")
    assert 590 <= int(headers["retry-after"]) <= 600
    assert re.search(r"2 replicas have died", json.loads(content)["error"]["message"])
    for _ in range(3):
        status, headers, _ = await fleet.ask(user="poison", stream=is_stream)
        assert (status, headers["x-memroute-reason"]) == (502, "replicas-died")
    assert len(fleet.killed) == 2
    assert (await fleet.ask(user="somebody"))[0] == 200
    assert fleet.rig.num_leases == 0


@pytest.mark.parametrize("die", [answering_500, saying_so_in_its_stream])
async def test_errors_that_are_an_engines_last_words_count(fleet_of, die):
    """OpenAI's client sends a 500 again, twice: that is three engines for one request."""
    fleet = await fleet_of(5, die)
    is_stream = die is saying_so_in_its_stream
    for number in range(2):
        await fleet.ask(user="poison", stream=is_stream)
        await until(lambda number=number: len(fleet.killed) == number + 1)
        dead = fleet.killed[-1]
        key = next(r.info.key for r in fleet.rig.replicas if r.info.endpoint.port == dead.port)
        # What the next scrape, or the next request there, would find.
        fleet.rig.router.isolation.unreachable(key)
        fleet.rig.pools.by_model["m"].replicas[key].health.fault(
            now_seconds=fleet.rig.pools.now_seconds()
        )
    status, headers, _ = await fleet.ask(user="poison", stream=is_stream)
    assert (status, headers["x-memroute-reason"]) == (502, "replicas-died")
    assert len(fleet.killed) == 2


async def test_an_error_of_an_engine_that_lives_on_blames_nobody(fleet_of):
    """A 500 says that the engine could not do it; only its death says that it was killed."""

    async def die(_fleet, engine, writer):
        return await whole(b"{}", b"500 Internal Server Error")(engine, writer)

    fleet = await fleet_of(2, die)
    for _ in range(4):
        assert (await fleet.ask(user="poison"))[0] == 500
    assert len(fleet.rig.router.isolation.suspects) == 0


async def test_a_request_on_a_kept_connection_has_died_with_its_engine_too(fleet_of):
    """The router cannot see whether an engine closed an idle connection, or died of the request.

    That it cannot be reached any more shows it.
    """
    fleet = await fleet_of(5)
    for _ in range(10):
        assert (await fleet.ask(user="somebody"))[0] == 200
    for _ in range(3):
        status, headers, _ = await fleet.ask(user="poison")
        assert (status, headers["x-memroute-reason"]) == (502, "replicas-died")
    assert len(fleet.killed) == 2


async def test_two_poisons_at_once_kill_two_engines_each_at_the_most(fleet_of):
    fleet = await fleet_of(6)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fleet.ask(user=f"poison {n}")) for n in range(2)]
    assert {task.result()[0] for task in tasks} <= {502, 503}
    for number in range(4):
        await fleet.ask(user=f"poison {number % 2}")
    assert len(fleet.killed) <= 4
    assert (await fleet.ask(user="somebody"))[0] == 200


async def test_what_is_not_delivered_blames_nobody(fleet_of):
    """Engines that are restarted refuse connections: the request has nothing to do with it."""
    fleet = await fleet_of(3)
    for engine in fleet.engines:
        engine._server.close()
    status, headers, _ = await fleet.ask(user="anybody")
    assert (status, headers["x-memroute-reason"]) == (502, "replicas-failed")
    assert len(fleet.rig.router.isolation.suspects) == 0


async def test_others_that_were_there_are_served_elsewhere_and_forgiven(fleet_of):
    """Forty requests wait at the replica that one of them kills: they are not to blame."""
    fleet = await fleet_of(4)
    victims, dies = asyncio.Event(), asyncio.Event()

    async def serve(engine, writer):
        engine.writers.add(writer)
        request = engine.requests[-1][1]
        if POISON in request:
            await dies.wait()
            return fleet.kill(engine, writer)
        if engine is fleet.engines[0]:
            await victims.wait()
        return await whole()(engine, writer)

    for engine in fleet.engines:
        engine._script = serve
    fleet.only("a")
    tasks = [
        asyncio.create_task(fleet.ask(user=f"user {number}", stream=bool(number % 2)))
        for number in range(40)
    ]
    await until(lambda: len(fleet.engines[0].requests) == 40)
    poison = asyncio.create_task(fleet.ask(user="poison"))
    await until(lambda: len(fleet.engines[0].requests) == 41)
    fleet.only("abcd")
    dies.set()
    assert (await poison)[0] == 502
    assert [status for status, _, _ in await asyncio.gather(*tasks)] == [200] * 40
    assert len(fleet.killed) == 2
    suspects = fleet.rig.router.isolation.suspects
    assert len(suspects) == 1  # the poison alone is remembered
    victims.set()


@pytest.mark.slow
async def test_replicas_that_die_for_their_own_reasons_take_nobodys_second_try(fleet_of):
    """One crashes with forty requests in flight, a second one with several of the same."""
    fleet = await fleet_of(3)
    release = {engine: asyncio.Event() for engine in fleet.engines}
    release[fleet.engines[2]].set()

    async def serve(engine, writer):
        engine.writers.add(writer)
        await release[engine].wait()
        if engine in fleet.killed:
            return False
        return await whole()(engine, writer)

    for engine in fleet.engines:
        engine._script = serve

    def crash(number):
        engine = fleet.engines[number]
        fleet.killed.append(engine)
        engine._server.close()
        for writer in engine.writers:
            writer.transport.abort()

    fleet.only("a")
    tasks = [asyncio.create_task(fleet.ask(user=f"user {number}")) for number in range(40)]
    await until(lambda: len(fleet.engines[0].requests) == 40)
    fleet.only("b")
    crash(0)
    # Kept apart, they go there one after the other, and all of them after five seconds.
    isolation, suspects = fleet.rig.router.isolation, fleet.rig.router.isolation.suspects
    await until(lambda: len(suspects) == 40 and isolation.num_waiting == 39)
    for waiting in isolation._waiting:
        waiting._account.queued_at -= 5
    await until(lambda: len(fleet.engines[1].requests) == 40)
    fleet.only("c")
    crash(1)
    answers = await asyncio.gather(*tasks)
    assert [status for status, _, _ in answers] == [200] * 40
    assert len(suspects) == 0
    assert fleet.rig.num_held == 0


async def test_a_later_crash_does_not_take_what_was_answered_since(fleet_of):
    """Load tests send one body again and again: it was there at each crash, and is answered."""
    fleet = await fleet_of(3)
    assert (await fleet.ask(user="x"))[0] == 200
    suspects = fleet.rig.router.isolation.suspects
    release = asyncio.Event()

    async def serve(engine, writer):
        if engine is fleet.engines[0] and not release.is_set():
            release.set()
            return fleet.kill(engine, writer)
        return await whole()(engine, writer)

    for engine in fleet.engines:
        engine._script = serve
    fleet.only("a")
    task = asyncio.create_task(fleet.ask(user="x"))
    await release.wait()
    fleet.only("abc")
    assert (await task)[0] == 200
    assert len(suspects) == 0


async def test_a_refused_request_is_told_in_the_log_and_another_body_is_another_request(fleet_of):
    fleet = await fleet_of(3)
    await fleet.ask(user="poison")
    record = fleet.rig.router.journal.recent[-1]
    assert record.outcome is Outcome.REPLICAS_DIED
    assert "2 replicas have died" in record.line()
    assert "attempts=2" in record.line()
    assert (await fleet.ask(user="poisom"))[0] == 200


async def test_an_answer_that_began_and_breaks_off_is_told_apart(fleet_of):
    """Some of it has reached the client: nobody else is asked, and nobody is a suspect."""

    async def die(fleet, engine, writer):
        begin_stream(writer)
        send_chunk(writer, CHUNK)
        await writer.drain()
        await asyncio.sleep(0.02)
        return fleet.kill(engine, writer)

    fleet = await fleet_of(2, die)
    _, _, content = await fleet.ask(user="poison", stream=True)
    assert b'"code":"stream-broken"' in content
    assert fleet.outcomes() == [Outcome.STREAM_BROKEN]
    assert len(fleet.rig.router.isolation.suspects) == 0


async def test_push_back_on_trial_brings_a_replica_back(fleet_of):
    """A full queue is an answer: the engine lives."""
    fleet = await fleet_of(1)
    fleet.engines[0]._script = whole(b"{}", b"429 Too Many Requests")
    health = fleet.rig.replicas[0].health
    health.fault(now_seconds=fleet.rig.pools.now_seconds() - 6)
    assert (await fleet.ask())[0] == 429
    assert not health.is_out


async def test_an_error_in_a_stream_counts_against_its_engine(fleet_of):
    """Of vLLM whose engine core has died, which 200 for ever: five in a row take it out."""
    fleet = await fleet_of(1)

    async def serve(_engine, writer):
        begin_stream(writer)
        send_chunk(writer, b'data: {"error":{"message":"dead","code":500}}\n\n')
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    fleet.engines[0]._script = serve
    for _ in range(5):
        await fleet.ask(stream=True)
    assert fleet.outcomes() == [Outcome.ENGINE_ERROR] * 5
    assert fleet.rig.replicas[0].health.is_out


@pytest.mark.parametrize("at", [b"2048", b'"usage"', b"1234", b"prompt_tokens"])
async def test_usage_is_whole_however_reads_cut_it(fleet_of, at):
    fleet = await fleet_of(1)
    text = b'{"choices":[],"usage":{"prompt_tokens":2048,"completion_tokens":1234}}'
    cut = text.index(at) + 2

    async def serve(_engine, writer):
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text)
        writer.write(head + text[:cut])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(text[cut:])

    fleet.engines[0]._script = serve
    await fleet.ask()
    record = fleet.rig.router.journal.recent[-1]
    assert (record.prompt_tokens, record.output_tokens) == (2048, 1234)


async def test_a_suspects_client_that_leaves_while_it_waits_leaves_nothing(fleet_of):
    fleet = await fleet_of(2)
    suspects = fleet.rig.router.isolation.suspects
    data = body(user="x")
    name = request_name(b"/v1/chat/completions", data)
    suspects.died(name, "z", num_bytes=len(data), lived_seconds=0, now_seconds=0)
    for key in ("default/a", "default/b"):
        suspects.entered(object(), b"other", key, now_seconds=fleet.rig.pools.now_seconds())
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.rig.port)
    writer.write(raw(data))
    await until(lambda: fleet.rig.router.isolation.num_waiting == 1)
    writer.close()
    await until(lambda: fleet.rig.router.isolation.num_waiting == 0)
    assert fleet.outcomes() == [Outcome.CLIENT_GONE]
    assert await reader.read() == b""
    assert fleet.rig.num_leases == 0


async def test_a_suspect_waits_for_a_replica_without_another_one(fleet_of):
    """Else the second death would say nothing: any of them may have caused it."""
    fleet = await fleet_of(1)
    suspects = fleet.rig.router.isolation.suspects
    data = body(user="x")
    suspects.died(
        request_name(b"/v1/chat/completions", data),
        "z", num_bytes=len(data), lived_seconds=0, now_seconds=0,
    )  # fmt: skip
    other = object()
    suspects.entered(other, b"other", "default/a", now_seconds=fleet.rig.pools.now_seconds())
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.rig.port)
    writer.write(raw(data))
    await until(lambda: fleet.rig.router.isolation.num_waiting == 1)
    assert not fleet.engines[0].requests
    _, _, page = await exchange(fleet.rig.ops_port, b"GET /debug/queue HTTP/1.1\r\nhost: x\r\n\r\n")
    (waiting,) = json.loads(page)
    assert (waiting["model"], waiting["waits_for"]) == ("m", "apart")
    assert waiting["waited_seconds"] >= 0
    suspects.left(other)
    fleet.rig.router.isolation.changed()
    assert (await read_answer(reader))[0] == 200
    writer.close()
    await until(lambda: len(suspects) == 0)  # it was answered, and is forgiven


async def test_suspects_that_wait_count_in_what_may_wait(fleet_of):
    """Else whoever has killed a replica could make the router hold requests without number."""
    fleet = await fleet_of(1, at_once, "--max-queued-requests", "3")
    suspects = fleet.rig.router.isolation.suspects
    bodies = [body(user=f"user {number}") for number in range(6)]
    for data in bodies:
        suspects.died(
            request_name(b"/v1/chat/completions", data),
            "z", num_bytes=len(data), lived_seconds=0, now_seconds=0,
        )  # fmt: skip
    other = object()
    suspects.entered(other, b"other", "default/a", now_seconds=fleet.rig.pools.now_seconds())
    waiting = []
    for data in bodies[:3]:
        waiting.append(await asyncio.open_connection("127.0.0.1", fleet.rig.port))
        waiting[-1][1].write(raw(data))
    isolation, pool = fleet.rig.router.isolation, fleet.rig.pools.get("m")
    await until(lambda: isolation.num_waiting == 3)
    isolation.changed()  # they ask again, and keep their places
    for data in bodies[3:]:
        status, headers, content = await exchange(fleet.rig.port, raw(data))
        assert (status, headers["retry-after"]) == (429, "2")
        assert headers["x-memroute-reason"] == "saturated"
        assert "too many requests wait" in json.loads(content)["error"]["message"]
    assert isolation.num_waiting == pool.dispatcher.num_apart == 3
    waiting[0][1].close()
    await until(lambda: isolation.num_waiting == 2)
    suspects.left(other)
    isolation.changed()
    for reader, writer in waiting[1:]:
        assert (await read_answer(reader))[0] == 200
        writer.close()
    await until(lambda: not isolation.num_waiting and not pool.dispatcher.num_apart)
    fleet.rig.router.journal.flush()
    assert "".join(fleet.rig.lines).count(" status=429 cause=requests-waiting ") == 3


async def test_a_suspect_whose_end_breaks_keeps_no_other_away(fleet_of, monkeypatch):
    """What it held of a replica is given back, as its lease is, by whatever ends it."""
    fleet = await fleet_of(1)
    suspects = fleet.rig.router.isolation.suspects
    data = body(user="x")
    name = request_name(b"/v1/chat/completions", data)
    suspects.died(name, "z", num_bytes=len(data), lived_seconds=0, now_seconds=0)
    settle, calls = Lifecycle._settle, []

    def breaks_once(self, outcome):
        calls.append(outcome)
        if len(calls) == 1:
            raise RuntimeError
        settle(self, outcome)

    monkeypatch.setattr(Lifecycle, "_settle", breaks_once)
    # Else it has left as its answer began.
    monkeypatch.setattr(Lifecycle, "answer_begins", breaks_once)
    assert (await exchange(fleet.rig.port, raw(data)))[0] == 500
    assert fleet.rig.num_leases == 0
    assert not suspects._there
