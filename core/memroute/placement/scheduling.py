"""What kube-scheduler asks of a node and a pod, as far as it does not change by the minute.

Placement chooses the node, and kube-scheduler has the last word: a node that it would refuse must
not be chosen, and one that the pod tolerates must not be left out. Taints, node selectors and
*required* node affinity are facts of the two objects and are judged here by its rules. What depends
on other pods (pod affinity, topology spread, CPU and memory that are free) stays its own: where it
refuses a node, placement tries another one.

Source: ``k8s.io/component-helpers/scheduling/corev1`` of Kubernetes 1.37.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class TaintEffect(StrEnum):
    """Effects that keep a pod away. ``PreferNoSchedule`` keeps none away."""

    NO_SCHEDULE = "NoSchedule"
    NO_EXECUTE = "NoExecute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """What keeps pods off a node that do not tolerate it."""

    key: str
    effect: TaintEffect
    value: str = ""

    def __str__(self) -> str:
        """``key=value:effect``, as ``kubectl taint`` takes it."""
        return (
            f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """What a pod tolerates; an empty field is any."""

    key: str = ""
    value: str = ""
    effect: str = ""
    is_any_value: bool = False
    """``operator: Exists``."""

    def tolerates(self, taint: Taint) -> bool:
        """Whether a node with that taint may take the pod as far as this goes."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return self.is_any_value or (bool(self.key) and self.value == taint.value)


class LabelOperator(StrEnum):
    """How a label is compared, in the API's own words."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GREATER = "Gt"
    LESS = "Lt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequirement:
    """One demand on a node's labels."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with those labels meets it."""
        found = labels.get(self.key)
        match self.operator:
            case LabelOperator.IN:
                return found is not None and found in self.values
            case LabelOperator.NOT_IN:
                return found is None or found not in self.values
            case LabelOperator.EXISTS:
                return found is not None
            case LabelOperator.DOES_NOT_EXIST:
                return found is None
            case LabelOperator.GREATER | LabelOperator.LESS:
                return self._compares(found)

    def _compares(self, found: str | None) -> bool:
        number = None if found is None else _integer(found)
        limit = _integer(self.values[0]) if len(self.values) == 1 else None
        if number is None or limit is None:
            return False
        return number > limit if self.operator is LabelOperator.GREATER else number < limit

    def __str__(self) -> str:
        """``key In [a, b]``."""
        return f"{self.key} {self.operator}" + (
            f" [{', '.join(self.values)}]" if self.values else ""
        )


# What a term calls the node's name: the only field that the API knows there.
NAME_FIELD = "metadata.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTerm:
    """One ``nodeSelectorTerm``: all of it must hold. An empty one matches no node."""

    labels: tuple[LabelRequirement, ...] = ()
    names: tuple[LabelRequirement, ...] = ()
    """On the node's name (``matchFields``)."""

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether that node meets the term."""
        if not self.labels and not self.names:
            return False
        return all(one.matches(labels) for one in self.labels) and all(
            one.matches({NAME_FIELD: name}) for one in self.names
        )


# kube-scheduler's words for the two refusals.
UNTOLERATED = "untolerated taint"
AFFINITY_MISMATCH = "didn't match Pod's node affinity/selector"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingNeeds:
    """What a pod asks of its node beside room."""

    tolerations: tuple[Toleration, ...] = ()
    """Beside those of accelerators and of shared devices, which every replica has."""
    terms: tuple[NodeTerm, ...] | None = None
    """One of these must match; None: any node will do."""

    def refusal(self, name: str, labels: Mapping[str, str], taints: Iterable[Taint]) -> str | None:
        """Why that node may not take the pod, in kube-scheduler's words; None when it may."""
        for taint in taints:
            if not any(one.tolerates(taint) for one in self.tolerations):
                return f"{UNTOLERATED} {taint}"
        if self.terms is not None and not any(one.matches(name, labels) for one in self.terms):
            return AFFINITY_MISMATCH
        return None


ANYWHERE = SchedulingNeeds()
"""No demand, and nothing tolerated."""


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
