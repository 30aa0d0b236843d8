"""The resources that memroute speaks of, and the labels and annotations it owns."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from memroute_kube.errors import NOT_FOUND, ApiError
from memroute_kube.shapes import listed, mapping

KubeObject = dict[str, Any]
"""An object as the API server sends it."""

GROUP = "memroute.dev"
VERSION = "v1alpha1"

LABEL_DEPLOYMENT = f"{GROUP}/model-deployment"
"""On replica pods: the name of their ModelDeployment."""
LABEL_REPLICA = f"{GROUP}/replica"
"""On replica pods: the index of the replica."""
LABEL_GPU_SHARING = f"{GROUP}/gpu-sharing"
"""On nodes, ``shared``: memroute hands out this node's accelerators by UUID and bytes."""
DEVICE_LINK = f"{GROUP}/device-link"
"""On nodes, an annotation or a label: what joins the devices, by name or as measured."""
ANNOTATION_RESERVATION = f"{GROUP}/reservation"
"""On replica pods: what was promised, as JSON; the truth that the ledger is rebuilt from."""
ANNOTATION_KV_CAPACITY_TOKENS = f"{GROUP}/kv-capacity-tokens"
"""On replica pods: KV tokens that the operator expects, until the engine reports its own."""
ANNOTATION_OCCUPANCY = f"{GROUP}/occupancy"
"""On replica pods on shared devices: the share of a device's time that its engine takes while it
has work (0 to 1), as it was predicted when the replica was placed."""
ANNOTATION_HOST_KV_TOKENS = f"{GROUP}/host-kv-tokens"
"""On replica pods with KV cache on the host: how many tokens it holds."""
ANNOTATION_HOST_KV_NANOSECONDS = f"{GROUP}/host-kv-nanoseconds"
"""Beside it: how long one of them takes to come back, by the link; absent where that is unknown."""
ANNOTATION_MAX_CONTEXT_TOKENS = f"{GROUP}/max-context-tokens"
"""On replica pods: the longest request that the engine takes."""
ANNOTATION_SERVED_MODEL = f"{GROUP}/served-model"
"""On replica pods: the model name that clients ask for."""
ANNOTATION_DRAINING = f"{GROUP}/draining"
"""On replica pods: since when (RFC 3339) the router must not admit to it any more."""
ENGINE_PORT = 8000
"""The port that engines listen on: vLLM's default."""
GPU_RESOURCE = "nvidia.com/gpu"
TAINT_SHARED = LABEL_GPU_SHARING


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of object, by where the API server keeps it."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, sub: str | None = None
    ) -> str:
        """The URL path of the collection, an object, or its subresource.

        Without a namespace, a namespaced resource is meant across all namespaces. Raises
        ``ApiError`` (404) for a name that no object can have, and that would lead elsewhere.
        """
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", _segment(namespace)]
        parts.append(self.plural)
        if name is not None:
            parts.append(_segment(name))
        if sub is not None:
            parts.append(sub)
        return "/" + "/".join(parts)


def _segment(name: str) -> str:
    """A name as one segment of a path. Raises ``ApiError`` for what can be none.

    Names are written by people, too: one with ``../`` in it would be another namespace's object,
    asked for with our rights. The rule is Kubernetes' own (``IsValidPathSegmentName``).
    """
    if not name or name in (".", "..") or "/" in name or "%" in name:
        message = f"no object can have the name {name!r:.120}"
        raise ApiError(NOT_FOUND, "NotFound", message)
    return quote(name, safe=":")


PODS = Resource(plural="pods", kind="Pod")
NODES = Resource(plural="nodes", kind="Node", namespaced=False)
NAMESPACES = Resource(plural="namespaces", kind="Namespace", namespaced=False)
SECRETS = Resource(plural="secrets", kind="Secret")
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap")
SERVICE_ACCOUNTS = Resource(plural="serviceaccounts", kind="ServiceAccount")
SERVICES = Resource(plural="services", kind="Service")
ENDPOINT_SLICES = Resource(group="discovery.k8s.io", plural="endpointslices", kind="EndpointSlice")
EVENTS = Resource(plural="events", kind="Event")
LEASES = Resource(group="coordination.k8s.io", plural="leases", kind="Lease")
DAEMON_SETS = Resource(group="apps", plural="daemonsets", kind="DaemonSet")
DEPLOYMENTS = Resource(group="apps", plural="deployments", kind="Deployment")
POD_DISRUPTION_BUDGETS = Resource(
    group="policy", plural="poddisruptionbudgets", kind="PodDisruptionBudget"
)
RESOURCE_SLICES = Resource(
    group="resource.k8s.io", plural="resourceslices", kind="ResourceSlice", namespaced=False
)
RESOURCE_CLAIMS = Resource(group="resource.k8s.io", plural="resourceclaims", kind="ResourceClaim")
PRIORITY_CLASSES = Resource(
    group="scheduling.k8s.io", plural="priorityclasses", kind="PriorityClass", namespaced=False
)
RUNTIME_CLASSES = Resource(
    group="node.k8s.io", plural="runtimeclasses", kind="RuntimeClass", namespaced=False
)
MODEL_DEPLOYMENTS = Resource(
    group=GROUP, version=VERSION, plural="modeldeployments", kind="ModelDeployment"
)


def object_key(obj: KubeObject) -> str:
    """``namespace/name``, or the name alone for what has no namespace."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def is_condition_true(obj: KubeObject, condition_type: str) -> bool:
    """Whether the object's status has the condition with status True. Raises nothing."""
    conditions = map(mapping, listed(mapping(obj.get("status")).get("conditions")))
    return any(c.get("type") == condition_type and c.get("status") == "True" for c in conditions)


def container_port(pod: KubeObject, name: str, default: int) -> int:
    """The number of a pod's port by its name; ``default`` when no container declares it."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == name:
                return int(port["containerPort"])
    return default
