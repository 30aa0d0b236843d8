"""Coverage-guided fuzzing of the data path: ``make fuzz`` (FUZZ_SECONDS=1200).

Each input is one client connection and what the engine answers on it: bytes of both, how they are
cut, who leaves when, who is slow, how much may be held. Nothing may raise, and afterwards nothing
may be left: no lease, no token, no connection, no timer, no byte that is counted. The seeds are the
corpus of malformed requests and some answers.
"""

import asyncio
import logging
import resource
import sys
from collections import deque
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["memroute", "memroute_router"]):
    from memroute_router.app import Router
    from memroute_router.http.client import Endpoint, EngineConnection
    from memroute_router.http.connection import ClientConnection
    from memroute_router.http.engine_pool import EnginePool
    from memroute_router.replicas.replica import ReplicaInfo
    from memroute_router.settings import parse_settings

from http_corpus import cases

FLAGS = ["--max-body-bytes", "20000", "--access-log", "off", "--max-queue-seconds", "0"]
ANSWERS = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n%b"
    % b'12\r\ndata: {"usage":1}\n\n\r\n0\r\n\r\n',
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 3\r\ncontent-length: 1\r\n\r\nx",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody",
    b'HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n{"usage":{"prompt_tokens":3}}',
)
REPORT_RUNS = 100_000
MAX_GROWTH_BYTES = 200 * 1024**2
# Since the first report: libFuzzer's own corpus takes some of it.


class Wire:
    """A transport without a socket: what is written goes to ``on_write``."""

    def __init__(self, loop, on_write=None):
        self._loop = loop
        self._on_write = on_write
        self._is_closing = False
        self.protocol = None

    def attach(self, protocol):
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data):
        if not isinstance(data, bytes):
            msg = f"not bytes: {data!r}"
            raise TypeError(msg)
        if self._on_write is not None and not self._is_closing:
            self._loop.call_soon(self._on_write)
            self._on_write = None

    def writelines(self, pieces):
        for piece in pieces:
            self.write(piece)

    def close(self):
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self):
        return self._is_closing

    def can_write_eof(self):
        return True

    def write_eof(self):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def set_write_buffer_limits(self, high):
        pass

    def get_write_buffer_size(self):
        return 20_000

    def get_extra_info(self, name):
        return ("127.0.0.1", 1) if name == "peername" else None


class Engines(EnginePool):
    """Every connection is new, and answers what the input says."""

    def prepare(self, pieces, *, ends):
        self.pieces, self.ends = deque(pieces), ends

    def take_idle(self, upstream, *, now_seconds):
        connection = EngineConnection(upstream, self._deadlines, self._outbox, self._on_fault)
        loop = asyncio.get_running_loop()
        wire = Wire(loop, lambda: self._answer(connection))
        wire.attach(connection)
        upstream.busy.add(connection)
        return connection

    def _answer(self, connection):
        while self.pieces and connection.is_open:
            connection.data_received(self.pieces.popleft())
        if self.ends and connection.is_open:
            connection._transport.close()  # as if the engine had


class Failure(logging.Handler):
    """What the router would only log is a finding here."""

    def emit(self, record):
        if record.exc_info:
            raise record.exc_info[1]


class Target:
    """One router for all inputs: what one leaves behind, the next would meet."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._on_exception)
        self.raised = []
        self.num_runs = 0
        self.loop.run_until_complete(self._start())

    def __call__(self, data):
        self.loop.run_until_complete(self._one(Input(data)))
        if self.raised:
            raise self.raised.pop()

    def outcomes(self):
        """How requests ended so far: that all kinds are reached shows that the fuzzing is deep."""
        statistics = self.router.metrics._by_labels.values()
        counts = [(k.value, n) for each in statistics for k, n in each.requests.items()]
        return dict(sorted(counts, key=lambda pair: -pair[1]))

    def _on_exception(self, _loop, context):
        self.raised.append(context.get("exception") or RuntimeError(context["message"]))

    async def _start(self):
        logger = logging.getLogger("memroute_router")
        logger.addHandler(Failure())
        logger.setLevel(logging.ERROR)
        self.router = Router(parse_settings(FLAGS), Random(1))
        server = self.router.server
        old = self.router.engines
        self.engines = Engines(old._outbox, connect_timeout_seconds=1)
        services = self.router.services
        object.__setattr__(services, "engines", self.engines)
        self.state = server._state
        self.state.budget._slow_seconds = 0.0
        self.replica = self.router.pools.upsert_replica(
            ReplicaInfo(
                namespace="", pod="a", deployment="m", served_model="m",
                endpoint=Endpoint("127.0.0.1", 1), promised_capacity_tokens=100_000,
                max_context_tokens=50_000, is_routable=True,
            )
        )  # fmt: skip

    async def _one(self, given):
        self.replica.health.answered()
        self.engines.prepare(cut(given.answer, given.answer_piece_bytes), ends=given.engine_ends)
        budget = self.state.budget
        budget._max_bytes = budget._max_large_bytes = 40_000 if given.is_full else 1 << 30
        others = [Other(budget) for _ in range(3)]
        wire = Wire(self.loop)
        wire.attach(ClientConnection(self.state))
        for number, piece in enumerate(cut(given.request, given.request_piece_bytes)):
            if wire.is_closing():
                break
            if given.is_slow and number == given.slow_at:
                wire.protocol.pause_writing()
            _deliver(wire.protocol, piece)
            if given.is_full:
                others[number % 3].wants(15_000)
            if not given.client_leaves:
                await asyncio.sleep(0)
        if not given.client_leaves:
            for _ in range(4):
                await asyncio.sleep(0)
        if given.is_slow and given.catches_up and not wire.is_closing():
            wire.protocol.resume_writing()
            await asyncio.sleep(0)
        for other in others:
            other.give_up()
        wire.close()
        await self._nothing_is_left()

    async def _nothing_is_left(self):
        for _ in range(60):
            if not self.state.connections and not self.replica.upstream.busy:
                break
            await asyncio.sleep(0)
        ledger = self.replica.ledger
        left = {
            "leases": ledger.num_in_flight,
            "tokens": ledger.reserved_tokens,
            "clients": len(self.state.connections),
            "engine connections": len(self.replica.upstream.busy),
            "bytes": self.state.budget.held_bytes,
            "slow clients": len(self.state.budget._slow),
            "documents": self.router.services.intake.documents.held_bytes,
        }
        if any(left.values()):
            msg = f"left behind: {left}"
            raise RuntimeError(msg)
        idle = self.replica.upstream.idle
        while idle:
            idle.pop().close()


def resident_bytes():
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _deliver(connection, data):
    """As an event loop does: into the connection's buffer, and no more at once than it holds."""
    while data:
        buffer = connection.get_buffer(-1)
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        connection.buffer_updated(size)
        data = data[size:]


def cut(data, size):
    """Pieces of that size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class Other:
    """Another client, who needs room, and gives it up when somebody else does."""

    def __init__(self, budget):
        self._budget, self._num_bytes = budget, 0

    def wants(self, num_bytes):
        self._budget.slow(self)
        if self._budget.take(num_bytes, num_bytes):
            self._num_bytes += num_bytes

    def give_up(self):
        num_bytes, self._num_bytes = self._num_bytes, 0
        self._budget.give_back(num_bytes)
        self._budget.not_slow(self)


class Input:
    """Six bytes that say how, the engine's answer, the request."""

    def __init__(self, data):
        head, rest = data[:6].ljust(6, b"\0"), data[6:]
        self.client_leaves = bool(head[0] & 1)
        self.engine_ends = bool(head[0] & 2)
        self.is_slow = bool(head[0] & 8)
        self.catches_up = bool(head[0] & 16)
        self.is_full = bool(head[0] & 32)
        self.slow_at = head[0] >> 6
        self.request_piece_bytes = 16 * head[1] + 1 if head[1] < 250 else 1 << 20
        self.answer_piece_bytes = 8 * head[2] + 1 if head[2] < 250 else 1 << 20
        size = int.from_bytes(head[3:5], "big") % 2000
        canned = ANSWERS[head[5] % len(ANSWERS)] if head[0] & 4 else b""
        self.answer = canned + rest[:size]
        self.request = rest[size:]


def write_seeds(folder):
    """The corpus, with each answer, in one piece and in many."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, case in enumerate(cases()):
        for answer in range(len(ANSWERS)) if case.num_forwarded else (0,):
            for flags, size in ((4, 255), (4, 1), (6, 255), (12, 1), (60, 2), (36, 2)):
                head = bytes([flags, size, size, 0, 0, answer])
                (folder / f"{index}-{answer}-{flags}-{size}").write_bytes(head + case.data[:8000])


def main():
    """Arguments: a folder for the corpus, then libFuzzer's own flags."""
    folder = Path(sys.argv[1])
    write_seeds(folder)
    target = Target()
    marks = []

    def one(data):
        target(data)
        target.num_runs += 1
        if target.num_runs % REPORT_RUNS == 0:
            marks.append(resident_bytes())
            told = f"{target.num_runs} runs, {marks[-1] >> 20} MiB, {target.outcomes()}"
            print(told, flush=True)  # noqa: T201 - progress of twenty minutes
            if marks[-1] > marks[0] + MAX_GROWTH_BYTES:
                msg = f"memory grew from {marks[0]} to {marks[-1]} bytes"
                raise MemoryError(msg)

    atheris.Setup([sys.argv[0], str(folder), *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
