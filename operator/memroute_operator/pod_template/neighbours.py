"""Pod affinity, anti-affinity and topology spread of a template, as placement reads them.

Defaults are those of the pod that is made of it: terms are about pods of the same namespace, and a
spread without a selector is about this ModelDeployment's replicas.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from memroute.placement import (
    LabelOperator,
    LabelRequirement,
    NeighbourNeeds,
    PodTerm,
    SpreadConstraint,
)
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.pod_template.owned import MANAGED_BY
from memroute_operator.pod_template.owned_neighbours import PREFERRED, REQUIRED


def own_labels(name: str, said: Mapping[str, Any]) -> dict[str, str]:
    """The labels of the replicas' pods, without that of the one replica."""
    theirs = (said.get("metadata") or {}).get("labels") or {}
    return {**theirs, LABEL_DEPLOYMENT: name, MANAGED_BY: "memroute"}


def read_neighbours(namespace: str, name: str, said: Mapping[str, Any]) -> NeighbourNeeds:
    """What ``spec.template`` asks of other pods. Raises ``KeyError`` and the like."""
    pod = said.get("spec") or {}
    affinity = pod.get("affinity") or {}
    labels = own_labels(name, said)

    def terms(kind: str) -> tuple[PodTerm, ...]:
        listed = (affinity.get(kind) or {}).get(REQUIRED) or ()
        return tuple(_term(one, namespace, labels) for one in listed)

    def preferred(kind: str) -> tuple[tuple[int, PodTerm], ...]:
        listed = (affinity.get(kind) or {}).get(PREFERRED) or ()
        return tuple(
            (int(one["weight"]), _term(one["podAffinityTerm"], namespace, labels)) for one in listed
        )

    return NeighbourNeeds(
        labels=tuple(sorted(labels.items())),
        apart=terms("podAntiAffinity"),
        together=terms("podAffinity"),
        spreads=tuple(
            _spread(one, namespace, labels) for one in pod.get("topologySpreadConstraints") or ()
        ),
        rather_apart=preferred("podAntiAffinity"),
        rather_together=preferred("podAffinity"),
    )


def apart_of(namespace: str, affinity: Any) -> tuple[PodTerm, ...]:
    """Which pods a running pod must be apart from; of what cannot be read, none."""
    try:
        listed = (affinity.get("podAntiAffinity") or {}).get(REQUIRED) or ()
        return tuple(_term(one, namespace, {}) for one in listed)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _term(said: Mapping[str, Any], namespace: str, labels: Mapping[str, str]) -> PodTerm:
    everywhere = said.get("namespaceSelector") is not None
    named = said.get("namespaces") or ()
    selector = _selector(said.get("labelSelector"))
    if selector is not None:
        more = _by_own_labels(said.get("matchLabelKeys"), labels, LabelOperator.IN)
        less = _by_own_labels(said.get("mismatchLabelKeys"), labels, LabelOperator.NOT_IN)
        selector = (*selector, *more, *less)
    return PodTerm(
        topology_key=str(said["topologyKey"]),
        selector=selector,
        namespaces=None if everywhere else frozenset(map(str, named or (namespace,))),
    )


def _spread(said: Mapping[str, Any], namespace: str, labels: Mapping[str, str]) -> SpreadConstraint:
    ours = {"matchLabels": {LABEL_DEPLOYMENT: labels[LABEL_DEPLOYMENT]}}
    selector = _selector(said.get("labelSelector", ours)) or ()
    more = _by_own_labels(said.get("matchLabelKeys"), labels, LabelOperator.IN)
    return SpreadConstraint(
        term=PodTerm(
            topology_key=str(said["topologyKey"]),
            selector=(*selector, *more),
            namespaces=frozenset({namespace}),
        ),
        max_skew=int(said["maxSkew"]),
        min_domains=int(said.get("minDomains") or 1),
        is_required=said["whenUnsatisfiable"] == "DoNotSchedule",
    )


def _selector(said: Any) -> tuple[LabelRequirement, ...] | None:
    if said is None:
        return None
    equal = (
        LabelRequirement(key=str(key), operator=LabelOperator.IN, values=(str(value),))
        for key, value in sorted((said.get("matchLabels") or {}).items())
    )
    others = (
        LabelRequirement(
            key=str(one["key"]),
            operator=LabelOperator(one["operator"]),
            values=tuple(str(value) for value in one.get("values") or ()),
        )
        for one in said.get("matchExpressions") or ()
    )
    return (*equal, *others)


def _by_own_labels(
    keys: Sequence[str] | None, labels: Mapping[str, str], operator: LabelOperator
) -> tuple[LabelRequirement, ...]:
    return tuple(
        LabelRequirement(key=key, operator=operator, values=(labels[key],))
        for key in keys or ()
        if key in labels
    )
