"""One pool's requests: sent, held or refused. The page to read first.

```text
submit ── never fits ──────────────────────────────────────────► Reject
       ── the cheapest replica is open, nobody waits ──────────► Assignment (reserved in this step)
       ── it is closed, and there is time to wait for it ──────► held
       ── no time: the cheapest open one ──────────────────────► Assignment
       ── none is open ────────────────────────────────────────► held, or Reject: the queue is full
turns  ── whose turn is it, now that something has changed? ───► Assignment, or Reject: too late
```

The same object decides in the router and in the simulator's virtual time: it has no clock and no
chance of its own, and the same calls give the same decisions. Deciding, choosing and reserving are
one step: two requests can never be given the same room.

A published policy takes the place of ours in the choice alone; admission then says yes to
everything unless it is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic

from memroute.traffic.admission import (
    AdmissionSettings,
    ClosedReason,
    FairQueue,
    NotNow,
    QueuedRequest,
    QueueLimits,
    QueueRefusal,
    Reject,
    RejectReason,
    hangs,
    never_fits,
    no_ready_replica,
    not_now,
)
from memroute.traffic.dispatch.waiting_line import T, WaitingLine
from memroute.traffic.lengths import OutputLengths, TokensPerEvent
from memroute.traffic.peers import PeerGroup
from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.replica import ReplicaLedger, ReplicaReading, Reservation
from memroute.traffic.replica.backend import Backend, compare_speed, usable
from memroute.traffic.replica.own_requests import MEMORY_QUANTILE
from memroute.traffic.replica.reading import MAX_AGE_SECONDS
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.cost import Choice, RandomSource, wait_seconds
from memroute.traffic.routing.published import PUBLISHED, SEES_PREFIXES, Pick
from memroute.traffic.routing.shortlist import Shortlist, search

MEMROUTE: Final = "memroute"
MAX_TRIED: Final = 8
# Held requests that are looked at when something has changed: one that is too large for the
# room there is does not keep the smaller ones behind it.
LATE_WAIT_SECONDS: Final = 0.05
# A request that is late anyway goes only where it makes nobody else wait.
OVER_SHARE_LIMIT_RATIO: Final = 0.8
# Of every limit, for a tenant who floods: what is left lets others in at once.
NO_HITS: Hits = {}


class AdmissionMode(StrEnum):
    """What becomes of a verdict against a request."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    """It is counted, and the request sent all the same."""
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """How one pool admits and routes."""

    policy: str = MEMROUTE
    admission: AdmissionMode = AdmissionMode.ENFORCE
    waits_for_replicas: bool = False
    """Whether requests are held while no replica is ready: one may be starting."""
    max_age_seconds: float = MAX_AGE_SECONDS
    """A replica whose last reading is older comes after all others."""
    limits: AdmissionSettings = field(default_factory=AdmissionSettings)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the traffic, by the replicas' version, in any unit; empty: all compete. A version with
    none gets nothing; one whose replicas are all out leaves its requests to the others."""


class Assignment:
    """A replica that was chosen, and what was reserved there in the same step."""

    __slots__ = ("backend", "choice", "reservation")

    def __init__(self, backend: Backend, choice: Choice, reservation: Reservation) -> None:
        self.backend = backend
        self.choice = choice
        self.reservation = reservation


class Dispatcher(Generic[T]):
    """Owns the ledgers of one pool's replicas and the queue of those who wait for them."""

    def __init__(
        self,
        settings: DispatchSettings,
        limits: QueueLimits,
        *,
        rng: RandomSource,
        find_hits: Callable[[T], Hits] | None = None,
        peers: PeerGroup | None = None,
    ) -> None:
        """``peers``: other routers of the same replicas; None: there are none.

        ``find_hits``: tokens of a request's prompt that each replica has cached.

        None: guessed from what was sent where, by the blocks of its profile's ``prefix``.
        """
        self.settings = settings
        self.line: WaitingLine[T] = WaitingLine(limits)
        self.lengths = OutputLengths()
        self.events = TokensPerEvent()
        self.backends: dict[str, Backend] = {}
        self.num_would_hold = 0
        self.closed_counts: dict[ClosedReason, int] = {}
        """Replicas that were closed to a request when it came, by why."""
        self.peers = peers or PeerGroup()
        self.cached = CachedPrompts(self.peers.others)
        self._find_hits = find_hits
        self._rng = rng
        self._pick: Pick | None = None
        self._evicted: list[tuple[T, Reject]] = []
        self.configure(settings)

    @property
    def queue(self) -> FairQueue[T]:
        """Who waits."""
        return self.line.queue

    # The pool.

    def configure(self, settings: DispatchSettings) -> None:
        """Decide by these settings from now on. Raises ``KeyError`` for a policy that is none."""
        is_new = settings.policy != self.settings.policy or self._pick is None
        self.settings = settings
        self._reduced = settings.limits.reduced(OVER_SHARE_LIMIT_RATIO)
        if settings.policy == MEMROUTE:
            self._pick = None
        elif is_new:
            self._pick = PUBLISHED[settings.policy]()

    def add(self, backend: Backend) -> None:
        """A replica is there, its cache cold."""
        self.cached.added(backend.ledger.replica)
        self.backends[backend.ledger.replica] = backend
        self.peers.add_replica(backend.ledger, self.cached)

    def remove(self, replica: str) -> Backend | None:
        """A replica is gone; leases on it stay valid until they are released."""
        self.cached.removed(replica)
        backend = self.backends.pop(replica, None)
        if backend is not None:
            self.peers.remove_replica(backend.ledger)
        return backend

    def ledger(
        self,
        replica: str,
        *,
        promised_capacity_tokens: int | None = None,
        max_context_tokens: int | None = None,
        weight_ratio: float = 1.0,
    ) -> ReplicaLedger:
        """A new ledger that shares what the pool has learned."""
        return ReplicaLedger(
            replica,
            promised_capacity_tokens=promised_capacity_tokens,
            max_context_tokens=max_context_tokens,
            lengths=self.lengths,
            events=self.events,
            weight_ratio=weight_ratio,
        )

    # Requests.

    def submit(self, ticket: T, *, now_seconds: float) -> Assignment | Reject | None:
        """Room on a replica, a refusal, or None: it waits, and ``turns`` will tell."""
        possible = self._possible(ticket, now_seconds)
        if isinstance(possible, Reject):
            if self._may_wait_for_replicas(possible):
                return self._hold(ticket, self._nothing(ticket), (), now_seconds)
            return possible
        mode = self.settings.admission
        if mode is AdmissionMode.OFF and self._pick is not None:
            return self._picked(ticket, possible, now_seconds)
        found = self._search(ticket, possible, now_seconds)
        profile = ticket.profile
        self.line.asked(
            profile.tenant,
            profile.num_prompt_tokens + found.output_tokens,
            now_seconds=now_seconds,
        )
        for why, count in found.closed.items():
            self.closed_counts[why] = self.closed_counts.get(why, 0) + count
        if mode is AdmissionMode.ENFORCE:
            chosen = self._admissible(ticket, found, now_seconds)
            if chosen is None or len(self.queue):
                return self._hold(ticket, found, possible, now_seconds)
            return self._reserve(ticket, chosen, found, now_seconds)
        if found.open is None:
            self.num_would_hold += 1
        return self._unheld(ticket, found, possible, now_seconds)

    def withdraw(self, ticket: T) -> bool:
        """It waits no more: its client has gone. False when it did not wait."""
        return self.queue.remove(ticket)

    def turns(self, *, now_seconds: float) -> list[tuple[T, Assignment | Reject]]:
        """Held requests whose turn has come, or whose time is over."""
        queue = self.queue
        done: list[tuple[T, Assignment | Reject]] = []
        if self._evicted:
            done += self._evicted
            self._evicted.clear()
        if not len(queue):
            return done
        self.line.plan(self.backends.values(), now_seconds=now_seconds)
        searches: dict[T, Shortlist] = {}
        while (turn := self._turn(searches, now_seconds)) is not None:
            held, verdict = turn
            is_placed = isinstance(verdict, Assignment)
            self.line.turn_taken(held, is_placed=is_placed, now_seconds=now_seconds)
            searches.pop(held.item, None)
            done.append((held.item, verdict))
        hopeless = self.line.hopeless(now_seconds=now_seconds)
        for ticket in hopeless:
            queue.remove(ticket)
        # What they are told of is the queue without them.
        done += [(ticket, self._hopeless(ticket, now_seconds)) for ticket in hopeless]
        for ticket in queue.expired(now_seconds=now_seconds):
            queue.remove(ticket)
            done.append((ticket, self._expired(ticket, now_seconds)))
        return done

    def stuck(self, *, now_seconds: float) -> list[Reservation]:
        """Requests that wait at replicas that hang, where others could take them."""
        found: list[Reservation] = []
        routable = [c for c in self.backends.values() if c.is_routable]
        num_healthy = sum(not backend.health.is_out for backend in routable)
        for backend in routable:
            ledger = backend.ledger
            # One that is out has what is on trial there, and what was sent before it was known.
            is_out = backend.health.is_out
            others = num_healthy - (0 if is_out else 1)
            if others and hangs(
                ledger,
                settings=self.settings.limits,
                is_on_trial=is_out,
                now_seconds=now_seconds,
            ):
                found += ledger.unanswered
        return found

    def ended(
        self,
        placement_ledger: ReplicaLedger,
        reservation: Reservation,
        *,
        is_complete: bool,
        now_seconds: float,
    ) -> int:
        """A request has left its replica; tokens that it held. ``is_complete``: it was answered.

        Raises ``KeyError`` the second time: that is a bug of the caller.
        """
        held = placement_ledger.release(reservation, now_seconds=now_seconds)
        self.line.freed(held, now_seconds=now_seconds)
        observer = placement_ledger.observer
        if observer is not None:
            observer.ended(reservation, held_tokens=held, is_complete=is_complete)
        profile = reservation.profile
        self.cached.ended(
            placement_ledger.replica, profile, num_tokens=held, is_complete=is_complete
        )
        if is_complete and reservation.generated_tokens:
            self.lengths.observe(
                reservation.generated_tokens // max(1, profile.num_choices),
                tenant=profile.tenant,
                num_prompt_tokens=profile.num_prompt_tokens,
                max_output_tokens=profile.max_output_tokens,
            )
        return held

    def apply_reading(self, ledger: ReplicaLedger, reading: ReplicaReading) -> None:
        """A replica was read: what it holds is known anew."""
        ledger.settle(now_seconds=reading.taken_at_seconds)
        ledger.apply_reading(reading)
        self.cached.sized(ledger)
        compare_speed(ledger, self.backends.values())

    def expected_wait_seconds(self, *, now_seconds: float) -> float | None:
        """How long what waits now takes to be given room, at the rate at which that goes."""
        return self.line.seconds_to_place(self.queue.held_tokens, now_seconds)

    # Inside.

    def _usable(self, ticket: T, now_seconds: float) -> list[Backend]:
        return usable(
            self.backends.values(),
            tried=ticket.tried,
            shares=self.settings.shares,
            draw=ticket.profile.draw,
            now_seconds=now_seconds,
        )

    def _possible(self, ticket: T, now_seconds: float) -> list[Backend] | Reject:
        """Those that could ever hold the request, or why there are none."""
        there = self._usable(ticket, now_seconds)
        if not there:
            return no_ready_replica()
        least = ticket.profile.least_tokens
        possible = []
        for backend in there:
            limit = backend.ledger.limit_tokens
            if limit is None or least <= limit:
                possible.append(backend)
        if possible:
            return possible
        return never_fits(ticket.profile, [backend.ledger for backend in there])

    def _may_wait_for_replicas(self, reject: Reject) -> bool:
        return self.settings.waits_for_replicas and reject.reason is RejectReason.NO_READY_REPLICA

    def _output_tokens(self, profile: RequestProfile) -> int:
        if profile.known_output_tokens is not None:
            return profile.known_output_tokens
        told = self.lengths.quantile(
            MEMORY_QUANTILE,
            tenant=profile.tenant,
            num_prompt_tokens=profile.num_prompt_tokens,
            max_output_tokens=profile.max_output_tokens,
        )
        if told is None:
            return profile.assumed_output_tokens
        return told * profile.num_choices

    def _hits(self, ticket: T, possible: Sequence[Backend]) -> Hits:
        find = self._find_hits
        if find is not None:
            return find(ticket)
        return self.cached.hits(ticket.profile, possible)

    def _search(self, ticket: T, possible: Sequence[Backend], now_seconds: float) -> Shortlist:
        return search(
            possible,
            ticket.profile,
            hits=self._hits(ticket, possible),
            output_tokens=self._output_tokens(ticket.profile),
            limits=self._limits(ticket.profile.tenant, now_seconds),
            max_age_seconds=self.settings.max_age_seconds,
            rng=self._rng,
            now_seconds=now_seconds,
        )

    def _limits(self, tenant: str, now_seconds: float) -> AdmissionSettings:
        """A tenant that has had more than its share leaves some room to those who have not."""
        is_over = self._is_over_share(tenant, now_seconds)
        return self._reduced if is_over else self.settings.limits

    def _is_over_share(self, tenant: str, now_seconds: float) -> bool:
        return self.line.is_over_share(tenant, now_seconds=now_seconds)

    def _nothing(self, ticket: T) -> Shortlist:
        """What is found where there is nobody to look at."""
        return Shortlist(0, self._output_tokens(ticket.profile), self.settings.limits)

    def _admissible(self, ticket: T, found: Shortlist, now_seconds: float) -> Backend | None:
        """Where it goes now: None when it should wait."""
        deadline = self._deadline(ticket.profile, now_seconds)
        if found.is_best_open or found.is_second_best_due(
            deadline_seconds=deadline, now_seconds=now_seconds
        ):
            return found.open
        return None

    def _deadline(self, profile: RequestProfile, now_seconds: float) -> float:
        if profile.deadline_seconds is not None:
            return profile.deadline_seconds
        return now_seconds + self.settings.limits.ttft_target_seconds

    def _turn(
        self, searches: dict[T, Shortlist], now_seconds: float
    ) -> tuple[QueuedRequest[T], Assignment | Reject] | None:
        """The next held request that can go, and where; None when none can.

        First those whose own best replica is open; only then one that has no time left to wait
        for it, or a replica would be taken from those whose prefixes it has by whoever waits
        longest. The next room on a replica that a tenant's turn waits for is that tenant's: others
        who need less do not fill it meanwhile, unless it has had more than its share.

        ``searches``: of those that could not go, kept until something is placed.
        """
        turns = self.queue.in_turn(MAX_TRIED)
        kept: dict[str, str] = {}
        for held in turns:
            found = searches.get(held.item)
            if found is None:
                possible = self._possible(held.item, now_seconds)
                if isinstance(possible, Reject):
                    if not self._may_wait_for_replicas(possible):
                        return held, possible
                    searches[held.item] = self._nothing(held.item)
                    continue
                found = searches[held.item] = self._search(held.item, possible, now_seconds)
                held.work_tokens = found.best_work
            best = found.best
            if best is None:
                continue
            replica = best.ledger.replica
            if found.is_best_open and found.open is not None:
                wait = wait_seconds(found.open.ledger, now_seconds=now_seconds)
                is_kept = kept.get(replica, held.tenant) != held.tenant
                if not is_kept and (not held.is_late or wait <= LATE_WAIT_SECONDS):
                    return held, self._reserve(held.item, found.open, found, now_seconds)
            elif not held.is_late and not self._is_over_share(held.tenant, now_seconds):
                kept.setdefault(replica, held.tenant)
        return self._second_best(turns, searches, now_seconds)

    def _second_best(
        self,
        turns: Sequence[QueuedRequest[T]],
        searches: dict[T, Shortlist],
        now_seconds: float,
    ) -> tuple[QueuedRequest[T], Assignment | Reject] | None:
        """A held request that can wait no longer for its best replica, and has another."""
        for held in turns:
            if not held.is_late and searches[held.item].is_second_best_due(
                deadline_seconds=held.deadline_seconds, now_seconds=now_seconds
            ):
                # It may have been closed since, by what was placed in this round.
                possible = self._possible(held.item, now_seconds)
                if isinstance(possible, Reject):
                    return held, possible
                found = searches[held.item] = self._search(held.item, possible, now_seconds)
                if found.open is not None:
                    return held, self._reserve(held.item, found.open, found, now_seconds)
        return None

    def _hold(
        self,
        ticket: T,
        found: Shortlist,
        possible: Sequence[Backend],
        now_seconds: float,
    ) -> Reject | None:
        profile = ticket.profile
        tokens = profile.num_prompt_tokens + found.output_tokens
        if ClosedReason.MEMORY in found.closed:
            self.line.memory_binds(now_seconds=now_seconds)
        expected = self.line.expected_wait_seconds(profile, now_seconds)
        # One that has failed elsewhere was let in before: it waits, as long as it may.
        refusal = self.queue.refusal(
            tokens, expected_wait_seconds=None if ticket.tried else expected
        )
        if refusal in {QueueRefusal.REQUESTS, QueueRefusal.TOKENS}:
            victim = self.queue.victim(tokens, tenant=profile.tenant, priority=profile.priority)
            if victim is not None:
                self.queue.remove(victim.item)
                hold = self._not_now(victim.item.profile, found, possible, expected)
                because = "others who have fewer waiting need its place"
                self._evicted.append((victim.item, hold.reject(because=because)))
                refusal = None
        if refusal is QueueRefusal.TIME:
            self.line.in_vain(now_seconds=now_seconds)
        if refusal is not None:
            return self._not_now(profile, found, possible, expected).reject(because=refusal.value)
        self.line.hold(
            ticket,
            num_tokens=tokens,
            work_tokens=found.best_work,
            deadline_seconds=self._deadline(profile, now_seconds),
            now_seconds=now_seconds,
        )
        return None

    def _not_now(
        self,
        profile: RequestProfile,
        found: Shortlist,
        possible: Sequence[Backend],
        expected_wait_seconds: float | None,
    ) -> NotNow:
        return not_now(
            profile,
            [backend.ledger for backend in possible],
            closed=found.closed,
            settings=self.settings.limits,
            expected_wait_seconds=expected_wait_seconds,
        )

    def _hopeless(self, ticket: T, now_seconds: float) -> Reject:
        """It is late, and waiting is no use for those who are."""
        self.line.in_vain(now_seconds=now_seconds)
        there = self._usable(ticket, now_seconds)
        if not there:
            return no_ready_replica()
        found = self._search(ticket, there, now_seconds)
        expected = self.expected_wait_seconds(now_seconds=now_seconds)
        return self._not_now(ticket.profile, found, there, expected).reject(
            because="it would be late, and most of those that are late wait in vain now"
        )

    def _expired(self, ticket: T, now_seconds: float) -> Assignment | Reject:
        """It has waited for its time: a last look, whatever others are promised."""
        there = self._usable(ticket, now_seconds)
        if not there:
            return no_ready_replica()
        found = self._search(ticket, there, now_seconds)
        if found.open is not None:
            return self._reserve(ticket, found.open, found, now_seconds)
        self.line.in_vain(now_seconds=now_seconds)
        expected = self.expected_wait_seconds(now_seconds=now_seconds)
        hold = self._not_now(ticket.profile, found, there, expected)
        return hold.reject(
            because="it waited for its time",
            reason=RejectReason.QUEUE_TIMEOUT,
            waited=self.queue.limits.max_seconds,
        )

    def _picked(self, ticket: T, possible: Sequence[Backend], now_seconds: float) -> Assignment:
        """A published policy's choice."""
        profile = ticket.profile
        name = self.settings.policy
        hits = NO_HITS
        if name in SEES_PREFIXES:
            hits = self._hits(ticket, possible)
        pick = self._pick
        if pick is None:
            msg = "no published policy is set"
            raise RuntimeError(msg)
        ledger = pick(profile, [backend.ledger for backend in possible], hits, self._rng)
        found = Shortlist(len(possible), self._output_tokens(profile), self.settings.limits)
        work = max(1, profile.num_prompt_tokens - hits.get(ledger.replica, 0))
        chosen = self.backends[ledger.replica]
        found.open, found.open_work = chosen, work
        return self._reserve(ticket, chosen, found, now_seconds)

    def _unheld(
        self,
        ticket: T,
        found: Shortlist,
        possible: Sequence[Backend],
        now_seconds: float,
    ) -> Assignment:
        """Where it goes when nothing is held or refused."""
        if self._pick is not None:
            return self._picked(ticket, possible, now_seconds)
        chosen = found.open or found.best or possible[0]
        if chosen is not found.open:
            found.open_work = found.best_work
        return self._reserve(ticket, chosen, found, now_seconds)

    def _reserve(
        self,
        ticket: T,
        chosen: Backend,
        found: Shortlist,
        now_seconds: float,
    ) -> Assignment:
        profile = ticket.profile
        ledger = chosen.ledger
        output, work = found.output_tokens, found.open_work
        chosen.health.trying(now_seconds=now_seconds)
        choice = Choice(
            replica=ledger.replica,
            policy=self.settings.policy,
            num_candidates=found.num_candidates,
            wait_seconds=wait_seconds(ledger, now_seconds=now_seconds),
            own_seconds=ledger.speed.prefill_seconds(1, work),
            hit_tokens=profile.num_prompt_tokens - work,
            projected_ratio=ledger.projected_ratio(profile.num_prompt_tokens + output),
            closed=found.closed,
        )
        reservation = ledger.reserve(
            profile,
            now_seconds=now_seconds,
            work_tokens=work,
            expected_output_tokens=output,
        )
        if ledger.observer is not None:
            ledger.observer.sent(ledger.replica, reservation)
        self.cached.sent(ledger, profile)
        self.line.placed(
            profile.tenant, profile.num_prompt_tokens + output, now_seconds=now_seconds
        )
        return Assignment(chosen, choice, reservation)
