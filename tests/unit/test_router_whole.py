"""Random histories of the whole router over sockets: what must be true is true of all of them.

A few seconds in ``make check``; ``make whole-router`` plays new ones for an hour
(``MEMROUTE_WHOLE_SECONDS``). ``MEMROUTE_WHOLE_SEED=7`` plays one again.
"""

import asyncio
import gc
import logging
import os
import time
from pathlib import Path

import pytest

from memroute_router.attempt import Attempt
from memroute_router.http.client import EngineConnection
from memroute_router.http.connection import ClientConnection
from memroute_router.http.exchange import Exchange
from memroute_router.lifecycle import Lifecycle
from memroute_router.pools import Pool, Replica
from whole_router import Count, FoundError, World

SECONDS = float(os.environ.get("MEMROUTE_WHOLE_SECONDS", "6"))
SEED = os.environ.get("MEMROUTE_WHOLE_SEED")
# Histories that are played beside each other: most of each is waiting.
NUM_BESIDE = 6
KINDS = (Attempt, ClientConnection, EngineConnection, Exchange, Lifecycle, Pool, Replica)
# RSS that may be added after the first tenth of a run, which fills caches. Unit: bytes.
MAX_GROWTH_BYTES = 48 * 1024**2
REPORT_SECONDS = 30.0


class Bugs(logging.Handler):
    """What the router logs with an exception is a bug of ours."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.found = []
        self._format = logging.Formatter()

    def emit(self, record):
        if record.exc_info:
            self.found.append(self._format.format(record))


@pytest.fixture
def bugs():
    handler, logger = Bugs(), logging.getLogger("memroute_router")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    yield handler.found
    logger.removeHandler(handler)
    logger.level, logger.propagate = before


def rss_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def alive():
    """Objects of requests, connections and pools that something still holds."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        if isinstance(each, KINDS):
            found[type(each).__name__] = found.get(type(each).__name__, 0) + 1
    return found


async def play_beside(seeds, directory, total):
    """Play histories beside each other; what was found of all of them."""
    worlds = [World(seed, directory) for seed in seeds]
    ends = await asyncio.gather(*(world.play() for world in worlds), return_exceptions=True)
    problems = [problem for world in worlds for problem in world.problems]
    for world, end in zip(worlds, ends, strict=True):
        if isinstance(end, BaseException):
            problems.append(f"seed {world.seed}: {end!r}")
            if not isinstance(end, Exception):
                raise end
        total.add(world.count)
    await asyncio.sleep(0.3)  # the last timers end, and the last sockets are closed
    return problems


@pytest.mark.timeout(SECONDS * 1.5 + 120)
async def test_whatever_comes_the_router_stays_whole(tmp_path, bugs):
    """No 5xx but those documented, nothing left, nobody waits beside an idle replica, no bug."""
    loop = asyncio.get_running_loop()
    uncaught = []
    loop.set_exception_handler(lambda _, context: uncaught.append(repr(context)))
    total, begun = Count(), time.monotonic()
    first = int(SEED) if SEED else (0 if SECONDS < 60 else int(time.time()) * 1000)
    told_at, base_bytes, problems = begun, None, []
    seed = first
    while not problems:
        seeds = [first] if SEED else range(seed, seed + NUM_BESIDE)
        problems = await play_beside(seeds, tmp_path, total)
        problems += bugs + uncaught
        seed += NUM_BESIDE
        left = alive()
        if left and not problems:
            problems.append(f"seeds {list(seeds)}: left in memory: {left}")
        now = time.monotonic()
        if base_bytes is None and now - begun > SECONDS / 10:
            base_bytes = rss_bytes()
        if now - told_at > REPORT_SECONDS:
            told_at = now
            print(f"{now - begun:.0f} s, seed {seed}, {rss_bytes() >> 20} MiB: {total}", flush=True)  # noqa: T201
        if SEED or now - begun > SECONDS:
            break
    print(f"{time.monotonic() - begun:.0f} s, {total}, {total.looks} looks at queues")  # noqa: T201
    if problems:
        raise FoundError("\n".join(problems))
    if SECONDS >= 60:
        assert rss_bytes() - base_bytes < MAX_GROWTH_BYTES
