"""When requests are sent: schedules fixed in advance, so that a slow system gets no mercy."""

import random
from collections.abc import Iterator, Sequence


def poisson(rng: random.Random, rate_per_second: float, count: int) -> list[float]:
    """Independent arrivals at a rate."""
    return _summed(rng.expovariate(rate_per_second) for _ in range(count))


def gamma(rng: random.Random, rate_per_second: float, cv: float, count: int) -> list[float]:
    """Gaps of a Gamma distribution with a coefficient of variation; 1 is Poisson."""
    shape = 1 / (cv * cv)
    scale = 1 / (rate_per_second * shape)
    return _summed(rng.gammavariate(shape, scale) for _ in range(count))


def constant(rate_per_second: float, count: int) -> list[float]:
    """Equal gaps."""
    return [(index + 1) / rate_per_second for index in range(count)]


def stages(
    rng: random.Random, plan: Sequence[tuple[float, float]], *, pause_seconds: float = 0.0
) -> list[list[float]]:
    """Poisson stages of (rate, seconds), one after another; times per stage."""
    result, start = [], 0.0
    for rate, seconds in plan:
        times, now = [], start
        while True:
            now += rng.expovariate(rate)
            if now >= start + seconds:
                break
            times.append(now)
        result.append(times)
        start += seconds + pause_seconds
    return result


def on_off(
    rng: random.Random,
    count: int,
    *,
    burst_rates: Sequence[float],
    mean_burst: float,
    silence_seconds: float,
    silence_probability: float,
) -> list[float]:
    """Bursts at changing rates, broken by long silences: what code completion looks like."""
    times, now, rate, left = [], 0.0, burst_rates[0], 0.0
    for _ in range(count):
        if left <= 0:
            rate = rng.choice(burst_rates)
            left = rng.expovariate(1 / mean_burst)
        left -= 1
        gap = (
            rng.expovariate(1 / silence_seconds)
            if rng.random() < silence_probability
            else rng.expovariate(rate)
        )
        now += gap
        times.append(now)
    return times


def rescaled(times: Sequence[float], rate_per_second: float) -> list[float]:
    """The same schedule at another mean rate."""
    if not times or not times[-1]:
        return list(times)
    factor = len(times) / rate_per_second / times[-1]
    return [time * factor for time in times]


def _summed(gaps: Iterator[float]) -> list[float]:
    times, now = [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
    return times
