"""Sends a workload on its schedule, over as many connections as it takes.

Bodies are made before the first one is sent. Owns the connections.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

import orjson

from bench.load.answer import Answer
from bench.load.connection import Connection
from memroute_simulator.workloads.request import Segments, Session, Workload, WorkloadRequest

BYTES_PER_TOKEN = 4
ALPHABET = b"abcdefghijklmnopqrstuvwxyz      "
LAG_PROBE_SECONDS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """Where to, and how."""

    url: str
    model: str
    is_chat: bool = False
    is_stream: bool = True
    whole_ratio: float = 0.0
    """Of the requests, those that are not streamed all the same."""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float = 600.0
    lead_seconds: float = 0.5
    """Between the start of the clock and the first request."""


@dataclass(slots=True, kw_only=True)
class LoadRun:
    """What came back, and how the generator itself did."""

    answers: list[Answer] = field(default_factory=list)
    loop_lags_seconds: list[float] = field(default_factory=list)
    """How late the generator's own loop was, every 5 ms."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


async def generate(workload: Workload, settings: LoadSettings) -> LoadRun:
    """Send everything, and wait for what comes back."""
    generator = _Generator(workload, settings)
    return await generator.run()


class _Generator:
    def __init__(self, workload: Workload, settings: LoadSettings) -> None:
        parts = urlsplit(settings.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._settings = settings
        self._workload = workload
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._run = LoadRun()
        self._num_open = workload.num_requests
        self._over = asyncio.Event()
        path = "/v1/chat/completions" if settings.is_chat else "/v1/completions"
        extra = "".join(f"{name}: {value}\r\n" for name, value in settings.headers)
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\n{extra}Content-Length: "
        ).encode()

    async def run(self) -> LoadRun:
        """Fix the schedule, then follow it."""
        plans = [(session, self._messages(session)) for session in self._workload.sessions]
        cpu, wall = time.process_time(), time.perf_counter()
        # uvloop's own clock ticks in milliseconds: too coarse to time chunks with.
        start = time.perf_counter() + self._settings.lead_seconds
        for session, messages in plans:
            self._schedule(session, messages, 0, start + session.start_seconds)
        probe = self._loop.create_task(self._probe())
        last = self._workload.sessions[-1].start_seconds if self._workload.sessions else 0.0
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                self._over.wait(),
                self._settings.lead_seconds + last + self._settings.timeout_seconds,
            )
        probe.cancel()
        now = time.perf_counter()
        for answer in self._run.answers:
            answer.on_over = None
            if not answer.is_over:
                answer.fail("timed out", now)
        for connection in tuple(self._connections):
            connection.close()
        self._run.cpu_seconds = time.process_time() - cpu
        self._run.wall_seconds = time.perf_counter() - wall
        return self._run

    def _messages(self, session: Session) -> list[bytes]:
        return [self._message(request) for request in session.requests]

    def _is_stream(self, request: WorkloadRequest) -> bool:
        """Whether the request asks for a stream: the same for every router."""
        settings = self._settings
        draw = random.Random(request.output_id).random()  # noqa: S311 - no secret
        return settings.is_stream and draw >= settings.whole_ratio

    def _message(self, request: WorkloadRequest) -> bytes:
        is_stream = self._is_stream(request)
        text = _text(request.prompt)
        settings = self._settings
        body: dict[str, object] = {
            "model": request.adapter or settings.model,
            "max_tokens": request.num_output_tokens,
            "ignore_eos": True,
            "stream": is_stream,
        }
        if settings.is_chat:
            body["messages"] = [{"role": "user", "content": text}]
        else:
            body["prompt"] = text
        if request.priority:
            body["priority"] = request.priority
        encoded = orjson.dumps(body)
        return self._head + str(len(encoded)).encode() + b"\r\n\r\n" + encoded

    def _schedule(
        self, session: Session, messages: Sequence[bytes], turn: int, at_seconds: float
    ) -> None:
        def send() -> None:
            request = session.requests[turn]
            answer = Answer(
                number=len(self._run.answers),
                intended_seconds=at_seconds,
                num_prompt_tokens=request.num_prompt_tokens,
                num_output_tokens=request.num_output_tokens,
                is_stream=self._is_stream(request),
                on_over=over,
            )
            self._run.answers.append(answer)
            self._send(answer, messages[turn])

        def over(_answer: Answer) -> None:
            self._num_open -= 1
            if turn + 1 < len(messages):
                think = session.think_seconds[turn] if turn < len(session.think_seconds) else 0.0
                self._schedule(session, messages, turn + 1, time.perf_counter() + think)
            elif not self._num_open:
                self._over.set()

        self._loop.call_later(max(0.0, at_seconds - time.perf_counter()), send)

    def _send(self, answer: Answer, message: bytes) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.start(answer, message)
                return
        task = self._loop.create_task(self._connect_and_send(answer, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_send(self, answer: Answer, message: bytes) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._idle.append, self._connections.discard),
                self._host,
                self._port,
            )
        except OSError as error:
            answer.fail(f"cannot connect: {error}", time.perf_counter())
            return
        self._connections.add(connection)
        connection.start(answer, message)

    async def _probe(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_PROBE_SECONDS)
            lag = time.perf_counter() - before - LAG_PROBE_SECONDS
            self._run.loop_lags_seconds.append(max(0.0, lag))


def _text(prompt: Segments) -> str:
    """Four bytes per token; equal segments are equal texts."""
    return "".join(_segment_text(segment, tokens) for segment, tokens in prompt)


@lru_cache(maxsize=20_000)
def _segment_text(segment: int, num_tokens: int) -> str:
    rng = random.Random(segment)  # noqa: S311 - a text, no secret
    return bytes(rng.choices(ALPHABET, k=num_tokens * BYTES_PER_TOKEN)).decode()
