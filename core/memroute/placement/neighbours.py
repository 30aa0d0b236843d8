"""Which pods a replica must, must not or should rather not be beside, by kube-scheduler's rules.

Required pod affinity, pod anti-affinity and topology spread are facts of pods and nodes: a node
that kube-scheduler would refuse for them is not chosen. Preferences decide among nodes that have
room. One topology is memroute's own: ``memroute.dev/device``, which no node has as a label, so
that kube-scheduler passes over it.

Source: ``pkg/scheduler/framework/plugins/{interpodaffinity,podtopologyspread}`` of Kubernetes 1.37.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from memroute.placement.scheduling import LabelOperator, LabelRequirement

# The topology of one accelerator: pods that must not share memory with each other.
DEVICE_TOPOLOGY = "memroute.dev/device"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTerm:
    """Pods of a kind in one domain of a topology."""

    topology_key: str
    selector: tuple[LabelRequirement, ...] | None
    """All of these; an empty one matches every pod, None matches none."""
    namespaces: frozenset[str] | None
    """None: all of them."""

    def matches(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether a pod is of that kind."""
        if self.selector is None:
            return False
        if self.namespaces is not None and namespace not in self.namespaces:
            return False
        return all(one.matches(labels) for one in self.selector)

    def pairs(self) -> Iterator[tuple[str, str]] | None:
        """Labels of which every pod of the kind has one; None where no label says so."""
        for one in self.selector or ():
            if one.operator is LabelOperator.IN:
                return ((one.key, value) for value in one.values)
        return None

    def __str__(self) -> str:
        """``zone of pods with app In [a]``."""
        said = ", ".join(map(str, self.selector or ())) or "any label"
        return f"{self.topology_key} of pods with {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadConstraint:
    """How evenly pods of a kind are to lie over the domains of a topology."""

    term: PodTerm
    max_skew: int = 1
    min_domains: int = 1
    is_required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourNeeds:
    """What a replica asks of the pods around it, and what it is to them."""

    labels: tuple[tuple[str, str], ...] = ()
    """Its pod's own."""
    apart: tuple[PodTerm, ...] = ()
    """Must not be in a domain with such pods, and they not with it."""
    together: tuple[PodTerm, ...] = ()
    """Must be in a domain with such pods."""
    spreads: tuple[SpreadConstraint, ...] = ()
    rather_apart: tuple[tuple[int, PodTerm], ...] = ()
    """With weights; they decide among nodes that have room."""
    rather_together: tuple[tuple[int, PodTerm], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it asks nothing."""
        return not (
            self.apart or self.together or self.spreads or self.rather_apart or self.rather_together
        )


ANY_NEIGHBOURS = NeighbourNeeds()
"""It asks nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A pod that is there, or is about to be."""

    owner: str
    """``namespace/name``, or what it is in words."""
    namespace: str
    node: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    apart: tuple[PodTerm, ...] = ()
    """Which pods must not be in a domain with it."""
    device_uuids: tuple[str, ...] = ()
    is_ending: bool = False
    """Whether it is Terminating: it counts for affinity, and no more for spreads."""
