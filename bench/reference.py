"""A fixed piece of work, timed: on a machine that others share, a slow hour shows there too."""

import hashlib
import time
from collections.abc import Callable

# Some 10 ms each on a core of 2024. The least of five, so that only what is slow throughout shows.
LOOP_STEPS = 200_000
HASHED_BYTES = b"memroute" * (1 << 21)
NUM_REPEATS = 5


def loop_milliseconds() -> float:
    """Additions, interpreted."""
    return _least_milliseconds(_loop)


def hash_milliseconds() -> float:
    """16 MiB through SHA-256, in C."""
    return _least_milliseconds(_hash)


def _loop() -> None:
    total = 0
    for step in range(LOOP_STEPS):
        total += step & 7


def _hash() -> None:
    hashlib.sha256(HASHED_BYTES).digest()


def _least_milliseconds(work: Callable[[], None]) -> float:
    times = []
    for _ in range(NUM_REPEATS):
        begun = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begun))
    return min(times)
