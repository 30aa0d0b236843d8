"""Requests counted in plain numbers: a microsecond for each, not ten.

They become families of metrics when somebody asks.
"""

from typing import Final

from prometheus_client.core import HistogramMetricFamily

from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.log.journal import Record

# Looked up once, not for every request.
_SERVED: Final = Outcome.SERVED
_LATENCY_BUCKETS: Final = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
]  # fmt: skip
_NUM_BUCKETS: Final = len(_LATENCY_BUCKETS)


class LatencyHistogram:
    """Counts by bucket. Owns them."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(_LATENCY_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        bucket = 0
        while bucket < _NUM_BUCKETS and seconds > _LATENCY_BUCKETS[bucket]:
            bucket += 1
        self._counts[bucket] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Write it out, cumulated as the format wants it."""
        total = 0
        buckets = []
        for bound, count in zip((*_LATENCY_BUCKETS, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family.add_metric(labels, buckets, self._sum)


class PoolStatistics:
    """What happened to the requests of one pool. Owns its counts."""

    __slots__ = (
        "admitted_tokens", "cached_tokens", "first_byte", "output_tokens", "prompt_tokens",
        "queue", "requests", "retries", "seconds", "shed_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests: dict[Outcome, int] = {}
        self.shed_tokens: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.admitted_tokens = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.first_byte = LatencyHistogram()
        self.seconds = LatencyHistogram()
        self.queue = LatencyHistogram()

    def ended(self, record: Record) -> None:
        """A request has ended."""
        outcome = record.outcome
        self.requests[outcome] = self.requests.get(outcome, 0) + 1
        if record.queue_seconds is not None:
            self.queue.observe(record.queue_seconds)
        if outcome is _SERVED:
            self.admitted_tokens += record.expected_tokens
            self.seconds.observe(record.seconds)
            if record.first_byte_seconds is not None:
                self.first_byte.observe(record.first_byte_seconds)
            self.prompt_tokens += record.prompt_tokens or 0
            self.cached_tokens += record.cached_tokens or 0
            self.output_tokens += record.output_tokens or 0

    def shed(self, reason: str, expected_tokens: int) -> None:
        """A request was refused."""
        self.shed_tokens[reason] = self.shed_tokens.get(reason, 0) + expected_tokens

    def retried(self, cause: str) -> None:
        """A request goes to another replica."""
        self.retries[cause] = self.retries.get(cause, 0) + 1
