"""How much HBM the replicas of a namespace may hold together, and why one waits for that.

What counts is what was promised, on all devices of a replica: on a whole device that is the whole
device, because nobody else can have the rest. A replica counts until its pod has gone. A quota
decides about new placements alone: nothing leaves because a quota was lowered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from memroute.placement.problem import Refused, RefusedReason, ReplicaKey
from memroute.units import format_gib

# A name that no namespace can have: the quota of each namespace that has none of its own.
DEFAULT_KEY = "_default"


@dataclass(frozen=True, slots=True, kw_only=True)
class HBMQuotas:
    """The quotas of all namespaces, in bytes."""

    by_namespace: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    default_bytes: int | None = None
    """Of each namespace without a quota of its own; None: such a namespace has no limit."""
    unreadable: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What cannot be read, by namespace (or ``DEFAULT_KEY``): nothing new is placed there."""
    unknown: str | None = None
    """Why nobody knows any quota; None when they are known."""

    @property
    def is_unlimited(self) -> bool:
        """Whether no namespace has a limit."""
        return not self.by_namespace and self.default_bytes is None and not self.has_problems

    @property
    def has_problems(self) -> bool:
        """Whether some quota is not known."""
        return bool(self.unreadable) or self.unknown is not None

    def limit_bytes(self, namespace: str) -> int | None:
        """The quota of a namespace; None: it has none, or nobody can read it."""
        return self.by_namespace.get(namespace, self.default_bytes)

    def problem(self, namespace: str) -> str | None:
        """Why the quota of a namespace is not known; None when it is."""
        if self.unknown is not None:
            return self.unknown
        if namespace in self.unreadable:
            return self.unreadable[namespace]
        return None if namespace in self.by_namespace else self.unreadable.get(DEFAULT_KEY)


NO_QUOTAS = HBMQuotas()


def refusal(
    quotas: HBMQuotas, key: ReplicaKey, *, held_bytes: int, needed_bytes: int, freed_bytes: int = 0
) -> Refused | None:
    """Why a replica waits for the quota of its namespace; None when it need not.

    ``held_bytes``: by the other replicas of the namespace. ``freed_bytes``: what the replica that
    it replaces held: who takes no more than that exceeds nothing that was not exceeded before.
    """
    if quotas.is_unlimited or needed_bytes <= freed_bytes:
        return None
    namespace = key.namespace
    problem = quotas.problem(namespace)
    if problem is not None:
        message = (
            f"needs {format_gib(needed_bytes)}, and the HBM quota of namespace {namespace} is not "
            f"known ({problem}); it is read again every ten seconds"
        )
        return Refused(key=key, reason=RefusedReason.QUOTA_UNKNOWN, message=message)
    limit = quotas.limit_bytes(namespace)
    if limit is None or held_bytes + needed_bytes <= limit:
        return None
    cure = (
        "it is placed once others of the namespace leave, or its quota is raised"
        if needed_bytes <= limit
        else "it is more than all of the quota"
    )
    message = (
        f"needs {format_gib(needed_bytes)}, and namespace {namespace} has {format_gib(held_bytes)} "
        f"of its quota of {format_gib(limit)}; {cure}"
    )
    return Refused(key=key, reason=RefusedReason.QUOTA_EXCEEDED, message=message)


def excess(quotas: HBMQuotas, namespace: str, held_bytes: int) -> str | None:
    """That a namespace holds more than its quota, as a sentence; None when it does not."""
    limit = quotas.limit_bytes(namespace)
    if limit is None or held_bytes <= limit or quotas.problem(namespace) is not None:
        return None
    return (
        f"namespace {namespace} has {format_gib(held_bytes)}, and a quota of {format_gib(limit)}: "
        f"nothing is evicted for that, and new replicas wait"
    )
