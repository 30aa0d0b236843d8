"""Random histories of the whole router over sockets: what must be true is true of all of them.

Two seconds in ``make slow``, six in ``make test``; ``make whole-router`` plays new ones for an
hour (``MEMROUTE_WHOLE_SECONDS``). Half of the time is asyncio's loop, half is uvloop's, which the
router runs on. ``MEMROUTE_WHOLE_SEED=7`` plays one again.
"""

import asyncio
import collections
import gc
import itertools
import logging
import os
import sys
import time
from pathlib import Path

import pytest
import uvloop

from left_in_memory import path_to
from memroute_router.http.client import EngineConnection
from memroute_router.http.connection import ClientConnection
from memroute_router.http.exchange import Exchange
from memroute_router.lifecycle.forwarded import ForwardedAttempt
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica
from sizes import size
from whole_checks import ERRORS
from whole_router import Count, FoundError, World

SECONDS = float(os.environ.get("MEMROUTE_WHOLE_SECONDS") or size(2, 6))
SEED = os.environ.get("MEMROUTE_WHOLE_SEED")
# Histories that are played beside each other: most of each is waiting.
NUM_BESIDE = size(6, 12)
# From here on a run is a long one: its histories are new each time.
LONG_SECONDS = 60
KINDS = (ForwardedAttempt, ClientConnection, EngineConnection, Exchange, Lifecycle, Pool, Replica)
# RSS that may be added in the second half of a run: the first fills caches, and the heap grows
# once with the largest bodies that come (65 MiB within a minute, then flat). Unit: bytes.
MAX_GROWTH_BYTES = 48 * 1024**2
# Batches of histories of which the least counts: one with large answers takes more for a while.
NUM_LAST = 10
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


@pytest.fixture
def unraisable(monkeypatch):
    """What is raised where nobody can catch it, as text.

    pytest keeps the exceptions themselves until the test ends, and with their tracebacks the
    connections that asyncio has warned of, their servers, routers and pools.
    """
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: told.append(repr(it.exc_value)))
    return told


def rss_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def alive():
    """Objects of requests, connections and pools that something still holds, and by which path."""
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, KINDS)]
    found = dict(collections.Counter(type(each).__name__ for each in left))
    if left:
        found["held by"] = path_to(left[0], ignored=[left])
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


def tell(line):
    print(line, flush=True)  # noqa: T201


def next_seeds():
    """That of ``MEMROUTE_WHOLE_SEED``; else the same each time, and new ones for a long run."""
    if SEED:
        yield [int(SEED)]
        return
    first = 0 if SECONDS < LONG_SECONDS else int(time.time()) * 1000
    for number in itertools.count():
        yield range(first + number * NUM_BESIDE, first + (number + 1) * NUM_BESIDE)


async def play_until(seeds, directory, bugs, seconds):
    """Play histories until something is found, or the time is over; how many, and what."""
    uncaught = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
    total, begun = Count(), time.monotonic()
    told_at, base_bytes = begun, None
    last_bytes = collections.deque(maxlen=NUM_LAST)
    for some in seeds:
        problems = await play_beside(some, directory, total)
        problems += bugs + [repr(context) for context in uncaught]
        if not problems and (left := alive()):
            problems = [f"seeds {list(some)}: left in memory: {left}"]
        now = time.monotonic()
        last_bytes.append(rss_bytes())
        if base_bytes is None and now - begun > seconds / 2:
            base_bytes = min(last_bytes)
        if now - told_at > REPORT_SECONDS:
            told_at = now
            tell(f"{now - begun:.0f} s, {some}, {rss_bytes() >> 20} MiB: {total}")
        if problems or now - begun > seconds:
            break
    grown_bytes = min(last_bytes) - (base_bytes or 0)
    if not problems and seconds > LONG_SECONDS and grown_bytes > MAX_GROWTH_BYTES:
        problems = [f"it grew by {grown_bytes >> 20} MiB"]
    tell(f"{time.monotonic() - begun:.0f} s, {total}, {total.looks} looks at queues")
    for problem in problems:
        tell(problem)
    return problems


@pytest.mark.timeout(SECONDS * 1.5 + 120)
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_whatever_comes_the_router_stays_whole(tmp_path, bugs, unraisable, make_loop):
    """No 5xx but those documented, nothing left, nobody waits beside an idle replica, no bug."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        problems = runner.run(play_until(next_seeds(), tmp_path, bugs, SECONDS / 2))
    # asyncio warns of what a listener accepts in the very turn of the loop in which it is closed.
    problems += [told for told in unraisable if not told.startswith("ResourceWarning")]
    if problems:
        raise FoundError("\n".join(problems))


def test_what_is_documented_is_read():
    """Else whatever a router answers would be documented, or nothing."""
    assert ERRORS[502] == {"replicas-failed": True, "replicas-died": True, "engine-error": True}
    assert ERRORS[504] == {"queue-timeout": True, "engine-error": True}
    assert ERRORS[500] == {None: False}
    assert ERRORS[429]["kv-share"] is False
    assert ERRORS[401].keys() >= {"no-key", "expired-token"}
