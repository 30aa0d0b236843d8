"""Every fault in every phase of a request: the answer documented, no lease, no task, no work left.

Phases, in the order in which a request goes through them:

```text
accept     connected, nothing sent         reserved     room is reserved, the engine not yet reached
headers    half of the head is there       forwarded    the engine has the request
body       half of the body is there       first-byte   the engine's head is there, and no body
queued     waits for room                  mid-stream   some of the answer has reached the client
                                           end          all of it but its end
```
"""

import asyncio
import contextlib
import json
import re
import socket
import struct
from itertools import product

import pytest

from memroute_router.lifecycle.outcomes import Outcome
from ports import free_port
from router_rig import Engine, Rig, begin_stream, body, raw, send_chunk, until, whole

PHASES = (
    "accept", "headers", "body", "queued", "reserved", "forwarded", "first-byte", "mid-stream",
    "end",
)  # fmt: skip
ANSWER = b'{"choices":[{"message":{"content":"hello"}}]}'
# The router's patience with an engine (s) where the test does not wait for its end, and where it
# does.
AMPLE_SECONDS, SHORT_SECONDS = 5, 0.15
ENGINE_FAULTS = ("reset", "ends", "hangs", "talks nonsense")
CLIENT_FAULTS = ("client leaves", "client resets")
OTHERS = ("router stops", "replica goes")


def combinations():
    """Each fault in each phase in which it can happen, streamed or not."""
    for fault, phase, is_stream in product(
        (*CLIENT_FAULTS, *ENGINE_FAULTS, *OTHERS), PHASES, (False, True)
    ):
        at = PHASES.index(phase)
        if fault in ENGINE_FAULTS and at < PHASES.index("reserved"):
            continue  # no engine has been asked yet
        if phase == "reserved" and fault in {"ends", "talks nonsense"}:
            continue  # nobody has accepted: nobody can end or talk
        if fault == "talks nonsense" and at > PHASES.index("forwarded") and not is_stream:
            continue  # in a body of a given length every byte is the body
        if fault == "replica goes" and at < PHASES.index("queued"):
            continue  # no replica is concerned yet
        if at < PHASES.index("queued") and is_stream:
            continue  # nobody knows yet whether it will be streamed
        yield fault, phase, is_stream


def expected(fault, phase, is_stream):
    """What the reference of errors says: what the client gets, and how the request is counted."""
    if fault in CLIENT_FAULTS:
        counted = PHASES.index(phase) >= PHASES.index("queued")
        return "nothing", Outcome.CLIENT_GONE if counted else None
    if phase in {"accept", "headers", "body"}:
        return "closed", None
    has_begun = phase in {"mid-stream", "end"}
    if fault == "router stops":
        status, outcome = 503, Outcome.SHUTTING_DOWN
    elif has_begun:
        status, outcome = None, Outcome.STREAM_BROKEN
    elif phase == "queued":
        status, outcome = 503, Outcome.NO_READY_REPLICA
    else:
        status, outcome = 502, Outcome.REPLICAS_FAILED
    if not has_begun:
        return f"{status} {outcome.value}", outcome
    return f"stream error {outcome.value}" if is_stream else "broken off", outcome


class Scene:
    """A router, an engine that comes as far as the phase, and a client."""

    def __init__(self, phase, fault, is_stream):
        self.phase, self.fault, self.is_stream = phase, fault, is_stream
        is_waited_for = fault == "hangs" or (fault, phase) == ("replica goes", "reserved")
        limit = str(SHORT_SECONDS if is_waited_for else AMPLE_SECONDS)
        self.rig = Rig(
            *("--connect-timeout-seconds", limit, "--first-byte-timeout-seconds", limit),
            *("--stalled-engine-seconds", limit, "--max-queue-seconds", "5"),
        )
        self.engine = Engine(self._serve)
        self.reached = asyncio.Event()
        self.is_over = asyncio.Event()
        self._others = []

    async def start(self):
        await self.rig.start()
        await self.engine.start()
        port = self.engine.port
        if self.phase == "reserved":
            port = self._nobody_listens() if self.fault == "reset" else self._nobody_accepts()
        self.rig.add("a", port, capacity=100 if self.phase == "queued" else 10_000)
        if self.phase == "queued":
            # 5 + 50 tokens hold more than half of 100: the same again has to wait.
            _, writer = await asyncio.open_connection("127.0.0.1", self.rig.port)
            writer.write(raw(body(max_tokens=50)))
            self._others.append(writer)
            await until(lambda: self.rig.num_leases == 1)

    async def stop(self):
        self.is_over.set()
        for each in self._others:
            each.close()
        await self.rig.stop()
        await self.engine.stop()

    async def send(self):
        """The request, as far as the phase goes; the client's ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rig.port)
        data = raw(body(stream=self.is_stream, max_tokens=50))
        head = data.index(b"\r\n\r\n") + 4
        end = {"accept": 0, "headers": head // 2, "body": head + 10}.get(self.phase, len(data))
        writer.write(data[:end])
        await {
            "accept": lambda: until(lambda: self.rig.router.server.num_connections),
            "headers": lambda: asyncio.sleep(0.02),
            "body": lambda: asyncio.sleep(0.02),
            "queued": lambda: until(lambda: self.rig.num_held == 1),
            "reserved": lambda: until(
                lambda: self.rig.num_leases or self.rig.router.journal.recent
            ),
        }.get(self.phase, self.reached.wait)()
        return reader, writer

    async def _serve(self, engine, writer):
        """Come as far as the phase, and do there what the fault says."""
        if self.phase == "queued":
            await self.is_over.wait()
            return False
        if self.phase == "forwarded":
            return await self._fail(writer)
        if self.is_stream:
            begin_stream(writer)
        else:
            length = b"content-length: %d\r\n\r\n" % len(ANSWER)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + length)
        if self.phase == "first-byte":
            await writer.drain()
            await asyncio.sleep(0.02)
            return await self._fail(writer)
        if self.is_stream:
            send_chunk(writer)
        else:
            writer.write(ANSWER[:10])
        if self.phase == "end":
            if self.is_stream:
                send_chunk(writer, b"data: [DONE]\n\n")
            else:
                writer.write(ANSWER[10:-1])
        await writer.drain()
        await asyncio.sleep(0.02)
        return await self._fail(writer)

    async def _fail(self, writer):
        self.reached.set()
        if self.fault == "reset":
            writer.transport.abort()
        elif self.fault == "talks nonsense":
            writer.write(b"\x00nonsense\r\n\r\n")
            await self.is_over.wait()
        elif self.fault != "ends":
            while not (self.is_over.is_set() or self.engine.reader.at_eof()):
                await asyncio.sleep(0.005)
                if writer.transport.is_closing():
                    break
        return False

    def _nobody_listens(self):
        return free_port()

    def _nobody_accepts(self):
        """A port whose backlog is full: connecting takes for ever."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        self._others.append(listener)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
            self._others.append(filler)
        return listener.getsockname()[1]


def told(received):
    """What a client makes of what it received."""
    if not received:
        return "closed"
    head, _, content = received.partition(b"\r\n\r\n")
    status = int(head[9:12])
    reason = re.search(rb"x-memroute-reason: (\S+)", head)
    if status != 200:
        assert json.loads(content)["error"]["message"]
        return f"{status} {reason[1].decode()}" if reason else str(status)
    if b"text/event-stream" not in head:
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        return "whole" if len(content) == length else "broken off"
    if not content.endswith(b"\r\n0\r\n\r\n"):
        return "broken off"
    errors = re.findall(rb'data: (\{"error".*?\})\n\n', content)
    assert content.count(b"data: [DONE]\n\n") >= 1
    return f"stream error {json.loads(errors[0])['error']['code']}" if errors else "whole"


async def receive(reader, *, ends_by_close, ends_by_chunk):
    """What the client gets before it leaves."""
    async with asyncio.timeout(30):
        if ends_by_chunk:
            return await reader.readuntil(b"\r\n0\r\n\r\n")
        if ends_by_close:
            return await reader.read()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        return head + await reader.readexactly(length)


def reset_connection(writer):
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "phase", "is_stream"), list(combinations()))
async def test_each_fault_in_each_phase_ends_as_documented(fault, phase, is_stream):
    before = asyncio.all_tasks()
    scene = Scene(phase, fault, is_stream)
    await scene.start()
    rig = scene.rig
    others = rig.num_leases
    reader, writer = await scene.send()
    stopping = None
    match fault:
        case "client leaves":
            writer.close()
        case "client resets":
            reset_connection(writer)
        case "replica goes":
            rig.router.on_gone(rig.pools.remove_replica("default/a"))
        case "router stops":
            stopping = asyncio.create_task(rig.router.server.stop(timeout_seconds=0.05))
    what, outcome = expected(fault, phase, is_stream)
    has_begun = phase in {"mid-stream", "end"}
    if fault not in CLIENT_FAULTS:
        received = await receive(
            reader,
            ends_by_chunk=is_stream and has_begun,
            ends_by_close=fault == "router stops" or has_begun,
        )
        assert told(received) == what
        writer.close()
    left = 0 if fault in {"router stops", "replica goes"} else others
    await until(lambda: rig.num_leases == left and not rig.num_held)
    found = [record.outcome for record in rig.router.journal.recent]
    assert outcome is None or outcome in found
    assert len(found) <= (2 if phase == "queued" else 1)
    if stopping is not None:
        await stopping
    if phase not in {"accept", "headers", "body", "queued", "reserved"}:
        await until(lambda: scene.engine.num_open == 0 or fault == "talks nonsense")
    await scene.stop()
    assert rig.reserved == 0
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "phase", "is_stream"),
    [
        each
        for each in combinations()
        if each[0] in ENGINE_FAULTS and each[1] in {"reserved", "forwarded", "first-byte"}
    ],
)
async def test_before_the_first_byte_another_replica_answers(fault, phase, is_stream):
    """The client never notices, whatever the first engine did."""
    scene = Scene(phase, fault, is_stream)
    await scene.start()
    good = Engine(whole(ANSWER))
    await good.start()
    scene.rig.add("good", good.port)
    scene.rig.prefer("a")
    reader, writer = await scene.send()
    async with asyncio.timeout(30):
        received = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(ANSWER))
    assert told(received) == "whole"
    assert len(good.requests) == 1
    assert [r.attempts for r in scene.rig.router.journal.recent] == [2]
    assert scene.rig.num_leases == 0
    writer.close()
    await scene.stop()
    await good.stop()
