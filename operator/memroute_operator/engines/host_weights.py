"""Weights that stay on the host: what ``spec.memory.weightsOnHostGiB`` comes to.

```text
flag        vLLM's --cpu-offload-gb, GiB of each device
footprint   so much less on each device (``ReplicaShape.weights_on_host_bytes``)
memory      that, times the devices, is requested of the node: it is pinned
```
"""

from collections.abc import Mapping
from typing import Any

from memroute.footprint import EngineType
from memroute.units import GIB
from memroute_kube.shapes import mapping
from memroute_operator.engines.host_fields import said_twice
from memroute_operator.spec.deployment import Deployment

FIELD = "memory.weightsOnHostGiB"
FLAG = "--cpu-offload-gb"
# Other ways to say the same, of which vLLM would take one: prefetching (0.32) wins over this one.
_SAME = (
    FLAG, "--cpu-offload-params", "--offload-backend", "--offload-group-size",
    "--offload-num-in-group", "--offload-prefetch-step", "--offload-params",
)  # fmt: skip


def size_gib(spec: Mapping[str, Any]) -> int:
    """Of each device; 0 where nothing stays on the host."""
    return int(mapping(spec.get("memory")).get("weightsOnHostGiB") or 0)


def arguments(deployment: Deployment) -> list[str]:
    """The engine's flags."""
    shape = deployment.shape
    size = 0 if shape is None else shape.weights_on_host_bytes
    return [FLAG, str(size // GIB)] if size else []


def host_bytes(deployment: Deployment, num_devices: int) -> int:
    """What the node must keep for a replica on so many devices."""
    return 0 if deployment.shape is None else deployment.shape.weights_on_host_bytes * num_devices


def refusal(spec: Mapping[str, Any], engine: EngineType) -> str | None:
    """Why a spec cannot have it; None where it can, or wants none.

    That a model has fewer weights, or a kind of cache with which vLLM does not start, its
    footprint refuses.
    """
    if not size_gib(spec):
        return None
    if engine is not EngineType.VLLM:
        return (
            f"spec.{FIELD} is for vLLM: {engine.spelled} keeps weights on the host by flags of "
            f"its own, or not at all; leave it out"
        )
    return said_twice(spec, FIELD, _SAME, "which weights stay on the host")
