"""What the operator exports: the fleet's HBM and its own work."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from memroute.placement import Ledger
from memroute_operator.gather import Facts
from memroute_operator.plan import Action

_DEVICE = ("node", "device", "product")


class OperatorMetrics:
    """The operator's metric families. Owns its registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._usable = self._gauge("device_usable_bytes", "HBM that processes can use.", _DEVICE)
        self._reserved = self._gauge("device_reserved_bytes", "HBM promised to replicas.", _DEVICE)
        self._live_free = self._gauge(
            "device_live_free_bytes", "HBM that the exporter reports free, while fresh.", _DEVICE
        )
        self._free = self._gauge(
            "device_free_bytes", "HBM that may still be promised (shared devices).", _DEVICE
        )
        self._replicas = self._gauge(
            "replicas", "Replica pods by state.", ("namespace", "model_deployment", "state")
        )
        self._wanted = self._gauge(
            "replicas_wanted", "Replicas that the spec asks for.", ("namespace", "model_deployment")
        )
        self._refused = self._gauge(
            "replicas_refused",
            "Replicas that fit nowhere, by reason.",
            ("namespace", "model_deployment", "reason"),
        )
        self._actions = Counter(
            "memroute_operator_actions",
            "Actions carried out.",
            ("action",),
            registry=self.registry,
        )
        self._reconcile = Histogram(
            "memroute_operator_reconcile_seconds",
            "Time of one reconcile of everything.",
            registry=self.registry,
        )
        self._errors = Counter(
            "memroute_operator_reconcile_errors",
            "Reconciles that an API error ended.",
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"memroute_{name}", text, labels, registry=self.registry)

    def serve(self, host: str, port: int) -> None:
        """Serve ``/metrics`` from a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)

    def on_action(self, action: Action) -> None:
        """An action was carried out."""
        self._actions.labels(action=type(action).__name__).inc()

    def on_error(self) -> None:
        """A reconcile was ended by an API error."""
        self._errors.inc()

    def on_reconciled(
        self, facts: Facts, refused: dict[str, dict[str, int]], seconds: float
    ) -> None:
        """Set the gauges. ``refused``: deployment → reason → replicas."""
        self._reconcile.observe(seconds)
        for family in (
            self._usable, self._reserved, self._live_free, self._free,
            self._replicas, self._wanted, self._refused,
        ):  # fmt: skip
            family.clear()
        ledger = Ledger(facts.inventory)
        for node in facts.inventory.nodes:
            for device in node.devices:
                labels = (node.name, device.uuid or str(device.index), device.product or "unknown")
                self._usable.labels(*labels).set(device.usable_bytes)
                promised = sum(size for size, _ in ledger.holders(device))
                self._reserved.labels(*labels).set(
                    device.usable_bytes if device.assigned_pod else promised
                )
                if device.live_free_bytes is not None:
                    self._live_free.labels(*labels).set(device.live_free_bytes)
                if device.uuid is not None and not node.num_allocatable:
                    self._free.labels(*labels).set(ledger.free_bytes(device))
        for replica in facts.replicas:
            self._replicas.labels(
                replica.namespace, replica.deployment_name, replica.state.value
            ).inc()
        for deployment in facts.deployments:
            name = (deployment.namespace, deployment.name)
            self._wanted.labels(*name).set(deployment.replicas)
            for reason, count in refused.get(deployment.key, {}).items():
                self._refused.labels(*name, reason).set(count)
