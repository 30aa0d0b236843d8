"""What all requests of a router share. Made once, in ``app.py``."""

from dataclasses import dataclass

from memroute_router.access.engine_key import EngineKey
from memroute_router.access.gate import Gate
from memroute_router.access.proxies import TrustedProxies
from memroute_router.http.engine_pool import EnginePool
from memroute_router.http.faults import OnFault
from memroute_router.lifecycle.intake import IntakeServices
from memroute_router.lifecycle.isolation import Isolation
from memroute_router.log.journal import Journal
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.tracing.tracer import Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleLimits:
    """How long."""

    first_byte_seconds: float
    stalled_engine_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all requests of a router share."""

    intake: IntakeServices
    engines: EnginePool
    metrics: RouterMetrics
    journal: Journal
    limits: LifecycleLimits
    isolation: Isolation
    on_fault: OnFault
    id_prefix: bytes
    """Of the ids of requests that bring none; different for each router process."""
    explains: bool = True
    """Whether clients that ask are told which replica answered, and why."""
    tracer: Tracer | None = None
    """None: nothing is traced."""
    trusts_headers: bool = False
    """Whether what header fields claim was checked before, whoever sends them."""
    proxies: TrustedProxies | None = None
    """Who else is believed; None: nobody."""
    gate: Gate | None = None
    """Who may ask; None: everybody."""
    engine_key: EngineKey | None = None
    """What the router authenticates with at engines; None: with what clients bring, or nothing."""
