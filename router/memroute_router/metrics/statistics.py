"""Requests counted in plain numbers: a microsecond for each, not ten.

They become families of metrics when somebody asks.
"""

from bisect import bisect_left
from typing import Final

from prometheus_client.core import HistogramMetricFamily

from memroute.traffic.admission import AdmissionSettings
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.log.journal import Record

# Looked up once, not for every request.
_SERVED: Final = Outcome.SERVED
# Seconds of whole requests and of first tokens. Unit: seconds. Source: chosen by hand.
LATENCY_BUCKETS: Final = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
]  # fmt: skip
# Seconds per output token: 5 ms is a small model alone, 50 ms the default target, and people read
# about 0.1 s per token. Unit: seconds. Source: chosen by hand.
TPOT_BUCKETS: Final = [
    0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.5, 1.0, 2.5,
]  # fmt: skip
# The three things that a stream is judged by, in the order of ``PoolStatistics.within``.
TARGETS: Final = ("ttft", "tpot", "both")


class LatencyHistogram:
    """Counts by bucket. Owns them."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: list[float]) -> None:
        """``bounds``: the upper ends of its buckets, in seconds."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Write it out, cumulated as the format wants it."""
        total = 0
        buckets = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family.add_metric(labels, buckets, self._sum)


class PoolStatistics:
    """What happened to the requests of one pool. Owns its counts."""

    __slots__ = (
        "admitted_tokens", "cached_tokens", "estimated_output_tokens", "estimated_prompt_tokens",
        "first_byte", "missed", "num_broken_tokens", "output_tokens", "prompt_tokens", "queue",
        "requests", "retries", "seconds", "shed_tokens", "tpot", "ttft", "within",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests: dict[Outcome, int] = {}
        self.shed_tokens: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.admitted_tokens = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.estimated_prompt_tokens = 0
        """Of requests whose engine did not say: as the router has sized them."""
        self.estimated_output_tokens = 0
        """Of streams whose engine did not say: as the router has counted their events."""
        self.num_broken_tokens = 0
        """Of all output, what was made for answers that came to no good end."""
        self.first_byte = LatencyHistogram(LATENCY_BUCKETS)
        self.seconds = LatencyHistogram(LATENCY_BUCKETS)
        self.queue = LatencyHistogram(LATENCY_BUCKETS)
        self.ttft = LatencyHistogram(LATENCY_BUCKETS)
        self.tpot = LatencyHistogram(TPOT_BUCKETS)
        self.within = [0, 0, 0]
        """Streams that met their target: of the first token, of each token, of both."""
        self.missed = [0, 0, 0]

    def ended(self, record: Record, limits: AdmissionSettings | None = None) -> None:
        """A request has ended. ``limits``: of its pool, with the latency targets."""
        outcome = record.outcome
        self.requests[outcome] = self.requests.get(outcome, 0) + 1
        if record.queue_seconds is not None:
            self.queue.observe(record.queue_seconds)
        self._count_output(record, is_served=outcome is _SERVED)
        if outcome is _SERVED:
            self.admitted_tokens += record.expected_tokens
            self.seconds.observe(record.seconds)
            if record.first_byte_seconds is not None:
                self.first_byte.observe(record.first_byte_seconds)
            if record.prompt_tokens is not None:
                self.prompt_tokens += record.prompt_tokens
            else:
                self.estimated_prompt_tokens += record.expected_prompt_tokens
            self.cached_tokens += record.cached_tokens or 0
            if record.ttft_seconds is not None:
                self._count_stream(record, record.ttft_seconds, limits)

    def _count_output(self, record: Record, *, is_served: bool) -> None:
        """What the engine has produced, also for an answer that nobody read to its end."""
        told = record.output_tokens
        if told is not None:
            num_tokens = told
            self.output_tokens += num_tokens
        else:
            num_tokens = record.streamed_tokens
            self.estimated_output_tokens += num_tokens
        if not is_served:
            self.num_broken_tokens += num_tokens

    def _count_stream(
        self, record: Record, ttft_seconds: float, limits: AdmissionSettings | None
    ) -> None:
        """How fast a stream was that came to its end, and whether that was in time."""
        self.ttft.observe(ttft_seconds)
        told = record.output_tokens
        num_tokens = record.streamed_tokens if told is None else told
        tpot_seconds = 0.0
        if num_tokens > 1:
            tpot_seconds = max(0.0, record.seconds - ttft_seconds) / (num_tokens - 1)
            self.tpot.observe(tpot_seconds)
        choice = record.choice
        if limits is None or (choice is not None and choice.waited_for_wake):
            # Whoever lets a model sleep has chosen that its first request is late.
            return
        is_first_in_time = ttft_seconds <= limits.ttft_target_seconds
        is_each_in_time = tpot_seconds <= limits.tpot_target_seconds
        within, missed = self.within, self.missed
        (within if is_first_in_time else missed)[0] += 1
        if num_tokens > 1:
            (within if is_each_in_time else missed)[1] += 1
        (within if is_first_in_time and is_each_in_time else missed)[2] += 1

    def shed(self, reason: str, expected_tokens: int) -> None:
        """A request was refused."""
        self.shed_tokens[reason] = self.shed_tokens.get(reason, 0) + expected_tokens

    def retried(self, cause: str) -> None:
        """A request goes to another replica."""
        self.retries[cause] = self.retries.get(cause, 0) + 1
