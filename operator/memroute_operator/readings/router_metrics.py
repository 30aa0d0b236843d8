"""What the routers report: requests in flight, projected KV use, targets that are not met."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from memroute.traffic.admission import AloneLatency
from memroute_kube import KubeObject
from memroute_kube.resources import container_port, is_condition_true
from memroute_operator.readings.demand import DemandLog
from memroute_operator.readings.pages import (
    PageFailure,
    PageFailureReason,
    PageReader,
    read_spread,
)
from memroute_operator.readings.samples import parse_samples
from memroute_operator.readings.sources import SourceLog

# Where a router's page is, if its pod does not say so by the name of a port: its operations port,
# or its only port, as before there were two.
OPERATIONS_PORT = 8002
DEFAULT_PORT = 8000
# Requests at one replica and a KV projection that are believed: a larger number is a page that
# is wrong, and no number is better than a wrong one. Both far beyond what an engine takes.
MAX_IN_FLIGHT = 1_000_000
MAX_RATIO = 1_000.0
_TRY_THE_OTHER = (PageFailureReason.NO_CONNECTION, PageFailureReason.STATUS)
_PREFIX = "memroute_router_"
_BY_POD = {
    f"{_PREFIX}requests_in_flight": MAX_IN_FLIGHT,
    f"{_PREFIX}kv_projected_ratio": MAX_RATIO,
}
_BY_DEPLOYMENT = {
    # Seconds: a day is longer than anything that is measured here.
    f"{_PREFIX}targets_unmet": 1.0,
    f"{_PREFIX}tpot_alone_seconds": 86_400.0,
    f"{_PREFIX}ttft_alone_seconds": 86_400.0,
}
# Requests that wait for their turn: of several routers each has its own.
_SUMS_BY_DEPLOYMENT = {f"{_PREFIX}queue_requests": MAX_IN_FLIGHT}
# Requests that asked for a model since the router began. More than any router sees in a year.
ARRIVALS = f"{_PREFIX}arrivals_total"
MAX_ARRIVALS = 10**12
_LIMITS = _BY_POD | _BY_DEPLOYMENT | _SUMS_BY_DEPLOYMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsReport:
    """What the routers say of one ModelDeployment's latency targets."""

    are_unmet: bool
    """Whether every router that knows says so: one that has seen them met has the proof."""
    alone: AloneLatency
    """What the fastest replica needs with one request, by the router that has seen the least."""


@dataclass(slots=True, kw_only=True)
class RouterMetrics:
    """The sums over all routers, by pod. None of them known means that none answered."""

    is_known: bool = False
    in_flight: dict[str, int] = field(default_factory=dict)
    """``namespace/pod`` → requests that routers have at it."""
    kv_projected_ratio: dict[str, float] = field(default_factory=dict)
    """``namespace/pod`` → the highest projection of any router."""
    waiting: dict[str, int] = field(default_factory=dict)
    """``namespace/deployment`` → requests that routers hold for their turn."""
    targets: dict[str, TargetsReport] = field(default_factory=dict)
    """``namespace/deployment`` → whether its engines meet its targets; absent while nobody knows.
    Kept while a router does not answer: what engines need does not change meanwhile."""

    demand: DemandLog = field(default_factory=DemandLog)
    """Since when nobody has asked for a model."""
    read_at_seconds: float | None = None
    """When the oldest of the pages behind ``in_flight`` was asked for; None while unknown. What
    was sent since is not in it."""
    log: SourceLog = field(default_factory=lambda: SourceLog("router"))

    async def scrape(
        self,
        reader: PageReader,
        routers: Iterable[KubeObject],
        clock: Callable[[], float],
        *,
        over_seconds: float = 0.0,
    ) -> None:
        """Read every router once; unknown unless all of them answer.

        Routers that are not ready are read too: one that drains has answers under way for a
        minute. One that is not ready and refuses the connection has no process, and so nothing.
        """
        started_at = clock()
        pages: dict[str, str | None] = {}

        async def read(pod: KubeObject) -> None:
            name = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
            page = await _read_page(reader, pod)
            if isinstance(page, str):
                self.log.report(name, None)
                pages[name] = page
                return
            if not is_condition_true(pod, "Ready") and has_no_process(page):
                return
            self.log.report(name, page.reason.value, page.message)
            pages[name] = None

        running = [pod for pod in routers if pod.get("status", {}).get("phase") == "Running"]
        await read_spread(running, read, over_seconds=over_seconds)
        self.log.keep(pages)
        self.take(list(pages.values()), asked_at_seconds=started_at)
        self.demand.look(
            {name: arrivals_of(page) for name, page in pages.items() if page is not None},
            waiting=self.waiting,
            in_flight=self.in_flight,
            is_known=self.is_known,
            at_seconds=started_at,
        )

    def take(self, pages: Sequence[str | None], *, asked_at_seconds: float | None = None) -> None:
        """The pages of all routers; None for one that did not answer."""
        self.is_known = bool(pages) and None not in pages
        self.read_at_seconds = asked_at_seconds if self.is_known else None
        in_flight: dict[str, int] = {}
        ratios: dict[str, float] = {}
        waiting: dict[str, int] = {}
        by_deployment: dict[str, dict[str, float]] = {}
        for page in pages:
            for sample in parse_samples(page or "", _LIMITS):
                value, labels = sample.value, sample.labels
                if value is None or not 0 <= value <= _LIMITS[sample.name]:
                    # Not known. Requests at a replica are then not known to have ended.
                    if sample.name.endswith("requests_in_flight"):
                        self.is_known = False
                    continue
                if sample.name in _SUMS_BY_DEPLOYMENT:
                    key = _deployment(labels)
                    waiting[key] = waiting.get(key, 0) + int(value)
                    continue
                if sample.name in _BY_DEPLOYMENT:
                    key = _deployment(labels)
                    least = by_deployment.setdefault(key, {})
                    name = sample.name.removeprefix(_PREFIX)
                    least[name] = min(least.get(name, value), value)
                    continue
                key = _replica(labels)
                if sample.name.endswith("requests_in_flight"):
                    in_flight[key] = in_flight.get(key, 0) + int(value)
                else:
                    ratios[key] = max(ratios.get(key, 0.0), value)
        self.in_flight, self.kv_projected_ratio = in_flight, ratios
        self.waiting = waiting
        if self.is_known or not pages:
            self.targets = {
                key: TargetsReport(
                    are_unmet=least["targets_unmet"] > 0.0,
                    alone=AloneLatency(
                        tpot_seconds=least.get("tpot_alone_seconds"),
                        ttft_seconds=least.get("ttft_alone_seconds"),
                    ),
                )
                for key, least in by_deployment.items()
                if "targets_unmet" in least
            }


def arrivals_of(page: str) -> dict[str, int] | None:
    """What a router has counted, by ModelDeployment; None for one that does not count.

    A router of before has no such counter. One that has just started has its name without a sample.
    """
    if ARRIVALS not in page:
        return None
    found: dict[str, int] = {}
    for sample in parse_samples(page, {ARRIVALS}):
        if sample.value is None or not 0 <= sample.value <= MAX_ARRIVALS:
            return None
        key = _deployment(sample.labels)
        found[key] = found.get(key, 0) + int(sample.value)
    return found


def _deployment(labels: Mapping[str, str]) -> str:
    """``namespace/name``. Routers of 0.1 label with ``namespace``; in an upgrade there are both."""
    namespace = labels.get("model_namespace") or labels.get("namespace")
    return f"{namespace}/{labels.get('model_deployment')}"


def _replica(labels: Mapping[str, str]) -> str:
    """``namespace/pod``; routers of 0.1 label with ``pod``."""
    namespace = labels.get("model_namespace") or labels.get("namespace")
    return f"{namespace}/{labels.get('replica') or labels.get('pod')}"


async def _read_page(reader: PageReader, pod: KubeObject) -> str | PageFailure:
    """The router's page, or why there is none.

    Releases from before the operations port have it on the port of the API, and in an upgrade there
    are both kinds. Where the pod declares a port of operations, that is asked first. The other is
    asked where nothing listens, or what listens has no such page.
    """
    address = pod.get("status", {}).get("podIP")
    declared = container_port(pod, "ops", 0)
    ports = [declared or OPERATIONS_PORT, container_port(pod, "http", DEFAULT_PORT)]
    if not declared:
        ports.reverse()
    found = await reader.read(address, ports[0])
    if isinstance(found, str) or found.reason not in _TRY_THE_OTHER:
        return found
    other = await reader.read(address, ports[1])
    if isinstance(other, str) or not has_no_process(other):
        return other
    return found


def has_no_process(failure: PageFailure) -> bool:
    """Whether nothing listens there: no process, so no request in flight."""
    return failure.reason in (PageFailureReason.NO_CONNECTION, PageFailureReason.NO_ADDRESS)
