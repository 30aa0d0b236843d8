"""Requests of every malformed kind, over real sockets: the status expected, and nothing left."""

import asyncio
import contextlib
import re

import pytest

from http_corpus import MAX_BODY_BYTES, Case, cases
from router_rig import Engine, Rig, whole

CORPUS = cases()
SLOW = [case for case in CORPUS if case.is_slow]
QUICK = [case for case in CORPUS if not case.is_slow]
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture
async def rig():
    it = Rig(
        *("--header-timeout-seconds", "0.3", "--body-timeout-seconds", "0.3"),
        *("--idle-timeout-seconds", "0.5"),
        body_bytes=MAX_BODY_BYTES,
    )
    await it.start()
    yield it
    await it.stop()


async def statuses_of(port: int, case: Case) -> tuple[tuple[int, ...], bool]:
    """What comes back, and whether another request is answered on the same connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()

    async def receive():
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                received.extend(piece)

    receiving = asyncio.create_task(receive())
    with contextlib.suppress(ConnectionError):
        for piece in case.pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.wait([receiving], timeout=case.pause_seconds * (len(case.pieces) > 1))
            if receiving.done():
                break
        if case.ends:
            writer.write_eof()
    last = b"GET /health?last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    if case.stays_open:
        async with asyncio.timeout(30):
            while len(STATUS.findall(received)) < len(case.statuses):
                await asyncio.sleep(0.005)
        writer.write(last)
    async with asyncio.timeout(30):
        await receiving
    writer.close()
    found = [int(status) for status in STATUS.findall(received)]
    if case.stays_open:
        return tuple(found[:-1]), found[-1] == 200
    return tuple(found), False


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 150


@pytest.fixture
async def engine(rig):
    it = Engine(whole())
    await it.start()
    rig.add("a", it.port, context=100_000)
    yield it
    await it.stop()


async def nothing_is_left(rig):
    assert rig.num_leases == 0
    assert rig.reserved == 0
    async with asyncio.timeout(30):
        while rig.router.server.num_connections:
            await asyncio.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
async def test_it_is_answered_as_expected_and_nothing_is_left(rig, engine, case):
    """One status per request, no more and no fewer: a second reading would be a second answer."""
    statuses, is_open = await statuses_of(rig.port, case)
    assert statuses == case.statuses
    assert is_open == case.stays_open
    assert len(engine.requests) == case.num_forwarded
    await nothing_is_left(rig)


async def test_slow_clients_are_told_and_closed(rig, engine):
    found = await asyncio.gather(*(statuses_of(rig.port, case) for case in SLOW))
    told = {case.name: statuses for case, (statuses, _) in zip(SLOW, found, strict=True)}
    assert told == {case.name: case.statuses for case in SLOW}
    assert engine.requests == []
    await nothing_is_left(rig)
