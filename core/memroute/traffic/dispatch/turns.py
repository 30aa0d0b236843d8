"""Which held request goes next, now that something has changed?

A round walks the requests that wait for room, in their order. Looking at one request, replica by
replica, costs up to a fifth of a millisecond in a large pool. So a round does not look at all:

* it looks at the first ``MAX_LOOKS_PER_LANE`` requests of each lane (requests of one lane may go to
  the same replicas);
* it looks at any other request only if the replica that the request would go to is open to it now.
  To ask that costs a microsecond. Of the requests that would go to one replica and found it closed
  for one reason, it asks for ``MAX_ASKED_PER_WANT``.

So requests that wait for a full canary, for memory, or for one busy replica that has their prefix
keep no other request from an idle replica.

A request that is in time and waits for a replica **claims** the room to come there for its tenant
and its priority. Smaller requests of others do not fill that room meanwhile. A tenant over its
share claims nothing, nor does a request that is late.
"""

from collections.abc import Callable, Sequence
from typing import Final, Generic

from memroute.traffic.admission import ClosedReason, QueuedRequest, Reject
from memroute.traffic.dispatch.ask import Ask, T
from memroute.traffic.dispatch.waiting_line import WaitingLine
from memroute.traffic.replica.backend import Backend
from memroute.traffic.routing.cost import wait_seconds
from memroute.traffic.routing.shortlist import Shortlist

# Requests of one lane that are looked at in a round: the first that can go is nearly always among
# the first three.
# Unit: requests. Source: a bound of the work, chosen by hand.
MAX_LOOKS_PER_LANE: Final = 8
# Looks in one round, whatever the lanes: some ten milliseconds at 1,000 replicas.
# Unit: requests. Source: a bound of the work, chosen by hand.
MAX_LOOKS: Final = 64
# Requests for one replica, closed out for one reason, that are asked in a round whether the
# replica is open to them now: to a smaller one it may be.
# Unit: requests. Source: a bound of the work, chosen by hand.
MAX_ASKED_PER_WANT: Final = 8
# Prompts waiting at a replica above which a late request does not go there: the request is late
# anyway, and makes nobody else wait.
# Unit: seconds. Source: chosen by hand; a few steps of an engine.
LATE_WAIT_SECONDS: Final = 0.05

# What one look says: where it would go, that it can never go anywhere, or (None) that it waits for
# something else than room now.
Look = Shortlist | Reject | None


class Claim:
    """The next room on one replica, or on any of some, kept for the requests of a tenant."""

    __slots__ = ("priority", "replicas", "tenant")

    def __init__(self, tenant: str, priority: int, replicas: frozenset[str] | None = None) -> None:
        """``replicas``: on any of which the next room is claimed; None: on any there is."""
        self.tenant = tenant
        self.priority = priority
        self.replicas = replicas


class Turn(Generic[T]):
    """The request that goes, to ``shortlist.open``; or its refusal."""

    __slots__ = ("held", "reject", "shortlist")

    def __init__(
        self,
        held: QueuedRequest[Ask[T]],
        *,
        shortlist: Shortlist | None = None,
        reject: Reject | None = None,
    ) -> None:
        self.held = held
        self.shortlist = shortlist
        self.reject = reject


class Round(Generic[T]):
    """One round of turns in one line. It lives for one moment: ``now_seconds``."""

    def __init__(
        self,
        line: WaitingLine[T],
        *,
        look: Callable[[Ask[T]], Look],
        is_open: Callable[[Ask[T], Backend, int, bool], bool],
        is_over_share: Callable[[Ask[T]], bool],
        now_seconds: float,
    ) -> None:
        """``look`` moves what does not wait for room out of the line's way.

        ``is_open``: whether a replica takes the request now, with so many tokens to compute; the
        last argument says whether it is over its share.
        """
        self._line = line
        self._look = look
        self._is_open = is_open
        self._ask_over_share = is_over_share
        self._over_share: dict[tuple[str, int, bool], bool] = {}
        self._now_seconds = now_seconds
        self._looks: dict[Ask[T], Shortlist] = {}
        self._num_looks = 0
        self._claims: dict[str, Claim] = {}
        """By replica."""
        self._claims_on_any: dict[str, Claim] = {}
        """Of requests without a wish, by lane."""
        self._by_lane: dict[str, int] = {}
        self._by_want: dict[tuple[str, str], int] = {}

    def next(self) -> Turn[T] | None:
        """The next request that can go or has to be refused; None when there is none.

        Requests whose own best replica is open go first. Only then goes a request that has no time
        left to wait for its best one: else the request that waits longest would take replicas from
        the requests whose prefixes are cached there.
        """
        self._claims, self._claims_on_any = {}, {}
        self._by_lane, self._by_want = {}, {}
        seen: list[QueuedRequest[Ask[T]]] = []
        for held in self._line.in_order():
            ask = held.item
            found = self._looks.get(ask)
            if found is None:
                if not self._is_worth_a_look(held):
                    self._claim(held, ask.wanted, ask.closed, None)
                    continue
                look = self._look(ask)
                self._num_looks += 1
                if look is None:
                    continue
                if isinstance(look, Reject):
                    return Turn(held, reject=look)
                found = self._looks[ask] = look
                held.work_tokens = found.best_work
            if found.open is None or found.open.ledger.leases:
                # Not where an idle replica is left that it does not want: another may want it.
                self._by_lane[ask.lane] = self._by_lane.get(ask.lane, 0) + 1
            seen.append(held)
            if self._may_go(held, found):
                return Turn(held, shortlist=found)
            if not found.is_best_open:
                self._claim(held, found.best, found.best_closed, found.backends)
        return self._second_best(seen)

    def placed(self, turn: Turn[T], backend: Backend) -> None:
        """The request was given room on ``backend``: forget earlier looks at that replica."""
        self._looks.pop(turn.held.item, None)
        stale = [
            ask
            for ask, found in self._looks.items()
            if found.best is backend or found.open is backend or found.best is None
        ]
        for ask in stale:
            del self._looks[ask]

    def _is_worth_a_look(self, held: QueuedRequest[Ask[T]]) -> bool:
        ask = held.item
        if self._num_looks >= MAX_LOOKS:
            return False
        if self._by_lane.get(ask.lane, 0) < MAX_LOOKS_PER_LANE:
            return True
        wanted = ask.wanted
        if wanted is None:
            return False
        want = (wanted.ledger.replica, "" if ask.closed is None else ask.closed.value)
        num_asked = self._by_want.get(want, 0)
        if num_asked >= MAX_ASKED_PER_WANT:
            return False
        if self._is_open(ask, wanted, held.work_tokens, self.is_over_share(held.item)):
            return True
        self._by_want[want] = num_asked + 1
        return False

    def _may_go(self, held: QueuedRequest[Ask[T]], found: Shortlist) -> bool:
        """Whether its best replica takes the request, and no earlier request claims that room."""
        if not found.is_best_open or found.open is None:
            return False
        ledger = found.open.ledger
        if self._is_claimed_before(held, ledger.replica):
            return False
        if not held.is_late:
            return True
        return wait_seconds(ledger, now_seconds=self._now_seconds) <= LATE_WAIT_SECONDS

    def _is_claimed_before(self, held: QueuedRequest[Ask[T]], replica: str) -> bool:
        """Whether the next room there is kept for an earlier request."""
        claim = self._claims.get(replica)
        if claim is not None and _goes_before(claim, held):
            return True
        for any_of in self._claims_on_any.values():
            if any_of.replicas is not None and replica not in any_of.replicas:
                continue
            if _goes_before(any_of, held):
                return True
        return False

    def is_over_share(self, ask: Ask[T]) -> bool:
        """Whether those like it have had more than their share, as of the round's moment."""
        key = (ask.profile.tenant, ask.size_class, ask.is_thin)
        is_over = self._over_share.get(key)
        if is_over is None:
            is_over = self._over_share[key] = self._ask_over_share(ask)
        return is_over

    def _claim(
        self,
        held: QueuedRequest[Ask[T]],
        wanted: Backend | None,
        closed: ClosedReason | None,
        possible: Sequence[Backend] | None,
    ) -> None:
        """The next room where it would go is its tenant's: on any possible one without a wish.

        ``possible``: None where nobody has looked, for want of looks.
        """
        # A slot for an adapter is nobody's room.
        if held.is_late or closed is ClosedReason.ADAPTERS or self.is_over_share(held.item):
            return
        if wanted is not None:
            name = wanted.ledger.replica
            if name not in self._claims:
                self._claims[name] = Claim(held.tenant, held.priority)
            return
        lane = held.item.lane
        if lane not in self._claims_on_any:
            replicas = None
            if possible is not None:
                replicas = frozenset(backend.ledger.replica for backend in possible)
            self._claims_on_any[lane] = Claim(held.tenant, held.priority, replicas)

    def _second_best(self, seen: list[QueuedRequest[Ask[T]]]) -> Turn[T] | None:
        """A request that has no time left to wait for its best replica, and has another.

        A late one goes to an idle replica, whatever that costs: it makes nobody wait there.
        """
        for held in seen:
            found = self._looks[held.item]
            if found.open is None:
                continue
            ledger = found.open.ledger
            if held.is_late:
                is_due = ledger.is_idle and not self._is_claimed_before(held, ledger.replica)
            else:
                is_due = found.is_second_best_due(
                    deadline_seconds=held.deadline_seconds, now_seconds=self._now_seconds
                )
            if is_due:
                return Turn(held, shortlist=found)
        return None


def _goes_before(claim: Claim, held: QueuedRequest[Ask[T]]) -> bool:
    """Whether the room that is claimed is not for this request."""
    return held.is_late or claim.priority > held.priority or claim.tenant != held.tenant
