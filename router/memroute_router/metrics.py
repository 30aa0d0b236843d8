"""What the router exports. Values of replicas are read from the ledgers when asked."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memroute_router.pools import Pool, Pools, Replica

_REPLICA = ("namespace", "model_deployment", "pod")
_DEPLOYMENT = ("namespace", "model_deployment")
_LATENCY_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip


class RouterMetrics:
    """The router's metric families. Owns its registry."""

    def __init__(self, pools: Pools) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_LedgerCollector(pools))
        self.requests = self._counter(
            "requests", "Requests by how they ended.", (*_DEPLOYMENT, "outcome")
        )
        self.shed_tokens = self._counter(
            "shed_tokens", "Expected tokens of refused requests.", (*_DEPLOYMENT, "reason")
        )
        self.admitted_tokens = self._counter(
            "admitted_tokens", "Expected tokens of admitted requests.", _DEPLOYMENT
        )
        self.retries = self._counter(
            "retries", "Requests sent to another replica.", (*_DEPLOYMENT, "cause")
        )
        self.scrape_errors = self._counter("scrape_errors", "Failed readings.", _REPLICA)
        self.first_byte_seconds = self._histogram(
            "first_byte_seconds", "From the whole request to the first byte of the answer."
        )
        self.request_seconds = self._histogram(
            "request_seconds", "From the whole request to the end of the answer."
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"memroute_router_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"memroute_router_{name}",
            text,
            _DEPLOYMENT,
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )

    @staticmethod
    def replica_labels(replica: Replica) -> tuple[str, str, str]:
        """The label values of a replica's series."""
        return replica.info.namespace, replica.info.deployment, replica.info.pod

    @staticmethod
    def pool_labels(pool: Pool | None) -> tuple[str, str]:
        """The label values of a pool's series; models that nobody serves share one."""
        if pool is not None and pool.settings is not None:
            return pool.settings.namespace, pool.settings.deployment
        if pool is not None:
            for replica in pool.replicas.values():
                return replica.info.namespace, replica.info.deployment
        return "", ""

    def render(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)


class _LedgerCollector(Collector):
    """Gauges of every replica, from its ledger: no series outlives its replica."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        in_flight = _gauge("requests_in_flight", "Requests that this router has at the replica.")
        reserved = _gauge("reserved_tokens", "Tokens that this router has reserved on the replica.")
        projected = _gauge("kv_projected_ratio", "Projected KV cache use, 0 to 1 and above.")
        capacity = _gauge("kv_capacity_tokens", "Tokens that the replica's KV cache holds.")
        used = _gauge("kv_utilization_ratio", "KV cache use at the last reading, 0 to 1.")
        age = _gauge("reading_age_seconds", "Age of the last reading of the replica.")
        routable = _gauge("replica_routable", "1 if requests may be sent to the replica.")
        for pool in self._pools.by_model.values():
            for replica, snapshot in pool.snapshots():
                labels = RouterMetrics.replica_labels(replica)
                in_flight.add_metric(labels, snapshot.num_in_flight)
                reserved.add_metric(labels, replica.ledger.reserved_tokens)
                can_route = replica.info.is_routable and not replica.is_suspect
                routable.add_metric(labels, 1 if can_route else 0)
                ratio = snapshot.projected_ratio()
                if ratio is not None:
                    projected.add_metric(labels, ratio)
                if snapshot.capacity_tokens is not None:
                    capacity.add_metric(labels, snapshot.capacity_tokens)
                if snapshot.reading_age_seconds is not None:
                    age.add_metric(labels, snapshot.reading_age_seconds)
                reading = replica.ledger.reading
                if reading is not None and reading.kv_cache_utilization_ratio is not None:
                    used.add_metric(labels, reading.kv_cache_utilization_ratio)
        yield from (in_flight, reserved, projected, capacity, used, age, routable)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"memroute_router_{name}", text, labels=_REPLICA)
