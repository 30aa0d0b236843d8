"""The parts of a Node object that are read, whatever stands in them."""

from collections import Counter
from collections.abc import Mapping

from memroute_kube import KubeObject
from memroute_kube.quantities import parse_count
from memroute_kube.resources import GPU_RESOURCE, TAINT_SHARED, is_condition_true

# Taints that replica pods tolerate, with the effect NoSchedule (``manifests``).
TOLERATED_TAINTS = frozenset({GPU_RESOURCE, TAINT_SHARED})


def texts_of(mapping: object) -> dict[str, str]:
    """Labels or annotations as they should be: text to text."""
    if not isinstance(mapping, Mapping):
        return {}
    return {
        name: value
        for name, value in mapping.items()
        if isinstance(name, str) and isinstance(value, str)
    }


def counts_of(resources: object) -> Counter[str]:
    """Whole numbers of a node's resources; what is no number is nothing that can be had."""
    if not isinstance(resources, Mapping):
        return Counter()
    return Counter(
        {
            name: count
            for name, value in resources.items()
            if isinstance(name, str) and (count := parse_count(value)) is not None
        }
    )


def unusable_reason(node: KubeObject) -> str | None:
    """Why nothing may be placed on the node now (``NotReady``, ``Cordoned``, a taint); or None."""
    spec = node.get("spec") or {}
    if not is_condition_true(node, "Ready"):
        return "NotReady"
    if spec.get("unschedulable"):
        return "Cordoned"
    for taint in spec.get("taints") or ():
        key, effect = taint.get("key"), taint.get("effect")
        if effect == "NoExecute" or (effect == "NoSchedule" and key not in TOLERATED_TAINTS):
            value = taint.get("value")
            return f"Tainted by {key}={value}:{effect}" if value else f"Tainted by {key}:{effect}"
    return None
