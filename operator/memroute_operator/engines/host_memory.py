"""Memory of its node that a replica pins, whatever for: kept for it from the start.

```text
pinned = KV cache there + weights that stay there + the most that a sleep makes of its weights
```
"""

from memroute.footprint import ReplicaFootprint, host_request
from memroute.hierarchy.links import PCIE_3
from memroute.hierarchy.sleep import sleep_of
from memroute.units import GIB
from memroute_operator.engines import host_cache, host_weights
from memroute_operator.engines.sleep_mode import sleep_mode_of
from memroute_operator.spec.deployment import Deployment


def pinned_bytes(deployment: Deployment, footprint: ReplicaFootprint) -> int:
    """The most that a replica may pin."""
    found = (deployment.host_kv_cache_gib or 0) * GIB
    found += host_weights.host_bytes(deployment, footprint.num_devices)
    mode = sleep_mode_of(deployment)
    if mode is not None:
        # How much it is does not depend on the link.
        found += sleep_of(footprint, mode.level, PCIE_3).host_bytes_most
    return found


def host_fields(deployment: Deployment) -> tuple[str, ...]:
    """The fields of its spec by which it pins memory of its node."""
    asked = {
        host_cache.FIELD: deployment.host_kv_cache_gib,
        host_weights.FIELD: deployment.shape and deployment.shape.weights_on_host_bytes,
        "sleep": sleep_mode_of(deployment),
    }
    return tuple(f"spec.{field}" for field, value in asked.items() if value)


def host_bytes(deployment: Deployment, footprint: ReplicaFootprint) -> int:
    """Memory that its pod asks its node for, where it pins any; 0 where it pins nothing.

    What pins nothing is kube-scheduler's to judge alone, as it always was.
    """
    pinned = pinned_bytes(deployment, footprint)
    return host_request(footprint).memory_bytes + pinned if pinned else 0
