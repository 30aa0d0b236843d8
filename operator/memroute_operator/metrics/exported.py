"""What the operator exports: the fleet's HBM and its own work."""

import platform
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.metrics_core import Metric

from memroute import __version__
from memroute.placement import NO_QUOTAS, HBMQuotas
from memroute_operator.gather import Facts
from memroute_operator.metrics.fleet import NO_LOSS, Shown, Snapshot
from memroute_operator.metrics.labels import (
    ACTIONS,
    HUB_RESULTS,
    PLACES,
    READINGS,
    STATUSES,
    TROUBLES,
    WRITES,
)
from memroute_operator.metrics.page import serve_page
from memroute_operator.plan import Action
from memroute_operator.readings.loops import ReadingMetrics
from memroute_operator.replicas.lost_nodes import NodeLoss

# Seconds: what nobody notices, what delays a watch, what endangers the Lease.
LOOP_LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


# Seconds: a small model, 8B from the host, 70B from the host, 8B and 70B from storage.
WAKE_BUCKETS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0, 120.0)


class _Registry(CollectorRegistry):
    """Without the series that say when each counter was made: half of the page, and no use."""

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family

    def describe(self) -> Iterable[Metric]:
        """Its families, for the registry that this one is a part of."""
        return self.collect()


class OperatorMetrics:
    """The operator's metric families. Owns its registry, and the one of its own work alone."""

    def __init__(self) -> None:
        self._own = _Registry()
        self._is_leading = True
        self._snapshot = Snapshot()
        self.registry = _Registry()
        self._actions = Counter(
            "memroute_operator_actions",
            "Actions carried out.",
            ("action",),
            registry=self._own,
        )
        self._failures = Counter(
            "memroute_operator_failures",
            "Calls that the API server refused, by what was tried and the status of its answer.",
            ("action", "status"),
            registry=self._own,
        )
        self._internal_errors = Counter(
            "memroute_operator_internal_errors",
            "Exceptions that are bugs of the operator, by where they were caught.",
            ("where",),
            registry=self._own,
        )
        self._hub_reads = Counter(
            "memroute_operator_hub_reads",
            "Models that a hub was asked for, by what came of it.",
            ("result",),
            registry=self._own,
        )
        self._wake_seconds = Histogram(
            "memroute_operator_wake_seconds",
            "How long engines took to wake, from the call until they said that they are awake.",
            buckets=WAKE_BUCKETS,
            registry=self._own,
        )
        self._reconcile = Histogram(
            "memroute_operator_reconcile_seconds",
            "Time of one reconcile of everything.",
            registry=self._own,
        )
        self._loop_lag = Histogram(
            "memroute_operator_loop_lag_seconds",
            "How late the event loop ran what was due, twenty times a second.",
            buckets=LOOP_LAG_BUCKETS,
            registry=self._own,
        )
        self._leading = Gauge(
            "memroute_operator_leading",
            "1 while this operator holds the Lease and writes, 0 for a standby.",
            registry=self._own,
        )
        self._errors = Counter(
            "memroute_operator_reconcile_errors",
            "Reconciles that an API error ended.",
            registry=self._own,
        )
        self._build = Gauge(
            "memroute_operator_build_info",
            "1; which release runs, on which Python.",
            ("version", "python"),
            registry=self._own,
        )
        ProcessCollector(registry=self._own)
        self.readings = ReadingMetrics(self._own)
        self._conditions: dict[str, list[dict[str, Any]]] = {}
        """Of the last status of each ModelDeployment, by its key."""
        self._begin_at_zero()
        self.registry.register(self._own)
        self.registry.register(self._snapshot)

    def _begin_at_zero(self) -> None:
        """Every value of every label has a series from the start."""
        self._build.labels(__version__, platform.python_version()).set(1)
        for action in ACTIONS:
            self._actions.labels(action)
        for action in WRITES:
            for status in STATUSES:
                self._failures.labels(action, status)
        for where in PLACES:
            self._internal_errors.labels(where)
        for result in HUB_RESULTS:
            self._hub_reads.labels(result)
        for kind in READINGS:
            self.readings.errors.labels(kind)
        self.readings.begin_at_zero(TROUBLES)

    def serve(self, host: str, port: int) -> None:
        """Serve ``/metrics`` from a thread of its own."""
        serve_page(host, port, self.registry, own=self._own, fleet=self._snapshot)

    def on_loop_lag(self, seconds: float) -> None:
        """The event loop was late by so much."""
        self._loop_lag.observe(seconds)

    def on_leading(self, is_leading: bool) -> None:
        """It began or ceased to lead. A standby exports nothing of the fleet: the leader does."""
        self._leading.set(is_leading)
        self._is_leading = is_leading
        if not is_leading:
            self._snapshot.show(None)

    def on_action(self, action: Action) -> None:
        """An action was carried out."""
        self._actions.labels(action=type(action).__name__).inc()

    def on_failure(self, action: str, status: int) -> None:
        """The API server refused a call; ``status`` 0 when it did not answer."""
        self._failures.labels(action=action, status=str(status)).inc()

    def on_internal_error(self, where: str) -> None:
        """An exception that nobody expected was caught at a named boundary."""
        self._internal_errors.labels(where=where).inc()

    def on_hub_read(self, result: str) -> None:
        """A hub was asked for a model; ``result``: ``Read``, or the reason of the failure."""
        self._hub_reads.labels(result=result).inc()

    def on_woken(self, seconds: float) -> None:
        """An engine was woken, and took so long."""
        self._wake_seconds.observe(seconds)

    def on_error(self) -> None:
        """A reconcile was ended by an API error."""
        self._errors.inc()

    @property
    def conditions(self) -> Mapping[str, list[dict[str, Any]]]:
        """Of each ModelDeployment, those of its status as it was made last."""
        return self._conditions

    def on_status(self, key: str, conditions: list[dict[str, Any]]) -> None:
        """The status of a ModelDeployment has these conditions."""
        self._conditions[key] = conditions

    def on_reconciled(
        self,
        facts: Facts,
        refused: dict[str, dict[str, int]],
        seconds: float,
        loss: NodeLoss = NO_LOSS,
        quotas: HBMQuotas = NO_QUOTAS,
        unread: Collection[str] = (),
    ) -> None:
        """Show the gauges of a reconcile. ``refused``: deployment → reason → replicas.

        ``unread``: ConfigMaps of an administrator that cannot be read. Nothing is worked out here:
        whoever reads the page does that.
        """
        self._reconcile.observe(seconds)
        there = {deployment.key for deployment in facts.deployments}
        self._conditions = {key: told for key, told in self._conditions.items() if key in there}
        if not self._is_leading:  # it may have been lost while the step was under way
            return
        self._snapshot.show(
            Shown(
                facts=facts,
                refused=refused,
                loss=loss,
                quotas=quotas,
                conditions=dict(self._conditions),
                unread=frozenset(unread),
                ended_at=time.time(),
            )
        )
