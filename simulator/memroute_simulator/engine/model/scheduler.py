"""What the schedulers of engines share: two phases of a step, and decoding in bulk.

A step is planned (``schedule``: who computes how many tokens), takes its time elsewhere, and
is completed (``complete``: tokens exist, requests end). Between the two, requests may arrive
and leave.

In every round all decoding requests gain one token, so they are not visited one by one: the
round is counted, and what will happen to a request - it needs a block, a window passes one, it
ends - is put down at the round in which it happens. A step costs what happens in it.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field

from memroute.bandwidth import StepBatch
from memroute_simulator.engine.model.host_tier import HostTier
from memroute_simulator.engine.model.kv_cache import KVCache
from memroute_simulator.engine.model.queue import SchedulingPolicy, waiting_queue
from memroute_simulator.engine.model.request import EngineRequest, RequestState


@dataclass(slots=True)
class PrefillChunk:
    """Prompt (or recomputed) tokens of one request in one step."""

    request: EngineRequest
    num_new_tokens: int
    num_cached_tokens: int
    """Tokens before them that are in the cache."""
    epoch: int


@dataclass(slots=True, kw_only=True)
class StepPlan:
    """What one step computes."""

    prefills: list[PrefillChunk] = field(default_factory=list)
    decodes: bool = True
    """Whether decoding requests gain a token in it."""
    num_decodes: int = 0
    decode_context_tokens: int = 0
    preempted: list[EngineRequest] = field(default_factory=list)
    admitted: list[EngineRequest] = field(default_factory=list)
    num_adapters: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.prefills and not self.num_decodes

    def batch(self) -> StepBatch:
        """The step as the step-time law sees it."""
        return StepBatch(
            num_decodes=self.num_decodes,
            decode_context_tokens=self.decode_context_tokens,
            prefills=tuple(
                (chunk.num_new_tokens, chunk.num_cached_tokens) for chunk in self.prefills
            ),
            num_prefill_outputs=sum(
                chunk.num_cached_tokens + chunk.num_new_tokens >= chunk.request.num_tokens
                for chunk in self.prefills
            ),
            num_adapters=self.num_adapters,
        )


@dataclass(slots=True, kw_only=True)
class StepResult:
    """What one step did."""

    first_tokens: list[EngineRequest] = field(default_factory=list)
    """Requests that got their first token ever."""
    finished: list[EngineRequest] = field(default_factory=list)
    emitted: list[EngineRequest] = field(default_factory=list)
    """Everyone who got a token, where the scheduler was asked to tell."""
    num_emitted: int = 0
    num_prefilled_tokens: int = 0


@dataclass(slots=True)
class SchedulerCounts:
    """What an engine counts from its start on."""

    num_preemptions: int = 0
    num_recomputed_tokens: int = 0
    """Tokens computed again after a preemption."""
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    host_query_tokens: int = 0
    """Prompt tokens behind what the device had, where there is a host to ask."""
    host_hit_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    num_steps: int = 0


class Scheduler(ABC):
    """The running set, the queue, and the cache they share. Owns all three."""

    def __init__(
        self,
        *,
        cache: KVCache,
        max_num_seqs: int,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        max_adapters: int | None = None,
        reports_emitted: bool = False,
        host: HostTier | None = None,
    ) -> None:
        """``max_adapters``: distinct LoRA adapters in one step; None: no limit."""
        self.cache = cache
        self.host = host
        """KV cache on the host; None where there is none."""
        self.max_num_seqs = max_num_seqs
        self.policy = policy
        self.max_adapters = max_adapters
        self.waiting = waiting_queue(policy)
        self.running: dict[EngineRequest, None] = {}
        """In the order of admission."""
        self.counts = SchedulerCounts()
        self.num_deferred = 0
        """Waiting requests that were passed over in the last step: no adapter slot, or a load."""
        self._loading: dict[EngineRequest, int] = {}
        """Requests whose load is under way: tokens that they have when it is there."""
        self._loaded: dict[EngineRequest, int] = {}
        """Requests that hold blocks with so many tokens and wait before the queue."""
        self._reports_emitted = reports_emitted
        self._decoding: dict[EngineRequest, None] = {}
        self._prefilling: dict[EngineRequest, None] = {}
        self._context_tokens = 0
        self._round = 0
        self._order = 0
        self._changes: defaultdict[int, list[tuple[EngineRequest, int]]] = defaultdict(list)
        self._ends: defaultdict[int, list[tuple[EngineRequest, int]]] = defaultdict(list)
        self._adapters: dict[str, int] = {}

    # What others may ask.

    @property
    def has_work(self) -> bool:
        """Whether there is anyone to serve."""
        return bool(self.running or self._loading or self._loaded) or len(self.waiting) > 0

    @property
    def num_running(self) -> int:
        """Requests in the running set."""
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        """Requests that do not run, those whose load is under way among them."""
        return len(self.waiting) + len(self._loading) + len(self._loaded)

    @property
    def next_load_seconds(self) -> float | None:
        """When the next load ends: an engine with nothing to compute has to look again then."""
        return None if self.host is None or not self._loading else self.host.next_seconds

    @property
    def decoding(self) -> tuple[EngineRequest, ...]:
        """Requests that gain a token in every step."""
        return tuple(self._decoding)

    @property
    def running_adapters(self) -> tuple[str, ...]:
        """Adapters of running requests."""
        return tuple(self._adapters)

    def num_generated(self, request: EngineRequest) -> int:
        """Tokens that the request has generated by now."""
        if request.state is RequestState.DECODING:
            return request.num_generated_tokens + self._round - request.decode_round
        return request.num_generated_tokens

    # The life of a request.

    def add(self, request: EngineRequest) -> None:
        """Queue a request."""
        self.waiting.push(request)

    def abort(self, request: EngineRequest) -> None:
        """Drop a request, wherever it is; one that has ended is left alone."""
        if request.state in {RequestState.FINISHED, RequestState.ABORTED}:
            return
        if self.host is not None:
            self.host.end(request)
        if request.state in {RequestState.WAITING, RequestState.LOADING}:
            if request.state is RequestState.WAITING:
                self.waiting.discard(request)
            else:
                self._loading.pop(request, None)
                self._loaded.pop(request, None)
                self.cache.free(request)
            request.state = RequestState.ABORTED
            return
        self._leave(request)
        self.cache.free(request)
        request.state = RequestState.ABORTED

    # The two phases of a step.

    @abstractmethod
    def schedule(self, now_seconds: float = 0.0) -> StepPlan:
        """Decide what the next step computes, and take the blocks that it needs.

        ``now_seconds``: any clock; only copies from and to the host go by it.
        """

    def complete(self, plan: StepPlan, now_seconds: float = 0.0) -> StepResult:
        """End the step: its tokens exist."""
        result = StepResult()
        if self.host is not None:
            self.host.end_step(now_seconds)
        self.counts.num_steps += 1
        if plan.decodes and plan.num_decodes:
            result.num_emitted = len(self._decoding)
            if self._reports_emitted:
                result.emitted = list(self._decoding)
            self._round += 1
            self._context_tokens += len(self._decoding)
            for request, epoch in self._ends.pop(self._round, ()):
                if request.epoch == epoch:
                    self._finish(request, result)
        for chunk in plan.prefills:
            if chunk.request.epoch == chunk.epoch:
                self._complete_prefill(chunk, result)
        self.counts.generated_tokens += result.num_emitted
        return result

    def forget_prefixes(self) -> None:
        """Forget every cached prefix, on the device and on the host."""
        self.cache.clear()
        if self.host is not None:
            self.host.clear()

    # For the rules of one engine.

    def _take_loaded(self, now_seconds: float) -> None:
        """Requests whose load has ended wait before the queue, with their blocks."""
        if self.host is None:
            return
        for request in self.host.advance(now_seconds):
            num_tokens = self._loading.pop(request, None)
            if num_tokens is None:
                continue  # given up meanwhile
            self.cache.key_full_blocks(request, num_tokens)
            # The last token is always computed: its output is what comes next.
            self._loaded[request] = min(num_tokens, request.num_tokens - 1)

    def _begin_load(self, request: EngineRequest, hit: int, found: int, now_seconds: float) -> None:
        """A request that has taken its blocks waits for what the host has of it."""
        request.state = RequestState.LOADING
        self._loading[request] = hit + found
        if self.host is not None:
            self.host.begin_load(request, hit, found, now_seconds)
        if not request.num_preemptions:
            # Of a prompt that the host has whole the last token is computed all the same.
            found = min(found, request.num_tokens - 1 - hit)
            request.num_host_hit_tokens = found
            self.counts.host_hit_tokens += found

    def _offer_to_host(self, plan: StepPlan) -> None:
        """What the step completes of prompts is offered to the host."""
        if self.host is None:
            return
        self.host.offer_again()
        for chunk in plan.prefills:
            if chunk.request.epoch == chunk.epoch:
                self.host.offer(chunk.request, chunk.num_cached_tokens + chunk.num_new_tokens)
        self.host.settle()

    def _due(self) -> list[EngineRequest]:
        """Decoding requests whose blocks change in this round, in running order."""
        due = [
            request
            for request, epoch in self._changes.pop(self._round, ())
            if request.epoch == epoch
        ]
        due.sort(key=_by_order)
        return due

    def _needs_tokens(self, request: EngineRequest) -> int:
        """Tokens that a decoding request needs slots for in this round."""
        return request.num_prompt_tokens + self.num_generated(request)

    def _grow_decoding(self, request: EngineRequest) -> bool:
        """Give a decoding request the block that it is due; False if there is none."""
        num_tokens = self._needs_tokens(request)
        request.num_computed_tokens = num_tokens - 1
        self.cache.key_full_blocks(request, num_tokens - 1)
        if not self.cache.grow(request, num_tokens):
            return False
        self._plan_change(request, num_tokens)
        return True

    def _has_adapter_slot(self, request: EngineRequest) -> bool:
        """Whether the request's adapter is in the step already, or there is a slot for it."""
        return (
            request.adapter is None
            or self.max_adapters is None
            or request.adapter in self._adapters
            or len(self._adapters) < self.max_adapters
        )

    def _enter(self, request: EngineRequest, hit_tokens: int) -> None:
        """A waiting request joins the running set."""
        request.state = RequestState.PREFILLING
        request.order = self._order
        self._order += 1
        self.running[request] = None
        self._prefilling[request] = None
        if request.adapter is not None:
            self._adapters[request.adapter] = self._adapters.get(request.adapter, 0) + 1
        if request.num_preemptions == 0:
            request.num_hit_tokens = hit_tokens
            self.counts.prefix_query_tokens += request.num_tokens
            device_tokens = hit_tokens - request.num_host_hit_tokens
            self.counts.prefix_hit_tokens += device_tokens
            if self.host is not None:
                self.counts.host_query_tokens += request.num_tokens - device_tokens
        else:
            self.counts.num_recomputed_tokens += request.num_tokens - hit_tokens
        request.num_computed_tokens = hit_tokens

    def _add_chunk(self, request: EngineRequest, start: int, num_new: int, plan: StepPlan) -> None:
        """A chunk of the request's prompt is computed in this step."""
        self.cache.key_full_blocks(request, start + num_new)
        plan.prefills.append(PrefillChunk(request, num_new, start, request.epoch))

    def _leave(self, request: EngineRequest) -> None:
        """A running request leaves the running set; its counts are settled."""
        if request.state is RequestState.DECODING:
            request.num_generated_tokens = self.num_generated(request)
            self._context_tokens -= request.num_tokens
            del self._decoding[request]
        else:
            del self._prefilling[request]
        del self.running[request]
        request.epoch += 1
        if request.adapter is not None:
            self._adapters[request.adapter] -= 1
            if not self._adapters[request.adapter]:
                del self._adapters[request.adapter]

    def _preempt(self, request: EngineRequest, plan: StepPlan, *, retracts: bool = False) -> None:
        """All its blocks are lost, and it waits at the front.

        ``retracts``: SGLang's way. What it generated is not kept in the prefix cache, and it
        queues at the end.
        """
        was_decoding = request.state is RequestState.DECODING
        self._leave(request)
        if was_decoding:
            request.num_computed_tokens = request.num_tokens - 1
        if not retracts:
            self.cache.key_full_blocks(request, request.num_computed_tokens)
        self.cache.free(request)
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        request.state = RequestState.WAITING
        self.counts.num_preemptions += 1
        if retracts:
            self.waiting.push(request)
        else:
            self.waiting.push_front(request)
        plan.preempted.append(request)

    def _plan_decodes(self, plan: StepPlan) -> None:
        plan.num_decodes = len(self._decoding)
        plan.decode_context_tokens = self._context_tokens
        plan.num_adapters = len(self._adapters)

    # Inside.

    def _complete_prefill(self, chunk: PrefillChunk, result: StepResult) -> None:
        request = chunk.request
        request.num_computed_tokens = chunk.num_cached_tokens + chunk.num_new_tokens
        result.num_prefilled_tokens += chunk.num_new_tokens
        if request.num_computed_tokens < request.num_tokens:
            return
        if not request.num_generated_tokens:
            result.first_tokens.append(request)
            self.counts.prompt_tokens += request.num_prompt_tokens
        request.num_generated_tokens += 1
        result.num_emitted += 1
        if self._reports_emitted:
            result.emitted.append(request)
        if request.num_generated_tokens >= request.num_output_tokens:
            self._finish(request, result)
            return
        del self._prefilling[request]
        self._decoding[request] = None
        request.state = RequestState.DECODING
        request.decode_round = self._round
        self._context_tokens += request.num_tokens
        left = request.num_output_tokens - request.num_generated_tokens
        self._ends[self._round + left].append((request, request.epoch))
        self._plan_change(request, request.num_tokens, at_least=0)

    def _plan_change(self, request: EngineRequest, num_tokens: int, at_least: int = 1) -> None:
        change = self.cache.next_change_tokens(request, num_tokens - 1 + at_least)
        after = max(at_least, change - num_tokens)
        left = request.num_output_tokens - self.num_generated(request)
        if after < left:
            self._changes[self._round + after].append((request, request.epoch))

    def _finish(self, request: EngineRequest, result: StepResult) -> None:
        self._leave(request)
        request.num_computed_tokens = request.num_tokens - 1
        self.cache.key_full_blocks(request, request.num_computed_tokens)
        self.cache.free(request)
        request.state = RequestState.FINISHED
        if self.host is not None:
            self.host.end(request)
        result.finished.append(request)


def _by_order(request: EngineRequest) -> int:
    return request.order
