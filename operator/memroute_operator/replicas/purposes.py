"""What the HBM of a replica is for: weights, the engine's overhead, its KV cache."""

from dataclasses import dataclass

from memroute_operator.spec.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Purposes:
    """The bytes that a replica was promised on one device."""

    weights_bytes: int
    overhead_bytes: int
    kv_cache_bytes: int


def purposes_of(deployment: Deployment | None, product: str | None, size: int) -> Purposes | None:
    """What so many bytes on one device are for, by the footprint of today's spec; None: unknown.

    An engine that has a whole device gives its KV cache what weights and overhead leave.
    """
    if deployment is None or deployment.footprint is None:
        return None
    footprint = deployment.footprint_on(product)
    weights = min(size, footprint.weights_bytes)
    overhead = min(size - weights, footprint.overhead_bytes)
    return Purposes(
        weights_bytes=weights, overhead_bytes=overhead, kv_cache_bytes=size - weights - overhead
    )
