"""How one pool admits and routes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.replica.reading import MAX_AGE_SECONDS
from memroute.traffic.routing.cost import MEMROUTE
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND


class AdmissionMode(StrEnum):
    """What becomes of a verdict against a request."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    """It is counted, and the request sent all the same."""
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """How one pool admits and routes."""

    policy: str = MEMROUTE
    admission: AdmissionMode = AdmissionMode.ENFORCE
    waits_for_replicas: bool = False
    """Whether requests are held while no replica is ready: one may be starting."""
    max_age_seconds: float = MAX_AGE_SECONDS
    """A replica whose last reading is older comes after all others."""
    limits: AdmissionSettings = field(default_factory=AdmissionSettings)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the traffic, by the replicas' version, in any unit; empty: all compete. A version with
    none gets nothing; one whose replicas are all out leaves its requests to the others."""
    prefill_tokens_per_second: float = LLM_D_TOKENS_PER_SECOND
    """What one replica computes of prompts, as an operator has calibrated it: read by ``llm-d``
    alone, whose default it is."""
