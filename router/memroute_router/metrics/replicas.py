"""What is told of replicas, read from their ledgers when somebody asks."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

from memroute_router.metrics.families import SteppedCollector, gauge, replica_labels
from memroute_router.replicas.pools import Pools

# Replicas that are read before a page may pause. Unit: replicas. Source: chosen by hand; 8 take
# about 0.1 ms.
_PAUSE_REPLICAS: Final = 8


class LedgerCollector(SteppedCollector):
    """Gauges of every replica: no series outlives it."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        in_flight = gauge("requests_in_flight", "Requests that this router has at the replica.")
        reserved = gauge("reserved_tokens", "Tokens that this router has reserved on the replica.")
        projected = gauge("kv_projected_ratio", "Projected KV cache use, 0 to 1 and above.")
        capacity = gauge("kv_capacity_tokens", "Tokens that the replica's KV cache holds.")
        used = gauge("kv_utilization_ratio", "KV cache use at the last reading, 0 to 1.")
        age = gauge("reading_age_seconds", "Age of the last reading of the replica.")
        routable = gauge("replica_routable", "1 if requests may be sent to the replica.")
        missing = gauge("metrics_incompatible", "Metrics that the engine should have and lacks.")
        pending = gauge("pending_tokens", "Uncached prompt tokens that wait at the replica.")
        foreign = gauge("foreign_tokens", "Tokens there that no router's requests explain.")
        ceiling = gauge("kv_ceiling_ratio", "How full it is planned at the most: preemptions.")
        rate = gauge("prefill_tokens_per_second", "How fast it computes prompts, as learned.")
        step = gauge("step_seconds", "Time per token of the answers there, of late.")
        blocks = gauge("kv_event_blocks", "Cached blocks that the replica has told of.")
        now = self._pools.now_seconds()
        for pool in list(self._pools.by_model.values()):
            yield None
            for number, replica in enumerate(list(pool.replicas.values())):
                if not number % _PAUSE_REPLICAS:
                    yield None
                ledger = replica.ledger
                labels = replica_labels(replica)
                in_flight.add_metric(labels, ledger.num_in_flight)
                reserved.add_metric(labels, ledger.reserved_tokens)
                can_route = replica.info.is_routable and not replica.health.is_out
                routable.add_metric(labels, 1 if can_route else 0)
                missing.add_metric(labels, len(replica.missing_metrics))
                if pool.dispatcher.cached.blocks.follows(replica.info.key):
                    told = pool.dispatcher.cached.blocks.num_blocks(replica.info.key)
                    blocks.add_metric(labels, told)
                pending.add_metric(labels, ledger.pending_tokens)
                foreign.add_metric(labels, ledger.foreign_tokens)
                ceiling.add_metric(labels, ledger.limits.ceiling_ratio)
                rate.add_metric(labels, 1 / ledger.speed.token_seconds)
                step.add_metric(labels, ledger.steps.mean_seconds)
                ratio = ledger.projected_ratio()
                if ratio is not None:
                    projected.add_metric(labels, ratio)
                if ledger.capacity_tokens is not None:
                    capacity.add_metric(labels, ledger.capacity_tokens)
                if ledger.read_at_seconds >= 0:
                    age.add_metric(labels, now - ledger.read_at_seconds)
                reading = ledger.reading
                if reading is not None and reading.kv_cache_utilization_ratio is not None:
                    used.add_metric(labels, reading.kv_cache_utilization_ratio)
        yield from (in_flight, reserved, projected, capacity, used, age, routable, missing)
        yield from (pending, foreign, ceiling, rate, step, blocks)
