"""Token counts from published quantiles: log-linear between them, so that walls stay walls."""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

_NORMAL = NormalDist()


class Lengths(Protocol):
    """A distribution of token counts."""

    def at(self, u: float) -> int:
        """The count at a quantile from 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A curve through (quantile, tokens) points, the first at 0 and the last at 1."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, low: float, high: float, **quantiles: float) -> "Quantiles":
        """``Quantiles.of(3, 7437, p5=75, p50=1469)``; a fraction of a per cent is ``p99_5``."""
        points = [(float(name[1:].replace("_", ".")) / 100, v) for name, v in quantiles.items()]
        return cls(((0.0, low), *sorted(points), (1.0, high)))

    def at(self, u: float) -> int:
        """The count at a quantile: geometric between two points."""
        index = min(bisect_right([p[0] for p in self.points], u), len(self.points) - 1)
        (u0, low), (u1, high) = self.points[index - 1], self.points[index]
        share = (u - u0) / (u1 - u0) if u1 > u0 else 0.0
        return max(1, round(math.exp(math.log(low) * (1 - share) + math.log(high) * share)))


@dataclass(frozen=True, slots=True)
class ClippedNormal:
    """A normal distribution, drawn again by clipping."""

    mean: float
    deviation: float
    low: int
    high: int

    def at(self, u: float) -> int:
        """The count at a quantile."""
        value = self.mean
        if self.deviation:
            value = _NORMAL.inv_cdf(min(max(u, 1e-9), 1 - 1e-9)) * self.deviation + self.mean
        return int(min(max(value, self.low), self.high))


@dataclass(frozen=True, slots=True)
class LogNormal:
    """By its mean and standard deviation, clipped."""

    mean: float
    deviation: float
    low: int = 1
    high: int = 1_000_000

    def at(self, u: float) -> int:
        """The count at a quantile."""
        variance = math.log(1 + (self.deviation / self.mean) ** 2)
        z = _NORMAL.inv_cdf(min(max(u, 1e-9), 1 - 1e-9))
        value = math.exp(math.log(self.mean) - variance / 2 + z * math.sqrt(variance))
        return int(min(max(value, self.low), self.high))


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    tokens: int

    def at(self, u: float) -> int:
        """The count."""
        return self.tokens


def correlated(rng: random.Random, correlation: float) -> tuple[float, float]:
    """Two uniform numbers whose normal scores have this correlation."""
    first = rng.gauss(0.0, 1.0)
    second = correlation * first + math.sqrt(1 - correlation**2) * rng.gauss(0.0, 1.0)
    return _NORMAL.cdf(first), _NORMAL.cdf(second)


def banded(rng: random.Random, band: float, share: float) -> float:
    """A uniform number drawn to a band's own (normal) place: one client's lengths are alike."""
    score = math.sqrt(share) * band + math.sqrt(1 - share) * rng.gauss(0.0, 1.0)
    return _NORMAL.cdf(score)


def percentile(values: Sequence[float], q: float) -> float:
    """Linear interpolation, as numpy's default. ``values`` sorted, not empty; ``q`` 0 to 100."""
    position = (len(values) - 1) * q / 100
    low = int(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)
