"""SGLang's rules, as 0.5.23 has them (``managers/schedule_policy.py``, ``schedule_batch.py``).

* A step either prefills or decodes: while prompts can be admitted, decoding pauses.
* Admission reserves for output: a request needs pages for what is not cached of its prompt, its
  ``max_tokens`` (at most 4,096) and a page; what runs is expected to need another
  ``new_token_ratio`` of what it may still generate. The ratio starts at 0.7, decays to 0.098
  over 600 decode steps, and is raised when decoding has run out of pages.
* Out of pages, the requests with the fewest generated tokens (then the longest prompt) are
  retracted until everyone else can decode 20 steps; they lose what is not in the radix tree,
  and queue at the end.

Pages are the layout's blocks: SGLang's own default is a page of one token.
"""

from memroute_simulator.engine.model.kv_cache import KVCache
from memroute_simulator.engine.model.queue import SchedulingPolicy
from memroute_simulator.engine.model.request import EngineRequest, RequestState
from memroute_simulator.engine.model.scheduler import Scheduler, StepPlan

INIT_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_RATIO_FACTOR = 0.14
NEW_TOKEN_RATIO_DECAY_STEPS = 600
CLIP_MAX_NEW_TOKENS = 4096
RETRACT_DECODE_STEPS = 20
CHUNKED_PREFILL_TOKENS = 8192
MAX_PREFILL_TOKENS = 16384


class SGLangScheduler(Scheduler):
    """Prefill first, output reserved by a learnt ratio, retraction of the youngest."""

    def __init__(
        self,
        *,
        cache: KVCache,
        max_num_seqs: int,
        chunked_prefill_tokens: int = CHUNKED_PREFILL_TOKENS,
        max_prefill_tokens: int = MAX_PREFILL_TOKENS,
        schedule_conservativeness: float = 1.0,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        max_adapters: int | None = None,
        reports_emitted: bool = False,
    ) -> None:
        """The sizes are those of SGLang's flags; ``max_num_seqs``: ``--max-running-requests``."""
        super().__init__(
            cache=cache,
            max_num_seqs=max_num_seqs,
            policy=policy,
            max_adapters=max_adapters,
            reports_emitted=reports_emitted,
        )
        self.chunked_prefill_tokens = chunked_prefill_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self._init_ratio = min(INIT_NEW_TOKEN_RATIO * schedule_conservativeness, 1.0)
        self._min_ratio = min(self._init_ratio * MIN_NEW_TOKEN_RATIO_FACTOR, 1.0)
        self._decay = (self._init_ratio - self._min_ratio) / NEW_TOKEN_RATIO_DECAY_STEPS
        self.new_token_ratio = self._init_ratio

    def schedule(self, now_seconds: float = 0.0) -> StepPlan:
        """Prefill if anyone can be admitted, else decode."""
        plan = StepPlan(decodes=False)
        self._prefill(plan)
        if plan.prefills:
            plan.num_adapters = len(self._adapters)
            return plan
        plan.decodes = True
        self._decode(plan)
        self._plan_decodes(plan)
        if not self.running:
            self.new_token_ratio = self._init_ratio
        return plan

    # Prefill.

    def _prefill(self, plan: StepPlan) -> None:
        chunk_left, input_left = self.chunked_prefill_tokens, self.max_prefill_tokens
        for request in tuple(self._prefilling):
            start = request.num_computed_tokens
            num_new = min(request.num_tokens - start, chunk_left)
            if num_new <= 0 or not self.cache.grow(request, start + num_new):
                return
            self._add_chunk(request, start, num_new, plan)
            chunk_left -= num_new
            input_left -= num_new
        if not len(self.waiting) or (self._prefilling and chunk_left <= 0):
            return
        size = self.cache.layout.block_size_tokens
        left = self.cache.num_free * size - sum(map(self._expected_tokens, self.running), start=0.0)
        while len(self.waiting) and chunk_left > 0 and len(self.running) < self.max_num_seqs:
            request = self.waiting.peek()
            if not self._has_adapter_slot(request):
                return
            hit = self.cache.find_hit(request)
            extend = request.num_tokens - hit
            needed = extend + self._may_generate(request) + size
            idle_hits = self.cache.blocks_to_admit(request, hit) * size - extend
            if needed + max(0, idle_hits) > left or (extend > input_left and plan.prefills):
                return
            num_new = min(extend, chunk_left)
            if not self.cache.admit(request, hit, hit + num_new):
                return
            self.waiting.pop()
            self._enter(request, hit)
            self._add_chunk(request, hit, num_new, plan)
            plan.admitted.append(request)
            chunk_left -= num_new
            input_left -= num_new
            left -= needed

    def _may_generate(self, request: EngineRequest) -> int:
        allowed = request.max_output_tokens or request.num_output_tokens
        return min(max(allowed - self.num_generated(request), 0), CLIP_MAX_NEW_TOKENS)

    def _expected_tokens(self, request: EngineRequest) -> float:
        return self._may_generate(request) * self.new_token_ratio

    # Decode.

    def _decode(self, plan: StepPlan) -> None:
        due = self._due()
        needed = sum(
            self.cache.blocks_to_grow(request, self._needs_tokens(request)) for request in due
        )
        if needed > self.cache.num_free:
            self._retract(plan)
        else:
            self.new_token_ratio = max(self.new_token_ratio - self._decay, self._min_ratio)
        for request in due:
            if request.state is RequestState.DECODING and not self._grow_decoding(request):
                self._preempt(request, plan, retracts=True)

    def _retract(self, plan: StepPlan) -> None:
        ordered = sorted(
            self._decoding,
            key=lambda request: (self.num_generated(request), -request.num_prompt_tokens),
            reverse=True,
        )
        while len(ordered) > 1:
            self._preempt(ordered.pop(), plan, retracts=True)
            if self._can_decode(ordered):
                break
        decoded = sum(map(self.num_generated, ordered))
        allowed = sum(r.max_output_tokens or r.num_output_tokens for r in ordered)
        estimate = (decoded + RETRACT_DECODE_STEPS * len(ordered)) / (allowed + 1)
        self.new_token_ratio = min(1.0, estimate)

    def _can_decode(self, requests: list[EngineRequest]) -> bool:
        return self.cache.num_free >= sum(
            self.cache.blocks_to_grow(request, self._needs_tokens(request) + RETRACT_DECODE_STEPS)
            for request in requests
        )
