"""Means and how far they can be trusted."""

import math
from collections.abc import Iterable, Sequence

# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1 to 30; beyond, the normal's,
# which is 4 % too small at 31.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; ``values`` not empty."""
    return sum(values) / len(values)


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % confidence interval of the mean; None with fewer than two values."""
    count = len(values)
    if count < 2:  # noqa: PLR2004 - one value says nothing of its spread
        return None
    middle = mean(values)
    variance = sum((value - middle) ** 2 for value in values) / (count - 1)
    quantile = _T95[count - 2] if count - 2 < len(_T95) else 1.96
    return quantile * math.sqrt(variance / count)


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive values."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))
