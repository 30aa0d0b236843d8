"""An engine in virtual time: steps that take their time, tickets that come back.

Requests that arrive during a step join at its end, as vLLM's core takes its inbox between
steps. Data-parallel ranks have a scheduler and a cache each, and share requests by vLLM's
balancer (fewest ``4 * waiting + running``); ranks of a mixture of experts step together,
because every layer exchanges tokens.

Owns its schedulers and the tickets in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memroute.bandwidth import StepBatch, StepTime
from memroute.traffic.replica import HostCache
from memroute_simulator.engine.model import EngineRequest, Scheduler, StepPlan
from memroute_simulator.virtual.card import SharedCard
from memroute_simulator.virtual.kv_events import EventFeed
from memroute_simulator.virtual.loop import VirtualLoop

RANK_BALANCE_SECONDS = 0.1
# DPLBAsyncMPClient: ranks report their counts every 100 ms.
WAITING_WEIGHT = 4


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One attempt of a request on one replica, and when what happened to it."""

    request: EngineRequest
    on_first_token: Callable[["Ticket"], None] | None = None
    on_end: Callable[["Ticket"], None] | None = None
    submitted_seconds: float = 0.0
    queued_seconds: float | None = None
    """When the engine took it in, at the end of a step."""
    first_token_seconds: float | None = None
    last_token_seconds: float | None = None
    is_failed: bool = False
    is_cancelled: bool = False
    """The client left while it was on its way."""
    replica: "VirtualReplica | None" = None
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGauges:
    """What a scrape of the replica says, all ranks together."""

    num_running: int
    num_waiting: int
    num_waiting_for_capacity: int
    """Of those, the ones that a step has had no room for."""
    kv_cache_utilization_ratio: float
    """Of the fullest rank, as a router that cannot choose the rank must take it."""
    num_preemptions: int
    num_computed_tokens: int
    """Prompts and answers, since its start."""
    num_generated_tokens: int
    """Answers alone."""


@dataclass(slots=True)
class _Rank:
    scheduler: Scheduler
    inbox: list[Ticket] = field(default_factory=list)
    plan: StepPlan | None = None
    shared_load: int = 0


class VirtualReplica:
    """One replica: what it is sent comes back through its tickets."""

    def __init__(
        self,
        loop: VirtualLoop,
        schedulers: Sequence[Scheduler],
        step_time: StepTime,
        *,
        name: str = "0",
        steps_together: bool = False,
        ingest_seconds: float = 0.0,
        card: SharedCard | None = None,
        feed: EventFeed | None = None,
    ) -> None:
        """``ingest_seconds``: HTTP and tokenizing before the engine sees a request.

        ``card``: what it shares with other engines; None for a card of its own. ``feed``: its KV
        events, where anybody hears them.
        """
        self.name = name
        self.step_time = step_time
        self.slowdown_ratio = 1.0
        self.is_serving = True
        self.is_mute = False
        """Whether scrapes find nobody."""
        self.num_in_flight = 0
        self.busy_seconds = 0.0
        self._loop = loop
        self._ranks = [_Rank(scheduler) for scheduler in schedulers]
        self._steps_together = steps_together
        self._ingest_seconds = ingest_seconds
        self._card = card
        self.feed = feed
        self.on_step: list[Callable[[], None]] = []
        """Called when a step has ended: streams show it by their tokens."""
        if feed is not None:
            feed.follow(schedulers)
            self.on_step.append(feed.step_ended)
        self._tickets: dict[EngineRequest, Ticket] = {}
        self._is_frozen = False
        self._generation = 0
        self._balanced_seconds = -RANK_BALANCE_SECONDS

    @property
    def schedulers(self) -> tuple[Scheduler, ...]:
        """One per rank."""
        return tuple(rank.scheduler for rank in self._ranks)

    @property
    def capacity_tokens(self) -> int:
        """KV tokens of all ranks, where blocks hold tokens of one group."""
        return sum(
            rank.scheduler.cache.num_usable * rank.scheduler.cache.layout.block_size_tokens
            for rank in self._ranks
        )

    @property
    def host_cache(self) -> HostCache | None:
        """KV cache on the hosts of all ranks, as an operator would tell it; None where none is."""
        host = self._ranks[0].scheduler.host
        if host is None:
            return None
        limits = host.limits
        tokens = limits.num_chunks * limits.chunk_tokens * len(self._ranks)
        return HostCache(tokens, limits.load_seconds / limits.chunk_tokens)

    def reading(self) -> EngineGauges:
        """What a scrape would say now."""
        schedulers = self.schedulers
        return EngineGauges(
            num_running=sum(s.num_running for s in schedulers),
            num_waiting=sum(s.num_waiting for s in schedulers)
            + sum(len(rank.inbox) for rank in self._ranks),
            kv_cache_utilization_ratio=max(s.cache.utilization_ratio for s in schedulers),
            num_waiting_for_capacity=sum(s.num_waiting - s.num_deferred for s in schedulers),
            num_preemptions=sum(s.counts.num_preemptions for s in schedulers),
            num_generated_tokens=sum(s.counts.generated_tokens for s in schedulers),
            num_computed_tokens=sum(
                s.counts.prompt_tokens + s.counts.generated_tokens for s in schedulers
            ),
        )

    def hit_tokens(self, request: EngineRequest) -> int:
        """Tokens of the request that some rank has cached: an exact prefix oracle."""
        return max(rank.scheduler.cache.find_hit(request) for rank in self._ranks)

    def num_generated(self, request: EngineRequest) -> int:
        """Tokens that a request has got here: what its stream has told."""
        ticket = self._tickets.get(request)
        if ticket is None:
            return request.num_generated_tokens
        return self._ranks[ticket.rank].scheduler.num_generated(request)

    def submit(self, ticket: Ticket) -> None:
        """Send a request; a replica that is down fails it at once."""
        if ticket.is_cancelled:
            return
        ticket.replica = self
        ticket.submitted_seconds = self._loop.now_seconds
        if not self.is_serving:
            self._end(ticket, is_failed=True)
            return
        self.num_in_flight += 1
        if self._ingest_seconds:
            generation = self._generation
            self._loop.after(self._ingest_seconds, lambda: self._arrive(ticket, generation))
        else:
            self._arrive(ticket, self._generation)

    def abort(self, ticket: Ticket) -> None:
        """The client has gone: its work ends at the end of the step."""
        ticket.is_cancelled = True
        rank = self._ranks[ticket.rank]
        if ticket in rank.inbox:
            rank.inbox.remove(ticket)
        elif ticket.request in self._tickets:
            del self._tickets[ticket.request]
            rank.scheduler.abort(ticket.request)
        else:
            return
        self.num_in_flight -= 1

    # Faults.

    def fail(self) -> None:
        """The process dies: everything in it fails, its cache is lost."""
        self.is_serving = False
        self._generation += 1
        if self._card is not None:
            self._card.rest(self.name)
        for rank in self._ranks:
            lost = rank.inbox
            rank.inbox, rank.plan = [], None
            for ticket in lost:
                if not ticket.is_cancelled:
                    self._end(ticket, is_failed=True)
        for ticket in tuple(self._tickets.values()):
            if ticket.request not in self._tickets:
                continue  # the end of another has taken it along
            self._ranks[ticket.rank].scheduler.abort(ticket.request)
            del self._tickets[ticket.request]
            self._end(ticket, is_failed=True)
        for rank in self._ranks:
            rank.scheduler.forget_prefixes()
        self.num_in_flight = 0

    def recover(self) -> None:
        """A new process serves, with a cold cache."""
        self.is_serving = True
        self._is_frozen = False

    def freeze(self) -> None:
        """The engine hangs: it takes requests and answers none."""
        self._is_frozen = True

    def thaw(self) -> None:
        """The engine goes on."""
        self._is_frozen = False
        for rank in self._ranks:
            self._wake(rank)

    # Steps.

    def _arrive(self, ticket: Ticket, generation: int) -> None:
        if ticket.is_cancelled:
            return
        if generation != self._generation:
            self._end(ticket, is_failed=True)
            return
        ticket.rank = self._choose_rank()
        rank = self._ranks[ticket.rank]
        rank.inbox.append(ticket)
        self._wake(rank)

    def _choose_rank(self) -> int:
        if len(self._ranks) == 1:
            return 0
        now = self._loop.now_seconds
        if now - self._balanced_seconds >= RANK_BALANCE_SECONDS:
            self._balanced_seconds = now
            for rank in self._ranks:
                waiting = rank.scheduler.num_waiting + len(rank.inbox)
                rank.shared_load = WAITING_WEIGHT * waiting + rank.scheduler.num_running
        chosen = min(range(len(self._ranks)), key=lambda index: self._ranks[index].shared_load)
        self._ranks[chosen].shared_load += WAITING_WEIGHT
        return chosen

    def _wake(self, rank: _Rank) -> None:
        if self._is_frozen:
            return
        if self._steps_together:
            if all(other.plan is None for other in self._ranks):
                self._begin(self._ranks)
        elif rank.plan is None:
            self._begin([rank])

    def _begin(self, ranks: Sequence[_Rank]) -> None:
        """Start a step of these ranks; without work they sleep until something arrives."""
        now = self._loop.now_seconds
        batches: list[StepBatch] = []
        for rank in ranks:
            for ticket in rank.inbox:
                ticket.queued_seconds = now
                self._tickets[ticket.request] = ticket
                rank.scheduler.add(ticket.request)
            rank.inbox.clear()
            if not rank.scheduler.has_work:
                continue
            plan = rank.scheduler.schedule(now)
            if plan.is_empty:
                # Nothing runs: a load is under way, or the head of the queue does not fit, ever.
                self._wake_after_load(rank)
                continue
            rank.plan = plan
            batches.append(plan.batch())
        if not batches:
            if self._card is not None and all(rank.plan is None for rank in self._ranks):
                self._card.rest(self.name)
            return
        seconds = self.step_time.together_seconds(batches) * self.slowdown_ratio
        if self._card is not None:
            count = max(batch.num_decodes + len(batch.prefills) for batch in batches)
            seconds = self._card.begin(self.name, seconds, self.step_time.idle_seconds(count))
        self.busy_seconds += seconds
        generation = self._generation
        self._loop.at(now + seconds, lambda: self._complete(ranks, generation))

    def _wake_after_load(self, rank: _Rank) -> None:
        due = rank.scheduler.next_load_seconds
        if due is not None:
            generation = self._generation
            self._loop.at(due, lambda: self._wake(rank) if generation == self._generation else None)

    def _complete(self, ranks: Sequence[_Rank], generation: int) -> None:
        if generation != self._generation:
            return
        now = self._loop.now_seconds
        for rank in ranks:
            plan, rank.plan = rank.plan, None
            if plan is None:
                continue
            result = rank.scheduler.complete(plan, now)
            for request in result.first_tokens:
                ticket = self._tickets[request]
                ticket.first_token_seconds = now
                if ticket.on_first_token is not None:
                    ticket.on_first_token(ticket)
            for request in result.finished:
                ticket = self._tickets.pop(request)
                ticket.last_token_seconds = now
                self.num_in_flight -= 1
                self._end(ticket, is_failed=False)
        for notice in self.on_step:
            notice()
        if not self._is_frozen:
            self._begin(ranks)

    def _end(self, ticket: Ticket, *, is_failed: bool) -> None:
        ticket.is_failed = is_failed
        if ticket.on_end is not None:
            ticket.on_end(ticket)
