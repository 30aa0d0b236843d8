"""The readings of the operator, and the loops that keep them young.

Owns the last readings of exporters, routers and engines. Exporters and routers are read every
``scrape_seconds`` (many exporters less often), spread over that time; engines once each, in a
slower loop of their own, so that a thousand that were not read yet do not delay the exporters.
Nothing that a page does ends a loop: see ``_guarded``.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from memroute.placement import Node
from memroute_kube import ApiError, KubeObject
from memroute_operator.nodes.resource_slices import kept_slices
from memroute_operator.readings.device_metrics import DeviceMetrics, find_exporters
from memroute_operator.readings.engine_reports import EngineReports, find_engines
from memroute_operator.readings.finding import Finder, Pods
from memroute_operator.readings.news import News
from memroute_operator.readings.pages import PageReader
from memroute_operator.readings.router_metrics import RouterMetrics
from memroute_operator.readings.sources import PodSelector, SourceLog
from memroute_operator.weights.reports import FetchReports, find_fetching

LOGGER = logging.getLogger(__name__)
# How often routers are read where models may sleep, in seconds: chosen by hand, a wake takes some
# seconds and begins with such a look. A page takes a router some milliseconds.
WAKE_LOOK_SECONDS = 1.0
# How often engines that were not read yet are read, in seconds, chosen by hand: a measurement
# is good for the next placement, not for this one.
ENGINE_SECONDS = 15.0
# How often those are asked that fetch weights, in seconds, chosen by hand: a person looks on.
FETCH_SECONDS = 5.0
# How often ResourceSlices are listed, in seconds, chosen by hand: devices come and go with nodes.
SLICE_SECONDS = 30.0
# How long the first plan waits for first readings, in seconds, chosen by hand: 500 exporters
# that answer need less than one, and those that do not are no reason to place nothing.
FIRST_READ_SECONDS = 5.0
# Of the interval that the reads are spread over; the rest is for the slow ones.
SPREAD_RATIO = 0.8


# Exporters that are read in a second at most, and how far apart the readings of one may be for
# that, in seconds. A page costs about 1 ms: 500 every 5 s would be a tenth of a core, and
# dcgm-exporter collects every 30 s. Chosen by hand; more than 15 s would let readings get stale.
EXPORTERS_PER_SECOND = 20.0
MAX_EXPORTER_SECONDS = 15.0


def exporter_seconds(scrape_seconds: float, num_exporters: int) -> float:
    """How often each exporter is read: less often where there are many."""
    paced = min(MAX_EXPORTER_SECONDS, num_exporters / EXPORTERS_PER_SECOND)
    return max(scrape_seconds, paced)


class ReadingMetrics:
    """What the operator exports of its readings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sources = Gauge(
            "memroute_operator_sources",
            "Pages that are read, by kind.",
            ("kind",),
            registry=registry,
        )
        self.failing = Gauge(
            "memroute_operator_sources_failing",
            "Pages that could not be read or used at the last try, by kind and trouble.",
            ("kind", "trouble"),
            registry=registry,
        )
        self.errors = Counter(
            "memroute_operator_reading_errors",
            "Rounds of readings that a bug ended; the loop goes on.",
            ("kind",),
            registry=registry,
        )
        self._troubles: dict[str, set[str]] = {}

    def begin_at_zero(self, troubles: Mapping[str, Sequence[str]]) -> None:
        """``troubles``: those that the pages of each kind can have."""
        for kind, words in troubles.items():
            self.sources.labels(kind=kind)
            self._troubles[kind] = set(words)
            for trouble in words:
                self.failing.labels(kind=kind, trouble=trouble)

    def on_round(self, kind: str, num_sources: int, log: SourceLog) -> None:
        """A round of readings has ended."""
        self.sources.labels(kind=kind).set(num_sources)
        counts: dict[str, int] = {}
        for trouble in log.troubles.values():
            counts[trouble] = counts.get(trouble, 0) + 1
        known = self._troubles.setdefault(kind, set())
        known.update(counts)
        # A trouble that has passed is 0, not the number that it last was.
        for trouble in known:
            self.failing.labels(kind=kind, trouble=trouble).set(counts.get(trouble, 0))


class Readings:
    """The last readings of everything that has a metrics page."""

    def __init__(
        self,
        reader: PageReader,
        pods: Pods,
        metrics: ReadingMetrics,
        *,
        exporters: Sequence[PodSelector],
        exporter_port: int,
        routers: Sequence[PodSelector],
        scrape_seconds: float,
        on_change: Callable[[], None],
        list_slices: Callable[[], Awaitable[Sequence[KubeObject]]] | None = None,
        list_claims: Callable[[], Awaitable[Sequence[KubeObject]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pods``: those that are known; ``on_change``: something was read anew.

        ``list_slices``, ``list_claims``: all ResourceSlices and ResourceClaims of the cluster.
        """
        self.devices = DeviceMetrics(scrape_seconds=scrape_seconds)
        self.routers = RouterMetrics()
        self.engines = EngineReports()
        self.fetches = FetchReports()
        self.sleepers: frozenset[str] = frozenset()
        """ModelDeployments whose replicas may sleep."""
        self.asleep: frozenset[str] = frozenset()
        """Those of which one is not awake."""
        self.slices_by_node: dict[str, list[KubeObject]] = {}
        """What DRA drivers publish of each node; empty where there are none."""
        self._list_slices, self._list_claims = list_slices, list_claims
        self._slice_log = SourceLog("ResourceSlices")
        self._node_log = SourceLog("node")
        # A thousand engines that do not answer must not hold up the exporters.
        self._exporter_lane, self._router_lane = reader.lane(), reader.lane()
        self._engine_lane, self._fetch_lane = reader.lane(), reader.lane()
        self._find_exporters = Finder(
            pods, partial(find_exporters, selectors=exporters, default_port=exporter_port)
        )
        self._find_routers = Finder(pods, partial(_find_routers, selectors=routers))
        self._find_engines = Finder(pods, find_engines)
        self._find_fetching = Finder(pods, find_fetching)
        self._metrics = metrics
        self._scrape_seconds = scrape_seconds
        self._on_change = on_change
        self._clock = clock
        self._news = News()

    async def read_once(self) -> None:
        """Read exporters and routers now, all at once: what a first plan stands on.

        Takes ``FIRST_READ_SECONDS`` at the most; what has not answered by then is unknown.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READ_SECONDS), asyncio.TaskGroup() as group:
                group.create_task(self._guarded("exporter", self._read_exporters, 0.0))
                group.create_task(self._guarded("router", self._read_routers, 0.0))
                group.create_task(self._guarded("resource-slices", self._read_slices, 0.0))

    def tell_notes(self, nodes: Iterable[Node]) -> None:
        """Log what sources have said of nodes that cannot be, when it changes, and count it."""
        notes = {node.name: node.notes for node in nodes}
        for name, said in notes.items():
            self._node_log.report(name, "contradicts-node" if said else None, "; ".join(said))
        self._node_log.keep(notes)
        self._metrics.on_round("node", len(notes), self._node_log)

    async def run(self) -> None:
        """Read for ever. Ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            for kind, read, seconds in (
                ("exporter", self._read_exporters, lambda: self.devices.scrape_seconds),
                ("router", self._read_routers, self._router_seconds),
                ("engine", self._read_engines, lambda: ENGINE_SECONDS),
                ("fetcher", self._read_fetchers, lambda: FETCH_SECONDS),
                ("resource-slices", self._read_slices, lambda: SLICE_SECONDS),
            ):
                group.create_task(self._forever(kind, read, seconds))

    def _router_seconds(self) -> float:
        """How often routers are read: soon, where a request that they hold wakes a model."""
        return (
            min(self._scrape_seconds, WAKE_LOOK_SECONDS)
            if self.sleepers
            else (self._scrape_seconds)
        )

    async def _forever(
        self,
        kind: str,
        read: Callable[[float], Awaitable[None]],
        interval_seconds: Callable[[], float],
    ) -> None:
        while True:
            started, seconds = self._clock(), interval_seconds()
            await self._guarded(kind, read, seconds * SPREAD_RATIO)
            await asyncio.sleep(max(0.1, seconds - (self._clock() - started)))

    async def _guarded(
        self, kind: str, read: Callable[[float], Awaitable[None]], over_seconds: float
    ) -> None:
        """One round. A bug in it is logged and counted, and the next round is tried anyway."""
        try:
            await read(over_seconds)
        except Exception:  # the named boundary: readings must outlive whatever a page does
            LOGGER.exception("a round of readings failed kind=%s", kind)
            self._metrics.errors.labels(kind=kind).inc()
        is_news = self._news.look(
            self.devices,
            self.routers,
            self.engines,
            self.slices_by_node,
            self.fetches.words(self._clock()),
            now_seconds=self._clock(),
            asleep=self.asleep,
        )
        if is_news:
            self._on_change()

    async def _read_exporters(self, over_seconds: float) -> None:
        found = self._find_exporters()
        self.devices.scrape_seconds = exporter_seconds(self._scrape_seconds, len(found))
        await self.devices.scrape(
            self._exporter_lane, found, self._clock, over_seconds=over_seconds
        )
        self._metrics.on_round("exporter", len(found), self.devices.log)

    async def _read_routers(self, over_seconds: float) -> None:
        found = self._find_routers()
        await self.routers.scrape(self._router_lane, found, self._clock, over_seconds=over_seconds)
        self._metrics.on_round("router", len(found), self.routers.log)

    async def _read_engines(self, over_seconds: float) -> None:
        # The first round after a start reads all engines of the cluster: seconds, not a burst.
        unread = self.engines.unread(self._find_engines(), self._clock())
        await self.engines.scrape(
            self._engine_lane, unread, self._clock, over_seconds=min(over_seconds, 5.0)
        )
        self._metrics.on_round("engine", len(unread), self.engines.log)

    async def _read_fetchers(self, over_seconds: float) -> None:
        due = self.fetches.due(self._find_fetching(), self._clock())
        await self.fetches.scrape(self._fetch_lane, due, self._clock, over_seconds=over_seconds)
        self._metrics.on_round("fetcher", len(due), self.fetches.log)

    async def _read_slices(self, over_seconds: float) -> None:
        """List what DRA drivers publish, and what is claimed of it.

        A cluster without drivers, or without the right, has none. Where claims cannot be listed,
        nothing new is learned of slices either: a device that may be taken is not given away.
        """
        if self._list_slices is None or self._list_claims is None:
            return
        try:
            slices, claims = await self._list_slices(), await self._list_claims()
        except ApiError as error:
            self._slice_log.report("API server", error.reason or str(error.status), str(error))
            return
        self._slice_log.report("API server", None)
        self.slices_by_node = kept_slices(slices, claims)


def _find_routers(
    pods: Iterable[KubeObject], *, selectors: Sequence[PodSelector]
) -> list[KubeObject]:
    return [pod for pod in pods if any(selector.matches(pod) for selector in selectors)]
