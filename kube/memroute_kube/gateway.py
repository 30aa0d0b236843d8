"""InferencePools and what belongs to them, as operator, picker and doctor speak of them.

An ``InferencePool`` (Gateway API inference extension) names pods by labels, their ports, and the
Service of the picker that a gateway asks about each request. That Service is in the pool's own
namespace, and may be no ExternalName; the picker's pods may be in another:

```text
ModelDeployment chat ─► InferencePool chat ─► Service picker-chat ─► EndpointSlice ─► picker's pods
(spec.routing.gateway)  (in its namespace, by the operator ...........)      (the release's)
```

Which pool a request is for, a gateway tells by the name of that Service alone (``:authority``), so
each pool has one of its own.
"""

import re
from dataclasses import dataclass
from typing import Final

from memroute_kube.resources import (
    GROUP,
    LABEL_DEPLOYMENT,
    MODEL_DEPLOYMENTS,
    KubeObject,
    Resource,
)
from memroute_kube.shapes import is_object_name, listed, mapping

INFERENCE_POOLS: Final = Resource(
    group="inference.networking.k8s.io", plural="inferencepools", kind="InferencePool"
)
# The newer group first: the older was given up with version 1.6 of the extension.
INFERENCE_OBJECTIVES: Final = tuple(
    Resource(
        group=group, version="v1alpha2", plural="inferenceobjectives", kind="InferenceObjective"
    )
    for group in ("llm-d.ai", "inference.networking.x-k8s.io")
)
LABEL_PICKER: Final = f"{GROUP}/picker"
"""On InferencePools that others wrote, ``serve``: memroute's picker is to serve them."""
PICKER_SERVES: Final = "serve"
LABEL_PICKER_SERVICE: Final = f"{GROUP}/picker-service"
"""On Services and EndpointSlices that the operator wrote for a pool: the Service's name."""
# Where pickers listen. Source: the convention of endpoint pickers.
PICKER_PORT: Final = 9002
# A Service of a pool, as gateways write its name: ``picker-chat.models.svc:9002`` (kgateway),
# ``outbound|9002||picker-chat.models.svc.cluster.local`` (Istio).
_SERVICE_NAME = re.compile(
    rb"(?:^|[^-.a-z0-9])([a-z0-9][-a-z0-9]{0,62})\.([a-z0-9][-a-z0-9]{0,62})\.svc(?:[^-a-z0-9]|$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerService:
    """The Service that a gateway asks about the requests of a pool."""

    namespace: str
    name: str
    port: int


def picker_service_name(deployment: str) -> str:
    """Of the Service for a ModelDeployment's pool; begins with a letter, as Services must."""
    return f"picker-{deployment}"


def picker_service_of(pool: KubeObject) -> PickerService | None:
    """Which Service a pool names; None where it names none, or something else."""
    reference = mapping(mapping(pool.get("spec")).get("endpointPickerRef"))
    namespace = mapping(pool.get("metadata")).get("namespace")
    name, port = reference.get("name"), mapping(reference.get("port")).get("number")
    if reference.get("group", "") != "" or reference.get("kind", "Service") != "Service":
        return None
    if not is_object_name(name) or not is_object_name(namespace):
        return None
    if not isinstance(port, int) or isinstance(port, bool):
        return None
    return PickerService(namespace=str(namespace), name=str(name), port=port)


def deployment_of_pool(pool: KubeObject) -> str | None:
    """The name of the ModelDeployment that controls a pool; None: somebody else wrote it."""
    for owner in map(mapping, listed(mapping(pool.get("metadata")).get("ownerReferences"))):
        if owner.get("controller") is True:
            api_version = str(owner.get("apiVersion"))
            is_ours = api_version.startswith(f"{GROUP}/")
            name = owner.get("name")
            if is_ours and owner.get("kind") == MODEL_DEPLOYMENTS.kind and is_object_name(name):
                return str(name)
            return None
    return None


def asks_for_picker(pool: KubeObject) -> bool:
    """Whether a pool that somebody else wrote is to be served by memroute's picker."""
    labels = mapping(mapping(pool.get("metadata")).get("labels"))
    return labels.get(LABEL_PICKER) == PICKER_SERVES and deployment_of_pool(pool) is None


def service_in_authority(authority: bytes) -> tuple[str, str] | None:
    """Namespace and name of the Service that a gateway has called; None where it does not say."""
    found = _SERVICE_NAME.search(authority)
    return None if found is None else (found[2].decode(), found[1].decode())


def pool_labels(deployment: str) -> dict[str, str]:
    """What selects the pods of a ModelDeployment."""
    return {LABEL_DEPLOYMENT: deployment}
