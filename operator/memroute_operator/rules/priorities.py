"""What a replica is worth beside others: its PriorityClass, as Kubernetes resolves it.

A pod without a class has the global default's, where there is one, and 0 where there is none. Of
several global defaults Kubernetes takes the lowest. Who may use which class is an
administrator's to say (a ResourceQuota with the scope PriorityClass).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from memroute_kube import KubeObject
from memroute_kube.shapes import mapping

# Kubernetes' own words for what a pod of a class may do to lower ones.
PREEMPTS, NEVER = "PreemptLowerPriority", "Never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    """The priority of a pod."""

    value: int = 0
    class_name: str | None = None
    may_preempt: bool = True
    """Whether its class lets it take the place of lower ones."""


NO_CLASS = Priority()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityClasses:
    """All PriorityClasses of the cluster."""

    by_name: Mapping[str, Priority] = field(default_factory=lambda: MappingProxyType({}))
    default: Priority = NO_CLASS

    def of(self, name: str | None) -> Priority | None:
        """The priority of a pod that names that class; None when nobody knows the class."""
        return self.by_name.get(name) if name else self.default


NO_CLASSES = PriorityClasses()


def read_priority_classes(objects: Iterable[KubeObject]) -> PriorityClasses:
    """The classes; what is none is left out. Raises nothing."""
    found: dict[str, Priority] = {}
    defaults: list[Priority] = []
    for obj in objects:
        name, value = mapping(obj.get("metadata")).get("name"), obj.get("value", 0)
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int):
            continue
        may = obj.get("preemptionPolicy", PREEMPTS) != NEVER
        found[name] = Priority(value=value, class_name=name, may_preempt=may)
        if obj.get("globalDefault") is True:
            defaults.append(found[name])
    default = min(defaults, key=lambda one: one.value, default=NO_CLASS)
    return PriorityClasses(by_name=MappingProxyType(found), default=default)
