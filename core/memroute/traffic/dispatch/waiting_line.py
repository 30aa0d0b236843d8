"""A pool's queue and how fast it moves: how long one more would wait, and for whom it is no use.

The rate is that at which requests were given room *since others have had to wait*: what is given
room when nobody waits says what was asked for, not what there is. A moment in which nobody waits
does not end that. Caches that fill up give room faster than it is freed, which cannot go on: where
memory is what requests wait for, the slower of the two counts.

**Hopeless.** When more comes than can be served in time, most of those that are late wait in vain,
and those that do get a turn take it, and what they hold, from others that could have been in time.
So whoever is late is told at once, instead of at the end of its time,

* once others have had all the turns for half of what requests may wait, or
* while of those that were late more were refused than served, and refusals are a tenth of what is
  given room: with fewer the load is bursty, and whoever waits is served soon.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

from memroute.traffic.admission import FairQueue, QueuedRequest, QueueLimits
from memroute.traffic.replica import RateMeter
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import RequestProfile

PLAN_SECONDS: Final = 0.01
# How often who will be late is worked out anew.
EARLY_SECONDS: Final = 0.1
# First tokens are planned for so long before they are due: two or three steps of an engine, which
# nobody can see from here.
MIN_BACKLOG_SECONDS: Final = 1.0
# Before that, how fast the queue moves is anybody's guess.
MEMORY_BOUND_SECONDS: Final = 1.0
# So long after the last request that had to wait for memory, memory is what others wait for.
LULL_SECONDS: Final = 1.0
# So long without anybody who waits, and the next one begins a new queue.
HOPELESS_RATIO: Final = 0.5
# Of what requests may wait: so long without a turn for those that are late.
OVERLOAD_RATIO: Final = 0.1
# Of refusals beside requests that were given room.
MAX_TENANTS: Final = 1000
# Whose use is remembered; the one that asked longest ago goes first.
LEAST_TOKENS_PER_SECOND: Final = 1.0
# Who had less of late is not there.
OVER_SHARE_RATIO: Final = 1.5
# Of an equal share of what was given out of late. Who asks for more, and has had the share itself,
# leaves room for others.


class Ticket(Protocol):
    """Who asks for room."""

    profile: RequestProfile
    tried: list[str]
    """Replicas that it has already failed on."""


T = TypeVar("T", bound=Ticket)


class _Use:
    """What one tenant asked for of late, and was given, in tokens."""

    __slots__ = ("asked", "given")

    def __init__(self) -> None:
        self.asked = RateMeter()
        self.given = RateMeter()


class WaitingLine(Generic[T]):
    """Owns the queue and what is measured of it; the caller brings the clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self.queue: FairQueue[T] = FairQueue(limits)
        self._drained = RateMeter()
        self._freed = RateMeter()
        self._num_placed = RateMeter()
        self._num_served_late = RateMeter()
        self._num_in_vain = RateMeter()
        self._since_seconds = self._waited_at_seconds = -1.0
        self._turn_at_seconds = self._late_turn_at_seconds = -1.0
        self._planned_at_seconds = self._memory_bound_at_seconds = -math.inf
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._share_per_second = 0.0
        """An equal share of the tokens that are given out, as of the last plan."""

    def is_over_share(self, tenant: str, *, now_seconds: float) -> bool:
        """Whether it asks for far more than its equal share, and has that, while others wait."""
        if self._since_seconds < 0 or self._share_per_second <= 0 or not len(self.queue):
            return False
        use = self._uses.get(tenant)
        if use is None:
            return False
        asked = use.asked.per_second(now_seconds=now_seconds) or 0.0
        given = use.given.per_second(now_seconds=now_seconds) or 0.0
        share = self._share_per_second
        return asked > OVER_SHARE_RATIO * share and given > share

    def seconds_to_place(self, num_tokens: int, now_seconds: float) -> float | None:
        """How long it takes until so many tokens were given room; None: nobody can tell yet."""
        since = self._since_seconds
        if since < 0 or now_seconds - since < MIN_BACKLOG_SECONDS:
            return None
        rate = self._drained.per_second(now_seconds=now_seconds)
        freed = self._freed.per_second(now_seconds=now_seconds)
        if rate and freed and now_seconds - self._memory_bound_at_seconds < MEMORY_BOUND_SECONDS:
            rate = min(rate, freed)
        return num_tokens / rate if rate else None

    def expected_wait_seconds(self, profile: RequestProfile, now_seconds: float) -> float | None:
        """How long one more of this tenant and priority would wait."""
        ahead = self.queue.tokens_ahead(tenant=profile.tenant, priority=profile.priority)
        return self.seconds_to_place(ahead, now_seconds)

    def hold(
        self,
        ticket: T,
        *,
        num_tokens: int,
        work_tokens: int,
        deadline_seconds: float,
        now_seconds: float,
    ) -> None:
        """Let it wait; whether there is room for that the caller has asked."""
        lull = 0.0 if len(self.queue) else now_seconds - self._waited_at_seconds
        if self._since_seconds < 0 or lull > LULL_SECONDS:
            self._since_seconds = now_seconds
            self._drained, self._freed = RateMeter(), RateMeter()
            for meter in (self._drained, self._freed):
                meter.add(0, now_seconds=now_seconds)
        self._waited_at_seconds = now_seconds
        self.queue.hold(
            ticket,
            num_tokens=num_tokens,
            work_tokens=work_tokens,
            deadline_seconds=deadline_seconds,
            now_seconds=now_seconds,
            tenant=ticket.profile.tenant,
            priority=ticket.profile.priority,
        )

    def turn_taken(self, held: QueuedRequest[T], *, is_placed: bool, now_seconds: float) -> None:
        """It waits no more: it was given room, or refused."""
        if held.is_late and is_placed:
            self._late_turn_at_seconds = now_seconds
            self._num_served_late.add(1, now_seconds=now_seconds)
        self.queue.served(held)

    def in_vain(self, *, now_seconds: float) -> None:
        """One that was late is refused: it has waited in vain, or would."""
        self._num_in_vain.add(1, now_seconds=now_seconds)

    def asked(self, tenant: str, num_tokens: int, *, now_seconds: float) -> None:
        """A request came that is expected to hold so many tokens."""
        self._use(tenant).asked.add(num_tokens, now_seconds=now_seconds)

    def _use(self, tenant: str) -> _Use:
        use = self._uses.get(tenant)
        if use is None:
            if len(self._uses) >= MAX_TENANTS:
                self._uses.popitem(last=False)
            use = self._uses[tenant] = _Use()
        else:
            self._uses.move_to_end(tenant)
        return use

    def placed(self, tenant: str, num_tokens: int, *, now_seconds: float) -> None:
        """A request of so many tokens was given room, whether it had to wait or not."""
        self._use(tenant).given.add(num_tokens, now_seconds=now_seconds)
        self._num_placed.add(1, now_seconds=now_seconds)
        if len(self.queue):
            self._waited_at_seconds = now_seconds
        if self._since_seconds < 0:
            return
        if now_seconds - self._waited_at_seconds > LULL_SECONDS:
            self._since_seconds = -1.0
            return
        self._turn_at_seconds = now_seconds
        self._drained.add(num_tokens, now_seconds=now_seconds)

    def memory_binds(self, *, now_seconds: float) -> None:
        """A request has to wait because KV caches are full."""
        self._memory_bound_at_seconds = now_seconds

    def freed(self, num_tokens: int, *, now_seconds: float) -> None:
        """An answer has ended that held so many tokens."""
        if self._since_seconds >= 0:
            self._freed.add(num_tokens, now_seconds=now_seconds)

    def hopeless(self, *, now_seconds: float) -> list[T]:
        """Those that are late, where it is no use for them to wait."""
        since = max(self._since_seconds, self._late_turn_at_seconds)
        without_turn = self._turn_at_seconds - since
        if without_turn < HOPELESS_RATIO * self.queue.limits.max_seconds:
            in_vain = self._num_in_vain.amount(now_seconds=now_seconds)
            served_late = self._num_served_late.amount(now_seconds=now_seconds)
            placed = self._num_placed.amount(now_seconds=now_seconds)
            if in_vain <= served_late or in_vain < OVERLOAD_RATIO * placed:
                return []
        return [held.item for held in self.queue.waiting() if held.is_late]

    def plan(self, backends: Iterable[Backend], *, now_seconds: float) -> None:
        """Work out who will be late, where that was not done a moment ago."""
        if now_seconds - self._planned_at_seconds < PLAN_SECONDS:
            return
        self._planned_at_seconds = self._waited_at_seconds = now_seconds
        self._share_per_second = self._equal_share(now_seconds)
        prompt, token, backlog, count = 0.0, 0.0, 0.0, 0
        for backend in backends:
            if not backend.is_routable:
                continue
            ledger = backend.ledger
            ledger.settle(now_seconds=now_seconds)
            prompt += ledger.speed.prompt_seconds
            token += ledger.speed.token_seconds
            backlog += ledger.speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
            count += 1
        if count:
            self.queue.plan(
                prompt_seconds=prompt / count,
                token_seconds=token / count,
                num_replicas=count,
                backlog_seconds=backlog / count,
                now_seconds=now_seconds + EARLY_SECONDS,
            )

    def _equal_share(self, now_seconds: float) -> float:
        """Tokens per second for each tenant that was given room of late; 0 with fewer than two."""
        rates = [
            use.given.per_second(now_seconds=now_seconds) or 0.0 for use in self._uses.values()
        ]
        active = [rate for rate in rates if rate >= LEAST_TOKENS_PER_SECOND]
        return sum(active) / len(active) if len(active) > 1 else 0.0
