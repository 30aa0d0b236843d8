"""Bodies of requests in all: bounded, counted while somebody needs them, and given back."""

import asyncio
import re

import pytest

from memroute_router.http.budget import BodyBudget
from memroute_router.memory import bodies_bytes, memory_limit_bytes
from router_rig import (
    Engine,
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

MIB = 1024**2


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0", body_bytes=64 * MIB)
    await it.start()
    yield it
    await it.stop()


def limited(rig, num_bytes):
    """As if the process might take so little."""
    budget = rig.router.server.budget
    budget._max_bytes, budget._max_large_bytes = num_bytes, int(0.9 * num_bytes)
    return budget


async def begin(rig, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(data)
    return reader, writer


@pytest.mark.slow
async def test_bodies_that_do_not_fit_are_told_to_come_back_and_small_ones_pass(
    rig, engine_factory
):
    """Thirty clients that begin 8 MiB each were the end of a pod of 1 GiB."""
    rig.add("a", (await engine_factory(whole())).port, capacity=10**9)
    budget = limited(rig, 32 * MIB)
    budget._slow_seconds = 3600.0  # nobody is slow
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    slow = [await begin(rig, head % (16 * MIB) + b" " * (8 * MIB)) for _ in range(10)]
    answers = [asyncio.create_task(read_answer(reader)) for reader, _ in slow]
    await until(lambda: budget.num_refused >= 7)
    await until(lambda: sum(task.done() for task in answers) == 7)
    refused = [task.result() for task in answers if task.done()]
    assert {status for status, _, _ in refused} == {503}
    assert all(headers["x-memroute-reason"] == "router-exhausted" for _, headers, _ in refused)
    assert all(headers["retry-after"] == "1" for _, headers, _ in refused)
    rig.router.journal.flush()
    lines = "".join(rig.lines).splitlines()
    assert len(lines) == 7
    assert all(" outcome=router-exhausted status=503 cause=bodies " in line for line in lines)
    assert budget.held_bytes <= 29 * MIB
    page = rig.router.metrics.render().decode()
    assert "memroute_router_bodies_refused_total 7.0\n" in page
    told = re.search(r"^memroute_router_bodies_bytes (\S+)$", page, re.MULTILINE)
    assert float(told[1]) == budget.held_bytes
    assert (await exchange(rig.port, raw(body())))[0] == 200
    for task, (_, writer) in zip(answers, slow, strict=True):
        task.cancel()
        writer.close()
    await until(lambda: budget.held_bytes == 0)


async def after(rig, data, *, leaves=False):
    reader, writer = await begin(rig, data)
    if not leaves:
        await read_answer(reader)
    else:
        await asyncio.sleep(0.02)
    writer.close()


async def stream(_engine, writer):
    begin_stream(writer)
    send_chunk(writer)
    writer.write(b"0\r\n\r\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "script"),
    [
        (raw(body()), whole()),
        (raw(body(stream=True)), stream),
        (raw(body()), whole(b"{}", b"500 Internal Server Error")),
        (raw(body()), whole(b"{}", b"429 Too Many Requests")),
        (raw(body()), reset),
        (raw(body(model="nope")), whole()),
        (raw(b"x" * 5000), whole()),
        (raw(body(), b"/nope"), whole()),
        (raw(b"x" * 70_000), whole()),
        (raw(body())[:-1].replace(b"host: x", b"host: x\r\nhost: y"), whole()),
        (raw(body()) * 5, whole()),
    ],
    ids=[
        "served",
        "streamed",
        "error of an engine",
        "pushed back",
        "lost",
        "unknown model",
        "not JSON",
        "no such path",
        "too large",
        "malformed",
        "pipelined",
    ],
)
async def test_what_a_body_held_is_given_back_however_its_request_ends(
    engine_factory, data, script
):
    rig = Rig("--max-queue-seconds", "0", body_bytes=60_000)
    await rig.start()
    rig.add("a", (await engine_factory(script)).port)
    await after(rig, data)
    await until(lambda: rig.router.server.budget.held_bytes == 0)
    for part in (0.2, 0.7, 0.99):
        await after(rig, data[: int(part * len(data))], leaves=True)
        await until(lambda: rig.router.server.budget.held_bytes == 0)
    await rig.stop()


async def test_a_client_that_leaves_gives_back_what_waits_behind_its_request(rig, engine_factory):
    never = asyncio.Event()
    rig.add("a", (await engine_factory(held(never))).port)
    _, writer = await begin(rig, raw(body()) * 4)
    budget = rig.router.server.budget
    await until(lambda: budget.held_bytes >= 4 * len(body()))
    writer.close()
    await until(lambda: budget.held_bytes == 0)
    never.set()


async def test_a_body_counts_until_the_first_byte_of_its_answer(rig):
    """No other replica will get it: a stream of minutes holds none."""
    begins, ends = asyncio.Event(), asyncio.Event()

    async def script(_engine, writer):
        await begins.wait()
        begin_stream(writer)
        send_chunk(writer)
        await writer.drain()
        await ends.wait()
        writer.write(b"0\r\n\r\n")

    engine = Engine(script)
    await engine.start()
    rig.add("a", engine.port)
    reader, writer = await begin(rig, raw(body(stream=True)))
    budget = rig.router.server.budget
    await until(lambda: engine.requests)
    assert budget.held_bytes == len(body(stream=True))
    begins.set()
    await reader.readuntil(b"\r\n\r\n")
    assert budget.held_bytes == 0
    ends.set()
    writer.close()
    await engine.stop()


def test_a_tenth_is_for_small_bodies():
    budget = BodyBudget(1_000_000)
    assert budget.take(900_000, 900_000)
    assert not budget.take(1, 900_001)
    assert budget.take(60_000, 60_000)
    assert not budget.take(60_000, 60_000)
    budget.give_back(960_000)
    assert (budget.held_bytes, budget.num_refused) == (0, 2)


@pytest.mark.parametrize(
    ("text", "expected"), [("1073741824\n", 1024**3), ("max\n", None), (None, None)]
)
def test_the_limit_is_the_containers_where_it_has_one(tmp_path, text, expected):
    path = tmp_path / "memory.max"
    if text is not None:
        path.write_text(text)
    found = memory_limit_bytes((str(path),))
    assert found == expected or (expected is None and found > 256 * MIB)
    assert bodies_bytes(1024 * MIB) == 224 * MIB
    assert bodies_bytes(1) == 16 * MIB
