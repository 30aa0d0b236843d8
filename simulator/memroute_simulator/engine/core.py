"""The engine in real time: steps of the scheduler, paced by a clock, tokens to their readers."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from memroute_simulator.engine.metrics import EngineMetrics
from memroute_simulator.engine.scheduler import EngineRequest, Scheduler


@dataclass(slots=True, kw_only=True)
class _Reader:
    arrived_at: float
    tokens: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    first_token_at: float | None = None
    last_token_at: float = 0.0


class EngineCore:
    """Runs the scheduler and delivers tokens. Owns both and the readers."""

    def __init__(self, scheduler: Scheduler, metrics: EngineMetrics, *, time_scale: float) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._time_scale = time_scale
        self._readers: dict[str, _Reader] = {}
        self._wake = asyncio.Event()

    @property
    def num_in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._readers)

    async def run(self) -> None:
        """Step for ever; idle while there is nothing to do."""
        while True:
            if not self._scheduler.has_work:
                self._wake.clear()
                await self._wake.wait()
            result = self._scheduler.step()
            self._metrics.on_step(result)
            await asyncio.sleep(result.seconds * self._time_scale)
            now = time.monotonic()
            for request in result.emitted:
                self._deliver(request, now)

    async def generate(self, request: EngineRequest) -> AsyncIterator[int]:
        """The positions of the request's tokens as they come; leaving early aborts it."""
        reader = _Reader(arrived_at=time.monotonic())
        self._readers[request.request_id] = reader
        self._scheduler.add(request)
        self._wake.set()
        finished = False
        try:
            for _ in range(request.num_output_tokens):
                yield await reader.tokens.get()
            finished = True
        finally:
            del self._readers[request.request_id]
            if not finished:
                self._scheduler.abort(request)
            self._metrics.on_finished(
                reason="length" if finished else "abort",
                e2e_seconds=time.monotonic() - reader.arrived_at,
            )

    def _deliver(self, request: EngineRequest, now: float) -> None:
        reader = self._readers.get(request.request_id)
        if reader is None:
            return
        if reader.first_token_at is None:
            reader.first_token_at = now
            self._metrics.on_first_token(
                ttft_seconds=now - reader.arrived_at,
                num_prompt_tokens=request.num_prompt_tokens,
            )
        else:
            self._metrics.on_token_gap(now - reader.last_token_at)
        reader.last_token_at = now
        reader.tokens.put_nowait(request.num_generated_tokens - 1)
