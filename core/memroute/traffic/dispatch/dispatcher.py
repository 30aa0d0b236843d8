"""One pool's requests: sent, held or refused. The page to read first.

```text
submit ── no replica could ever hold it ─────────────────────────► Reject
       ── all that could hold it sleep ──────────────────────────► held for the wake, or Reject: it
                                                                   has no time for that
       ── the chosen replica is open, nobody waits for it ────────► Assignment (reserved at once)
       ── it is closed, and there is time to wait for it ─────────► held
       ── no time: the cheapest open one ─────────────────────────► Assignment
       ── none is open ───────────────────────────────────────────► held, or Reject: too many wait
turns  ── whose turn is it, now that something has changed? ──────► Assignment, or Reject: too late
```

The same object decides in the router and in the simulator's virtual time: ``request_pool`` asks it
in both. It has no clock and no chance of its own, and the same calls give the same decisions.
Deciding, choosing and reserving are one step, so that two requests are never given the same room.

| question | where |
| --- | --- |
| which replicas may a request go to, and could any hold it? | ``membership`` |
| what does it cost on each, and which are open? | ``selection``; ``memroute.traffic.routing`` |
| which requests wait, for what, and for how long? | ``waiting_room``, ``waiting_line``, ``drain`` |
| which request goes next? | ``turns`` |
| which tenant is over its share? is waiting of any use? | ``fair_share``, ``overload`` |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic

from memroute.traffic.admission import ClosedReason, QueueLimits, Reject, hangs
from memroute.traffic.dispatch.ask import Ask, T
from memroute.traffic.dispatch.fair_share import FairShares
from memroute.traffic.dispatch.membership import Membership, first_awake
from memroute.traffic.dispatch.selection import Assignment, Selection
from memroute.traffic.dispatch.settings import AdmissionMode, DispatchSettings
from memroute.traffic.dispatch.waiting_room import WaitingRoom
from memroute.traffic.lengths import OutputLengths, TokensPerEvent
from memroute.traffic.peers import PeerGroup
from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.replica import (
    Predictions,
    ReplicaLedger,
    ReplicaReading,
    ReplicaSleep,
    Reservation,
    SleepPhase,
)
from memroute.traffic.replica.backend import Backend, FastestReplica, compare_speed
from memroute.traffic.request import Hits
from memroute.traffic.routing.cost import RandomSource

# Looked up once, not for every request.
_ENFORCE: Final = AdmissionMode.ENFORCE
_OFF: Final = AdmissionMode.OFF


class Dispatcher(Generic[T]):
    """Owns one pool's replicas, their ledgers, and the requests that wait for them."""

    def __init__(
        self,
        settings: DispatchSettings,
        limits: QueueLimits,
        *,
        rng: RandomSource,
        find_hits: Callable[[T], Hits] | None = None,
        peers: PeerGroup | None = None,
        tenant_weights: Mapping[str, float] | None = None,
    ) -> None:
        """``limits``: of what may wait, for each version of the model.

        ``find_hits``: tokens of a request's prompt that each replica has cached. None: guessed from
        what was sent where, by the blocks of its profile's ``prefix``. ``peers``: other routers of
        the same replicas; None: there are none. ``tenant_weights``: of tenants' shares, kept up by
        their owner; tenants that are not in it have 1.
        """
        self.lengths = OutputLengths()
        self.events = TokensPerEvent()
        self.predictions = Predictions()
        """What the pool predicts of its replicas, compared with what happens."""
        self.peers = peers or PeerGroup()
        self.cached = CachedPrompts(self.peers.others)
        self.shares = FairShares(tenant_weights)
        self.num_would_hold = 0
        """Requests that observe mode has sent, and enforce mode would have held."""
        self.closed_counts: dict[ClosedReason, int] = {}
        """Closed replicas by reason, summed over all requests at their arrival."""
        self._membership = Membership()
        self._fastest = FastestReplica()
        self._selection: Selection[T] = Selection(
            settings,
            self.lengths,
            self.cached,
            self._fastest,
            rng=rng,
            find_hits=find_hits,
            predictions=self.predictions,
        )
        self._room: WaitingRoom[T] = WaitingRoom(
            limits, self._membership, self._selection, self.shares, tenant_weights
        )
        self.configure(settings)

    # Replicas and settings.

    @property
    def settings(self) -> DispatchSettings:
        """The settings that are in force."""
        return self._selection.settings

    @property
    def backends(self) -> dict[str, Backend]:
        """The replicas that are known, by name."""
        return self._membership.known

    def configure(self, settings: DispatchSettings) -> None:
        """Decide by these settings from now on. Raises ``KeyError`` for an unknown policy."""
        self._selection.configure(settings)
        self._membership.shares = settings.shares

    def add(self, backend: Backend) -> None:
        """A replica has come, its cache cold."""
        self.cached.added(backend.ledger.replica)
        self.backends[backend.ledger.replica] = backend
        self.peers.add_replica(backend.ledger, self.cached)

    def remove(self, replica: str) -> Backend | None:
        """A replica has gone; leases on it stay valid until they are released."""
        self.cached.removed(replica)
        backend = self.backends.pop(replica, None)
        if backend is not None:
            self._fastest.gone(backend.ledger, self.backends.values())
            self.peers.remove_replica(backend.ledger)
        return backend

    def set_sleep(
        self,
        replica: str,
        phase: SleepPhase | None,
        *,
        wake_seconds: float | None = None,
        now_seconds: float,
    ) -> None:
        """What the operator says of a replica's sleep; None: it is awake.

        Once it sleeps its caches are gone. Raises ``KeyError`` for a replica that is not known.
        """
        backend = self.backends[replica]
        before = backend.sleep
        if phase is None:
            backend.sleep = None
            return
        if before is not None and before.phase is phase:
            before.wake_seconds = wake_seconds
            return
        backend.sleep = ReplicaSleep(phase, since_seconds=now_seconds, wake_seconds=wake_seconds)
        had_caches = before is None or before.phase is SleepPhase.FALLING_ASLEEP
        if had_caches and phase is not SleepPhase.FALLING_ASLEEP:
            self.cached.emptied(replica)

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
            predictions=self.predictions,
            weight_ratio=weight_ratio,
        )

    def apply_reading(self, ledger: ReplicaLedger, reading: ReplicaReading) -> None:
        """A scrape of a replica has come: its ledger takes the reading."""
        ledger.settle(now_seconds=reading.taken_at_seconds)
        ledger.apply_reading(reading)
        self.cached.sized(ledger)
        compare_speed(ledger, self.backends.values())
        self._fastest.learned(ledger, self.backends.values())

    # Requests.

    @property
    def num_held(self) -> int:
        """Requests that are held."""
        return len(self._room)

    @property
    def held_tokens(self) -> int:
        """Tokens that all held requests are expected to need."""
        return self._room.held_tokens

    @property
    def num_apart(self) -> int:
        """Requests that somebody else keeps apart from others: they count in what may wait."""
        return self._room.num_apart

    @num_apart.setter
    def num_apart(self, count: int) -> None:
        self._room.num_apart = count

    def waiting(self) -> list[Ask[T]]:
        """The requests that are held, in the order in which they came, and what each waits for."""
        return self._room.waiting()

    def first_awake(self, ask: Ask[T], *, now_seconds: float) -> ReplicaSleep | None:
        """The sleep of the replica that should be the first awake of those that could hold it."""
        asleep = self._membership.asleep(ask.profile, ask.ticket.tried)
        return first_awake(asleep, now_seconds=now_seconds)

    @property
    def has_turns(self) -> bool:
        """Whether any request waits for a verdict of ``turns``."""
        return self._room.has_turns

    def submit(self, ticket: T, *, now_seconds: float) -> Assignment | Reject | None:
        """Room on a replica, a refusal, or None: held until ``turns`` has a verdict."""
        room = self._room
        ask = self._selection.ask(ticket, now_seconds=now_seconds)
        profile = ask.profile
        room.asked(ask, now_seconds=now_seconds)
        available = self._membership.available(now_seconds=now_seconds)
        possible = available.possible(profile, ticket.tried)
        if possible is None:
            reject = self._membership.why_none(profile, ticket.tried, now_seconds=now_seconds)
            waits_for = room.instead_of(reject)
            if waits_for is None:
                return reject
            ask.waits_for = waits_for
            return room.hold(ask, None, now_seconds=now_seconds)
        ask.version, ask.lane = possible.version, possible.lane
        mode = self.settings.admission
        gated = self._selection.shortlist(
            ask,
            possible.backends,
            is_over_share=room.is_over_share(ask, now_seconds=now_seconds),
            asks_gates=mode is not _OFF,
            now_seconds=now_seconds,
        )
        for why, count in gated.closed.items():
            self.closed_counts[why] = self.closed_counts.get(why, 0) + count
        may_go = gated.is_best_open or gated.is_second_best_due(
            deadline_seconds=ask.deadline_seconds, now_seconds=now_seconds
        )
        if mode is not _ENFORCE:
            if mode is AdmissionMode.OBSERVE and not may_go:
                self.num_would_hold += 1
            found = self._selection.in_any_case(ask, gated)
            return room.assign(ask, found, now_seconds=now_seconds)
        chosen = gated.open if may_go else None
        if chosen is None or room.is_wanted(ask.version, chosen.ledger.replica):
            return room.hold(ask, gated, now_seconds=now_seconds)
        return room.assign(ask, gated, now_seconds=now_seconds)

    def withdraw(self, ticket: T) -> bool:
        """The request's client has gone: it waits no more. False when it did not wait."""
        return self._room.withdraw(ticket)

    def turns(self, *, now_seconds: float) -> list[tuple[T, Assignment | Reject]]:
        """Held requests whose turn has come, or whose time is over."""
        return self._room.turns(now_seconds=now_seconds)

    def stuck(self, leaving: Sequence[Backend] = (), *, now_seconds: float) -> list[Reservation]:
        """Unanswered requests at replicas that hang, where another replica could take them.

        ``leaving``: replicas that have gone, and still have requests. A request that has reached an
        engine after it was put to sleep waits there for the wake, as at one that hangs.
        """
        found: list[Reservation] = []
        routable = [c for c in self.backends.values() if c.is_routable]
        asleep = [c for c in self.backends.values() if c.sleep is not None]
        num_healthy = sum(not backend.health.is_out for backend in routable)
        for backend in (*routable, *asleep, *leaving):
            ledger = backend.ledger
            # A replica that is out has its trial request, and what was sent before it failed.
            is_out = backend.health.is_out
            is_other = is_out or backend in leaving or not backend.is_routable
            others = num_healthy - (0 if is_other else 1)
            if others and hangs(
                ledger,
                settings=self.settings.limits,
                is_on_trial=is_out,
                now_seconds=now_seconds,
            ):
                found += ledger.unanswered
        return found

    def moved(
        self, assignment: Assignment, replica: str, *, now_seconds: float
    ) -> Assignment | None:
        """The same request on another replica, which has got it instead of the one that was chosen.

        Its answer has not begun. None: there is no such replica, and nothing has changed.
        """
        backend = self.backends.get(replica)
        if backend is None:
            return None
        before = assignment.reservation
        reservation = backend.ledger.reserve(
            before.profile,
            now_seconds=now_seconds,
            expected_output_tokens=before.expected_output_tokens,
        )
        if backend.ledger.observer is not None:
            backend.ledger.observer.sent(replica, reservation)
        num_taught = self.cached.sent(backend.ledger, before.profile)
        self.ended(assignment, is_complete=False, now_seconds=now_seconds)
        return Assignment(backend, assignment.choice.at(replica), reservation, num_taught)

    def ended(self, assignment: Assignment, *, is_complete: bool, now_seconds: float) -> int:
        """A request has left its replica; returns the tokens that it held there.

        ``is_complete``: it was answered.

        Raises ``KeyError`` the second time: that is a bug of the caller.
        """
        backend, reservation = assignment.backend, assignment.reservation
        ledger, profile = backend.ledger, reservation.profile
        was_pending = reservation.is_pending
        held = ledger.release(reservation, now_seconds=now_seconds)
        if ledger.observer is not None:
            ledger.observer.ended(reservation, held_tokens=held, is_complete=is_complete)
        version = backend.version if self.settings.shares else ""
        self._room.line(version).drain.freed(held, now_seconds=now_seconds)
        if was_pending and not is_complete:
            self.cached.never_computed(ledger.replica, profile, assignment.num_taught_blocks)
        self.cached.ended(ledger.replica, profile, num_tokens=held, is_complete=is_complete)
        if is_complete and reservation.generated_tokens:
            self.lengths.observe(
                reservation.generated_tokens // max(1, profile.num_choices),
                tenant=profile.tenant,
                num_prompt_tokens=profile.num_prompt_tokens,
                max_output_tokens=profile.max_output_tokens,
            )
        return held
