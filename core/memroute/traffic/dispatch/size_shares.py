"""Which sizes of requests have had more than their chance of late."""

import os
from typing import Final

OVER = float(os.environ.get("K_OVER", "0.0"))
KEEP = 0.5 ** (1.0 / float(os.environ.get("K_N", "500")))
PRIOR = float(os.environ.get("K_PRIOR", "5"))
TRHO = float(os.environ.get("K_TRHO", "4"))
TF = float(os.environ.get("K_TF", "1"))
C0 = float(os.environ.get("K_C0", "300"))
BYMIN = int(os.environ.get("K_MIN", "0"))


def size_class(num_tokens: int) -> int:
    """Requests of a class are of one size within a factor of two."""
    return num_tokens.bit_length()


class _Use:
    __slots__ = ("asked", "given")

    def __init__(self) -> None:
        self.asked = 0.0
        self.given = 0.0


class SizeShares:
    """Owns how many requests of each size came of late, and were given room."""

    def __init__(self) -> None:
        self._uses: dict[int, _Use] = {}
        self._over: dict[int, bool] = {}
        self._tokens = 0.0
        self._work = 0.0

    def asked(self, size: int, *, now_seconds: float) -> None:
        """A request of that class came."""
        for use in self._uses.values():
            use.asked *= KEEP
            use.given *= KEEP
        self._use(size).asked += 1.0
        self._over.clear()

    def came(self, prompt: int, out: int) -> None:
        self._tokens = KEEP * self._tokens + prompt + out
        self._work = KEEP * self._work + C0 + prompt + TRHO * out

    def is_thin(self, prompt: int, out: int) -> bool:
        return TRHO > 0 and (prompt + out) * self._work < TF * self._tokens * (C0 + prompt + TRHO * out)

    def given(self, size: int, *, now_seconds: float) -> None:
        """It was given room."""
        self._use(size).given += 1.0
        self._over.clear()

    def is_over(self, size: int, *, now_seconds: float) -> bool:
        """Whether more of that class were given room than of all."""
        over = self._over.get(size)
        if over is None:
            over = self._over[size] = self._is_over(size)
        return over

    def _is_over(self, size: int) -> bool:
        asked = sum(use.asked for use in self._uses.values())
        given = sum(use.given for use in self._uses.values())
        mean = given / asked if asked > 0.0 else 1.0
        own = self._ratio(self._use(size), mean)
        if BYMIN:
            return own > min(self._ratio(use, mean) for use in self._uses.values()) + OVER
        return own > mean + OVER

    def _ratio(self, use: _Use, mean: float) -> float:
        return (use.given + PRIOR * mean) / (use.asked + PRIOR)

    def _use(self, size: int) -> _Use:
        use = self._uses.get(size)
        if use is None:
            use = self._uses[size] = _Use()
        return use
