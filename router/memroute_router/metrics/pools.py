"""What is told of pools: their requests, decisions, targets and predictions."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric

from memroute.traffic.admission import ClosedReason, RejectReason
from memroute.traffic.replica.predictions import RATIO_BUCKETS, Prediction
from memroute_router.lifecycle.failure import FailureCause
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.metrics.families import (
    DEPLOYMENT,
    SteppedCollector,
    counter,
    gauge,
    histogram,
    shown_pools,
    with_zeros,
)
from memroute_router.metrics.statistics import TARGETS, PoolStatistics
from memroute_router.replicas.pools import Pools

# Every value that a label can have, so that each has a series before it happens.
OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)
SHED_REASONS: Final = tuple(reason.value for reason in RejectReason)
# An attempt that ended so has no other after it.
_FINAL_CAUSES: Final = (FailureCause.BROKEN, FailureCause.EXHAUSTED)
RETRY_CAUSES: Final = tuple(cause.value for cause in FailureCause if cause not in _FINAL_CAUSES)
CLOSED_REASONS: Final = tuple(reason.value for reason in ClosedReason)
# Who has counted tokens: the engine has said so, or the router has counted or estimated them.
BY_ENGINE: Final = "engine"
BY_ROUTER: Final = "router"
# Labels of requests for models that nobody serves.
_NO_MODEL: Final = ("", "")


class StatisticsCollector(SteppedCollector):
    """Counters and histograms of every pool."""

    def __init__(self, by_labels: dict[tuple[str, str], PoolStatistics], pools: Pools) -> None:
        self._by_labels = by_labels
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        requests = counter("requests", "Requests by how they ended.", "outcome")
        shed = counter("shed_tokens", "Expected tokens of refused requests.", "reason")
        retries = counter("retries", "Requests sent to another replica.", "cause")
        admitted = counter("admitted_tokens", "Expected tokens of served requests.")
        prompt = counter("prompt_tokens", "Prompt tokens of served requests.", "counted_by")
        cached = counter(
            "cached_prompt_tokens", "Prompt tokens that engines reported as cached by themselves."
        )
        output = counter("output_tokens", "Output tokens that were produced.", "counted_by")
        broken = counter("unserved_output_tokens", "Output tokens of answers that failed.")
        judged = counter(
            "target_streams", "Streams by whether they met a latency target.", "target", "result"
        )
        ttft = histogram("ttft_seconds", "From the whole request to the first text of a stream.")
        tpot = HistogramMetricFamily(
            "memroute_router_tpot_seconds",
            "Time per output token of a stream after its first.",
            labels=DEPLOYMENT,
        )
        first_byte = histogram(
            "first_byte_seconds", "From the whole request to the first byte of the answer."
        )
        seconds = histogram("request_seconds", "From the whole request to the end of the answer.")
        queue = histogram("queue_seconds", "How long requests were held before their turn.")
        for labels, statistics in self._shown().items():
            yield None
            ended = {outcome.value: count for outcome, count in statistics.requests.items()}
            for outcome, count in with_zeros(ended, OUTCOMES).items():
                requests.add_metric((*labels, outcome), count)
            if not labels[1]:
                continue  # of no model: nothing else can happen to them
            for reason, count in with_zeros(statistics.shed_tokens, SHED_REASONS).items():
                shed.add_metric((*labels, reason), count)
            for cause, count in with_zeros(statistics.retries, RETRY_CAUSES).items():
                retries.add_metric((*labels, cause), count)
            admitted.add_metric(labels, statistics.admitted_tokens)
            prompt.add_metric((*labels, BY_ENGINE), statistics.prompt_tokens)
            prompt.add_metric((*labels, BY_ROUTER), statistics.estimated_prompt_tokens)
            cached.add_metric(labels, statistics.cached_tokens)
            output.add_metric((*labels, BY_ENGINE), statistics.output_tokens)
            output.add_metric((*labels, BY_ROUTER), statistics.estimated_output_tokens)
            broken.add_metric(labels, statistics.num_broken_tokens)
            for number, target in enumerate(TARGETS):
                judged.add_metric((*labels, target, "met"), statistics.within[number])
                judged.add_metric((*labels, target, "missed"), statistics.missed[number])
            statistics.first_byte.add_to(first_byte, labels)
            statistics.seconds.add_to(seconds, labels)
            statistics.queue.add_to(queue, labels)
            statistics.ttft.add_to(ttft, labels)
            statistics.tpot.add_to(tpot, labels)
        yield from (requests, shed, retries, admitted, prompt, cached, output, broken, judged)
        yield from (first_byte, seconds, queue, ttft, tpot)

    def _shown(self) -> dict[tuple[str, str], PoolStatistics]:
        """Of every pool and of what has had requests, those of no model too: all zero at first."""
        found = dict(self._by_labels)
        for pool in shown_pools(self._pools):
            if pool.labels not in found:
                found[pool.labels] = PoolStatistics()
        if _NO_MODEL not in found:
            found[_NO_MODEL] = PoolStatistics()
        return found


class DispatchCollector(SteppedCollector):
    """What every pool has decided, and who waits for it."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        held = gauge("queue_requests", "Requests that are held for their turn.", DEPLOYMENT)
        held_tokens = gauge("queue_tokens", "Expected tokens of held requests.", DEPLOYMENT)
        orphans = counter("kv_event_orphans", "Blocks told of whose parents were not known.")
        stale = gauge("stale_replicas", "Replicas whose reading is out of date.", DEPLOYMENT)
        closed = counter("closed", "Replicas that were closed to a request as it came.", "reason")
        arrivals = counter("arrivals", "Requests that asked for it, whatever became of them.")
        would_hold = counter("would_hold", "Requests that would have been held, observing.")
        now = self._pools.now_seconds()
        asked: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        waiting_tokens: Counter[tuple[str, str]] = Counter()
        for pool in shown_pools(self._pools):
            yield None
            pool_labels = pool.labels
            # A pool may be of several ModelDeployments, and one of those in another pool, too.
            asked.update(pool.arrivals)
            for labels, (count, num_tokens) in pool.held.items():
                waiting[labels] += count
                waiting_tokens[labels] += num_tokens
            counts = {why.value: count for why, count in pool.dispatcher.closed_counts.items()}
            for why, count in with_zeros(counts, CLOSED_REASONS).items():
                closed.add_metric((*pool_labels, why), count)
            orphans.add_metric(pool_labels, pool.dispatcher.cached.blocks.num_orphans)
            would_hold.add_metric(pool_labels, pool.dispatcher.num_would_hold)
            stale.add_metric(pool_labels, pool.num_stale(now_seconds=now))
        for family, counted in (
            (arrivals, asked), (held, waiting), (held_tokens, waiting_tokens),
        ):  # fmt: skip
            for labels, count in counted.items():
                family.add_metric(labels, count)
        yield from (held, held_tokens, stale, closed, arrivals, would_hold, orphans)


class TargetsCollector(SteppedCollector):
    """Every pool's latency targets beside what its best replica needs with one request.

    What nobody knows yet has no series: 0 would read as "met".
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        tpot_target = gauge("tpot_target_seconds", "Time per output token asked.", DEPLOYMENT)
        ttft_target = gauge("ttft_target_seconds", "Time to the first token asked.", DEPLOYMENT)
        tpot = gauge(
            "tpot_alone_seconds",
            "Time per output token of the fastest replica with one request, as learned.",
            DEPLOYMENT,
        )
        ttft = gauge(
            "ttft_alone_seconds",
            "Prefill of a typical prompt on the fastest replica, as learned.",
            DEPLOYMENT,
        )
        unmet = gauge(
            "targets_unmet", "1 if no replica meets the targets even with one request.", DEPLOYMENT
        )
        for pool in shown_pools(self._pools):
            yield None
            labels, limits = pool.labels, pool.dispatcher.settings.limits
            tpot_target.add_metric(labels, limits.tpot_target_seconds)
            ttft_target.add_metric(labels, limits.ttft_target_seconds)
            alone = pool.targets.alone
            if alone.tpot_seconds is not None:
                tpot.add_metric(labels, alone.tpot_seconds)
            if alone.ttft_seconds is not None:
                ttft.add_metric(labels, alone.ttft_seconds)
            if pool.targets.are_met is not None:
                unmet.add_metric(labels, 0 if pool.targets.are_met else 1)
        yield from (tpot_target, ttft_target, tpot, ttft, unmet)


class PredictionsCollector(SteppedCollector):
    """Every pool's predictions compared with what happened, and whether it trusts them."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def steps(self) -> Iterator[Metric | None]:
        """The families; None is a place to pause."""
        ratios = HistogramMetricFamily(
            "memroute_router_prediction_ratio",
            "What happened over what was predicted, by what was predicted.",
            labels=(*DEPLOYMENT, "what"),
        )
        safe = gauge(
            "safe_mode",
            "1 while predictions are threefold off: routed by least request within memory.",
            DEPLOYMENT,
        )
        for pool in shown_pools(self._pools):
            yield None
            predictions = pool.dispatcher.predictions
            safe.add_metric(pool.labels, 0 if predictions.distrusted is None else 1)
            for which in Prediction:
                counts, total = predictions.histogram(which)
                running, buckets = 0, []
                bounds = (*(str(bound) for bound in RATIO_BUCKETS), "+Inf")
                for bound, count in zip(bounds, counts, strict=True):
                    running += count
                    buckets.append((bound, running))
                ratios.add_metric((*pool.labels, which.value), buckets, total)
        yield from (ratios, safe)
