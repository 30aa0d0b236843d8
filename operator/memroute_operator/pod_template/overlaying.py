"""The pod of a replica with a template merged over it. What memroute owns stays as it was."""

from collections.abc import Mapping
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.adapters.container import ADAPTERS_CONTAINER
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER
from memroute_operator.pod.pod_resources import is_device_resource
from memroute_operator.pod_template.merging import merge
from memroute_operator.pod_template.owned import (
    DEVICE_VARIABLES,
    OWNED_OF_ENGINE,
    THRESHOLDS,
    TUNED_PROBES,
)
from memroute_operator.pod_template.owned_neighbours import REQUIRED
from memroute_operator.weights.container import FETCH_CONTAINER

# What NVIDIA's container runtime takes for "no device": images that are built on CUDA's ask for
# all of them by a variable of their own.
NO_DEVICES = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}

# What is not merged as Kubernetes merges.
_OF_ITS_OWN = frozenset({"affinity", "tolerations", "topologySpreadConstraints"})


def overlay(pod: KubeObject, template: Mapping[str, Any]) -> KubeObject:
    """The operator's pod with ``spec.template`` merged over it; neither is changed.

    Merged as Kubernetes merges (``merging``), and besides: tolerations are added to the
    operator's; required node affinity is and-ed with the pin to the chosen node; a topology
    spread counts all nodes, not the chosen one alone, and this deployment's replicas unless it
    says whose. Grace periods are never shorter than the engine's. Raises ``TypeError`` and the
    like for what is no part of a pod's template: ``read_template`` has tried it out.
    """
    if not template:
        return pod
    metadata, said = template.get("metadata") or {}, template.get("spec") or {}
    over = {key: value for key, value in said.items() if value is not None}
    ours = pod["spec"]
    spec = merge(ours, {key: value for key, value in over.items() if key not in _OF_ITS_OWN})
    spec["tolerations"] = [*ours["tolerations"], *(over.get("tolerations") or ())]
    spec["affinity"] = _affinity(ours["affinity"], over.get("affinity") or {})
    if constraints := over.get("topologySpreadConstraints"):
        labels = {LABEL_DEPLOYMENT: pod["metadata"]["labels"][LABEL_DEPLOYMENT]}
        spec["topologySpreadConstraints"] = [_spread(one, labels) for one in constraints]
    if spec.get("runtimeClassName") == "":
        del spec["runtimeClassName"]
    spec["terminationGracePeriodSeconds"] = max(
        ours["terminationGracePeriodSeconds"], spec.get("terminationGracePeriodSeconds") or 0
    )
    if not isinstance(spec["containers"], list):
        message = "containers is no list"
        raise TypeError(message)
    engine, *own = ours["containers"]
    others = {one["name"] for one in own}
    spec["containers"] = [
        _engine(one, engine)
        if one.get("name") == ENGINE_CONTAINER
        else one
        if one.get("name") in others
        else _beside(one)
        for one in spec["containers"]
        # Its resources may be in the template of a model without adapters.
        if one.get("name") != ADAPTERS_CONTAINER or ADAPTERS_CONTAINER in others
    ]
    if "initContainers" in spec:
        fetches = bool(ours.get("initContainers"))
        spec["initContainers"] = [
            one if one.get("name") == FETCH_CONTAINER else _beside(one)
            for one in spec["initContainers"]
            # Its resources may be in the template of a model that fetches nothing.
            if fetches or one.get("name") != FETCH_CONTAINER
        ]
    return {
        **pod,
        "metadata": {
            **pod["metadata"],
            # Ours last: they are what memroute knows its pods by.
            "labels": {**(metadata.get("labels") or {}), **pod["metadata"]["labels"]},
            "annotations": {
                **(metadata.get("annotations") or {}),
                **pod["metadata"]["annotations"],
            },
        },
        "spec": spec,
    }


def _affinity(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Both: each of their terms on the node that was chosen."""
    merged = {**theirs, **ours}
    required = (theirs.get("nodeAffinity") or {}).get(REQUIRED)
    if required is None:
        return merged
    (pin,) = ours["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    terms = [
        # Ours first: that is where the operator looks for the node that it has chosen.
        {**term, "matchFields": [*pin["matchFields"], *(term.get("matchFields") or ())]}
        for term in required["nodeSelectorTerms"]
        if term.get("matchExpressions") or term.get("matchFields")
    ]
    merged["nodeAffinity"] = {REQUIRED: {"nodeSelectorTerms": terms}}
    return merged


def _spread(constraint: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """A constraint that means something for a pod that is pinned to one node.

    By default only the nodes count that match the pod's affinity, which is that one.
    """
    defaults: dict[str, Any] = {
        "nodeAffinityPolicy": "Ignore",
        "labelSelector": {"matchLabels": dict(labels)},
    }
    return {**defaults, **constraint}


def _engine(merged: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's container, with all that memroute owns as it was."""
    engine = {key: value for key, value in merged.items() if key not in OWNED_OF_ENGINE}
    engine |= {key: value for key, value in ours.items() if key in OWNED_OF_ENGINE}
    for name in TUNED_PROBES:
        if name in ours:
            said = {k: v for k, v in (merged.get(name) or {}).items() if k in THRESHOLDS}
            engine[name] = {**ours[name], **said}
    devices = {
        kind: {name: count for name, count in listed.items() if is_device_resource(name)}
        for kind, listed in (ours.get("resources") or {}).items()
    }
    for kind, owned in devices.items():
        if owned:
            resources = dict(engine.get("resources") or {})
            resources[kind] = {**(resources.get(kind) or {}), **owned}
            engine["resources"] = resources
    return engine


def _beside(container: Mapping[str, Any]) -> dict[str, Any]:
    """A container beside the engine: it sees no device."""
    env = [one for one in container.get("env") or () if one["name"] not in DEVICE_VARIABLES]
    return {**container, "env": [*env, dict(NO_DEVICES)]}
