"""Reads every replica about once a second: one task each, jittered, ended with the replica."""

import asyncio
import logging
import time
from random import Random

import httpx

from memroute_router.engines import parse_vllm_metrics
from memroute_router.metrics import RouterMetrics
from memroute_router.pools import Pools, Replica

LOGGER = logging.getLogger(__name__)
TIMEOUT_SECONDS = 2.0
JITTER_RATIO = 0.1


class Scraper:
    """Owns one task per replica."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        pools: Pools,
        metrics: RouterMetrics,
        *,
        interval_seconds: float,
        rng: Random,
    ) -> None:
        self._client = client
        self._pools = pools
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._rng = rng
        self._tasks: dict[str, tuple[Replica, asyncio.Task[None]]] = {}
        self._reported_missing: set[tuple[str, str]] = set()

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

    def close(self) -> None:
        """Stop reading."""
        for key in list(self._tasks):
            self.forget(key)

    async def _read_forever(self, replica: Replica) -> None:
        while True:
            if replica.info.is_routable:
                await self._read(replica)
            jitter = self._rng.uniform(1 - JITTER_RATIO, 1 + JITTER_RATIO)
            await asyncio.sleep(self._interval_seconds * jitter)

    async def _read(self, replica: Replica) -> None:
        host, port = replica.info.endpoint
        try:
            response = await self._client.get(
                f"http://{host}:{port}/metrics", timeout=TIMEOUT_SECONDS
            )
            response.raise_for_status()
            reading = parse_vllm_metrics(
                response.text,
                taken_at_seconds=time.monotonic(),
                report_missing=lambda family: self._report_missing(replica, family),
            )
        except (httpx.HTTPError, ValueError) as error:
            self._metrics.scrape_errors.labels(*self._metrics.replica_labels(replica)).inc()
            LOGGER.warning("scrape failed replica=%s error=%r", replica.info.key, error)
            return
        self._pools.apply_reading(replica, reading)

    def _report_missing(self, replica: Replica, family: str) -> None:
        if (replica.info.key, family) not in self._reported_missing:
            self._reported_missing.add((replica.info.key, family))
            LOGGER.error(
                "engine lacks a metric, its value stays unknown replica=%s metric=%s",
                replica.info.key, family,
            )  # fmt: skip
