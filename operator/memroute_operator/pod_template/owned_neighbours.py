"""What a template may not ask of other pods, because nobody could judge it."""

from collections.abc import Iterator, Mapping
from typing import Any

from memroute.placement import DEVICE_TOPOLOGY

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def neighbour_refusals(spec: Mapping[str, Any], where: str) -> Iterator[str]:
    """A sentence for each such term of a pod's spec."""
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        for term, path in _terms(affinity.get(kind) or {}, f"{where}.affinity.{kind}"):
            if term.get("namespaceSelector"):
                yield (
                    f"{path}.namespaceSelector must not name labels, because memroute judges pods "
                    "before it places and reads no labels of namespaces: list them in namespaces, "
                    "or use {} for all"
                )
            if kind == "podAffinity" and term.get("topologyKey") == DEVICE_TOPOLOGY:
                yield (
                    f"{path}.topologyKey must not be {DEVICE_TOPOLOGY}, because no node has such "
                    "a label: it is for podAntiAffinity"
                )
    for index, one in enumerate(spec.get("topologySpreadConstraints") or ()):
        if one.get("topologyKey") == DEVICE_TOPOLOGY:
            yield (
                f"{where}.topologySpreadConstraints[{index}].topologyKey must not be "
                f"{DEVICE_TOPOLOGY}, because no node has such a label: use podAntiAffinity"
            )


def _terms(said: Mapping[str, Any], where: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each term, and where it is."""
    for index, one in enumerate(said.get(REQUIRED) or ()):
        yield one, f"{where}.{REQUIRED}[{index}]"
    for index, one in enumerate(said.get(PREFERRED) or ()):
        yield one["podAffinityTerm"], f"{where}.{PREFERRED}[{index}].podAffinityTerm"
