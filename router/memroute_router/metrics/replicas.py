"""What is told of replicas, read from their ledgers when somebody asks."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from memroute.traffic.admission import AdmissionSettings, hangs
from memroute.traffic.prefixes import Tier
from memroute_router.metrics.families import (
    SteppedCollector,
    gauge,
    replica_counter,
    replica_labels,
)
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

# Replicas that are read before a page may pause. Unit: replicas. Source: chosen by hand; 8 take
# about 0.1 ms.
_PAUSE_REPLICAS: Final = 8
_GAUGES: Final = {
    "requests_in_flight": "Requests that this router has at the replica.",
    "reserved_tokens": "Tokens that this router has reserved on the replica.",
    "kv_projected_ratio": "Projected KV cache use, 0 to 1 and above.",
    "kv_capacity_tokens": "Tokens that the replica's KV cache holds.",
    "kv_utilization_ratio": "KV cache use at the last reading, 0 to 1.",
    "reading_age_seconds": "Age of the last reading of the replica.",
    "replica_routable": "1 if requests may be sent to the replica.",
    "replica_avoided": "1 while the replica is avoided after faults.",
    "replica_hung": "1 while requests wait there and nothing comes back.",
    "metrics_incompatible": "Metrics that the engine should have and lacks.",
    "pending_tokens": "Uncached prompt tokens that wait at the replica.",
    "foreign_tokens": "Tokens there that no router's requests explain.",
    "kv_ceiling_ratio": "How full it is planned at the most: preemptions.",
    "prefill_tokens_per_second": "How fast it computes prompts, as learned.",
    "step_seconds": "Time per token of the answers there, of late.",
    "slowdown_ratio": "How much slower it is than its work explains; 1: not at all.",
    "kv_event_blocks": "Cached blocks that the replica has told of.",
    "kv_event_host_blocks": "The same of blocks on its host.",
    "engine_requests_running": "Requests that the engine says it runs.",
    "engine_requests_waiting": "Requests that the engine says wait there.",
}
_COUNTERS: Final = {
    "scrape_errors": "Failed readings.",
    "kv_event_gaps": "Times when KV events of the replica were lost on the way.",
    "engine_preemptions": "Preemptions that the engine has counted since its start.",
}
_NAMES: Final = (*_GAUGES, *_COUNTERS)


class LedgerCollector(SteppedCollector):
    """Gauges and counters of every replica: no series outlives it."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        gauges = {name: gauge(name, text) for name, text in _GAUGES.items()}
        counters = {name: replica_counter(name, text) for name, text in _COUNTERS.items()}
        now = self._pools.now_seconds()
        shown: set[tuple[str, str, str]] = set()
        for pool in list(self._pools.by_model.values()):
            yield None
            limits = pool.dispatcher.settings.limits
            for number, replica in enumerate(list(pool.replicas.values())):
                if not number % _PAUSE_REPLICAS:
                    yield None
                labels = replica_labels(replica)
                if labels in shown:
                    continue  # it changes its pool: two series with the same labels are none
                shown.add(labels)
                _add(gauges, counters, labels, _values(pool, replica, limits, now_seconds=now))
        yield from gauges.values()
        yield from counters.values()


def _add(
    gauges: dict[str, GaugeMetricFamily],
    counters: dict[str, CounterMetricFamily],
    labels: tuple[str, str, str],
    values: list[float | None],
) -> None:
    """One series of each family; none where the value is not known."""
    for name, value in zip(_NAMES, values, strict=True):
        if value is None:
            continue
        if name in gauges:
            gauges[name].add_metric(labels, value)
        else:
            counters[name].add_metric(labels, value)


def _values(
    pool: Pool, replica: Replica, limits: AdmissionSettings, *, now_seconds: float
) -> list[float | None]:
    """What is known of a replica, in the order of ``_NAMES``."""
    ledger, reading, is_out = replica.ledger, replica.ledger.reading, replica.health.is_out
    blocks = pool.dispatcher.cached.blocks
    follows = blocks.follows(replica.info.key)
    tells_host = blocks.offloaded.tells(replica.info.key)
    read_at = ledger.read_at_seconds
    hung = hangs(ledger, settings=limits, is_on_trial=is_out, now_seconds=now_seconds)
    return [
        float(ledger.num_in_flight),
        float(ledger.reserved_tokens),
        ledger.projected_ratio(),
        _number(ledger.capacity_tokens),
        None if reading is None else reading.kv_cache_utilization_ratio,
        now_seconds - read_at if read_at >= 0 else None,
        1.0 if replica.info.is_routable and not is_out else 0.0,
        1.0 if is_out else 0.0,
        1.0 if hung and replica.backend.sleep is None else 0.0,
        float(len(replica.missing_metrics)),
        float(ledger.pending_tokens),
        float(ledger.foreign_tokens),
        ledger.limits.ceiling_ratio,
        1.0 / ledger.speed.token_seconds,
        ledger.steps.mean_seconds,
        ledger.steps.slowdown.ratio,
        float(blocks.num_blocks(replica.info.key)) if follows else None,
        float(blocks.num_blocks(replica.info.key, Tier.HOST)) if tells_host else None,
        None if reading is None else _number(reading.num_requests_running),
        None if reading is None else _number(reading.num_requests_waiting),
        float(replica.num_failed_readings),
        float(replica.num_event_gaps),
        None if reading is None else _number(reading.num_preemptions_total),
    ]


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)
