"""A rate that forgets: how many tokens per second have been freed of late."""

import math
from typing import Final

# Half-life of what a rate counts, a few answers long at usual decode speeds: steady enough to
# promise a Retry-After by, quick enough to follow a replica that died.
# Unit: seconds. Source: chosen by hand.
HALF_LIFE_SECONDS: Final = 10.0
# A time at which nothing was counted so far.
_NEVER: Final = -math.inf


class RateMeter:
    """Exponentially decayed amount per second. Owns its own sum."""

    __slots__ = ("_amount", "_first_at_seconds", "_updated_at_seconds")

    def __init__(self) -> None:
        self._amount = 0.0
        # Minus infinity: never. Plain numbers, because every request adds to several of these.
        self._updated_at_seconds = _NEVER
        self._first_at_seconds = _NEVER

    def add(self, amount: float, *, now_seconds: float) -> None:
        """Count ``amount`` at ``now_seconds``."""
        self._decay(now_seconds)
        self._amount += amount
        if self._first_at_seconds == _NEVER:
            self._first_at_seconds = now_seconds

    def amount(self, *, now_seconds: float) -> float:
        """What was counted of late: half of it after ``HALF_LIFE_SECONDS``."""
        self._decay(now_seconds)
        return self._amount

    def per_second(self, *, now_seconds: float) -> float | None:
        """The rate; None while nothing was ever counted."""
        if self._first_at_seconds == _NEVER:
            return None
        self._decay(now_seconds)
        # A sum decayed with time constant tau holds rate * tau once it has run for long;
        # before that, rate * tau * (1 - exp(-age / tau)).
        tau = HALF_LIFE_SECONDS / math.log(2)
        age = max(1.0, now_seconds - self._first_at_seconds)
        return self._amount / (tau * (1 - math.exp(-age / tau)))

    def _decay(self, now_seconds: float) -> None:
        elapsed = now_seconds - self._updated_at_seconds
        if elapsed > 0.0 and self._amount > 0.0:
            self._amount *= math.pow(0.5, elapsed / HALF_LIFE_SECONDS)
        self._updated_at_seconds = now_seconds
