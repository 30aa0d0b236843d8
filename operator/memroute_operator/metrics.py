"""What the operator exports: the fleet's HBM and its own work.

The gauges of a reconcile are built whole and swapped in at once: the server of ``/metrics``
runs in a thread of its own, and a scrape sees either the last reconcile or the one before.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from memroute.placement import NO_QUOTAS, HBMQuotas, Ledger
from memroute_operator.gather import Facts
from memroute_operator.plan import Action
from memroute_operator.readings.loops import ReadingMetrics
from memroute_operator.replicas.lost_nodes import NodeLoss

_DEVICE = ("node", "device", "product")
_DEPLOYMENT = ("namespace", "model_deployment")
# Families of the last reconcile: name → what it says, labels.
_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "device_info": (
        "1; who says what the device's product and memory are (docs/how-to/describe-nodes.md).",
        (*_DEVICE, "product_source", "memory_source"),
    ),
    "device_usable_bytes": ("HBM that processes can use.", _DEVICE),
    "device_reserved_bytes": ("HBM promised to replicas.", _DEVICE),
    "device_live_free_bytes": ("HBM that the exporter reports free, while fresh.", _DEVICE),
    "device_reading_age_seconds": (
        "How old the exporter's values are at most, at its own pace.",
        _DEVICE,
    ),
    "device_free_bytes": ("HBM that may still be promised (shared devices).", _DEVICE),
    "node_metrics_fresh": ("1 if the node's exporter was read of late, else 0.", ("node",)),
    "nodes_unreachable": ("GPU nodes that do not report.", ()),
    "nodes_given_up": ("Of those, the ones whose replicas are replaced.", ()),
    "node_loss_braked": ("1 while too many nodes are unreachable to give any up.", ()),
    "replicas": ("Replica pods by state.", (*_DEPLOYMENT, "state")),
    "replicas_wanted": ("Replicas that the spec asks for.", _DEPLOYMENT),
    "replicas_refused": ("Replicas that fit nowhere, by reason.", (*_DEPLOYMENT, "reason")),
    "namespace_reserved_bytes": ("HBM promised to a namespace's replicas.", ("namespace",)),
    "namespace_quota_bytes": (
        "HBM that a namespace may hold, where an administrator says so.",
        ("namespace",),
    ),
    "operator_unreadable_objects": ("Objects that cannot be read, by kind.", ("kind",)),
}
NO_LOSS = NodeLoss()


# Seconds: what nobody notices, what delays a watch, what endangers the Lease.
LOOP_LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Snapshot(Collector):
    """The gauges of one reconcile. The only mutable thing is which one is shown."""

    def __init__(self) -> None:
        self._families = _Families().all()

    def collect(self) -> Iterable[Metric]:
        return self._families

    def show(self, families: "_Families") -> None:
        """Show these from now on: one assignment, so that no scrape sees half of them."""
        self._families = families.all()


class _Families:
    """Gauges while they are being filled."""

    def __init__(self) -> None:
        self._by_name = {
            name: GaugeMetricFamily(f"memroute_{name}", text, labels=labels)
            for name, (text, labels) in _GAUGES.items()
        }

    def set(self, name: str, labels: Iterable[str], value: float) -> None:
        """Add a series."""
        self._by_name[name].add_metric(list(labels), value)

    def all(self) -> tuple[Metric, ...]:
        """Every family, those without a series too."""
        return tuple(self._by_name.values())


class OperatorMetrics:
    """The operator's metric families. Owns its registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._is_leading = True
        self._snapshot = _Snapshot()
        self.registry.register(self._snapshot)
        self._actions = Counter(
            "memroute_operator_actions",
            "Actions carried out.",
            ("action",),
            registry=self.registry,
        )
        self._failures = Counter(
            "memroute_operator_failures",
            "Calls that the API server refused, by what was tried and the status of its answer.",
            ("action", "status"),
            registry=self.registry,
        )
        self._internal_errors = Counter(
            "memroute_operator_internal_errors",
            "Exceptions that are bugs of the operator, by where they were caught.",
            ("where",),
            registry=self.registry,
        )
        self._hub_reads = Counter(
            "memroute_operator_hub_reads",
            "Models that a hub was asked for, by what came of it.",
            ("result",),
            registry=self.registry,
        )
        self._reconcile = Histogram(
            "memroute_operator_reconcile_seconds",
            "Time of one reconcile of everything.",
            registry=self.registry,
        )
        self._loop_lag = Histogram(
            "memroute_operator_loop_lag_seconds",
            "How late the event loop ran what was due, twenty times a second.",
            buckets=LOOP_LAG_BUCKETS,
            registry=self.registry,
        )
        self._leading = Gauge(
            "memroute_operator_leading",
            "1 while this operator holds the Lease and writes, 0 for a standby.",
            registry=self.registry,
        )
        self._errors = Counter(
            "memroute_operator_reconcile_errors",
            "Reconciles that an API error ended.",
            registry=self.registry,
        )
        self.readings = ReadingMetrics(self.registry)

    def serve(self, host: str, port: int) -> None:
        """Serve ``/metrics`` from a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)

    def on_loop_lag(self, seconds: float) -> None:
        """The event loop was late by so much."""
        self._loop_lag.observe(seconds)

    def on_leading(self, is_leading: bool) -> None:
        """It began or ceased to lead. A standby exports nothing of the fleet: the leader does."""
        self._leading.set(is_leading)
        self._is_leading = is_leading
        if not is_leading:
            self._snapshot.show(_Families())

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

    def on_error(self) -> None:
        """A reconcile was ended by an API error."""
        self._errors.inc()

    def on_reconciled(
        self,
        facts: Facts,
        refused: dict[str, dict[str, int]],
        seconds: float,
        loss: NodeLoss = NO_LOSS,
        quotas: HBMQuotas = NO_QUOTAS,
    ) -> None:
        """Show the gauges of a reconcile. ``refused``: deployment → reason → replicas."""
        self._reconcile.observe(seconds)
        families = _Families()
        ledger = Ledger(facts.inventory)
        _set_devices(families, facts, ledger)
        _set_namespaces(families, ledger, quotas)
        _set_nodes(families, facts, loss)
        _set_replicas(families, facts, refused)
        if self._is_leading:  # it may have been lost while the step was under way
            self._snapshot.show(families)


def _set_namespaces(families: _Families, ledger: Ledger, quotas: HBMQuotas) -> None:
    for namespace in sorted({*ledger.namespaces(), *quotas.by_namespace}):
        families.set("namespace_reserved_bytes", (namespace,), ledger.held_bytes(namespace))
        limit = quotas.limit_bytes(namespace)
        if limit is not None:
            families.set("namespace_quota_bytes", (namespace,), limit)


def _set_devices(families: _Families, facts: Facts, ledger: Ledger) -> None:
    for node in facts.inventory.nodes:
        for device in node.devices:
            labels = (node.name, device.uuid or str(device.index), device.product or "unknown")
            sources = (device.product_source or "unknown", device.usable_source)
            families.set("device_info", (*labels, *sources), 1)
            families.set("device_usable_bytes", labels, device.usable_bytes)
            promised = sum(size for size, _ in ledger.holders(device))
            reserved = device.usable_bytes if device.assigned_pod else promised
            families.set("device_reserved_bytes", labels, reserved)
            if device.live_free_bytes is not None:
                families.set("device_live_free_bytes", labels, device.live_free_bytes)
            if device.live_age_seconds is not None:
                families.set("device_reading_age_seconds", labels, device.live_age_seconds)
            if device.uuid is not None and not node.num_allocatable:
                families.set("device_free_bytes", labels, ledger.free_bytes(device))


def _set_nodes(families: _Families, facts: Facts, loss: NodeLoss) -> None:
    for node in facts.inventory.nodes:
        if node.devices:
            families.set("node_metrics_fresh", (node.name,), float(node.has_fresh_metrics))
    families.set("nodes_unreachable", (), loss.num_unreachable)
    families.set("nodes_given_up", (), len(loss.given_up))
    families.set("node_loss_braked", (), float(loss.is_braked))
    unreadable: dict[str, int] = dict.fromkeys(("Pod", "Node", "ModelDeployment"), 0)
    for name in facts.unreadable_objects:
        kind = name.partition(" ")[0]
        unreadable[kind] = unreadable.get(kind, 0) + 1
    for kind, count in unreadable.items():
        families.set("operator_unreadable_objects", (kind,), count)


def _set_replicas(
    families: _Families, facts: Facts, refused: Mapping[str, Mapping[str, int]]
) -> None:
    states: dict[tuple[str, str, str], int] = {}
    for replica in facts.replicas:
        labels = (replica.namespace, replica.deployment_name, replica.state.value)
        states[labels] = states.get(labels, 0) + 1
    for state, count in states.items():
        families.set("replicas", state, count)
    for deployment in facts.deployments:
        name = (deployment.namespace, deployment.name)
        families.set("replicas_wanted", name, deployment.replicas)
        for reason, count in refused.get(deployment.key, {}).items():
            families.set("replicas_refused", (*name, reason), count)
