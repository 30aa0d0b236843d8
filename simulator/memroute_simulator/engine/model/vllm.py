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

One simplification: where a prefill that did not get its whole budget stands before decoding
requests (possible with a prefill threshold only), those keep their tokens.
"""

from memroute.footprint.kv_cache.cells import CellKind
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

    def schedule(self) -> StepPlan:
        """Decide what the next step computes."""
        plan = StepPlan()
        self.num_deferred = 0
        for request in self._needing_blocks():
            if request.state is RequestState.DECODING:
                self._make_room(request, plan)
            elif request.state is RequestState.PREFILLING:
                self._continue_prefill(request, plan)
        if not plan.preempted and len(self.waiting):
            self._admit(plan)
        self._plan_decodes(plan)
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

    def _admit(self, plan: StepPlan) -> None:
        passed_over: list[EngineRequest] = []
        budget = self._budget(plan)
        while budget > 0 and len(self.waiting) and len(self.running) < self.max_num_seqs:
            request = self.waiting.peek()
            if not self._has_adapter_slot(request):
                passed_over.append(self.waiting.pop())
                continue
            hit = self.cache.find_hit(request)
            needed = self.cache.blocks_to_admit(request, hit)
            if self.running:
                needed += self._watermark_blocks
            num_new = self._chunk_tokens(request, hit, budget)
            if needed > self.cache.num_free or num_new <= 0:
                break
            if not self.cache.admit(request, hit, hit + num_new):
                break
            self.waiting.pop()
            self._enter(request, hit)
            self._add_chunk(request, hit, num_new, plan)
            plan.admitted.append(request)
            budget -= num_new
        self.num_deferred = len(passed_over)
        for request in reversed(passed_over):
            self.waiting.push_front(request)

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
