"""A thin layer over the official Kubernetes client: raw objects, by resource.

Shared by the edges (operator, router, simulator). Objects are the dicts that the API server
sends: typed lists cost 13 times the CPU of ``json.loads`` (kubernetes 37.0.2, 2,000 pods),
and block the event loop meanwhile.

``resources``, ``shapes`` and the like are plain. The client and the watch take half a second to
import, with the official client and aiohttp: whoever names them here imports them then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memroute_kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    LEASES,
    MODEL_DEPLOYMENTS,
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    KubeObject,
    Resource,
)

if TYPE_CHECKING:
    from memroute_kube.client import ApiError, KubernetesClient
    from memroute_kube.errors import NotConfiguredError
    from memroute_kube.watch import WatchEvent, watch_forever

__all__ = [
    "CONFIG_MAPS",
    "DAEMON_SETS",
    "DEPLOYMENTS",
    "ENDPOINT_SLICES",
    "EVENTS",
    "LEASES",
    "MODEL_DEPLOYMENTS",
    "NAMESPACES",
    "NODES",
    "PODS",
    "POD_DISRUPTION_BUDGETS",
    "PRIORITY_CLASSES",
    "RESOURCE_CLAIMS",
    "RESOURCE_SLICES",
    "RUNTIME_CLASSES",
    "SECRETS",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "ApiError",
    "KubeObject",
    "KubernetesClient",
    "NotConfiguredError",
    "Resource",
    "WatchEvent",
    "watch_forever",
]

# What is imported when it is asked for, and from which module.
_LATER = {
    "ApiError": "memroute_kube.errors",
    "KubernetesClient": "memroute_kube.client",
    "NotConfiguredError": "memroute_kube.errors",
    "WatchEvent": "memroute_kube.watch",
    "watch_forever": "memroute_kube.watch",
}


def __getattr__(name: str) -> Any:
    """The client, the watch and their names (PEP 562)."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found
