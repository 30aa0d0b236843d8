"""A router in virtual time: the router's own driver on another clock, with a view of its own.

``memroute.traffic.dispatch.RequestPool`` decides, holds, takes turns, retries and leases, here as
in the real router; what is here is what differs: the clock, the engines that answer, the scrapes
(at the router's period, each replica from a random phase on, late by the network), and what became
of each request. What it takes a request to be before that is in ``profiles``.

``memroute`` is what a default install does: it has the shipped index, which guesses what is cached
from what was sent where. The published policies that ask for cached prefixes, ``memroute-oracle``
and ``clairvoyant`` are told what each cache holds, exactly and at once: better than any real index.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from memroute.traffic.admission import QueueLimits, Reject
from memroute.traffic.dispatch import (
    AdmissionMode,
    Backend,
    Dispatcher,
    DispatchSettings,
    Lease,
    RequestPool,
    RetryRule,
    Waiter,
)
from memroute.traffic.peers import PeerGroup
from memroute.traffic.replica import ReplicaReading, Reservation, max_age_seconds
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing import POLICY_NAMES, SEES_PREFIXES
from memroute_simulator.virtual.backlog import Backlog
from memroute_simulator.virtual.kv_events import Hears
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.mix import TrafficMix
from memroute_simulator.virtual.outcome import Outcome, OutcomeStatus
from memroute_simulator.virtual.profiles import Profiles, engine_request
from memroute_simulator.virtual.replica import Ticket, VirtualReplica

TICK_SECONDS = 0.25
# How often replicas are looked at for whether they hang: the router's clock.
MEMROUTE = "memroute"
"""memroute's own policy as it is shipped: prefixes are guessed from what was sent where."""
CLAIRVOYANT = "clairvoyant"
"""memroute's own policy, told how long every answer will be, with readings of this moment."""
CLAIRVOYANT_SCRAPE_SECONDS = 0.02
ORACLE = "memroute-oracle"
"""memroute's own policy, told what each cache holds, as the published policies are."""
OURS = frozenset({MEMROUTE, ORACLE, CLAIRVOYANT})
POLICIES = (*POLICY_NAMES, ORACLE, CLAIRVOYANT)
SEES_CACHES = frozenset({*SEES_PREFIXES, ORACLE, CLAIRVOYANT}) - {MEMROUTE}
"""Policies that are told what each cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How routers see and send."""

    scrape_seconds: float = 1.0
    """The default of ``memroute-router --scrape-seconds``."""
    scrape_delay_seconds: float = 0.005
    """From the engine's answer to the decision that may use it."""
    network_seconds: float = 0.0005
    """One way, router to replica."""
    max_attempts: int = 3
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    """Its policy is the fleet's."""
    queue: QueueLimits = field(default_factory=QueueLimits)
    sees_hosts: bool = True
    """Whether KV cache on the hosts of engines counts; a study's baseline does without."""
    hears: Hears = Hears.NOTHING
    """Which KV events the shipped index hears (``--kv-events``); what is not told is guessed."""
    tells_tenants: bool = False
    """Whether requests are told apart by tenant, as with ``--tenants``."""


class _Attempt:
    """One request on its way through one router, until it ends or fails: a ``Waiter``."""

    __slots__ = ("lease", "on_end", "outcome", "profile", "router", "tickets", "tried")

    def __init__(
        self,
        router: "VirtualRouter",
        outcome: Outcome,
        profile: RequestProfile,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.router = router
        self.outcome = outcome
        self.profile = profile
        self.on_end = on_end
        self.tried = outcome.tried
        self.lease: Lease[VirtualReplica] | None = None
        self.tickets: tuple[Ticket, ...] = ()
        """One for each of its choices."""

    def admitted(self, lease: Lease[VirtualReplica]) -> None:
        """Room is reserved: to the engine."""
        self.router.send(self, lease)

    def refused(self, reject: Reject) -> None:
        """No replica may take it; one that was tried before has failed."""
        if self.tried:
            self.end(OutcomeStatus.FAILED, "no replica left to try")
            return
        self.outcome.retry_after_seconds = reject.retry_after_seconds
        self.end(OutcomeStatus.SHED, reject.reason.value)

    def is_stuck(self) -> None:
        """As in the real router: its replica is to blame, and it goes elsewhere."""
        lease = self.lease
        if lease is not None and self.router.leaves_stuck:
            lease.backend.health.fault(now_seconds=self.router.loop.now_seconds)
            self.router.abort(self)
            self.router.failed(self, "the replica hangs")

    def crashed(self) -> None:
        """In a study a bug raises where it happens."""

    def end(self, status: OutcomeStatus, why: str = "", *, after_seconds: float = 0.0) -> None:
        """It is over, ``after_seconds`` from now as the client sees it."""
        self.outcome.cancel = None
        self.outcome.end(status, self.router.loop.now_seconds + after_seconds, why)
        if status is OutcomeStatus.SHED:
            self.router.backlog.refused(self.outcome)
        self.on_end(self.outcome)


def _raise(error: Exception) -> None:
    raise error


class VirtualRouter:
    """One router replica. Owns its view of the fleet."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        policy: str,
        settings: RouterSettings,
        mix: TrafficMix,
        rng: random.Random,
        is_running: Callable[[], bool],
        prefill_tokens_per_second: float,
        name: str = "router",
    ) -> None:
        """``is_running``: whether there is still something to scrape for.

        ``prefill_tokens_per_second``: of one replica, for policies that have to be told.
        """
        self.loop = loop
        self.name = name
        self.settings = settings
        self._mix = mix
        self._rng = rng
        self._is_running = is_running
        self._is_clairvoyant = policy == CLAIRVOYANT
        self._guesses = policy == MEMROUTE
        ours = policy in OURS
        self.leaves_stuck = ours
        """Whether requests leave replicas that hang: other routers wait for the timeout."""
        dispatch = settings.dispatch
        self.dispatcher: Dispatcher[Waiter[VirtualReplica]] = Dispatcher(
            DispatchSettings(
                policy=MEMROUTE if ours else policy,
                admission=dispatch.admission if ours else AdmissionMode.OFF,
                max_age_seconds=max_age_seconds(settings.scrape_seconds),
                limits=dispatch.limits,
                prefill_tokens_per_second=prefill_tokens_per_second,
            ),
            settings.queue,
            rng=rng,
            find_hits=None if self._guesses else self._find_hits,
        )
        self.pool: RequestPool[VirtualReplica] = RequestPool(
            self.dispatcher,
            retries=RetryRule(settings.max_attempts),
            clock=lambda: loop.now_seconds,
            call_soon=lambda callback: loop.after(0.0, callback),
            call_later=loop.after,
            on_error=_raise,
        )
        self.backlog = Backlog(lambda: self.pool.held_tokens)
        self._profiles = Profiles(
            self.dispatcher.cached.blocks,
            is_clairvoyant=self._is_clairvoyant,
            guesses_prefixes=self._guesses,
            hears=settings.hears,
            tells_tenants=settings.tells_tenants,
        )
        self._sent: dict[VirtualReplica, dict[_Attempt, None]] = {}
        self._by_reservation: dict[Reservation, _Attempt] = {}

    @property
    def peers(self) -> PeerGroup:
        """What it says to other routers, and what they say to it."""
        return self.dispatcher.peers

    def add_replica(self, replica: VirtualReplica) -> None:
        """Start to scrape a replica, and to send to it."""
        ledger = self.dispatcher.ledger(
            replica.name, promised_capacity_tokens=max(1, replica.capacity_tokens)
        )
        if self.settings.sees_hosts:
            ledger.host = replica.host_cache
        self._sent[replica] = {}
        self.pool.join(Backend(ledger), replica)
        if self._guesses and replica.feed is not None:
            replica.feed.join(self.dispatcher.cached.blocks, self.settings.network_seconds)
        replica.on_step.append(lambda: self._stepped(replica))
        if self._is_running():
            self._start(replica)

    def hear_no_more(self) -> None:
        """It leaves: events are not for it."""
        for replica in self.pool.replicas.values():
            if replica.feed is not None:
                replica.feed.leave(self.dispatcher.cached.blocks)

    def remove_replica(self, replica: VirtualReplica) -> None:
        """Send nothing more to it."""
        if replica.feed is not None:
            replica.feed.leave(self.dispatcher.cached.blocks)
        self.pool.leave(replica.name)

    def start_scraping(self) -> None:
        """Scrape every replica, each from a phase of its own, until nothing is left to route."""
        for replica in self.pool.replicas.values():
            self._start(replica)
        self.loop.after(TICK_SECONDS, self._tick)

    def route(self, outcome: Outcome, on_end: Callable[[Outcome], None]) -> None:
        """Send a request on, let it wait, or shed it."""
        attempt = _Attempt(self, outcome, self._profiles.profile(outcome), on_end)
        outcome.cancel = lambda: self.pool.withdraw(attempt)
        verdict = self.pool.submit(attempt)
        if isinstance(verdict, Lease):
            attempt.admitted(verdict)
        elif verdict is not None:
            attempt.refused(verdict)

    # An attempt on a replica.

    def send(self, attempt: _Attempt, lease: Lease[VirtualReplica]) -> None:
        """Send it to the engine where room was reserved."""
        outcome, replica = attempt.outcome, lease.replica
        outcome.tried.append(replica.name)
        attempt.lease = lease
        attempt.tickets = tuple(
            Ticket(request=engine_request(outcome, choice))
            for choice in range(outcome.asked_how.num_choices)
        )
        self._sent[replica][attempt] = None
        self._by_reservation[lease.reservation] = attempt
        self.backlog.placed(lease.reserved_tokens, now_seconds=self.loop.now_seconds)
        outcome.cancel = lambda: self.abort(attempt)
        for ticket in attempt.tickets:
            ticket.on_first_token = lambda _: self._on_first_token(attempt)
            ticket.on_end = lambda ticket: self._on_end(attempt, ticket)
        self.loop.after(self.settings.network_seconds, lambda: self._submit(attempt, replica))

    def _submit(self, attempt: _Attempt, replica: VirtualReplica) -> None:
        for ticket in attempt.tickets:
            if attempt.lease is not None:
                replica.submit(ticket)

    def abort(self, attempt: _Attempt) -> None:
        """Its work ends at the engine, and what was reserved is given back."""
        if attempt.lease is not None:
            for ticket in attempt.tickets:
                attempt.lease.replica.abort(ticket)
            self._release(attempt, is_complete=False)

    def failed(self, attempt: _Attempt, why: str) -> None:
        """It has left a replica without an answer: elsewhere, while it may."""
        outcome = attempt.outcome
        # Of a whole answer nothing has gone to the client before its end.
        nothing_sent = outcome.first_token_seconds is None or not attempt.profile.is_stream
        if nothing_sent and self.pool.may_retry(attempt):
            outcome.first_token_seconds = None
            self.route(outcome, attempt.on_end)
        else:
            attempt.end(OutcomeStatus.FAILED, why)

    def _release(self, attempt: _Attempt, *, is_complete: bool) -> None:
        lease, attempt.lease = attempt.lease, None
        attempt.outcome.cancel = None
        if lease is None:
            return
        self._sent[lease.replica].pop(attempt, None)
        self._by_reservation.pop(lease.reservation, None)
        outcome, usage = attempt.outcome, None
        how = outcome.asked_how
        if is_complete:
            lease.backend.health.answered()
            self._show(attempt, lease, is_whole=True)
            if how.has_usage:
                usage = how.num_choices * outcome.asked.num_output_tokens
                actual = outcome.asked.num_prompt_tokens
                self._profiles.prompts.observe(how.parts, actual_tokens=actual)
                self.dispatcher.predictions.prompt(
                    expected=attempt.profile.num_prompt_tokens,
                    actual=actual,
                    now_seconds=self.loop.now_seconds,
                )
        lease.release(is_complete=is_complete, generated_tokens=usage)

    def _on_first_token(self, attempt: _Attempt) -> None:
        outcome = attempt.outcome
        if outcome.first_token_seconds is None:
            # Of a whole answer, too: it is the engine's, and what the target is about.
            outcome.first_token_seconds = self.loop.now_seconds + self.settings.network_seconds
        lease = attempt.lease
        if lease is not None and attempt.profile.is_stream:
            lease.backend.health.answered()
            lease.progress(max(1, lease.reservation.num_events))

    def _stepped(self, replica: VirtualReplica) -> None:
        """A step has ended: what the stream that tells the replica's clock has shown by now.

        The others' events are read when a reading comes, and when they end: the ledger asks for
        them at no other time.
        """
        backend = self.dispatcher.backends.get(replica.name)
        leader = None if backend is None else backend.ledger.leader
        if self._mix.is_sparse:
            # Each stream's event tells: as the real router hears of every one.
            for attempt in self._sent[replica]:
                if attempt.profile.is_stream:
                    self._show_events(attempt)
            return
        if leader is not None:
            self._show_events(self._by_reservation[leader])
            return
        for attempt in self._sent[replica]:
            if attempt.profile.is_stream:
                self._show_events(attempt)
                return

    def _show_events(self, attempt: _Attempt) -> None:
        """Tell of what a stream has shown by now, where it has begun."""
        lease = attempt.lease
        if lease is not None and not lease.is_pending:
            self._show(attempt, lease)

    def _show(
        self, attempt: _Attempt, lease: Lease[VirtualReplica], *, is_whole: bool = False
    ) -> None:
        if attempt.profile.is_stream:
            counts = [lease.replica.num_generated(ticket.request) for ticket in attempt.tickets]
            events = [self._mix.num_events(count, is_whole=is_whole) for count in counts]
            lease.progress(sum(events))

    def _on_end(self, attempt: _Attempt, ticket: Ticket) -> None:
        lease = attempt.lease
        if lease is None:
            return
        outcome, request = attempt.outcome, ticket.request
        outcome.num_preemptions += request.num_preemptions
        outcome.num_hit_tokens = request.num_hit_tokens
        if ticket.is_failed:
            lease.backend.health.fault(now_seconds=self.loop.now_seconds)
            self.abort(attempt)
            self.failed(attempt, "the replica died")
        elif all(one.last_token_seconds is not None for one in attempt.tickets):
            self._release(attempt, is_complete=True)
            attempt.end(OutcomeStatus.SERVED, after_seconds=self.settings.network_seconds)

    def _find_hits(self, waiter: Waiter[VirtualReplica]) -> dict[str, int]:
        if not isinstance(waiter, _Attempt):
            return {}
        request = engine_request(waiter.outcome, 0)
        return {name: there.hit_tokens(request) for name, there in self.pool.replicas.items()}

    # Readings.

    def _start(self, replica: VirtualReplica) -> None:
        self.loop.after(self._rng.random() * self._scrape_seconds, lambda: self._scrape(replica))

    @property
    def _scrape_seconds(self) -> float:
        return CLAIRVOYANT_SCRAPE_SECONDS if self._is_clairvoyant else self.settings.scrape_seconds

    def _scrape(self, replica: VirtualReplica) -> None:
        """Scrape now, and again every period while there is something to route."""
        if self.pool.replicas.get(replica.name) is not replica:
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
                num_generated_tokens_total=gauges.num_generated_tokens,
            )
            self.loop.after(
                self.settings.scrape_delay_seconds, lambda: self._arrived(replica, reading)
            )
        if self._is_running():
            self.loop.after(self._scrape_seconds, lambda: self._scrape(replica))

    def _arrived(self, replica: VirtualReplica, reading: ReplicaReading) -> None:
        backend = self.dispatcher.backends.get(replica.name)
        if backend is not None:
            for attempt in self._sent[replica]:
                self._show_events(attempt)
            self.pool.apply_reading(backend.ledger, reading)

    def _tick(self) -> None:
        self.pool.tick()
        if self._is_running():
            self.loop.after(TICK_SECONDS, self._tick)
