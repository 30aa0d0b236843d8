"""vLLM V1's rules, as 0.32 has them (``v1/core/sched/scheduler.py``).

1. One token budget per step. Running requests come first: a decode takes one token, an
   unfinished prefill what is left of its prompt or of the budget.
2. Blocks are allocated per request. When none is left, the *last* running request (by the
   priority policy, the one of the least priority) is preempted: it loses its blocks and goes
   to the front of the queue, to be computed again but for what the prefix cache still has.
3. No admission in a step that preempted.
4. Else waiting requests are admitted in order while budget, sequences, adapters, and blocks for
   the *whole* prompt above the watermark last. The head of the queue blocks those behind it,
   but for one that waits for an adapter slot, which is passed over.

With KV cache on the host (``host_tier``), a request whose prefix lies there takes its blocks and
waits for them beside the queue; it is admitted when they are there.

One simplification: where a prefill that did not get its whole budget stands before decoding
requests (possible with a prefill threshold only), those keep their tokens.
"""

from memroute.footprint.kv_cache.cells import CellKind
from memroute_simulator.engine.model.host_tier import HostTier
from memroute_simulator.engine.model.kv_cache import KVCache
from memroute_simulator.engine.model.queue import SchedulingPolicy
from memroute_simulator.engine.model.request import EngineRequest, RequestState
from memroute_simulator.engine.model.scheduler import Scheduler, StepPlan


class VLLMScheduler(Scheduler):
    """Continuous batching with chunked prefill and preemption by recompute."""

    def __init__(
        self,
        *,
        cache: KVCache,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        watermark_ratio: float = 0.0,
        long_prefill_token_threshold: int = 0,
        max_adapters: int | None = None,
        reports_emitted: bool = False,
        host: HostTier | None = None,
    ) -> None:
        """Raises ``ValueError`` when a step could not hold one token of every sequence."""
        if max_num_batched_tokens < max_num_seqs:
            msg = (
                f"max_num_batched_tokens ({max_num_batched_tokens}) must be greater than or "
                f"equal to max_num_seqs ({max_num_seqs})."
            )
            raise ValueError(msg)
        super().__init__(
            cache=cache,
            max_num_seqs=max_num_seqs,
            policy=policy,
            max_adapters=max_adapters,
            reports_emitted=reports_emitted,
            host=host,
        )
        self.max_num_batched_tokens = max_num_batched_tokens
        self.long_prefill_token_threshold = long_prefill_token_threshold
        self._watermark_blocks = int(watermark_ratio * cache.num_blocks)
        states = [g for g in cache.layout.groups if g.kind is CellKind.STATE]
        # States are cached where a chunk ends, so chunks end at block boundaries.
        self._chunk_alignment = (
            states[0].block_size_tokens
            if states and cache.layout.caches_prefixes and cache.caches_prefixes
            else 1
        )

    def schedule(self, now_seconds: float = 0.0) -> StepPlan:
        """Decide what the next step computes."""
        plan = StepPlan()
        self._take_loaded(now_seconds)
        self.num_deferred = 0
        for request in self._needing_blocks():
            if request.state is RequestState.DECODING:
                self._make_room(request, plan)
            elif request.state is RequestState.PREFILLING:
                self._continue_prefill(request, plan)
        if not plan.preempted and self.num_waiting:
            self._admit(plan, now_seconds)
        self._plan_decodes(plan)
        self._offer_to_host(plan)
        return plan

    def _needing_blocks(self) -> list[EngineRequest]:
        due = self._due()
        if not self._prefilling:
            return due
        return sorted((*due, *self._prefilling), key=lambda request: request.order)

    def _make_room(self, request: EngineRequest, plan: StepPlan) -> None:
        """Grow a decoding request, preempting others, or at last itself."""
        while not self._grow_decoding(request):
            if self._preempt_last(plan) is request:
                return

    def _continue_prefill(self, request: EngineRequest, plan: StepPlan) -> None:
        start = request.num_computed_tokens
        num_new = self._chunk_tokens(request, start, self._budget(plan))
        if num_new <= 0:
            return
        while not self.cache.grow(request, start + num_new):
            if self._preempt_last(plan) is request:
                return
        self._add_chunk(request, start, num_new, plan)

    def _budget(self, plan: StepPlan) -> int:
        """Tokens that the step has left."""
        prefilled = sum(chunk.num_new_tokens for chunk in plan.prefills)
        return self.max_num_batched_tokens - len(self._decoding) - prefilled

    def _preempt_last(self, plan: StepPlan) -> EngineRequest:
        if self.policy is SchedulingPolicy.PRIORITY:
            victim = max(self.running, key=lambda r: (r.priority, r.arrival_seconds))
            plan.prefills = [chunk for chunk in plan.prefills if chunk.request is not victim]
        else:
            victim = next(reversed(self.running))
        self._preempt(victim, plan)
        return victim

    def _admit(self, plan: StepPlan, now_seconds: float) -> None:
        passed_over: list[EngineRequest] = []
        budget = self._budget(plan)
        while budget > 0 and len(self.running) < self.max_num_seqs:
            loaded = next(iter(self._loaded), None)
            if loaded is not None:
                num_new = self._admit_loaded(loaded, budget, plan)
            elif not len(self.waiting):
                break
            else:
                request = self.waiting.peek()
                if not self._has_adapter_slot(request):
                    passed_over.append(self.waiting.pop())
                    continue
                hit = self.cache.find_hit(request)
                found = 0 if self.host is None else self.host.find(request, hit)
                if found is None:
                    passed_over.append(self.waiting.pop())
                    continue
                if found:
                    num_new = self._admit_to_load(request, hit, found, now_seconds)
                else:
                    num_new = self._admit_new(request, hit, budget, plan)
            if num_new is None:
                break
            budget -= num_new
        self.num_deferred = len(passed_over) + len(self._loading)
        for request in reversed(passed_over):
            self.waiting.push_front(request)

    def _admit_new(
        self, request: EngineRequest, hit: int, budget: int, plan: StepPlan
    ) -> int | None:
        """Admit the head of the queue: tokens of its first chunk, None where it has to wait."""
        num_new = self._chunk_tokens(request, hit, budget)
        if num_new <= 0 or not self._take_blocks(request, hit, num_new):
            return None
        self.waiting.pop()
        self._run(request, hit, num_new, plan)
        return num_new

    def _admit_to_load(
        self, request: EngineRequest, hit: int, found: int, now_seconds: float
    ) -> int | None:
        """Let it take its blocks and wait for the host: 0 tokens, None where it has to wait.

        It cannot be preempted meanwhile: what prompts under way still need is left to them.
        """
        under_way = (*self._prefilling, *self._loading, *self._loaded)
        reserved = sum(self.cache.blocks_to_grow(one, one.num_tokens) for one in under_way)
        needed = self.cache.blocks_to_begin(request, hit, hit + found) + self._watermark
        if needed > self.cache.num_free - reserved:
            return None
        if not self._take_blocks(request, hit, found):
            return None
        self.waiting.pop()
        self._begin_load(request, hit, found, now_seconds)
        return 0

    def _admit_loaded(self, request: EngineRequest, budget: int, plan: StepPlan) -> int | None:
        """Admit one whose load has ended."""
        start = self._loaded[request]
        num_new = self._chunk_tokens(request, start, budget)
        needed = self.cache.blocks_to_grow(request, request.num_tokens)
        if num_new <= 0 or needed + self._watermark > self.cache.num_free:
            return None
        if not self.cache.grow(request, start + num_new):
            return None
        del self._loaded[request]
        self._run(request, start, num_new, plan)
        return num_new

    @property
    def _watermark(self) -> int:
        """Blocks that an admission leaves free; none where nobody runs."""
        return self._watermark_blocks if self.running else 0

    def _take_blocks(self, request: EngineRequest, hit: int, num_new: int) -> bool:
        """Take the hit and blocks for so many tokens, if all of it would fit."""
        needed = self.cache.blocks_to_admit(request, hit) + self._watermark
        return needed <= self.cache.num_free and self.cache.admit(request, hit, hit + num_new)

    def _run(self, request: EngineRequest, start: int, num_new: int, plan: StepPlan) -> None:
        """It joins the running set with that chunk."""
        self._enter(request, start)
        self._add_chunk(request, start, num_new, plan)
        plan.admitted.append(request)

    def _chunk_tokens(self, request: EngineRequest, start: int, budget: int) -> int:
        num_new = min(request.num_tokens - start, budget)
        if 0 < self.long_prefill_token_threshold < num_new:
            num_new = self.long_prefill_token_threshold
        end = start + num_new
        last_kept = (request.num_prompt_tokens - 1) // self._chunk_alignment * self._chunk_alignment
        if self._chunk_alignment > 1 and start < last_kept < end:
            return last_kept - start
        if self._chunk_alignment > 1 and end < request.num_tokens:
            aligned = end // self._chunk_alignment * self._chunk_alignment
            if aligned > start or self._chunk_alignment <= self.max_num_batched_tokens:
                end = aligned
        return max(0, end - start)
