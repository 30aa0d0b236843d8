"""Reads every replica about once a second: one task each, jittered, ended with the replica.

The page comes over the same HTTP client as the answers, and only the lines that matter are parsed:
a reading costs some tens of microseconds, so that 400 engines take a few per cent of a core.
"""

import asyncio
import logging
import time
from random import Random

from memroute_router.engines import parse_vllm_metrics
from memroute_router.engines.vllm import LineHints
from memroute_router.http.client import EnginePool
from memroute_router.http.fetch import FetchError, fetch
from memroute_router.metrics import RouterMetrics
from memroute_router.pools import Pools, Replica

LOGGER = logging.getLogger(__name__)
TIMEOUT_SECONDS = 2.0
JITTER_RATIO = 0.1
MAX_BACK_OFF = 8
# Times the interval: an engine that cannot answer is not helped by being asked every second.


class Scraper:
    """Owns one task per replica."""

    def __init__(
        self,
        engines: EnginePool,
        pools: Pools,
        metrics: RouterMetrics,
        *,
        interval_seconds: float,
        rng: Random,
    ) -> None:
        self._engines = engines
        self._pools = pools
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._rng = rng
        self._tasks: dict[str, tuple[Replica, asyncio.Task[None]]] = {}
        self._reported_missing: set[tuple[str, str]] = set()
        self._behind: set[str] = set()

    def follow(self, replica: Replica) -> None:
        """Read this replica from now on (again at a new address, if it has one)."""
        key = replica.info.key
        known = self._tasks.get(key)
        if known is not None and known[0] is replica:
            return
        self.forget(key)
        task = asyncio.create_task(self._read_forever(replica), name=f"scrape {key}")
        self._tasks[key] = (replica, task)

    def forget(self, key: str) -> None:
        """Stop reading a replica."""
        known = self._tasks.pop(key, None)
        if known is not None:
            known[1].cancel()

    async def close(self) -> None:
        """Stop reading."""
        tasks = [task for _, task in self._tasks.values()]
        for key in list(self._tasks):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def tick(self) -> None:
        """Say so, once, when readings of a pool fall behind, and when they have caught up."""
        now = self._pools.now_seconds()
        for pool in self._pools.by_model.values():
            num_stale = pool.num_stale(now_seconds=now)
            if num_stale and pool.model not in self._behind:
                self._behind.add(pool.model)
                LOGGER.warning(
                    "readings are out of date model=%s replicas=%d of=%d loop_lag_seconds=%.3f",
                    pool.model, num_stale, len(pool.replicas), self._metrics.loop_lag_seconds,
                )  # fmt: skip
            elif not num_stale and pool.model in self._behind:
                self._behind.discard(pool.model)
                LOGGER.info("readings are up to date model=%s", pool.model)

    async def _read_forever(self, replica: Replica) -> None:
        hints = LineHints()
        factor = 1
        # Not all at once when the router starts.
        await asyncio.sleep(self._interval_seconds * 0.1 * self._rng.random())
        while True:
            if replica.info.is_routable:
                factor = 1 if await self._read(replica, hints) else min(MAX_BACK_OFF, 2 * factor)
            jitter = self._rng.uniform(1 - JITTER_RATIO, 1 + JITTER_RATIO)
            await asyncio.sleep(self._interval_seconds * factor * jitter)

    async def _read(self, replica: Replica, hints: LineHints) -> bool:
        try:
            page = await fetch(
                self._engines,
                replica.info.endpoint,
                b"/metrics",
                timeout_seconds=TIMEOUT_SECONDS,
            )
            begun = time.thread_time()
            reading = parse_vllm_metrics(
                page,
                taken_at_seconds=time.monotonic(),
                report_missing=lambda family: self._report_missing(replica, family),
                hints=hints,
            )
            self._metrics.scrape_seconds.inc(time.thread_time() - begun)
        except (FetchError, ValueError) as error:
            self._metrics.scrape_errors.labels(*self._metrics.replica_labels(replica)).inc()
            LOGGER.warning("scrape failed replica=%s error=%s", replica.info.key, error)
            return False
        self._pools.apply_reading(replica, reading)
        return True

    def _report_missing(self, replica: Replica, family: str) -> None:
        if (replica.info.key, family) not in self._reported_missing:
            self._reported_missing.add((replica.info.key, family))
            LOGGER.error(
                "engine lacks a metric, its value stays unknown replica=%s metric=%s",
                replica.info.key, family,
            )  # fmt: skip
