"""What became of each request, and what that says of a run.

Definitions: TTFT counts from the *intended* send; TPOT is (last - first) / (output - 1) and
undefined for one token; attainment is the share of requests *offered* that met every limit, so
that what was shed, failed or left unfinished is a miss; goodput is the same per second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from memroute.traffic.admission.settings import OWN_PREFILL_RATIO
from memroute_simulator.virtual.mix import PLAIN, Asked
from memroute_simulator.workloads.lengths import percentile
from memroute_simulator.workloads.request import WorkloadRequest

NUM_FIFTHS = 5
PLAINLY = PLAIN.draw("", 0)


class OutcomeStatus(StrEnum):
    """How a request ended."""

    OPEN = "open"
    SERVED = "served"
    SHED = "shed"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    LEFT = "left"
    """Its client left while it was under way: nobody's miss, and no request to judge."""


@dataclass(slots=True, kw_only=True, eq=False)
class Outcome:
    """One request of a run."""

    number: int
    asked: WorkloadRequest
    sent_seconds: float
    """When the client meant to send it, for the first time."""
    asked_how: Asked = PLAINLY
    """What it is like beside its lengths."""
    idle_prefill_seconds: float = 0.0
    """What its prompt alone takes on the fastest idle replica, nothing of it cached."""
    num_attempts: int = 0
    """Of its client."""
    status: OutcomeStatus = OutcomeStatus.OPEN
    first_token_seconds: float | None = None
    ended_seconds: float | None = None
    why: str = ""
    retry_after_seconds: float | None = None
    drained_seconds: float | None = None
    """How long what waited when it was refused then took to be given room; None: it never was."""
    tried: list[str] = field(default_factory=list)
    """Replicas, in the order of the attempts."""
    num_preemptions: int = 0
    num_hit_tokens: int = 0
    cancel: Callable[[], None] | None = None
    """Takes the attempt that is under way back."""

    def end(self, status: OutcomeStatus, now_seconds: float, why: str = "") -> None:
        """The request is over."""
        self.status, self.ended_seconds, self.why = status, now_seconds, why

    def begin_again(self) -> None:
        """Its client tries once more; what has come so far was not used."""
        self.status, self.ended_seconds, self.why = OutcomeStatus.OPEN, None, ""
        self.first_token_seconds = None
        self.tried.clear()

    @property
    def may_come_back(self) -> bool:
        """Whether trying again makes sense: some refusals are for good."""
        if self.status is OutcomeStatus.SHED:
            return self.retry_after_seconds is not None
        return self.status is OutcomeStatus.TIMED_OUT

    @property
    def ttft_seconds(self) -> float | None:
        """From the intended send to the first token."""
        if self.first_token_seconds is None:
            return None
        return self.first_token_seconds - self.sent_seconds

    @property
    def e2e_seconds(self) -> float | None:
        """From the intended send to the end of a whole answer."""
        if self.status is not OutcomeStatus.SERVED or self.ended_seconds is None:
            return None
        return self.ended_seconds - self.sent_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time per token after the first; None for one token."""
        outputs = self.asked.num_output_tokens
        if self.e2e_seconds is None or self.ttft_seconds is None or outputs <= 1:
            return None
        return (self.e2e_seconds - self.ttft_seconds) / (outputs - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTarget:
    """An SLO: all of it must be met.

    A prompt that takes longer than the TTFT target on an idle replica is judged by what can be met:
    ``OWN_PREFILL_RATIO`` times what it takes there.
    """

    ttft_seconds: float = 1.0
    tpot_seconds: float = 0.05

    def ttft_of(self, outcome: Outcome) -> float:
        """The first token's target for one request, in seconds."""
        return max(self.ttft_seconds, OWN_PREFILL_RATIO * outcome.idle_prefill_seconds)

    def is_met(self, outcome: Outcome) -> bool:
        """Whether a request was served within the limits."""
        if outcome.status is not OutcomeStatus.SERVED or outcome.ttft_seconds is None:
            return False
        tpot = outcome.tpot_seconds
        return outcome.ttft_seconds <= self.ttft_of(outcome) and (
            tpot is None or tpot <= self.tpot_seconds
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one kind, over the requests that have it. Seconds; None where none has."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Latency":
        """The summary of a list."""
        if not values:
            return cls(mean=None, p50=None, p90=None, p99=None)
        ordered = sorted(values)
        return cls(
            mean=sum(ordered) / len(ordered),
            p50=percentile(ordered, 50),
            p90=percentile(ordered, 90),
            p99=percentile(ordered, 99),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in figures."""

    num_offered: int
    num_served: int
    num_shed: int
    num_failed: int
    """Timed out and unfinished ones too."""
    span_seconds: float
    """From the first send to the last end."""
    ttft: Latency
    tpot: Latency
    e2e: Latency
    attainment_ratio: float
    goodput_per_second: float
    output_tokens_per_second: float
    goodput_tokens_per_second: float
    """Prompt and output tokens of the requests that met every limit."""
    token_attainment_ratio: float
    """Of the tokens offered, those of requests that met every limit."""
    size_attainment_ratios: tuple[float, ...]
    """Attainment by fifths of the requests, in the order of their tokens: shortest first."""
    num_preemptions: int
    prefix_hit_ratio: float
    """Share of the prompt tokens of served requests that were cached."""
    jain_index: float | None
    """Of tenants' attainment; None with one tenant."""


def summarize(outcomes: Sequence[Outcome], target: LatencyTarget) -> Summary:
    """The figures of some outcomes; those whose clients have left are not among them."""
    outcomes = [o for o in outcomes if o.status is not OutcomeStatus.LEFT]
    served = [o for o in outcomes if o.status is OutcomeStatus.SERVED]
    shed = sum(o.status is OutcomeStatus.SHED for o in outcomes)
    first = min((o.sent_seconds for o in outcomes), default=0.0)
    last = max((o.ended_seconds or first for o in outcomes), default=first)
    span = max(last - first, 1e-9)
    is_met = [target.is_met(o) for o in outcomes]
    met = sum(is_met)
    sizes = [o.asked.num_prompt_tokens + o.asked.num_output_tokens for o in outcomes]
    met_tokens = sum(size for size, good in zip(sizes, is_met, strict=True) if good)
    tokens = sum(o.asked.num_output_tokens for o in served)
    prompts = sum(o.asked.num_prompt_tokens for o in served)
    return Summary(
        num_offered=len(outcomes),
        num_served=len(served),
        num_shed=shed,
        num_failed=len(outcomes) - len(served) - shed,
        span_seconds=span,
        ttft=Latency.of([o.ttft_seconds for o in served if o.ttft_seconds is not None]),
        tpot=Latency.of([o.tpot_seconds for o in served if o.tpot_seconds is not None]),
        e2e=Latency.of([o.e2e_seconds for o in served if o.e2e_seconds is not None]),
        attainment_ratio=met / len(outcomes) if outcomes else 0.0,
        goodput_per_second=met / span,
        output_tokens_per_second=tokens / span,
        goodput_tokens_per_second=met_tokens / span,
        token_attainment_ratio=met_tokens / sum(sizes) if outcomes else 0.0,
        size_attainment_ratios=_by_fifths(sizes, is_met),
        num_preemptions=sum(o.num_preemptions for o in outcomes),
        prefix_hit_ratio=sum(o.num_hit_tokens for o in served) / prompts if prompts else 0.0,
        jain_index=_jain(outcomes, target),
    )


def _by_fifths(sizes: Sequence[int], is_met: Sequence[bool]) -> tuple[float, ...]:
    """Attainment of each fifth of the requests, shortest first; empty with fewer than five."""
    if len(sizes) < NUM_FIFTHS:
        return ()
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    bounds = [len(order) * fifth // NUM_FIFTHS for fifth in range(NUM_FIFTHS + 1)]
    return tuple(
        sum(is_met[index] for index in order[start:end]) / (end - start)
        for start, end in pairwise(bounds)
    )


def _jain(outcomes: Sequence[Outcome], target: LatencyTarget) -> float | None:
    offered: dict[str, int] = {}
    met: dict[str, int] = {}
    for outcome in outcomes:
        tenant = outcome.asked.tenant
        offered[tenant] = offered.get(tenant, 0) + 1
        met[tenant] = met.get(tenant, 0) + target.is_met(outcome)
    if len(offered) < 2:  # noqa: PLR2004 - fairness needs two
        return None
    shares = [met[tenant] / offered[tenant] for tenant in offered]
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None
