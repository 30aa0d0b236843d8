"""How fast a backlog moves, in tokens per second.

The drain rate counts tokens that were given room while there is a backlog: without one, throughput
measures demand, not capacity. Gaps of up to ``LULL_SECONDS`` do not end a backlog. Caches that fill
up give room faster than it is freed, which cannot last. So where requests wait for memory, the
slower of the two rates counts.
"""

import math
from typing import Final

from memroute.traffic.replica import RateMeter

# Age of a backlog below which its drain rate is unknown.
# Unit: seconds. Source: chosen by hand.
MIN_BACKLOG_SECONDS: Final = 1.0
# Time without a waiting request that ends a backlog, and without one that has to wait for memory
# after which memory is no longer what others wait for.
# Unit: seconds. Source: chosen by hand.
LULL_SECONDS: Final = 1.0


class DrainMeter:
    """Owns the rates of one backlog; the caller brings the clock."""

    def __init__(self) -> None:
        self._drained = RateMeter()
        self._freed = RateMeter()
        self.since_seconds = -1.0
        """When the backlog began; -1: there is none."""
        self._waited_at_seconds = -1.0
        self._memory_bound_at_seconds = -math.inf

    def waits(self, *, is_first: bool, now_seconds: float) -> None:
        """A request has to wait. ``is_first``: no other request waits."""
        lull = now_seconds - self._waited_at_seconds if is_first else 0.0
        if self.since_seconds < 0 or lull > LULL_SECONDS:
            self.since_seconds = now_seconds
            self._drained, self._freed = RateMeter(), RateMeter()
            for meter in (self._drained, self._freed):
                meter.add(0, now_seconds=now_seconds)
        self._waited_at_seconds = now_seconds

    def still_waits(self, *, now_seconds: float) -> None:
        """Requests wait now."""
        self._waited_at_seconds = now_seconds

    def placed(self, num_tokens: int, *, now_seconds: float) -> bool:
        """A request of ``num_tokens`` was given room; returns whether there is a backlog."""
        if self.since_seconds < 0:
            return False
        if now_seconds - self._waited_at_seconds > LULL_SECONDS:
            self.since_seconds = -1.0
            return False
        self._drained.add(num_tokens, now_seconds=now_seconds)
        return True

    def freed(self, num_tokens: int, *, now_seconds: float) -> None:
        """An answer has ended that held ``num_tokens``."""
        if self.since_seconds >= 0:
            self._freed.add(num_tokens, now_seconds=now_seconds)

    def memory_binds(self, *, now_seconds: float) -> None:
        """A request has to wait because KV caches are full."""
        self._memory_bound_at_seconds = now_seconds

    def seconds_to_place(self, num_tokens: int, *, now_seconds: float) -> float | None:
        """Seconds until ``num_tokens`` have been given room; None while there is no rate."""
        since = self.since_seconds
        if since < 0 or now_seconds - since < MIN_BACKLOG_SECONDS:
            return None
        rate = self._drained.per_second(now_seconds=now_seconds)
        freed = self._freed.per_second(now_seconds=now_seconds)
        if rate and freed and now_seconds - self._memory_bound_at_seconds < LULL_SECONDS:
            rate = min(rate, freed)
        return num_tokens / rate if rate else None
