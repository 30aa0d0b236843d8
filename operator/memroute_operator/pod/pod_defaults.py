"""What the operator gives every engine's container that is no matter of devices or flags.

The owner's ``spec.template`` is merged over all of it.
"""

from typing import Any

from memroute.footprint import ReplicaFootprint, host_request
from memroute.units import MIB

ENGINE_CONTAINER = "engine"
"""The name of the engine's container in a replica's pod."""
# What the engine binds: every address of its pod, so that ``kubectl port-forward``, which dials
# localhost inside of the pod, finds it as routers and probes do.
BIND_VARIABLE = "MEMROUTE_BIND_ADDRESS"
ANY_IPV4 = "0.0.0.0"  # noqa: S104 - the pod's own network
ANY_IPV6 = "::"


def any_address(pod_ip: str | None) -> str:
    """All addresses of a pod, in the family that the cluster gives pods.

    Taken from the operator's own pod. An IPv6 socket takes IPv4 as well on Linux, but not every
    node has IPv6: so each family is bound only where pods have it.
    """
    return ANY_IPV6 if pod_ip is not None and ":" in pod_ip else ANY_IPV4


def security_context() -> dict[str, Any]:
    """What Pod Security ``restricted`` asks of a container, as far as any image can.

    ``runAsNonRoot`` is the image's to say: vLLM's runs as root unless ``spec.template`` names
    a user.
    """
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(
    footprint: ReplicaFootprint, devices: dict[str, str], *, pinned_bytes: int = 0
) -> dict[str, Any]:
    """Requests for the node's processors and memory, and the devices as limits.

    ``pinned_bytes``: of KV cache on the node, which is taken at the start, and of its sleep, which
    is taken the first time.
    """
    host = host_request(footprint)
    found: dict[str, Any] = {
        "requests": {
            "cpu": f"{host.cpu_millis}m",
            "memory": f"{-(-(host.memory_bytes + pinned_bytes) // MIB)}Mi",
        }
    }
    if devices:
        found["limits"] = devices
    return found
