"""How one pool admits and routes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.replica.reading import MAX_AGE_SECONDS
from memroute.traffic.routing.cost import MEMROUTE
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND


class AdmissionMode(StrEnum):
    """What happens to a request that admission would hold."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    """The request is counted, and sent all the same."""
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """How one pool admits and routes."""

    policy: str = MEMROUTE
    admission: AdmissionMode = AdmissionMode.ENFORCE
    waits_for_replicas: bool = False
    """Whether requests are held while no replica is ready: one may be starting."""
    max_age_seconds: float = MAX_AGE_SECONDS
    """Seconds. A replica whose last reading is older is chosen after all others."""
    limits: AdmissionSettings = field(default_factory=AdmissionSettings)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Shares of the traffic by version, in any unit; empty: all versions compete. A version without
    a share gets nothing. Where all its replicas are out, its requests go to the other versions."""
    prefill_tokens_per_second: float = LLM_D_TOKENS_PER_SECOND
    """Prompt tokens that one replica computes per second, as calibrated by a person. Only the
    policy ``llm-d`` reads it, and the default is llm-d's."""
