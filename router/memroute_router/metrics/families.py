"""How families of metrics are named and labelled, and how long pages are read in steps."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

# No label has a name that a scrape gives to what it scrapes (namespace, pod, node, service, job,
# instance, container, endpoint): Prometheus would rename ours, or ours would hide its own
# (docs/adr/0043).
DEPLOYMENT = ("model_namespace", "model_deployment")
REPLICA = (*DEPLOYMENT, "replica")


def replica_labels(replica: Replica) -> tuple[str, str, str]:
    """The label values of a replica's series."""
    return replica.info.namespace, replica.info.deployment, replica.info.pod


def gauge(name: str, text: str, labels: tuple[str, ...] = REPLICA) -> GaugeMetricFamily:
    """A family of the router's own; by default one value for each replica."""
    return GaugeMetricFamily(f"memroute_router_{name}", text, labels=labels)


def replica_counter(name: str, text: str) -> CounterMetricFamily:
    """Likewise, one for each replica."""
    return CounterMetricFamily(f"memroute_router_{name}", text, labels=REPLICA)


def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    """Likewise, one for each ModelDeployment and value of ``labels``."""
    return CounterMetricFamily(f"memroute_router_{name}", text, labels=(*DEPLOYMENT, *labels))


def histogram(name: str, text: str) -> HistogramMetricFamily:
    """Likewise, one for each ModelDeployment."""
    return HistogramMetricFamily(f"memroute_router_{name}", text, labels=DEPLOYMENT)


def with_zeros(counts: Mapping[str, int], values: Iterable[str]) -> dict[str, int]:
    """The counts, and 0 for each of ``values`` that has not happened.

    A series that begins with its first event shows no rise of it: ``rate()`` would be 0.
    """
    found = dict.fromkeys(values, 0)
    found.update(counts)
    return found


def shown_pools(pools: Pools) -> list[Pool]:
    """The pools that have series: one for each ModelDeployment.

    While a served name changes, replicas of one ModelDeployment are in two pools. Two series with
    the same labels would cost a scrape both: the pool with settings is shown.
    """
    by_labels: dict[tuple[str, str], Pool] = {}
    for pool in pools.by_model.values():
        if pool.settings is not None or pool.labels not in by_labels:
            by_labels[pool.labels] = pool
    return list(by_labels.values())


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
    if isinstance(collector, SteppedCollector):
        return collector.steps()
    return [_without_created(family) for family in collector.collect()]


def _without_created(family: Metric) -> Metric:
    """Without the series that say when each counter was made: they are no use."""
    family.samples = [one for one in family.samples if not one.name.endswith("_created")]
    return family
