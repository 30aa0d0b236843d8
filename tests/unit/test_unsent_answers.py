"""What slow clients do not take of their answers is counted, and bounded in all."""

import asyncio
import socket

import pytest

from memroute_router.http.budget import BodyBudget
from memroute_router.http.clients import LimitKind
from router_rig import Rig, begin_stream, body, exchange, raw, send_chunk, until, whole

KIB = 1024
ANSWER = b"x" * (8 * KIB * KIB)


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    yield it
    await it.stop()


def with_room_for(rig, num_bytes):
    budget = rig.router.server.budget
    budget._max_unsent_bytes = num_bytes
    return budget


async def slow_client(rig, data=None):
    """Whoever asks and takes little: the kernel keeps no more for it than it must."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", rig.port))
    reader, writer = await asyncio.open_connection(sock=made, limit=4 * KIB)
    writer.write(data or raw(body()))
    return reader, writer


async def endless(_engine, writer):
    begin_stream(writer)
    while True:
        for _ in range(50):
            send_chunk(writer, b"data: {" + b"x" * 2000 + b"}\n\n")
        await writer.drain()


def broken_off(rig):
    return rig.router.server.clients.refused[LimitKind.SLOW]


@pytest.mark.slow
async def test_a_slow_clients_answer_is_counted_until_it_has_been_taken(rig, engine_factory):
    """It is counted when its engine is no longer read, and every byte of it comes."""
    rig.add("a", (await engine_factory(whole(ANSWER))).port)
    budget = rig.router.server.budget
    reader, writer = await slow_client(rig)
    await until(lambda: budget.unsent_bytes > 64 * KIB)
    assert budget.held_bytes == budget.unsent_bytes <= 64 * KIB + 512 * KIB
    page = rig.router.metrics.render().decode()
    assert "\nmemroute_router_unsent_bytes 0.0\n" not in page
    assert "\nmemroute_router_bodies_bytes 0.0\n" in page
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(ANSWER)) == ANSWER
    await until(lambda: budget.held_bytes == 0)
    writer.close()
    assert not broken_off(rig)


async def test_what_slow_clients_hold_leaves_less_room_for_bodies(rig, engine_factory):
    """Both are the process's memory; ``--max-memory`` is for all of it."""
    rig.add("a", (await engine_factory(whole(ANSWER))).port)
    budget = rig.router.server.budget
    _, writer = await slow_client(rig)
    await until(lambda: budget.unsent_bytes > 64 * KIB)
    budget._max_bytes = budget.held_bytes + 10
    assert (await exchange(rig.port, raw(body())))[0] == 503
    writer.transport.abort()
    await until(lambda: budget.held_bytes == 0)
    assert (await exchange(rig.port, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 200


@pytest.mark.slow
async def test_who_is_slow_for_longest_makes_room(rig, engine_factory):
    """Ten thousand clients that read nothing would hold gigabytes.

    A client that is slow for a moment is not the one that is broken off.
    """
    engine = await engine_factory(endless)
    rig.add("a", engine.port, capacity=10**6)
    rig.trust_all()
    budget = with_room_for(rig, 700 * KIB)
    clients = []
    for number in range(8):
        clients.append(await slow_client(rig, raw(body(stream=True))))
        await until(lambda: len(rig.router.server._state.unsent.waiting) + broken_off(rig) > number)  # noqa: B023
        assert budget.unsent_bytes <= 700 * KIB
    assert broken_off(rig) >= 1
    reader, _ = clients[0]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1024**3)
    newest = list(rig.router.server._state.unsent.waiting)[-1]
    assert newest.is_answering
    for _, writer in clients:
        writer.transport.abort()
    await until(lambda: not rig.router.server.num_connections)
    assert budget.held_bytes == budget.unsent_bytes == 0
    await until(lambda: rig.num_leases == 0)
    assert {record.outcome for record in rig.router.journal.recent} == {"client-gone"}


async def test_one_that_alone_holds_more_than_all_may_is_broken_off(rig, engine_factory):
    rig.add("a", (await engine_factory(whole(ANSWER))).port)
    budget = with_room_for(rig, 10)
    reader, writer = await slow_client(rig)
    await until(lambda: broken_off(rig) == 1)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1024**3)
    writer.close()
    await until(lambda: rig.num_leases == 0 and not rig.router.server.num_connections)
    assert budget.held_bytes == budget.unsent_bytes == 0


def test_half_of_the_budget_is_for_answers_at_most():
    budget = BodyBudget(1000)
    budget.add_unsent(500)
    assert not budget.is_unsent_over
    budget.add_unsent(1)
    assert budget.is_unsent_over
    assert not budget.take(500, 10)
    assert budget.take(499, 10)
    budget.add_unsent(-501)
    assert (budget.held_bytes, budget.unsent_bytes) == (499, 0)
