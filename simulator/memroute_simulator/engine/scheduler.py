"""What an engine does in one step: vLLM V1's rules.

1. One token budget per step. Running requests come first, in order: a decode takes one token,
   an unfinished prefill what is left of its prompt or of the budget.
2. Blocks are allocated per request. When none is left, the *last* running request is
   preempted: it loses all its blocks and goes to the front of the queue, to be recomputed.
3. No admission in a step that preempted.
4. Else waiting requests are admitted in order while budget, sequence limit, and blocks for
   the *whole prompt* last. The head of the queue blocks those behind it.

Pure: no clock, no I/O; the caller sleeps for the seconds that a step returns. Owns the queue.
"""

from collections import deque
from dataclasses import dataclass, field

from memroute_simulator.engine.kv_pool import KVPool
from memroute_simulator.engine.step_time import StepTimeModel


@dataclass(slots=True, kw_only=True, eq=False)
class EngineRequest:
    """One request inside the engine."""

    request_id: str
    num_prompt_tokens: int
    num_output_tokens: int
    """How many tokens it will generate; decided before it starts."""
    num_computed_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens whose keys and values it needs so far: prompt and generated."""
        return self.num_prompt_tokens + self.num_generated_tokens

    @property
    def is_finished(self) -> bool:
        """Whether it has generated all its tokens."""
        return self.num_generated_tokens >= self.num_output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step did."""

    seconds: float
    emitted: tuple[EngineRequest, ...] = ()
    """Requests that got one more token, finished ones included."""
    preempted: tuple[EngineRequest, ...] = ()
    num_scheduled_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """The running set, the waiting queue, and the pool they share."""

    pool: KVPool
    step_time: StepTimeModel
    max_num_batched_tokens: int
    max_num_seqs: int
    running: list[EngineRequest] = field(default_factory=list)
    waiting: deque[EngineRequest] = field(default_factory=deque)
    num_preemptions_total: int = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    def add(self, request: EngineRequest) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def abort(self, request: EngineRequest) -> None:
        """Drop a request, wherever it is."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.pool.free(request.request_id)

    def step(self) -> StepResult:
        """Schedule and account one step; its tokens count as generated at its end."""
        budget = self.max_num_batched_tokens
        scheduled: dict[str, int] = {}
        preempted: list[EngineRequest] = []
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            num_new = min(request.num_tokens - request.num_computed_tokens, budget)
            if self._make_room(
                request, request.num_computed_tokens + num_new, preempted, scheduled
            ):
                scheduled[request.request_id] = num_new
                budget -= num_new
                index += 1
            # Otherwise the request preempted itself: the list is one shorter now.
        budget = self.max_num_batched_tokens - sum(scheduled.values())
        if not preempted:
            budget = self._admit(budget, scheduled)
        return self._finish_step(scheduled, preempted)

    def _make_room(
        self,
        request: EngineRequest,
        num_tokens: int,
        preempted: list[EngineRequest],
        scheduled: dict[str, int],
    ) -> bool:
        """Grow the request, preempting from the end; False if it had to preempt itself."""
        while not self.pool.grow(request.request_id, num_tokens):
            victim = self.running.pop()
            self.pool.free(victim.request_id)
            scheduled.pop(victim.request_id, None)
            victim.num_computed_tokens = 0
            victim.num_preemptions += 1
            self.num_preemptions_total += 1
            self.waiting.appendleft(victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def _admit(self, budget: int, scheduled: dict[str, int]) -> int:
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            if not self.pool.can_grow(request.request_id, request.num_tokens):
                break
            self.waiting.popleft()
            num_new = min(request.num_tokens, budget)
            self.pool.grow(request.request_id, num_new)
            self.running.append(request)
            scheduled[request.request_id] = num_new
            budget -= num_new
        return budget

    def _finish_step(self, scheduled: dict[str, int], preempted: list[EngineRequest]) -> StepResult:
        emitted: list[EngineRequest] = []
        num_context_tokens = 0
        for request in self.running:
            num_new = scheduled.get(request.request_id, 0)
            if not num_new:
                continue
            num_context_tokens += request.num_computed_tokens
            request.num_computed_tokens += num_new
            if request.num_computed_tokens == request.num_tokens:
                request.num_generated_tokens += 1
                emitted.append(request)
        num_scheduled = sum(scheduled.values())
        seconds = self.step_time.step_seconds(
            num_scheduled_tokens=num_scheduled,
            num_context_tokens=num_context_tokens,
            num_sequences=len(scheduled),
        )
        for request in emitted:
            if request.is_finished:
                self.running.remove(request)
                self.pool.free(request.request_id)
        return StepResult(
            seconds=seconds,
            emitted=tuple(emitted),
            preempted=tuple(preempted),
            num_scheduled_tokens=num_scheduled,
        )
