"""How families of metrics are named and labelled, and how long pages are read in steps."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from memroute_router.replicas.pools import Replica

REPLICA = ("namespace", "model_deployment", "pod")
DEPLOYMENT = ("namespace", "model_deployment")


def replica_labels(replica: Replica) -> tuple[str, str, str]:
    """The label values of a replica's series."""
    return replica.info.namespace, replica.info.deployment, replica.info.pod


def gauge(name: str, text: str, labels: tuple[str, ...] = REPLICA) -> GaugeMetricFamily:
    """A family of the router's own; by default one value for each replica."""
    return GaugeMetricFamily(f"memroute_router_{name}", text, labels=labels)


def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    """Likewise, one for each ModelDeployment and value of ``labels``."""
    return CounterMetricFamily(f"memroute_router_{name}", text, labels=(*DEPLOYMENT, *labels))


def histogram(name: str, text: str) -> HistogramMetricFamily:
    """Likewise, one for each ModelDeployment."""
    return HistogramMetricFamily(f"memroute_router_{name}", text, labels=DEPLOYMENT)


class SteppedCollector(Collector):
    """Reads the values of many replicas, and can pause in between."""

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        raise NotImplementedError

    def collect(self) -> Iterator[Metric]:
        """All of them, at once."""
        for family in self.steps():
            if family is not None:
                yield family


def steps_of(collector: Collector) -> Iterable[Metric | None]:
    """The families of any collector; None is a place to pause."""
    return collector.steps() if isinstance(collector, SteppedCollector) else collector.collect()
