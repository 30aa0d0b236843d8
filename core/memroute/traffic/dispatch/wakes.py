"""Requests that only sleeping replicas could take: how long they would wait, and when to look."""

import math
from typing import Final, Generic

from memroute.traffic.dispatch.ask import WAKE, Ask, T
from memroute.traffic.dispatch.membership import Membership, first_awake
from memroute.traffic.dispatch.waiting_line import WaitingLine

# Where no replica is awake and as many sleep as before, what waits for a wake is looked at this
# seldom: a thousand requests that wait for ten seconds would else cost most of a core.
# Unit: seconds. Source: a bound of the work, chosen by hand.
WAKE_LOOK_SECONDS: Final = 1.0


class Wakes(Generic[T]):
    """Owns when sleepers were looked at last."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._num_asleep = 0
        self._looked_at_seconds = -math.inf

    def is_look_due(self, *, now_seconds: float) -> bool:
        """Whether to look at what waits, where no replica is awake; if so, that is noted."""
        num_asleep = self._membership.num_asleep
        if (
            num_asleep == self._num_asleep
            and now_seconds - self._looked_at_seconds < WAKE_LOOK_SECONDS
        ):
            return False
        self._num_asleep, self._looked_at_seconds = num_asleep, now_seconds
        return True

    def expected_seconds(
        self, line: WaitingLine[T], ask: Ask[T], *, now_seconds: float
    ) -> float | None:
        """Seconds until one more is served: the wake, and the prompts of those before it.

        None where nothing sleeps that could take it.
        """
        asleep = self._membership.asleep(ask.profile, ask.ticket.tried)
        first = first_awake(asleep, now_seconds=now_seconds)
        if first is None:
            return None
        count, tokens = line.ahead_at_wake(priority=ask.profile.priority)
        ahead = asleep[0].ledger.speed.prefill_seconds(count, tokens) / len(asleep)
        return first.expected_seconds(now_seconds=now_seconds) + ahead


def misses_wake(ask: Ask[T], expected_seconds: float | None, *, now_seconds: float) -> bool:
    """Whether the request says when it wants its first token, and that is before the wake."""
    due = ask.profile.deadline_seconds
    if ask.waits_for != WAKE or due is None or expected_seconds is None:
        return False
    return now_seconds + expected_seconds > due
