"""The parts of a Node object that are read, whatever stands in them."""

from collections import Counter
from collections.abc import Mapping

from memroute.placement import Taint, TaintEffect
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
    """Why nothing may be placed on the node now (``NotReady``, ``Cordoned``); or None."""
    spec = node.get("spec") or {}
    if not is_condition_true(node, "Ready"):
        return "NotReady"
    if spec.get("unschedulable"):
        return "Cordoned"
    return None


def taints_of(node: KubeObject) -> tuple[Taint, ...]:
    """The taints that keep a replica off the node unless its template tolerates them."""
    found = []
    for taint in (node.get("spec") or {}).get("taints") or ():
        key, effect = str(taint.get("key")), taint.get("effect")
        if effect == TaintEffect.NO_SCHEDULE and key in TOLERATED_TAINTS:
            continue
        if effect in set(TaintEffect):
            value = str(taint.get("value") or "")
            found.append(Taint(key=key, value=value, effect=TaintEffect(effect)))
    return tuple(found)
