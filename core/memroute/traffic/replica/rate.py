"""A rate that forgets: an exponentially decayed amount per second."""

import math
from typing import Final

HALF_LIFE_SECONDS: Final = 10.0
# A few answers long at usual decode speeds: steady enough to promise a Retry-After by,
# quick enough to follow a replica that died.


class RateMeter:
    """Exponentially decayed amount per second. Owns its own sum."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._updated_at_seconds: float | None = None
        self._first_at_seconds: float | None = None

    def add(self, amount: float, *, now_seconds: float) -> None:
        """Count ``amount`` at ``now_seconds``."""
        self._decay(now_seconds)
        self._amount += amount
        if self._first_at_seconds is None:
            self._first_at_seconds = now_seconds

    def amount(self, *, now_seconds: float) -> float:
        """The decayed amount: half of it after ``HALF_LIFE_SECONDS``."""
        self._decay(now_seconds)
        return self._amount

    def per_second(self, *, now_seconds: float) -> float | None:
        """The rate per second; None while nothing was ever counted."""
        if self._first_at_seconds is None:
            return None
        self._decay(now_seconds)
        # A sum decayed with time constant tau holds rate * tau once it has run for long;
        # before that, rate * tau * (1 - exp(-age / tau)).
        tau = HALF_LIFE_SECONDS / math.log(2)
        age = max(1.0, now_seconds - self._first_at_seconds)
        return self._amount / (tau * (1 - math.exp(-age / tau)))

    def _decay(self, now_seconds: float) -> None:
        if self._updated_at_seconds is not None:
            elapsed = max(0.0, now_seconds - self._updated_at_seconds)
            self._amount *= 0.5 ** (elapsed / HALF_LIFE_SECONDS)
        self._updated_at_seconds = now_seconds
