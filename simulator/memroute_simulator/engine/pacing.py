"""The engine in real time: steps of its schedulers, paced by a clock; tokens to their readers.

Steps begin where the last one was due, so that the pace does not drift with the load of the
machine. Owns the schedulers, the streams and the inboxes.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from memroute_simulator.engine.faults import Faults
from memroute_simulator.engine.metrics import EngineMetrics, RequestTimes
from memroute_simulator.engine.model import (
    BlockEvent,
    EngineRequest,
    RequestState,
    Scheduler,
    StepPlan,
)
from memroute_simulator.engine.spec import EngineSpec

MAX_LAG_SECONDS = 0.25
# Further behind than that, the pace starts anew instead of being caught up with.
WAITING_WEIGHT = 4


class EngineDeadError(Exception):
    """The engine has died; nothing more will come of its requests."""


class RequestAbortedError(Exception):
    """The engine has ended the request: what there is of it is all that there will be."""


@dataclass(slots=True, eq=False)
class TokenStream:
    """The tokens of one request, as far as they exist."""

    request: EngineRequest
    rank: int
    arrived_seconds: float
    max_tokens: int
    num_samples: int = 1
    num_tokens: int = 0
    queued_seconds: float = 0.0
    scheduled_seconds: float | None = None
    first_token_seconds: float | None = None
    last_token_seconds: float = 0.0
    is_dead: bool = False
    is_aborted: bool = False
    _waiter: asyncio.Future[None] | None = field(default=None, init=False)

    async def wait_beyond(self, seen: int) -> int:
        """How many tokens there are, once there are more than ``seen``.

        Raises ``EngineDeadError`` or ``RequestAbortedError`` when none will come.
        """
        while self.num_tokens <= seen:
            if self.is_aborted:
                raise RequestAbortedError
            if self.is_dead:
                raise EngineDeadError
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.num_tokens

    def wake(self) -> None:
        """There is something new."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def times(self) -> RequestTimes | None:
        """When what happened; None before the first token."""
        if self.first_token_seconds is None or self.scheduled_seconds is None:
            return None
        return RequestTimes(
            arrived=self.arrived_seconds,
            queued=self.queued_seconds,
            scheduled=self.scheduled_seconds,
            first_token=self.first_token_seconds,
            last_token=self.last_token_seconds,
        )


@dataclass(slots=True)
class _Rank:
    scheduler: Scheduler
    inbox: list[TokenStream] = field(default_factory=list)
    plan: StepPlan | None = None


class PacedEngine:
    """All ranks of one engine."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        make_metrics: Callable[[list[Scheduler]], EngineMetrics],
        faults: Faults,
        time_scale: float = 1.0,
        on_event: Callable[[int, BlockEvent], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        """``time_scale``: seconds that pass per simulated second."""
        self.spec = spec
        self.faults = faults
        self.schedulers = spec.schedulers(on_event=on_event, reports_emitted=True)
        self.metrics = make_metrics(self.schedulers)
        self.is_dead = False
        self.busy_seconds = 0.0
        """How long steps have been under way, by the clock on the wall."""
        self.stretched: Callable[[float, float], float] | None = None
        """(seconds of a step, idle ones of them) → its seconds beside others on the card."""
        self._ranks = [_Rank(scheduler) for scheduler in self.schedulers]
        self._time_scale = time_scale
        self._streams: dict[EngineRequest, TokenStream] = {}
        self._wake = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        self._holds_new = False
        self._changed = asyncio.Event()
        self.last_words = "torch.OutOfMemoryError: CUDA out of memory."
        """What the log says when it dies."""
        self._on_step = on_step

    @property
    def num_in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._streams) + sum(len(rank.inbox) for rank in self._ranks)

    @property
    def inbox_sizes(self) -> list[int]:
        """Requests per rank that will be taken in at the end of the step."""
        return [len(rank.inbox) for rank in self._ranks]

    @property
    def num_ranks(self) -> int:
        """Data-parallel ranks."""
        return len(self._ranks)

    @property
    def is_paused(self) -> bool:
        """Whether no step is begun, or nothing that is new gets into one."""
        return self._holds_new or not self._running.is_set()

    def pause(self) -> None:
        """Begin no more steps; requests are taken and wait."""
        self._running.clear()

    def hold_new(self) -> None:
        """Go on with what is there; what comes from now on waits."""
        for rank in self._ranks:
            self._take_in(rank)
        self._holds_new = True
        self._wake.set()

    def resume(self) -> None:
        """Go on."""
        self._holds_new = False
        self._running.set()
        self._wake.set()

    async def until_drained(self) -> None:
        """Wait until nothing that was taken in is left, or the engine is dead."""
        await self._until(lambda: not self._streams)

    async def until_between_steps(self) -> None:
        """Wait until no step is under way, or the engine is dead."""
        await self._until(lambda: all(rank.plan is None for rank in self._ranks))

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so() and not self.is_dead:
            self._changed.clear()
            await self._changed.wait()

    def submit(
        self, request: EngineRequest, *, max_tokens: int, num_samples: int = 1,
        rank: int | None = None,
    ) -> TokenStream:  # fmt: skip
        """Queue a request. Raises ``EngineDeadError``; end it with ``leave``, on every path."""
        if self.is_dead:
            raise EngineDeadError
        chosen = self._choose_rank() if rank is None else rank
        stream = TokenStream(request, chosen, time.monotonic(), max_tokens, num_samples)
        self._ranks[chosen].inbox.append(stream)
        self._wake.set()
        return stream

    def leave(self, stream: TokenStream, reason: str) -> None:
        """The request has ended, or its client has gone: then its work ends too."""
        request, rank = stream.request, self._ranks[stream.rank]
        if stream in rank.inbox:
            rank.inbox.remove(stream)
        elif self._streams.pop(request, None) is not None:
            rank.scheduler.abort(request)
            self._changed.set()
        if request.state is not RequestState.FINISHED:
            reason = "error" if stream.is_dead else "abort"
        self.metrics.on_finished(
            stream.rank,
            reason,
            stream.times,
            num_prompt_tokens=request.num_prompt_tokens,
            num_hit_tokens=request.num_hit_tokens,
            num_generated_tokens=stream.num_tokens,
            max_tokens=stream.max_tokens,
            num_preemptions=request.num_preemptions,
            n=stream.num_samples,
        )

    def abort_taken(self) -> None:
        """End every request that was taken in (what a sleep does): it holds no block any more."""
        for request, stream in list(self._streams.items()):
            del self._streams[request]
            self._ranks[stream.rank].scheduler.abort(request)
            stream.is_aborted = True
            stream.wake()

    def abort_all(self) -> None:
        """End every request."""
        for stream in [*self._streams.values(), *(s for r in self._ranks for s in r.inbox)]:
            stream.is_dead = True
            stream.wake()

    def die(self) -> None:
        """The engine's process is gone, as after running out of memory."""
        self.is_dead = True
        self.abort_all()
        self._wake.set()
        self._running.set()
        self._changed.set()

    async def run(self) -> None:
        """Step until the engine dies."""
        if self.spec.steps_together:
            await self._run_ranks(self._ranks)
            return
        async with asyncio.TaskGroup() as group:
            for rank in self._ranks:
                group.create_task(self._run_ranks([rank]))

    async def _run_ranks(self, ranks: list[_Rank]) -> None:
        due = time.monotonic()
        while not self.is_dead:
            if not self._running.is_set() or self.faults.is_hanging:
                await self._running.wait()
                await self.faults.until_not_hanging()
                due = time.monotonic()
                continue
            seconds = self._begin(ranks)
            if seconds is None:
                self._wake.clear()
                if self._holds_new or not any(rank.inbox for rank in ranks):
                    await self._sleep_until_woken(ranks)
                due = time.monotonic()
                continue
            now = time.monotonic()
            due = max(due, now - MAX_LAG_SECONDS) + seconds * self._time_scale
            await asyncio.sleep(max(0.0, due - now))
            self._complete(ranks)

    async def _sleep_until_woken(self, ranks: list[_Rank]) -> None:
        # Ranks share the event: each looks again from time to time, and when a load is there.
        now = time.monotonic()
        loads = [rank.scheduler.next_load_seconds for rank in ranks]
        waits = [max(0.0, due - now) for due in loads if due is not None]
        if self.num_ranks > 1:
            waits.append(0.05)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(waits, default=None))

    def _begin(self, ranks: list[_Rank]) -> float | None:
        """Plan a step; its seconds, or None when there is nothing to do."""
        batches = []
        now = time.monotonic()
        for rank in ranks:
            if not self._holds_new:
                self._take_in(rank)
            if not rank.scheduler.has_work:
                continue
            plan = rank.scheduler.schedule(now)
            if plan.is_empty:
                continue
            rank.plan = plan
            for request in plan.admitted:
                if self._streams[request].scheduled_seconds is None:
                    self._streams[request].scheduled_seconds = now
            batches.append(plan.batch())
        if not batches:
            return None
        law = self.spec.step_time
        seconds = law.together_seconds(batches) * self.faults.slowdown_ratio
        if self.stretched is not None:
            count = max(batch.num_decodes + len(batch.prefills) for batch in batches)
            seconds = self.stretched(seconds, law.idle_seconds(count))
        self.busy_seconds += seconds * self._time_scale
        return seconds

    def _take_in(self, rank: _Rank) -> None:
        now = time.monotonic()
        for stream in rank.inbox:
            stream.queued_seconds = now
            self._streams[stream.request] = stream
            rank.scheduler.add(stream.request)
        rank.inbox.clear()

    def _complete(self, ranks: list[_Rank]) -> None:
        now = time.monotonic()
        for index, rank in enumerate(self._ranks):
            if rank not in ranks or rank.plan is None:
                continue
            plan, rank.plan = rank.plan, None
            result = rank.scheduler.complete(plan, now)
            self.metrics.ranks[index].on_step(rank.scheduler, plan, result)
            if self.metrics.host is not None:
                self.metrics.host.on_step(index)
            for request in result.emitted:
                stream = self._streams.get(request)
                if stream is not None:
                    self._deliver(stream, index, now)
            for request in result.finished:
                self._streams.pop(request, None)
        self._changed.set()
        if self._on_step is not None:
            self._on_step()

    def _deliver(self, stream: TokenStream, rank: int, now: float) -> None:
        request = stream.request
        if stream.first_token_seconds is None:
            stream.first_token_seconds = now
            self.metrics.on_first_token(
                rank, now - stream.arrived_seconds, request.num_prompt_tokens,
                request.num_hit_tokens, request.num_host_hit_tokens,
            )  # fmt: skip
        else:
            self.metrics.ranks[rank].itl.observe(now - stream.last_token_seconds)
        stream.last_token_seconds = now
        stream.num_tokens += 1
        stream.wake()

    def _choose_rank(self) -> int:
        if len(self._ranks) == 1:
            return 0
        loads = [
            WAITING_WEIGHT * (rank.scheduler.num_waiting + len(rank.inbox))
            + rank.scheduler.num_running
            for rank in self._ranks
        ]
        return loads.index(min(loads))
