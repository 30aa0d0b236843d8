"""The requests that wait: held, sent when their turn comes, refused when their time is over.

There is one line for each version of the model, because versions share no replicas. A canary that
is full delays no request for the other version, and does not make that request's wait look long.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic

from memroute.traffic.admission import (
    ClosedReason,
    OverloadObjective,
    QueuedRequest,
    QueueLimits,
    QueueRefusal,
    Reject,
    RejectReason,
    not_now,
)
from memroute.traffic.dispatch.ask import REPLICA, ROOM, WAKE, Ask, T, adapter_slot
from memroute.traffic.dispatch.fair_share import FairShares
from memroute.traffic.dispatch.membership import Available, Membership
from memroute.traffic.dispatch.selection import Assignment, Selection
from memroute.traffic.dispatch.size_shares import SizeShares
from memroute.traffic.dispatch.token_yield import TokenYield
from memroute.traffic.dispatch.turns import Look, Round
from memroute.traffic.dispatch.waiting_line import WaitingLine
from memroute.traffic.dispatch.wakes import Wakes, misses_wake
from memroute.traffic.routing.shortlist import Shortlist


class EndOfWait(StrEnum):
    """Why a request that was held is refused; part of its refusal's message."""

    DISPLACED = "others who have fewer waiting need its place"
    LATE = "it would be late, and most of those that are late wait in vain now"
    EXPIRED = "it waited for its time"


class WaitingRoom(Generic[T]):
    """Owns the lines of one pool."""

    def __init__(
        self,
        limits: QueueLimits,
        membership: Membership,
        selection: Selection[T],
        shares: FairShares,
        tenant_weights: Mapping[str, float] | None = None,
    ) -> None:
        """``limits``: of what may wait, for each version. ``tenant_weights``: of their turns."""
        self._tenant_weights = tenant_weights
        self._shares = shares
        self._sizes = SizeShares()
        self._yield = TokenYield()
        self._limits = limits
        self._membership = membership
        self._selection = selection
        self._lines: dict[str, WaitingLine[T]] = {}
        self._asks: dict[T, Ask[T]] = {}
        self._displaced: dict[T, Reject] = {}
        self.num_apart = 0
        """Requests of the pool that are kept apart from others and wait elsewhere: they count in
        what may wait. Kept up by whoever keeps them."""
        self._versions: tuple[str, ...] = ()
        self._wakes: Wakes[T] = Wakes(membership)

    def __len__(self) -> int:
        return len(self._asks)

    @property
    def held_tokens(self) -> int:
        """Tokens that all held requests are expected to need."""
        return sum(line.held_tokens for line in self._lines.values())

    def waiting(self) -> list[Ask[T]]:
        """The requests that are held, in the order in which they came, and what each waits for."""
        return list(self._asks.values())

    @property
    def has_turns(self) -> bool:
        """Whether ``turns`` may have something to say, now or when something changes."""
        return bool(self._asks or self._displaced)

    def line(self, version: str) -> WaitingLine[T]:
        """The line of this version; the empty version is that of a pool where all compete."""
        line = self._lines.get(version)
        if line is None:
            line = self._lines[version] = WaitingLine(self._limits, self._tenant_weights)
        return line

    def is_wanted(self, version: str, replica: str) -> bool:
        """Whether some request that waits for room would go to the replica."""
        line = self._lines.get(version)
        return line is not None and line.is_wanted(replica)

    def asked(self, ask: Ask[T], *, now_seconds: float) -> None:
        """A request came: it counts in its tenant's share, and in that of its like."""
        profile, output = ask.profile, ask.output_tokens
        if not ask.ticket.tried:
            self._shares.asked(profile.tenant, ask.num_tokens, now_seconds=now_seconds)
            self._sizes.asked(ask.size_class)
            self._yield.asked(profile.num_prompt_tokens, output)
        ask.is_thin = self._yield.is_thin(profile.num_prompt_tokens, output)

    def is_over_share(self, ask: Ask[T], *, now_seconds: float) -> bool:
        """Whether it has to leave room for others that wait.

        Its tenant has had more than its share, or the pool's objective prefers others.
        """
        line = self._lines.get(ask.version)
        if line is None or not len(line):
            return False
        objective = self._selection.settings.limits.objective
        if objective is OverloadObjective.SIZES and self._sizes.is_over(ask.size_class):
            return True
        if objective is OverloadObjective.TOKENS and ask.is_thin:
            return True
        return self._shares.is_over(ask.profile.tenant, now_seconds=now_seconds)

    def instead_of(self, reject: Reject) -> str | None:
        """What a request waits for that would be refused so; None: it is refused.

        For a replica that wakes; for one that is not ready where that is set.
        """
        if reject.reason is RejectReason.MODEL_ASLEEP:
            return WAKE
        is_so_set = self._selection.settings.waits_for_replicas
        return REPLICA if is_so_set and reject.reason is RejectReason.NO_READY_REPLICA else None

    def assign(self, ask: Ask[T], found: Shortlist, *, now_seconds: float) -> Assignment:
        """Reserve ``found.open``, whether the request had to wait or not."""
        if not ask.ticket.tried:
            self._shares.given(ask.profile.tenant, ask.num_tokens, now_seconds=now_seconds)
            if self._selection.is_in_time(ask, found, now_seconds=now_seconds):
                self._sizes.in_time(ask.size_class)
        self.line(ask.version).placed(ask.num_tokens, now_seconds=now_seconds)
        return self._selection.assign(ask, found, now_seconds=now_seconds)

    def hold(self, ask: Ask[T], found: Shortlist | None, *, now_seconds: float) -> Reject | None:
        """Hold the request, or say why it may not wait. ``found`` None: it waits for a replica."""
        line = self.line(ask.version)
        if found is not None:
            ask.wanted, ask.closed = found.best, found.best_closed
            if found.waits_for_adapter:
                ask.waits_for = adapter_slot(ask.profile.adapter)
            if ClosedReason.MEMORY in found.closed:
                line.drain.memory_binds(now_seconds=now_seconds)
        expected = self._expected_seconds(line, ask, now_seconds)
        # A request that has failed on a replica was admitted before: it may wait its full time.
        refusal = line.refusal(
            ask,
            expected_wait_seconds=None if ask.ticket.tried else expected,
            num_apart=self.num_apart,
        )
        if (
            refusal is not QueueRefusal.SIZE  # nobody is displaced for what is refused anyhow
            and not ask.ticket.tried
            and misses_wake(ask, expected, now_seconds=now_seconds)
        ):
            refusal = QueueRefusal.TIME
        if refusal in {QueueRefusal.REQUESTS, QueueRefusal.TOKENS}:
            victim = line.victim(ask)
            if victim is not None:
                line.remove(victim)
                del self._asks[victim.ticket]
                because = EndOfWait.DISPLACED.value
                self._displaced[victim.ticket] = self._reject(
                    victim, found, because, expected, now_seconds
                )
                refusal = None
        if refusal is QueueRefusal.TIME and ask.waits_for != WAKE:
            line.overload.in_vain(now_seconds=now_seconds)
        if refusal is not None:
            return self._reject(ask, found, refusal.value, expected, now_seconds)
        self._asks[ask.ticket] = ask
        work = ask.profile.num_prompt_tokens if found is None else found.best_work
        line.hold(ask, work_tokens=work, now_seconds=now_seconds)
        return None

    def _reject(
        self,
        ask: Ask[T],
        found: Shortlist | None,
        because: str,
        expected_wait_seconds: float | None,
        now_seconds: float,
        *,
        has_expired: bool = False,
    ) -> Reject:
        """The refusal of a request that would fit, but not now.

        ``because``: why it may not wait, or wait longer.
        """
        if found is None or ask.waits_for in {REPLICA, WAKE}:
            reject = self._why_none(ask, now_seconds)
            is_asleep = reject.reason is RejectReason.MODEL_ASLEEP
            return reject.ending(because) if is_asleep else reject
        hold = not_now(
            ask.profile,
            [backend.ledger for backend in found.backends],
            closed=found.closed,
            settings=self._selection.settings.limits,
            expected_wait_seconds=expected_wait_seconds,
        )
        if has_expired:
            return hold.reject(
                because=because,
                reason=RejectReason.QUEUE_TIMEOUT,
                waited=self._limits.max_seconds,
            )
        return hold.reject(because=because)

    def withdraw(self, ticket: T) -> bool:
        """The request's client has gone: it waits no more. False when it did not wait."""
        if self._displaced.pop(ticket, None) is not None:
            return True
        ask = self._asks.pop(ticket, None)
        if ask is None:
            return False
        self.line(ask.version).remove(ask)
        return True

    def turns(self, *, now_seconds: float) -> list[tuple[T, Assignment | Reject]]:
        """Held requests whose turn has come, or whose time is over."""
        done: list[tuple[T, Assignment | Reject]] = list(self._displaced.items())
        self._displaced.clear()
        if not self._asks:
            return done
        available = self._membership.available(now_seconds=now_seconds)
        if available.versions != self._versions:
            self._versions = available.versions
            self._draw_again(available)
        looks_at_sleepers = bool(available.backends) or self._wakes.is_look_due(
            now_seconds=now_seconds
        )
        for version, line in list(self._lines.items()):
            self._return_to_room(version, line, available, done, now_seconds, looks_at_sleepers)
            while self._round(version, line, done, now_seconds):
                pass
            self._end_waits(line, done, now_seconds)
            if version and version not in self._versions and not len(line):
                del self._lines[version]
        return done

    # Inside.

    def _draw_again(self, available: Available) -> None:
        """The set of versions has changed: held requests draw their version again."""
        for line in list(self._lines.values()):
            for held in line.waiting():
                ask = held.item
                possible = available.possible(ask.profile, ask.ticket.tried)
                if possible is not None and possible.version != ask.version:
                    line.remove(ask)
                    ask.version, ask.waits_for, ask.wanted = possible.version, ROOM, None
                    self.line(ask.version).move_in(held)

    def _return_to_room(
        self,
        version: str,
        line: WaitingLine[T],
        available: Available,
        done: list[tuple[T, Assignment | Reject]],
        now_seconds: float,
        looks_at_sleepers: bool,
    ) -> None:
        """Requests that waited for a replica or an adapter slot, and have it now, wait for room."""
        for what in line.apart():
            if what == WAKE and not looks_at_sleepers:
                continue
            for held in line.waiting_for(what):
                ask = held.item
                if what in {REPLICA, WAKE}:
                    self._look_for_replica(line, held, available, done, now_seconds)
                    continue
                if not available.has_slot(version, ask.profile.adapter):
                    break
                line.remove(ask)
                ask.waits_for, ask.wanted = ROOM, None
                self.line(ask.version).move_in(held)

    def _look_for_replica(
        self,
        line: WaitingLine[T],
        held: QueuedRequest[Ask[T]],
        available: Available,
        done: list[tuple[T, Assignment | Reject]],
        now_seconds: float,
    ) -> None:
        """A request that waited for a replica waits for room, for something else, or is refused."""
        ask = held.item
        possible = available.possible(ask.profile, ask.ticket.tried)
        if possible is not None:
            line.remove(ask)
            # A model that falls asleep and wakes in turn gives its full time to nobody twice.
            is_again = ask.waits_for == WAKE and ask.waited_for_wake
            if ask.waits_for == WAKE:
                ask.waited_for_wake = True
                # What is due counts from when it can be served: else all of them would be late.
                ask.deadline_seconds = held.deadline_seconds = self._selection.deadline(
                    ask.profile, now_seconds=now_seconds
                )
            ask.version = possible.version
            ask.waits_for, ask.wanted = ROOM, None
            if is_again:
                self.line(ask.version).move_in(held)
            else:
                self.line(ask.version).wait_anew(held, now_seconds=now_seconds)
            return
        reject = self._why_none(ask, now_seconds)
        instead = self.instead_of(reject)
        if instead is None:
            line.remove(ask)
            del self._asks[ask.ticket]
            done.append((ask.ticket, reject))
        elif instead != ask.waits_for:
            self._wait_apart(line, ask, instead)

    def _look(
        self, line: WaitingLine[T], ask: Ask[T], available: Available, now_seconds: float
    ) -> Look:
        possible = available.possible(ask.profile, ask.ticket.tried)
        if possible is None:
            reject = self._why_none(ask, now_seconds)
            instead = self.instead_of(reject)
            if instead is None:
                return reject
            held = line.remove(ask)
            if held is not None:
                ask.waits_for = instead
                if instead == WAKE and ask.waited_for_wake:
                    line.move_in(held)
                else:
                    line.wait_anew(held, now_seconds=now_seconds)
            return None
        ask.lane = possible.lane
        found = self._selection.shortlist(
            ask,
            possible.backends,
            is_over_share=self.is_over_share(ask, now_seconds=now_seconds),
            asks_gates=True,
            now_seconds=now_seconds,
        )
        if found.waits_for_adapter:
            self._wait_apart(line, ask, adapter_slot(ask.profile.adapter))
            return None
        line.wants(ask, found.best, found.best_closed)
        return found

    def _wait_apart(self, line: WaitingLine[T], ask: Ask[T], what: str) -> None:
        held = line.remove(ask)
        if held is not None:
            ask.waits_for = what
            line.move_in(held)

    def _round(
        self,
        version: str,
        line: WaitingLine[T],
        done: list[tuple[T, Assignment | Reject]],
        now_seconds: float,
    ) -> bool:
        """Give out turns; True when that has changed which replicas may be tried."""
        available = self._membership.available(now_seconds=now_seconds)
        objective = self._selection.settings.limits.objective
        if line.plan(available.of_version(version), objective, now_seconds=now_seconds):
            self._shares.update(now_seconds=now_seconds)
        turns: Round[T] = Round(
            line,
            look=lambda ask: self._look(line, ask, available, now_seconds),
            is_open=lambda ask, backend, work, is_over: self._selection.is_open(
                ask, backend, work_tokens=work, is_over_share=is_over, now_seconds=now_seconds
            ),
            is_over_share=lambda ask: self.is_over_share(ask, now_seconds=now_seconds),
            now_seconds=now_seconds,
        )
        while (turn := turns.next()) is not None:
            ask = turn.held.item
            verdict: Assignment | Reject | None = turn.reject
            if turn.shortlist is not None:
                verdict = self.assign(ask, turn.shortlist, now_seconds=now_seconds)
            if verdict is None:
                msg = "a turn is a shortlist or a refusal"
                raise RuntimeError(msg)
            is_placed = isinstance(verdict, Assignment)
            line.turn_taken(turn.held, is_placed=is_placed, now_seconds=now_seconds)
            del self._asks[ask.ticket]
            done.append((ask.ticket, verdict))
            if isinstance(verdict, Assignment):
                turns.placed(turn, verdict.backend)
                if verdict.backend.health.is_out:
                    # It was on trial: one request at a time may try it.
                    return True
        return False

    def _end_waits(
        self,
        line: WaitingLine[T],
        done: list[tuple[T, Assignment | Reject]],
        now_seconds: float,
    ) -> None:
        """Refuse late requests where waiting is of no use, and requests whose time is over."""
        hopeless: list[Ask[T]] = []
        if not self._selection.is_in_safe_mode:
            hopeless = line.hopeless(now_seconds=now_seconds)
        for ask in hopeless:
            line.remove(ask)
            del self._asks[ask.ticket]
        # Their Retry-After is computed from the line without them.
        for ask in hopeless:
            found = self._found(ask, now_seconds)
            line.overload.in_vain(now_seconds=now_seconds)
            expected = line.seconds_to_drain(now_seconds=now_seconds)
            because = EndOfWait.LATE.value
            done.append((ask.ticket, self._reject(ask, found, because, expected, now_seconds)))
        for ask in line.take_expired(now_seconds=now_seconds):
            del self._asks[ask.ticket]
            # A last look: claims of other requests do not count here.
            found = self._found(ask, now_seconds)
            if found is not None and found.open is not None:
                done.append((ask.ticket, self.assign(ask, found, now_seconds=now_seconds)))
                continue
            if ask.waits_for != WAKE:
                line.overload.in_vain(now_seconds=now_seconds)
            expected = line.seconds_to_drain(now_seconds=now_seconds)
            because = EndOfWait.EXPIRED.value
            reject = self._reject(ask, found, because, expected, now_seconds, has_expired=True)
            done.append((ask.ticket, reject))

    def _why_none(self, ask: Ask[T], now_seconds: float) -> Reject:
        return self._membership.why_none(ask.profile, ask.ticket.tried, now_seconds=now_seconds)

    def _expected_seconds(
        self, line: WaitingLine[T], ask: Ask[T], now_seconds: float
    ) -> float | None:
        """Seconds until one more would be given what it waits for; None: unknown."""
        if ask.waits_for != WAKE:
            return line.expected_wait_seconds(ask, now_seconds=now_seconds)
        return self._wakes.expected_seconds(line, ask, now_seconds=now_seconds)

    def _found(self, ask: Ask[T], now_seconds: float) -> Shortlist | None:
        """Where the request could go now; None: no usable replica could hold it."""
        available = self._membership.available(now_seconds=now_seconds)
        possible = available.possible(ask.profile, ask.ticket.tried)
        if possible is None:
            return None
        return self._selection.shortlist(
            ask,
            possible.backends,
            is_over_share=self.is_over_share(ask, now_seconds=now_seconds),
            asks_gates=True,
            now_seconds=now_seconds,
        )
