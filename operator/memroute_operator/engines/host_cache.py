"""KV cache on the host of a replica: what ``spec.memory.hostKVCacheGiB`` comes to.

```text
flag        vLLM's --kv-offloading-size, GiB of all ranks together
memory      so much more is requested of the node, so that kube-scheduler keeps it
annotations how many tokens that is, and how long one takes to come back: routers credit it
```

kube-scheduler judges memory: where a node has too little, placement tries another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute.errors import UnsupportedShapeError
from memroute.footprint import EngineType, ReplicaShape
from memroute.hierarchy import kv_tier
from memroute.placement import Placed
from memroute.units import GIB
from memroute_kube.resources import ANNOTATION_HOST_KV_NANOSECONDS, ANNOTATION_HOST_KV_TOKENS
from memroute_kube.shapes import mapping
from memroute_operator.engines.host_fields import host_link_on, said_twice
from memroute_operator.spec.deployment import Deployment

FIELD = "memory.hostKVCacheGiB"
FLAG = "--kv-offloading-size"
# Flags that say the same thing in another way.
_SAME = ("--kv-offloading-size", "--kv-offloading-backend", "--kv-transfer-config")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCache:
    """What one replica keeps on its node."""

    size_gib: int
    capacity_tokens: int
    token_seconds: float | None
    """To bring one token back, as the model's blocks are copied; None where the link is unknown."""

    @property
    def annotations(self) -> dict[str, str]:
        """What routers read."""
        told = {ANNOTATION_HOST_KV_TOKENS: str(self.capacity_tokens)}
        if self.token_seconds is not None:
            told[ANNOTATION_HOST_KV_NANOSECONDS] = str(max(1, round(self.token_seconds * 1e9)))
        return told


def host_cache_of(deployment: Deployment, placed: Placed) -> HostCache | None:
    """The cache of a replica that is placed so; None where none is asked for."""
    size, shape = deployment.host_kv_cache_gib, deployment.shape
    if size is None or shape is None:
        return None
    tier = kv_tier(shape, size * GIB)
    link = host_link_on(placed)
    seconds = None
    if link is not None:
        shared = link.shared_by(placed.num_devices)
        seconds = tier.load_seconds(tier.chunk_tokens, shared) / tier.chunk_tokens
    return HostCache(size_gib=size, capacity_tokens=tier.capacity_tokens, token_seconds=seconds)


def refusal(spec: Mapping[str, Any], engine: EngineType, shape: ReplicaShape | None) -> str | None:
    """Why a spec cannot have such a cache; None where it can, or wants none."""
    size = mapping(spec.get("memory")).get("hostKVCacheGiB")
    if size is None:
        return None
    if engine is not EngineType.VLLM:
        return (
            f"spec.{FIELD} is for vLLM: {engine.spelled} has no cache there that memroute "
            f"could size; leave it out"
        )
    twice = said_twice(spec, FIELD, _SAME, "what is kept on the host")
    if twice is not None:
        return twice
    try:
        if shape is not None:
            kv_tier(shape, size * GIB)
    except UnsupportedShapeError as error:
        return f"spec.{FIELD} is {size}: {error}"
    return None
