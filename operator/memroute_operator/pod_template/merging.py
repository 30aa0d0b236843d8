"""Strategic merge, as ``kubectl patch --type strategic`` merges pods.

Maps are merged key by key, and null takes a key away. Lists of things that have a name are merged
by it; every other list is replaced. What people are surprised by is mended here, and documented
in ``docs/how-to/change-the-pod.md``:

* what is in the list already keeps its place, and what is new comes after it: ``$(VAR)`` in an
  environment refers to what stands before it;
* a variable or a volume of a known name replaces the whole of it unless it is of the same source:
  half of each is a pod that the API server refuses.
"""

from collections.abc import Mapping
from typing import Any

# Lists that are merged, and by what. Source: x-kubernetes-patch-merge-key in /openapi/v3/api/v1
# of Kubernetes 1.37. All others (args, tolerations, envFrom, capabilities …) are atomic there.
MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "hostAliases": "ip",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "topologySpreadConstraints": "topologyKey",
}
# Entries of which exactly one source may be set, beside their name.
_ONE_OF = frozenset({"env", "volumes"})


def merge(base: Any, over: Any, field: str = "") -> Any:
    """``over`` merged over ``base``; neither is changed. ``field``: what both are called."""
    if isinstance(over, Mapping):
        merged = dict(base) if isinstance(base, Mapping) else {}
        for key, value in over.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(merged.get(key), value, key)
        return merged
    key = MERGE_KEYS.get(field)
    if isinstance(over, list) and key is not None and all(isinstance(one, Mapping) for one in over):
        return _merge_list(base if isinstance(base, list) else [], over, field, key)
    return over


def _merge_list(
    base: list[Any], over: list[Mapping[str, Any]], field: str, key: str
) -> list[dict[str, Any]]:
    merged = [dict(one) for one in base]
    places = {one.get(key): place for place, one in enumerate(merged)}
    for one in over:
        place = places.get(one.get(key))
        if place is None:
            places[one.get(key)] = len(merged)
            merged.append(merge({}, one))
        elif field in _ONE_OF and not (set(one) & set(merged[place]) - {key}):
            merged[place] = merge({}, one)
        else:
            merged[place] = merge(merged[place], one)
    return merged
