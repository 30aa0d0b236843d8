"""A pool's queue and how fast it moves: how long one more would wait, and for whom it is no use.

The rate is that at which requests were given room *since others have had to wait*: what is given
room when nobody waits says what was asked for, not what there is.

**Hopeless.** When more comes than can be served in time, those that are late get no turn any more,
however long they wait. Once that has lasted for half of what requests may wait, whoever is late is
told at once instead of at the end of its time: what it would have waited for does not come.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from memroute.admission import FairQueue, Held, QueueLimits
from memroute.dispatch.search import Candidate
from memroute.footprint.request import RequestProfile
from memroute.pressure import RateMeter

PLAN_SECONDS: Final = 0.01
# How often who will be late is worked out anew.
EARLY_SECONDS: Final = 0.1
# First tokens are planned for so long before they are due: two or three steps of an engine, which
# nobody can see from here.
MIN_BACKLOG_SECONDS: Final = 1.0
# Before that, how fast the queue moves is anybody's guess.
HOPELESS_RATIO: Final = 0.5
# Of what requests may wait: so long without a turn for those that are late.


MAX_TENANTS: Final = 1000
# Whose use is remembered; the one that was given room longest ago goes first.
LEAST_TOKENS_PER_SECOND: Final = 1.0
# Who had less of late is not there.
OVER_SHARE_RATIO: Final = 1.5
# Of an equal share of what was given out of late: beyond, a tenant leaves room for others.


class Ticket(Protocol):
    """Who asks for room."""

    profile: RequestProfile
    tried: list[str]
    """Replicas that it has already failed on."""


class WaitingLine:
    """Owns the queue and what is measured of it; the caller brings the clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self.queue: FairQueue[Ticket] = FairQueue(limits)
        self._drained = RateMeter()
        self._since_seconds = -1.0
        self._turn_at_seconds = self._late_turn_at_seconds = -1.0
        self._planned_at_seconds = -1.0
        self._used: OrderedDict[str, RateMeter] = OrderedDict()
        self._share_per_second = 0.0
        """An equal share of the tokens that are given out, as of the last plan."""

    def is_over_share(self, tenant: str, *, now_seconds: float) -> bool:
        """Whether others wait, and this tenant has had far more than its equal share of late."""
        if self._since_seconds < 0 or self._share_per_second <= 0 or not len(self.queue):
            return False
        used = self._used.get(tenant)
        rate = used.per_second(now_seconds=now_seconds) if used is not None else None
        return rate is not None and rate > OVER_SHARE_RATIO * self._share_per_second

    def seconds_to_place(self, num_tokens: int, now_seconds: float) -> float | None:
        """How long it takes until so many tokens were given room; None: nobody can tell yet."""
        since = self._since_seconds
        if since < 0 or now_seconds - since < MIN_BACKLOG_SECONDS:
            return None
        rate = self._drained.per_second(now_seconds=now_seconds)
        return num_tokens / rate if rate else None

    def expected_wait_seconds(self, profile: RequestProfile, now_seconds: float) -> float | None:
        """How long one more of this tenant and priority would wait."""
        ahead = self.queue.tokens_ahead(tenant=profile.tenant, priority=profile.priority)
        return self.seconds_to_place(ahead, now_seconds)

    def hold(
        self,
        ticket: Ticket,
        *,
        num_tokens: int,
        work_tokens: int,
        deadline_seconds: float,
        now_seconds: float,
    ) -> None:
        """Let it wait; whether there is room for that the caller has asked."""
        if self._since_seconds < 0 or not len(self.queue):
            self._since_seconds = now_seconds
            self._drained = RateMeter()
            self._drained.add(0, now_seconds=now_seconds)
        self.queue.hold(
            ticket,
            num_tokens=num_tokens,
            work_tokens=work_tokens,
            deadline_seconds=deadline_seconds,
            now_seconds=now_seconds,
            tenant=ticket.profile.tenant,
            priority=ticket.profile.priority,
        )

    def turn_taken(self, held: Held[Ticket], *, is_placed: bool, now_seconds: float) -> None:
        """It waits no more: it was given room, or refused."""
        if held.is_late and is_placed:
            self._late_turn_at_seconds = now_seconds
        self.queue.served(held)

    def placed(self, tenant: str, num_tokens: int, *, now_seconds: float) -> None:
        """A request of so many tokens was given room, whether it had to wait or not."""
        used = self._used.get(tenant)
        if used is None:
            if len(self._used) >= MAX_TENANTS:
                self._used.popitem(last=False)
            used = self._used[tenant] = RateMeter()
        else:
            self._used.move_to_end(tenant)
        used.add(num_tokens, now_seconds=now_seconds)
        if self._since_seconds < 0:
            return
        if len(self.queue):
            self._turn_at_seconds = now_seconds
            self._drained.add(num_tokens, now_seconds=now_seconds)
        else:
            self._since_seconds = -1.0

    def hopeless(self) -> list[Ticket]:
        """Those that are late, when others have had their turns for long and nobody late has."""
        since = max(self._since_seconds, self._late_turn_at_seconds)
        if self._turn_at_seconds - since < HOPELESS_RATIO * self.queue.limits.max_seconds:
            return []
        return [held.item for held in self.queue.waiting() if held.is_late]

    def plan(self, candidates: Iterable[Candidate], *, now_seconds: float) -> None:
        """Work out who will be late, where that was not done a moment ago."""
        if now_seconds - self._planned_at_seconds < PLAN_SECONDS:
            return
        self._planned_at_seconds = now_seconds
        self._share_per_second = self._equal_share(now_seconds)
        prompt, token, backlog, count = 0.0, 0.0, 0.0, 0
        for candidate in candidates:
            if not candidate.is_routable:
                continue
            ledger = candidate.ledger
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
        rates = [used.per_second(now_seconds=now_seconds) or 0.0 for used in self._used.values()]
        active = [rate for rate in rates if rate >= LEAST_TOKENS_PER_SECOND]
        return sum(active) / len(active) if len(active) > 1 else 0.0
