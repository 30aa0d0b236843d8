"""A replica: what discovery says of it, and what decisions know of it."""

import math
from dataclasses import dataclass

from memroute.traffic.dispatch import Backend
from memroute.traffic.replica import HostCache, ReplicaHealth, ReplicaLedger, SleepPhase
from memroute_router.http.client import Endpoint, Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """A replica as discovery sees it."""

    namespace: str
    pod: str
    deployment: str
    """The name of its ModelDeployment; where it has none, what else is told instead of that."""
    served_model: str
    endpoint: Endpoint
    promised_capacity_tokens: int | None
    max_context_tokens: int | None
    is_routable: bool
    """Ready by its kubelet's last word, awake, not draining, not terminating."""
    version: str = ""
    """Of the model: what shares of the traffic are given to."""
    weight_ratio: float = 1.0
    """Of its share, relative to other replicas, beside what is measured of them."""
    uid: str = ""
    """Of its pod: another is another engine, whatever its name and address; empty: none."""
    adapters: frozenset[str] | None = None
    """The LoRA adapters that it has loaded; None: nobody knows, so it may have any."""
    host: HostCache | None = None
    """KV cache on its host; None: there is none, or nobody says."""
    sleep: SleepPhase | None = None
    """Of one that would be routable if it were awake; None: it is, or would not be."""
    wake_seconds: float | None = None
    """How long it takes to wake, as predicted; None: unknown."""

    @property
    def key(self) -> str:
        """``namespace/pod``."""
        return f"{self.namespace}/{self.pod}" if self.namespace else self.pod


class Replica:
    """A replica, and what decisions know of it."""

    def __init__(self, info: ReplicaInfo, ledger: ReplicaLedger) -> None:
        self.info = info
        self.backend = Backend(ledger, is_routable=info.is_routable, version=info.version)
        self.upstream = Upstream(info.endpoint)
        """The connections to it: no other replica's, whatever its address."""
        self.missing_metrics: set[str] = set()
        """Families that its metrics page should have and has not: their values are unknown."""
        self.num_failed_readings = 0
        self.num_event_gaps = 0
        """Times when KV events of it were lost on the way."""
        self.awake_since_seconds = -math.inf
        """When it woke: its readings are as old as its sleep until it is read anew."""

    @property
    def labels(self) -> tuple[str, str]:
        """Namespace and name of its ModelDeployment."""
        return self.info.namespace, self.info.deployment

    @property
    def ledger(self) -> ReplicaLedger:
        """What it holds, and how fast it is."""
        return self.backend.ledger

    @property
    def health(self) -> ReplicaHealth:
        """Whether it may be tried."""
        return self.backend.health
