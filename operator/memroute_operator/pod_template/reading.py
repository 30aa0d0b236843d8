"""A template as the operator reads it: what placement goes by, and the rest as it was written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from memroute.placement import (
    ANY_NEIGHBOURS,
    ANYWHERE,
    NAME_FIELD,
    LabelOperator,
    LabelRequirement,
    NeighbourNeeds,
    NodeTerm,
    SchedulingNeeds,
    Toleration,
)
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER
from memroute_operator.pod_template.neighbours import read_neighbours
from memroute_operator.pod_template.overlaying import overlay
from memroute_operator.pod_template.owned import WHERE, TemplateError, refusal
from memroute_operator.pod_template.owned_neighbours import REQUIRED

# As little of a pod as a template is merged over: whether it can be is seen on this.
_PIN = {"matchFields": [{"key": NAME_FIELD, "operator": "In", "values": ["node"]}]}
_ANY_POD: Mapping[str, Any] = {
    "metadata": {"labels": {LABEL_DEPLOYMENT: "any"}, "annotations": {}},
    "spec": {
        "affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [_PIN]}}},
        "tolerations": [],
        "terminationGracePeriodSeconds": 0,
        "volumes": [],
        "containers": [{"name": ENGINE_CONTAINER, "env": [], "startupProbe": {}}],
    },
}
_MALFORMED = (TypeError, AttributeError, KeyError, ValueError, IndexError)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTemplate:
    """What the owner of a ModelDeployment adds to its replicas' pods."""

    said: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """``spec.template`` as it was written; it has been looked through for what memroute owns."""
    scheduling: SchedulingNeeds = ANYWHERE
    neighbours: NeighbourNeeds = ANY_NEIGHBOURS
    """What it asks of other pods."""
    priority_class: str | None = None
    """The PriorityClass that it names."""


NO_TEMPLATE = PodTemplate()


def read_template(
    spec: Mapping[str, Any], namespace: str = "default", name: str = "any"
) -> PodTemplate:
    """The template of a ModelDeployment's spec. Raises ``TemplateError`` with one sentence.

    ``namespace``, ``name``: of the ModelDeployment.
    """
    said = spec.get("template")
    if not said:
        return replace(NO_TEMPLATE, neighbours=read_neighbours(namespace, name, {}))
    if not isinstance(said, Mapping):
        message = f"{WHERE} is no part of a PodTemplateSpec"
        raise TemplateError(message)
    if (told := refusal(said)) is not None:
        raise TemplateError(told)
    pod = said.get("spec") or {}
    selector = (spec.get("placement") or {}).get("nodeSelector") or {}
    for key, value in (pod.get("nodeSelector") or {}).items():
        if selector.get(key, value) != value:
            message = (
                f"{WHERE}.spec.nodeSelector wants {key}={value}, and spec.placement.nodeSelector "
                f"{key}={selector[key]}: no node has both"
            )
            raise TemplateError(message)
    try:
        scheduling = SchedulingNeeds(tolerations=tuple(_tolerations(pod)), terms=_terms(pod))
    except _MALFORMED as error:
        message = f"tolerations or node affinity of {WHERE}.spec cannot be read ({error!s:.200})"
        raise TemplateError(message) from error
    try:
        neighbours = read_neighbours(namespace, name, said)
    except _MALFORMED as error:
        message = f"pod affinity or topology spread of {WHERE}.spec cannot be read ({error!s:.200})"
        raise TemplateError(message) from error
    try:
        overlay(dict(_ANY_POD), said)
    except _MALFORMED as error:
        message = f"{WHERE} is no part of a PodTemplateSpec ({error!s:.200})"
        raise TemplateError(message) from error
    return PodTemplate(
        said=said,
        scheduling=scheduling,
        neighbours=neighbours,
        priority_class=pod.get("priorityClassName") or None,
    )


def _tolerations(pod: Mapping[str, Any]) -> Iterator[Toleration]:
    for one in pod.get("tolerations") or ():
        operator = one.get("operator") or "Equal"
        if operator not in ("Equal", "Exists"):
            continue  # Lt and Gt of newer releases: kube-scheduler may know them, memroute does not
        yield Toleration(
            key=one.get("key") or "",
            value=one.get("value") or "",
            effect=one.get("effect") or "",
            is_any_value=operator == "Exists",
        )


def _terms(pod: Mapping[str, Any]) -> tuple[NodeTerm, ...] | None:
    selected = tuple(
        LabelRequirement(key=key, operator=LabelOperator.IN, values=(value,))
        for key, value in sorted((pod.get("nodeSelector") or {}).items())
    )
    required = ((pod.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    if required is None:
        return (NodeTerm(labels=selected),) if selected else None
    terms = []
    for one in required["nodeSelectorTerms"]:
        labels = tuple(_requirements(one.get("matchExpressions")))
        names = tuple(_requirements(one.get("matchFields")))
        if labels or names:  # an empty term matches no node, whatever else is asked
            terms.append(NodeTerm(labels=labels + selected, names=names))
    if not terms:
        message = "nodeSelectorTerms that are all empty match no node"
        raise ValueError(message)
    return tuple(terms)


def _requirements(said: Any) -> Iterator[LabelRequirement]:
    for one in said or ():
        yield LabelRequirement(
            key=str(one["key"]),
            operator=LabelOperator(one["operator"]),
            values=tuple(str(value) for value in one.get("values") or ()),
        )
