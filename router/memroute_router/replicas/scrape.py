"""Reads every replica about once a second, over the same client as the answers.

One clock for all: twenty times a second those whose turn it is are asked together, by callbacks. A
task, a timer and a wake-up for each page would cost as much as the page; of that, only the lines
that matter are parsed. 400 engines take a few per cent of a core.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random

from memroute.traffic.replica import ReplicaReading
from memroute_router.engines import (
    FULL_TARGET,
    NARROW_TARGET,
    LineHints,
    is_worth_reading,
    read_metrics,
)
from memroute_router.engines.loads import LOADS_PER_PAGE, LOADS_TARGET, parse_loads
from memroute_router.engines.others import TRTLLM_TARGET, is_sglang_page
from memroute_router.http.client import EngineConnection, LossCause
from memroute_router.http.engine_pool import EnginePool
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

LOGGER = logging.getLogger(__name__)
CLOCK_SECONDS = 0.05
TIMEOUT_SECONDS = 2.0
JITTER_RATIO = 0.1
MAX_BACK_OFF = 8
# Times the interval: an engine that cannot answer is not helped by being asked every second.
MAX_PAGE_BYTES = 16 * 1024**2
OK = 200
NOT_FOUND = 404


class Scraper:
    """Owns a reader for each replica, and the clock that wakes them."""

    def __init__(
        self,
        engines: EnginePool,
        pools: Pools,
        metrics: RouterMetrics,
        *,
        interval_seconds: float,
        rng: Random,
        on_fault: OnFault = log_fault,
        on_unreachable: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_unreachable``: told the name of a replica to which no connection could be opened."""
        self.engines = engines
        self._on_fault = on_fault
        self.on_unreachable = on_unreachable
        self._pools = pools
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._rng = rng
        self._readers: dict[str, _Reader] = {}
        self._clock: asyncio.TimerHandle | None = None
        self._behind: set[str] = set()

    def follow(self, replica: Replica) -> None:
        """Read this replica from now on (again at a new address, if it has one)."""
        key = replica.info.key
        known = self._readers.get(key)
        if known is not None and known.replica is replica:
            known.look_again()
            return
        self.forget(key)
        # Not all at once when the router starts.
        first_at = time.monotonic() + self._interval_seconds * JITTER_RATIO * self._rng.random()
        self._readers[key] = _Reader(self, replica, first_at)
        if self._clock is None:
            self._wait()

    def forget(self, key: str) -> None:
        """Stop reading a replica."""
        known = self._readers.pop(key, None)
        if known is not None:
            known.stop()

    def close(self) -> None:
        """Stop reading."""
        if self._clock is not None:
            self._clock.cancel()
        for key in list(self._readers):
            self.forget(key)

    def tick(self) -> None:
        """Say so, once, when readings of a pool fall behind, and when they have caught up."""
        now = self._pools.now_seconds()
        for pool in self._pools.by_model.values():
            num_stale = pool.num_stale(now_seconds=now)
            if num_stale and pool.model not in self._behind:
                self._behind.add(pool.model)
                LOGGER.warning(
                    "readings are out of date model=%s replicas=%d of=%d loop_lag_seconds=%.3f",
                    pool.model, num_stale, len(pool.replicas),
                    self._metrics.process.loop_lag_seconds,
                )  # fmt: skip
            elif not num_stale and pool.model in self._behind:
                self._behind.discard(pool.model)
                LOGGER.info("readings are up to date model=%s", pool.model)

    def next_after(self, asked_at_seconds: float, back_off: int) -> float:
        """When a replica is read again that was asked last at ``asked_at_seconds``."""
        jitter = 1 + JITTER_RATIO * (2 * self._rng.random() - 1)
        return asked_at_seconds + self._interval_seconds * back_off * jitter

    def read(
        self, replica: Replica, page: bytes, hints: LineHints, *, asked_at_seconds: float
    ) -> ReplicaReading | None:
        """A page has come that was asked for then; None when it is none."""
        begun = time.thread_time()
        try:
            reading = read_metrics(
                page,
                taken_at_seconds=asked_at_seconds,
                report_missing=lambda family: self._report_missing(replica, family),
                hints=hints,
            )
        except ValueError as error:
            self.failed(replica, str(error))
            return None
        self._metrics.scrape_seconds.inc(time.thread_time() - begun)
        self._pools.apply_reading(replica, reading)
        return reading

    def read_loads(
        self, replica: Replica, body: bytes, page: ReplicaReading, *, asked_at_seconds: float
    ) -> bool:
        """SGLang's snapshot has come; False when it is none."""
        try:
            reading = parse_loads(body, taken_at_seconds=asked_at_seconds, page=page)
        except ValueError:
            return False
        self._pools.apply_reading(replica, reading)
        return True

    def failed(self, replica: Replica, cause: str) -> None:
        """There will be no reading this time."""
        replica.num_failed_readings += 1
        LOGGER.warning("scrape failed replica=%s error=%s", replica.info.key, cause)

    def _wait(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(CLOCK_SECONDS, self._ask_those_due)

    def _ask_those_due(self) -> None:
        now = time.monotonic()
        for reader in list(self._readers.values()):
            if reader.due_at_seconds <= now and not reader.is_asking:
                try:
                    reader.ask(now)
                except Exception as error:  # noqa: BLE001 - the other replicas are read
                    self._on_fault("scrape", error)
        self._wait()

    def _report_missing(self, replica: Replica, family: str) -> None:
        if family not in replica.missing_metrics:
            replica.missing_metrics.add(family)
            LOGGER.error(
                "MetricsIncompatible: the engine lacks a metric, its value stays unknown "
                "replica=%s metric=%s",
                replica.info.key, family,
            )  # fmt: skip


class _Reader:
    """Reads one replica, again and again. A ``Listener``. Owns its place in time."""

    __slots__ = (
        "_asked_at_seconds", "_back_off", "_connecting", "_connection", "_has_loads", "_hints",
        "_is_skipped", "_num_bytes", "_num_loads", "_page", "_page_target", "_pieces", "_scraper",
        "_target", "due_at_seconds", "is_asking", "replica",
    )  # fmt: skip

    def __init__(self, scraper: Scraper, replica: Replica, due_at_seconds: float) -> None:
        self._scraper = scraper
        self.replica = replica
        self.due_at_seconds = due_at_seconds
        self.is_asking = False
        self._is_skipped = False
        """Whether it was not asked last time, because it was not in use."""
        self._back_off = 1
        self._asked_at_seconds = 0.0
        self._target = self._page_target = NARROW_TARGET
        self._page: ReplicaReading | None = None
        self._has_loads = True
        """Whether it may have SGLang's snapshot: until it was asked for it in vain."""
        self._num_loads = 0
        self._hints = LineHints()
        self._connection: EngineConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def ask(self, now_seconds: float) -> None:
        """Ask for the page now, if the replica is in use."""
        self.due_at_seconds = self._scraper.next_after(now_seconds, self._back_off)
        self._is_skipped = not self.replica.info.is_routable
        if self._is_skipped:
            return
        self.is_asking = True
        engines = self._scraper.engines
        upstream = self.replica.upstream
        connection = engines.take_idle(upstream, now_seconds=time.monotonic())
        if connection is None:
            self._connecting = engines.connect(
                upstream, self._send, self._not_connected, self._crashed
            )
        else:
            self._send(connection)

    def look_again(self) -> None:
        """The replica has changed: one that was not in use and is now is read at once."""
        if self._is_skipped and self.replica.info.is_routable:
            self._is_skipped = False
            self.due_at_seconds = 0.0

    def stop(self) -> None:
        """Ask no more."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._let_go()

    def answer_progressed(self, connection: EngineConnection) -> None:
        """More of the page has arrived."""
        piece = connection.take_body()
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes > MAX_PAGE_BYTES:
            self._fail("the page is too large")
        elif connection.is_complete:
            page = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            status = connection.status
            if self._target is NARROW_TARGET and not (status == OK and is_worth_reading(page)):
                # It does not know how to tell a part of it: then all of it, from now on.
                self._target = FULL_TARGET
                self.due_at_seconds = 0.0
                self._let_go()
                return
            if self._target is LOADS_TARGET:
                self._read_loads(page if status == OK else b"")
                return
            if status == NOT_FOUND and self._target is FULL_TARGET:
                # TensorRT-LLM has its page elsewhere.
                self._target = TRTLLM_TARGET
                self.due_at_seconds = 0.0
                self._let_go()
                return
            if status != OK:
                self._fail(f"status {status}")
                return
            self._let_go()
            reading = self._scraper.read(
                self.replica, page, self._hints, asked_at_seconds=self._asked_at_seconds
            )
            if reading is None:
                self._slow_down()
                return
            self._back_off = 1
            if self._has_loads and is_sglang_page(page):
                self._page, self._page_target = reading, self._target
                self._target = LOADS_TARGET
                self._num_loads = 0

    def _read_loads(self, body: bytes) -> None:
        """The snapshot; an engine that has none is asked for its page alone from now on."""
        self._let_go()
        self._num_loads += 1
        page = self._page
        self._has_loads = page is not None and self._scraper.read_loads(
            self.replica, body, page, asked_at_seconds=self._asked_at_seconds
        )
        if not self._has_loads:
            self.due_at_seconds = 0.0
        if not self._has_loads or self._num_loads >= LOADS_PER_PAGE:
            self._target = self._page_target

    def answer_lost(self, _connection: EngineConnection, _cause: LossCause, detail: str) -> None:
        """It will not be complete."""
        self._fail(detail)

    def answer_crashed(self, _connection: EngineConnection) -> None:
        """A bug of ours: this reading fails, and no other."""
        self._crashed()

    def _crashed(self) -> None:
        self._connecting = None
        self._fail("internal error")

    def _send(self, connection: EngineConnection) -> None:
        self._connecting = None
        self._connection = connection
        self._asked_at_seconds = time.monotonic()
        connection.expect_within(TIMEOUT_SECONDS, now_seconds=self._asked_at_seconds)
        authority = connection.endpoint.authority
        head = b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (self._target, authority)
        connection.send(self, head, b"")

    def _not_connected(self, cause: LossCause, detail: str) -> None:
        self._connecting = None
        if cause is LossCause.NOT_CONNECTED:
            self._scraper.on_unreachable(self.replica.info.key)
        self._fail(detail)

    def _fail(self, cause: str) -> None:
        self._let_go()
        self._slow_down()
        self._scraper.failed(self.replica, cause)

    def _slow_down(self) -> None:
        self._back_off = min(MAX_BACK_OFF, 2 * self._back_off)
        self.due_at_seconds = self._scraper.next_after(time.monotonic(), self._back_off)

    def _let_go(self) -> None:
        self.is_asking = False
        self._pieces = []
        self._num_bytes = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            self._scraper.engines.give_back(connection)
