"""The manifests: an InferencePool, the Service that it names, where that leads."""

from typing import Any, Final

from memroute_kube import ENDPOINT_SLICES, SERVICES, KubeObject
from memroute_kube.gateway import (
    INFERENCE_POOLS,
    LABEL_PICKER_SERVICE,
    PICKER_PORT,
    picker_service_name,
    pool_labels,
)
from memroute_kube.resources import ENGINE_PORT, LABEL_DEPLOYMENT
from memroute_operator.gateway.pickers import Pickers
from memroute_operator.pod.manifests import owner_reference
from memroute_operator.spec.deployment import Deployment

MANAGED: Final = {"app.kubernetes.io/managed-by": "memroute"}
# On ports: HTTP/2 without TLS, as the picker speaks where it has no certificate.
H2C: Final = "kubernetes.io/h2c"
GRPC: Final = "grpc"
# Copied by Kubernetes from a Service to the Endpoints that it keeps while somebody's selector is on
# the Service: without it, those Endpoints are mirrored into slices when the selector has gone.
NOT_MIRRORED: Final = {"endpointslice.kubernetes.io/skip-mirror": "true"}


def inference_pool(deployment: Deployment, failure_mode: str) -> KubeObject:
    """The pool of a ModelDeployment: its replicas' pods, asked about at its own Service."""
    return {
        "apiVersion": INFERENCE_POOLS.api_version,
        "kind": INFERENCE_POOLS.kind,
        "metadata": {
            "name": deployment.name,
            "namespace": deployment.namespace,
            "labels": {LABEL_DEPLOYMENT: deployment.name} | MANAGED,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "selector": {"matchLabels": pool_labels(deployment.name)},
            "targetPorts": [{"number": ENGINE_PORT}],
            "endpointPickerRef": {
                "group": "",
                "kind": SERVICES.kind,
                "name": picker_service_name(deployment.name),
                "port": {"number": PICKER_PORT},
                "failureMode": failure_mode,
            },
        },
    }


def picker_service(
    namespace: str, name: str, port: int, owner: KubeObject, pickers: Pickers
) -> KubeObject:
    """The Service of a pool. Without a selector where the picker is in another namespace.

    No ExternalName: gateways must not follow those.
    """
    spec: dict[str, Any] = {
        "ports": [
            {"name": GRPC, "port": port, "targetPort": pickers.port, "protocol": "TCP"}
            | _protocol(pickers)
        ]
    }
    is_selected = is_beside(namespace, pickers)
    if is_selected:
        spec["selector"] = dict(pickers.labels or {})
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": _metadata(namespace, name, name, owner, {} if is_selected else NOT_MIRRORED),
        "spec": spec,
    }


def endpoint_slices(
    namespace: str, service: str, owner: KubeObject, pickers: Pickers
) -> list[KubeObject]:
    """Where the Service leads: the picker's pods that are ready, a slice for each family.

    None where Kubernetes keeps them itself, by the Service's selector.
    """
    if is_beside(namespace, pickers):
        return []
    families: dict[str, list[str]] = {}
    for address in pickers.addresses:
        families.setdefault("IPv6" if ":" in address else "IPv4", []).append(address)
    return [
        {
            "apiVersion": ENDPOINT_SLICES.api_version,
            "kind": ENDPOINT_SLICES.kind,
            "metadata": _metadata(
                namespace,
                f"{service}-{family.lower()}",
                service,
                owner,
                {
                    "kubernetes.io/service-name": service,
                    "endpointslice.kubernetes.io/managed-by": "memroute-operator",
                },
            ),
            "addressType": family,
            "ports": [{"name": GRPC, "port": pickers.port, "protocol": "TCP"} | _protocol(pickers)],
            "endpoints": [
                {
                    "addresses": [address],
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                }
                for address in addresses
            ],
        }
        for family, addresses in families.items()
    ]


def is_beside(namespace: str, pickers: Pickers) -> bool:
    """Whether the picker's pods are in this namespace, where a Service can select them."""
    return pickers.namespace == namespace and pickers.labels is not None


def _protocol(pickers: Pickers) -> dict[str, str]:
    """Of a port: by TLS, HTTP/2 is agreed upon there, and the port's name says gRPC."""
    return {} if pickers.is_tls else {"appProtocol": H2C}


def _metadata(
    namespace: str, name: str, service: str, owner: KubeObject, labels: KubeObject | None = None
) -> KubeObject:
    return {
        "name": name,
        "namespace": namespace,
        "labels": {LABEL_PICKER_SERVICE: service} | MANAGED | (labels or {}),
        "ownerReferences": [owner],
    }
