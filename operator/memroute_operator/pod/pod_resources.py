"""How many accelerators a pod holds, counted as kube-scheduler counts them.

Containers run together, so their requests add up. Native sidecars (init containers with
``restartPolicy: Always``) start before the containers and stay, so they add up as well. Other
init containers run one after the other, beside the sidecars that were started before them:

```text
held = max( containers + sidecars ,  max over init containers (own + sidecars before it) )
```

Source: ``k8s.io/component-helpers/resource/helpers.go``, ``PodRequests``.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.quantities import parse_count

# A request that cannot be read holds every device of its node: no node has this many.
EVERY_DEVICE = 1_000_000
# Stands for every resource of a node, where a pod cannot be read at all.
ANY_RESOURCE = "*"
# Resources of device plugins that hand out accelerators. MIG slices of strategy "mixed" have
# a resource per profile; "nvidia.com/gpu.shared" is a time slice under its other name.
_NAMES = frozenset({"nvidia.com/gpu", "nvidia.com/gpu.shared", "amd.com/gpu", "habana.ai/gaudi"})
_PREFIXES = ("nvidia.com/mig-", "gpu.intel.com/")


def is_device_resource(name: str) -> bool:
    """Whether a resource of this name counts accelerators, or slices of them."""
    return name in _NAMES or name.startswith(_PREFIXES)


def requested_devices(pod: KubeObject) -> Counter[str]:
    """Accelerators that a pod holds on its node, by resource; 0 for every other resource.

    A request that is no number counts as ``EVERY_DEVICE``, because a device that may be taken
    must not be given away.
    """
    spec = pod.get("spec")
    if not isinstance(spec, Mapping):
        return Counter()
    sidecars: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in _containers(spec, "initContainers"):
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars += own
            peak |= sidecars
        else:
            peak |= sidecars + own
    running = sum((_requests(one) for one in _containers(spec, "containers")), sidecars)
    return running | peak


def requested_memory(pod: KubeObject) -> int:
    """Bytes of its node's memory that a pod asks for; a request that is no number is 0.

    Of its containers and sidecars: what init containers need at once they need before the engine
    runs, and is nothing that stays.
    """
    spec = pod.get("spec")
    if not isinstance(spec, Mapping):
        return 0
    running = [*_containers(spec, "containers")]
    running += [
        one for one in _containers(spec, "initContainers") if one.get("restartPolicy") == "Always"
    ]
    total = 0
    for container in running:
        resources = container.get("resources")
        requests = resources.get("requests") if isinstance(resources, Mapping) else None
        memory = requests.get("memory") if isinstance(requests, Mapping) else None
        total += parse_count(memory) or 0
    return total


def _containers(spec: Mapping[str, Any], field: str) -> Iterator[Mapping[str, Any]]:
    listed = spec.get(field)
    if isinstance(listed, list | tuple):
        yield from (one for one in listed if isinstance(one, Mapping))


def _requests(container: Mapping[str, Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    resources = container.get("resources")
    if not isinstance(resources, Mapping):
        return found
    # For extended resources the two are equal; the API server fills in the one that is missing.
    for kind in ("requests", "limits"):
        listed = resources.get(kind)
        if not isinstance(listed, Mapping):
            continue
        for name, value in listed.items():
            if isinstance(name, str) and is_device_resource(name):
                count = parse_count(value)
                found[name] = max(found[name], EVERY_DEVICE if count is None else count)
    return found
