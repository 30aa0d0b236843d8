"""A router in virtual time: memroute's own decisions, on a clock and a view of its own.

What decides is ``memroute.traffic.dispatch``, the object that decides in the real router too; here
it gets its readings, first tokens and ends from simulated engines. Each replica is scraped at the
router's period from a random phase on, and a reading arrives late by the network. Requests that
fail before their first token are tried elsewhere.

Policies that ask for cached prefixes are told what each cache holds, exactly and at once: better
than any real index, the same for all of them. ``memroute-guessing`` alone has its own.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from memroute.traffic.admission import QueueLimits, Reject
from memroute.traffic.dispatch import (
    AdmissionMode,
    Assignment,
    Backend,
    Dispatcher,
    DispatchSettings,
)
from memroute.traffic.replica import ReplicaReading, max_age_seconds
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing import POLICY_NAMES
from memroute_simulator.engine.model import EngineRequest, SegmentedContent
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.outcome import Outcome, OutcomeStatus
from memroute_simulator.virtual.replica import Ticket, VirtualReplica

ASSUMED_OUTPUT_TOKENS = 256
# The default of a ModelDeployment's routing.
STUCK_TICK_SECONDS = 0.25
# How often replicas are looked at for whether they hang: the router's clock.
HELD_TICK_SECONDS = 0.01
# How often held requests are looked at when nothing happens.
CLAIRVOYANT = "clairvoyant"
"""memroute's own policy, told how long every answer will be, with readings of this moment."""
CLAIRVOYANT_SCRAPE_SECONDS = 0.02
GUESSING = "memroute-guessing"
"""memroute's own policy with its own index: prefixes are guessed from what was sent where."""
GUESSED_BLOCK_TOKENS = 256
# What the router's blocks of 1,024 characters are about.
KEY_MASK = (1 << 63) - 1
# Keys of the router's prefixes have 64 bits and a sign.
OURS = frozenset({"memroute", GUESSING, CLAIRVOYANT})
POLICIES = (*POLICY_NAMES, GUESSING, CLAIRVOYANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How routers see and send."""

    scrape_seconds: float = 0.2
    scrape_delay_seconds: float = 0.005
    """From the engine's answer to the decision that may use it."""
    network_seconds: float = 0.0005
    """One way, router to replica."""
    max_attempts: int = 3
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    """Its policy is the fleet's."""
    queue: QueueLimits = field(default_factory=QueueLimits)
    tells_tenants: bool = False
    """Whether requests are told apart by tenant, as with ``--tenants``."""


class _Asking:
    """A request that this router has: a ticket of the dispatcher."""

    __slots__ = ("assignment", "on_end", "outcome", "profile", "request", "ticket", "tried")

    def __init__(
        self,
        outcome: Outcome,
        request: EngineRequest,
        profile: RequestProfile,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.outcome = outcome
        self.request = request
        self.profile = profile
        self.on_end = on_end
        self.tried = outcome.tried
        self.assignment: Assignment | None = None
        self.ticket: Ticket | None = None


class VirtualRouter:
    """One router replica. Owns its view of the fleet."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        policy: str,
        settings: RouterSettings,
        rng: random.Random,
        is_running: Callable[[], bool],
        name: str = "router",
    ) -> None:
        """``is_running``: whether there is still something to scrape for."""
        self.loop = loop
        self.name = name
        self.settings = settings
        self._rng = rng
        self._is_running = is_running
        self._is_clairvoyant = policy == CLAIRVOYANT
        self._guesses = policy == GUESSING
        ours = self._is_ours = policy in OURS
        dispatch = settings.dispatch
        self.dispatcher = Dispatcher(
            DispatchSettings(
                policy="memroute" if ours else policy,
                admission=dispatch.admission if ours else AdmissionMode.OFF,
                max_age_seconds=max_age_seconds(settings.scrape_seconds),
                limits=dispatch.limits,
            ),
            settings.queue,
            rng=rng,
            find_hits=None if self._guesses else self._find_hits,
        )
        self._replicas: dict[str, VirtualReplica] = {}
        self._sent: dict[str, dict[_Asking, None]] = {}
        self._num_held = 0
        self._placed_tokens = 0
        self._refused: list[tuple[int, int, Outcome]] = []
        self._will_advance = False

    def add_replica(self, replica: VirtualReplica) -> None:
        """Start to scrape a replica, and to send to it."""
        ledger = self.dispatcher.ledger(
            replica.name, promised_capacity_tokens=max(1, replica.capacity_tokens)
        )
        self.dispatcher.add(Backend(ledger))
        self._replicas[replica.name] = replica
        self._sent[replica.name] = {}

        replica.on_step.append(lambda: ledger.stepped(now_seconds=self.loop.now_seconds))
        if self._is_running():
            self._start(replica)

    def start_scraping(self) -> None:
        """Scrape every replica, each from a phase of its own, until nothing is left to route."""
        for replica in self._replicas.values():
            self._start(replica)
        self.loop.after(STUCK_TICK_SECONDS, self._look_for_stuck)

    def _look_for_stuck(self) -> None:
        """What waits at a replica that hangs goes elsewhere, as in the real router."""
        if self._is_ours:
            now = self.loop.now_seconds
            stuck = set(self.dispatcher.stuck(now_seconds=now))
            for asking in [a for sent in self._sent.values() for a in sent]:
                assignment = asking.assignment
                if assignment is not None and assignment.reservation in stuck:
                    assignment.backend.health.fault(now_seconds=now)
                    self._cancel(asking)
                    self.route(asking.outcome, asking.on_end)
        if self._is_running():
            self.loop.after(STUCK_TICK_SECONDS, self._look_for_stuck)

    def remove_replica(self, replica: VirtualReplica) -> None:
        """Send nothing more to it."""
        self._replicas.pop(replica.name, None)
        self.dispatcher.remove(replica.name)

    def route(self, outcome: Outcome, on_end: Callable[[Outcome], None]) -> None:
        """Send a request on, let it wait, or shed it."""
        request = self._request(outcome)
        profile = self._profile(request, outcome.asked.tenant)
        asking = _Asking(outcome, request, profile, on_end)
        verdict = self.dispatcher.submit(asking, now_seconds=self.loop.now_seconds)
        if verdict is None:
            self._num_held += 1
            outcome.cancel = lambda: self._withdraw(asking)
            self._advance()
            self._advance_later()
        else:
            self._told(asking, verdict)

    # What was decided.

    def _told(self, asking: _Asking, verdict: Assignment | Reject) -> None:
        outcome = asking.outcome
        outcome.cancel = None
        if isinstance(verdict, Assignment):
            self._send(asking, verdict)
        elif outcome.tried and verdict.retry_after_seconds is not None:
            outcome.end(OutcomeStatus.FAILED, self.loop.now_seconds, "no replica left to try")
            asking.on_end(outcome)
        else:
            outcome.retry_after_seconds = verdict.retry_after_seconds
            ahead = self._placed_tokens + self.dispatcher.queue.held_tokens
            heapq.heappush(self._refused, (ahead, outcome.number, outcome))
            outcome.end(OutcomeStatus.SHED, self.loop.now_seconds, verdict.reason.value)
            asking.on_end(outcome)

    def _withdraw(self, asking: _Asking) -> None:
        if self.dispatcher.withdraw(asking):
            self._num_held -= 1

    def _advance_later(self) -> None:
        if self._num_held and not self._will_advance:
            self._will_advance = True
            self.loop.after(HELD_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._will_advance = False
        self._advance()
        self._advance_later()

    def _advance(self) -> None:
        """Something has changed, or time has passed: see whose turn it is."""
        if not self._num_held:
            return
        for ticket, verdict in self.dispatcher.turns(now_seconds=self.loop.now_seconds):
            self._num_held -= 1
            if isinstance(ticket, _Asking):
                self._told(ticket, verdict)

    # Requests.

    def _request(self, outcome: Outcome) -> EngineRequest:
        asked = outcome.asked
        return EngineRequest(
            request_id=f"{outcome.number}.{len(outcome.tried)}",
            num_prompt_tokens=asked.num_prompt_tokens,
            num_output_tokens=asked.num_output_tokens,
            max_output_tokens=asked.max_output_tokens,
            content=SegmentedContent(asked.prompt, asked.output_id),
            priority=asked.priority,
            arrival_seconds=outcome.sent_seconds,
            adapter=asked.adapter,
        )

    def _profile(self, request: EngineRequest, tenant: str) -> RequestProfile:
        allowed = request.max_output_tokens
        assumed = ASSUMED_OUTPUT_TOKENS if allowed is None else min(allowed, ASSUMED_OUTPUT_TOKENS)
        limits = self.settings.dispatch.limits
        return RequestProfile(
            num_prompt_tokens=request.num_prompt_tokens,
            min_prompt_tokens=request.num_prompt_tokens,
            max_output_tokens=allowed,
            assumed_output_tokens=assumed,
            known_output_tokens=request.num_output_tokens if self._is_clairvoyant else None,
            tenant=tenant if self.settings.tells_tenants else "",
            # To vLLM smaller is served first, to memroute greater.
            priority=-request.priority,
            deadline_seconds=request.arrival_seconds + limits.ttft_target_seconds,
            prefix=self._prefix(request) if self._guesses else (),
            tokens_per_block=GUESSED_BLOCK_TOKENS,
        )

    @staticmethod
    def _prefix(request: EngineRequest) -> tuple[int, ...]:
        num_blocks = request.num_prompt_tokens // GUESSED_BLOCK_TOKENS
        keys = request.content.keys(0, num_blocks, GUESSED_BLOCK_TOKENS)
        return tuple([(key ^ key >> 64) & KEY_MASK for key in keys])

    def _find_hits(self, ticket: object) -> dict[str, int]:
        if not isinstance(ticket, _Asking):
            return {}
        return {
            name: replica.hit_tokens(ticket.request) for name, replica in self._replicas.items()
        }

    def _send(self, asking: _Asking, assignment: Assignment) -> None:
        outcome = asking.outcome
        name = assignment.choice.replica
        replica = self._replicas[name]
        outcome.tried.append(name)
        asking.assignment = assignment
        ticket = asking.ticket = Ticket(request=asking.request)
        self._sent[name][asking] = None
        self._placed_tokens += assignment.reservation.reserved_tokens
        while self._refused and self._refused[0][0] <= self._placed_tokens:
            _, _, refused = heapq.heappop(self._refused)
            if refused.ended_seconds is not None:
                refused.drained_seconds = self.loop.now_seconds - refused.ended_seconds
        ticket.on_first_token = lambda _: self._on_first_token(asking)
        ticket.on_end = lambda _: self._on_end(asking)
        outcome.cancel = lambda: self._cancel(asking)
        self.loop.after(self.settings.network_seconds, lambda: replica.submit(ticket))

    def _cancel(self, asking: _Asking) -> None:
        """The client has gone: the engine's work ends, and what was reserved is given back."""
        if asking.assignment is None or asking.ticket is None:
            return
        replica = asking.ticket.replica or self._replicas.get(asking.assignment.choice.replica)
        if replica is not None:
            replica.abort(asking.ticket)
        self._leave(asking, is_complete=False)

    def _leave(self, asking: _Asking, *, is_complete: bool) -> None:
        assignment = asking.assignment
        asking.outcome.cancel = None
        if assignment is None:
            return
        asking.assignment = None
        self._sent[assignment.choice.replica].pop(asking, None)
        now = self.loop.now_seconds
        ledger = assignment.backend.ledger
        if is_complete:
            ledger.progress(
                assignment.reservation,
                generated_tokens=asking.request.num_output_tokens,
                now_seconds=now,
            )
        self.dispatcher.ended(
            ledger, assignment.reservation, is_complete=is_complete, now_seconds=now
        )
        self._advance()

    def _on_first_token(self, asking: _Asking) -> None:
        now = self.loop.now_seconds
        asking.outcome.first_token_seconds = now + self.settings.network_seconds
        assignment = asking.assignment
        if assignment is not None:
            assignment.backend.health.answered()
            assignment.backend.ledger.progress(
                assignment.reservation, generated_tokens=1, now_seconds=now
            )
        self._advance()

    def _on_end(self, asking: _Asking) -> None:
        now = self.loop.now_seconds
        ticket, assignment = asking.ticket, asking.assignment
        if ticket is None or assignment is None:
            return
        outcome, request = asking.outcome, asking.request
        outcome.num_preemptions += request.num_preemptions
        outcome.num_hit_tokens = request.num_hit_tokens
        if ticket.is_failed:
            assignment.backend.health.fault(now_seconds=now)
        self._leave(asking, is_complete=not ticket.is_failed)
        if not ticket.is_failed:
            outcome.end(OutcomeStatus.SERVED, now + self.settings.network_seconds)
            asking.on_end(outcome)
        elif outcome.first_token_seconds is None and (
            len(outcome.tried) < self.settings.max_attempts
        ):
            self.route(outcome, asking.on_end)
        else:
            outcome.end(OutcomeStatus.FAILED, now, "the replica died")
            asking.on_end(outcome)

    # Readings.

    def _start(self, replica: VirtualReplica) -> None:
        self.loop.after(self._rng.random() * self._scrape_seconds, lambda: self._scrape(replica))

    @property
    def _scrape_seconds(self) -> float:
        return CLAIRVOYANT_SCRAPE_SECONDS if self._is_clairvoyant else self.settings.scrape_seconds

    def _scrape(self, replica: VirtualReplica) -> None:
        """Scrape now, and again every period while there is something to route."""
        if self._replicas.get(replica.name) is not replica:
            return
        if replica.is_serving and not replica.is_mute:
            gauges = replica.reading()
            reading = ReplicaReading(
                taken_at_seconds=self.loop.now_seconds,
                kv_cache_utilization_ratio=gauges.kv_cache_utilization_ratio,
                kv_capacity_tokens=max(1, replica.capacity_tokens),
                num_requests_running=gauges.num_running,
                num_requests_waiting=gauges.num_waiting,
                num_waiting_for_capacity=gauges.num_waiting_for_capacity,
                num_preemptions_total=gauges.num_preemptions,
                num_computed_tokens_total=gauges.num_computed_tokens,
            )
            self.loop.after(
                self.settings.scrape_delay_seconds, lambda: self._arrived(replica, reading)
            )
        if self._is_running():
            self.loop.after(self._scrape_seconds, lambda: self._scrape(replica))

    def _arrived(self, replica: VirtualReplica, reading: ReplicaReading) -> None:
        backend = self.dispatcher.backends.get(replica.name)
        if backend is None:
            return
        ledger = backend.ledger
        for asking in self._sent[replica.name]:
            assignment = asking.assignment
            if assignment is None or assignment.reservation.is_pending:
                continue
            # Streams have told how far they are, when each step ended.
            generated = replica.num_generated(asking.request)
            if generated:
                ledger.progress(
                    assignment.reservation,
                    generated_tokens=generated,
                    now_seconds=ledger.progressed_at_seconds,
                )
        self.dispatcher.apply_reading(ledger, reading)
        self._advance()
