"""By which settings a pool routes: its ModelDeployment's, and those that all pools share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from memroute.traffic.admission import AdmissionSettings, OverloadObjective, QueueLimits
from memroute.traffic.dispatch import AdmissionMode, DispatchSettings
from memroute.traffic.replica.reading import MAX_AGE_SECONDS
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND

DEFAULT_WATERMARK_RATIO = 0.95
DEFAULT_ASSUMED_OUTPUT_TOKENS: Final = 256
DEFAULT_TTFT_TARGET_SECONDS = 1.0
DEFAULT_TPOT_TARGET_SECONDS = 0.05
DEFAULT_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How a pool admits: the ``routing`` of its ModelDeployment."""

    namespace: str
    deployment: str
    watermark_ratio: float = DEFAULT_WATERMARK_RATIO
    assumed_output_tokens: int = DEFAULT_ASSUMED_OUTPUT_TOKENS
    policy: str = "memroute"
    prefill_tokens_per_second: float = LLM_D_TOKENS_PER_SECOND
    """Of one replica, as measured: for policies that have to be told (llm-d)."""
    admission: AdmissionMode = AdmissionMode.ENFORCE
    ttft_target_seconds: float = DEFAULT_TTFT_TARGET_SECONDS
    tpot_target_seconds: float = DEFAULT_TPOT_TARGET_SECONDS
    overload_objective: OverloadObjective = OverloadObjective.REQUESTS
    """Who is late when not all can be in time."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the traffic, by version; empty: memory alone decides."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that the replicas serve beside the model, by the names that clients send."""
    tokenizer_folder: str | None = None
    """Where its tokenizer is, if somewhere of its own."""
    unready_reason: str | None = None
    """Why its ModelDeployment is not ready, as its condition says in one word."""
    created_at: str = ""
    """Of its ModelDeployment, RFC 3339: the oldest has an adapter's name that several ask for."""
    served_by: frozenset[str] = frozenset()
    """All ModelDeployments that may serve the model, with replicas or without, as
    ``namespace/name``; empty where there are none (a file says what is served)."""

    def dispatch(self, common: "CommonSettings") -> DispatchSettings:
        """The same, as decisions read it."""
        return DispatchSettings(
            waits_for_replicas=common.waits_for_replicas,
            max_age_seconds=common.max_age_seconds,
            policy=self.policy,
            prefill_tokens_per_second=self.prefill_tokens_per_second,
            admission=self.admission,
            shares=self.shares,
            limits=AdmissionSettings(
                watermark_ratio=self.watermark_ratio,
                ttft_target_seconds=self.ttft_target_seconds,
                tpot_target_seconds=self.tpot_target_seconds,
                objective=self.overload_objective,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """What is the same for every pool of a router."""

    queue_limits: QueueLimits
    waits_for_replicas: bool = False
    """Whether requests are held while no replica is ready."""
    max_age_seconds: float = MAX_AGE_SECONDS
    """Of a replica's readings: an older one is not trusted."""
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    """Replicas that one request may be sent to."""
