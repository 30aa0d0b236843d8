"""The router's metrics, all of them, and the page of them.

Values of replicas are read from the ledgers when asked; requests are counted as they end.
"""

import logging
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from memroute_router.access.gate import Gate
from memroute_router.discovery.doubts import Doubts
from memroute_router.metrics.families import steps_of
from memroute_router.metrics.own_process import OwnProcessCollector
from memroute_router.metrics.pools import (
    DispatchCollector,
    PredictionsCollector,
    StatisticsCollector,
    TargetsCollector,
)
from memroute_router.metrics.process import (
    DoubtsCollector,
    GateCollector,
    PeerCollector,
    ProcessCollector,
)
from memroute_router.metrics.replicas import LedgerCollector
from memroute_router.metrics.statistics import PoolStatistics
from memroute_router.pages.exposition import family_pieces
from memroute_router.peers import PeerLink
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools

LOGGER = logging.getLogger(__name__)
# Label values of requests for models that nobody serves.
_NOBODY: Final = "", ""
# Where exceptions that are bugs are caught: the values of ``place``.
PLACES: Final = (
    "answer", "certificates", "client", "clock", "connect", "deadline", "isolation", "kv-events",
    "kv-share", "map", "membership", "memory", "operations", "peers", "pool", "request", "scrape",
    "trace", "traces", "write",
)  # fmt: skip
CONFIG: Final = "config"
# Files that are read anew while the router runs.
FILES: Final = (CONFIG, "keys", "engine-key")


class RouterMetrics:
    """The router's metric families. Owns its registry and the statistics of every pool."""

    def __init__(
        self, pools: Pools, peers: PeerLink | None = None, gate: Gate | None = None
    ) -> None:
        """``peers``: how other routers are heard; None: of a router that hears none.

        ``gate``: who may ask; None: everybody.
        """
        self._by_labels: dict[tuple[str, str], PoolStatistics] = {}
        self.registry = _Registry()
        self.registry.register(LedgerCollector(pools))
        self.registry.register(DispatchCollector(pools))
        self.registry.register(TargetsCollector(pools))
        self.registry.register(PredictionsCollector(pools))
        self.registry.register(StatisticsCollector(self._by_labels, pools))
        self.registry.register(OwnProcessCollector("router", is_compiled=_is_compiled()))
        self.process = ProcessCollector()
        self.registry.register(self.process)
        self.doubts = Doubts()
        self.registry.register(DoubtsCollector(self.doubts))
        self.registry.register(PeerCollector(peers or PeerLink(pools.peers)))
        self.registry.register(GateCollector(gate))
        self.access_reloads = Counter(
            "memroute_router_access_reloads",
            "Readings of the files of keys and of the engines' key.",
            ("file", "result"),
            registry=self.registry,
        )
        self.scrape_seconds = Counter(
            "memroute_router_scrape_cpu_seconds",
            "CPU time spent on parsing readings.",
            registry=self.registry,
        )
        self.internal_errors = Counter(
            "memroute_router_internal_errors",
            "Exceptions that are bugs of the router, by where they were caught.",
            ("place",),
            registry=self.registry,
        )
        self.traces = Counter(
            "memroute_router_traces",
            "Traces given to the exporting process, or dropped because it is behind or gone.",
            ("result",),
            registry=self.registry,
        )
        self.config_reloads = Counter(
            "memroute_router_config_reloads",
            "Readings of the configuration file.",
            ("result",),
            registry=self.registry,
        )
        self.config_refused = Gauge(
            "memroute_router_config_refused",
            "1 while what a file says is refused, and the last good reading of it is in force.",
            ("file",),
            registry=self.registry,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Every value of every label has a series from the start."""
        for place in PLACES:
            self.internal_errors.labels(place)
        for result in ("sent", "dropped"):
            self.traces.labels(result)
        for file in FILES:
            self.config_refused.labels(file)
            for result in ("applied", "refused"):
                if file == CONFIG:
                    self.config_reloads.labels(result)
                else:
                    self.access_reloads.labels(file, result)

    def on_reload(self, file: str, is_applied: bool) -> None:
        """A file was read anew; ``file``: one of ``FILES``."""
        result = "applied" if is_applied else "refused"
        if file == CONFIG:
            self.config_reloads.labels(result).inc()
        else:
            self.access_reloads.labels(file, result).inc()
        self.config_refused.labels(file).set(0 if is_applied else 1)

    def of(self, pool: Pool | None) -> PoolStatistics:
        """The statistics of a pool; requests for models that nobody serves share one."""
        labels = _NOBODY if pool is None else pool.labels
        found = self._by_labels.get(labels)
        if found is None:
            found = self._by_labels[labels] = PoolStatistics()
        return found

    def pieces(self) -> Iterator[bytes]:
        """The page, piece by piece; an empty one is a place to pause.

        A collector that raises loses its own families, not the page: it is told and counted.
        """
        for collector in list(self.registry.collectors):
            try:
                for family in steps_of(collector):
                    if family is None:
                        yield b""
                        continue
                    for piece in family_pieces(family):
                        yield piece.encode("utf-8", "replace")
            except Exception:
                LOGGER.exception("metrics lost collector=%s", type(collector).__name__)
                self.internal_errors.labels("operations").inc()

    def render(self) -> bytes:
        """The page, at once."""
        return b"".join(self.pieces())


def _is_compiled() -> bool:
    """Whether mypyc has compiled the hot modules, of which this is one."""
    return not __file__.endswith(".py")


class _Registry(CollectorRegistry):
    """Knows its collectors, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.collectors.append(collector)

    def collect(self) -> Iterator[Metric]:
        for collector in self.collectors:
            for family in steps_of(collector):
                if family is not None:
                    yield family
