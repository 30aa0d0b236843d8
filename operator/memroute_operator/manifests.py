"""The pod of one replica: pinned, reserved, and with flags sized to what was reserved."""

import math
from typing import Any

from memroute.placement import Placed, PlacementMode
from memroute_kube import KubeObject
from memroute_kube.resources import (
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_MAX_CONTEXT_TOKENS,
    ANNOTATION_RESERVATION,
    ANNOTATION_SERVED_MODEL,
    ENGINE_PORT,
    GPU_RESOURCE,
    GROUP,
    LABEL_DEPLOYMENT,
    LABEL_REPLICA,
    MODEL_DEPLOYMENTS,
    TAINT_SHARED,
)
from memroute_operator.deployment import Deployment
from memroute_operator.pod_defaults import ANY_IPV4, BIND_VARIABLE, resources, security_context
from memroute_operator.pod_template import overlay
from memroute_operator.promises import encode_reservation
from memroute_operator.replica import (
    ANNOTATION_ENGINE_IMAGE,
    ANNOTATION_PLACEMENT_REASON,
    ANNOTATION_REVISION,
    ANNOTATION_STARTED_WITH,
    ENGINE_CONTAINER,
    START_GATE,
)

ANNOTATION_TEMPLATE = f"{GROUP}/template"
"""On replica pods: a hash of what the operator that made it puts into every pod of that spec."""
TERMINATION_GRACE_SECONDS = 60
SHUTDOWN_TIMEOUT_SECONDS = 40
# KServe's arithmetic: grace less preStop (15 s, not used here) less 5 s to end.
STARTUP_FAILURES = 900
STARTUP_PERIOD_SECONDS = 2
# Half an hour to download and load the weights of a large model.
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the engine's ranks speak to each other through it
MAX_UTILIZATION_RATIO = 0.95
# Above this, engines have been seen to run out of memory in spite of their own profile.


def kv_cache_bytes(deployment: Deployment, placed: Placed) -> int:
    """The KV pool that the replica is expected to have."""
    footprint = deployment.footprint_on(placed.product)
    if placed.mode is PlacementMode.SHARED:
        return footprint.kv_cache_bytes
    budget = int(utilization_ratio(deployment, placed) * placed.usable_bytes_per_device)
    return footprint.kv_cache_bytes_within(budget)


def utilization_ratio(deployment: Deployment, placed: Placed) -> float:
    """The share of a whole device that the engine may use, in steps of 0.01.

    What was promised, less what the engine does not count as its own (its context).
    """
    footprint = deployment.footprint_on(placed.product)
    ratio = (placed.bytes_per_device - footprint.outside_bytes) / placed.usable_bytes_per_device
    return min(MAX_UTILIZATION_RATIO, math.floor(ratio * 100) / 100)


def engine_arguments(deployment: Deployment, placed: Placed) -> list[str]:
    """The flags that vLLM is started with."""
    shape = deployment.shape
    assert shape is not None  # noqa: S101
    arguments = [
        "--model", deployment.model,
        "--served-model-name", deployment.served_name,
        "--host", f"$({BIND_VARIABLE})",
        "--port", str(ENGINE_PORT),
        "--max-model-len", str(deployment.max_context_tokens),
        "--max-num-seqs", str(shape.max_num_seqs),
        "--max-num-batched-tokens", str(shape.max_num_batched_tokens),
        "--tensor-parallel-size", str(placed.num_devices),
        "--kv-cache-dtype", shape.kv_cache_dtype.value,
        "--shutdown-timeout", str(SHUTDOWN_TIMEOUT_SECONDS),
    ]  # fmt: skip
    if shape.block_size_tokens is not None:
        arguments += ["--block-size", str(shape.block_size_tokens)]
    if shape.is_eager:
        arguments.append("--enforce-eager")
    if shape.quantization.value != "none":
        arguments += ["--quantization", shape.quantization.value]
    if placed.mode is PlacementMode.SHARED:
        # An absolute size: a share of the device would count the neighbours' bytes as its own.
        arguments += ["--kv-cache-memory-bytes", str(kv_cache_bytes(deployment, placed))]
    else:
        arguments += ["--gpu-memory-utilization", f"{utilization_ratio(deployment, placed):.2f}"]
    return arguments + list(deployment.engine_args)


def owner_reference(deployment: Deployment) -> KubeObject:
    """What makes an object a ModelDeployment's own: it goes when the deployment goes."""
    return {
        "apiVersion": MODEL_DEPLOYMENTS.api_version,
        "kind": MODEL_DEPLOYMENTS.kind,
        "name": deployment.name,
        "uid": deployment.uid,
        "controller": True,
    }


def replica_pod(
    deployment: Deployment,
    placed: Placed,
    *,
    is_gated: bool,
    default_image: str,
    shared_runtime_class: str | None,
    exclusive_runtime_class: str | None = None,
    bind_address: str = ANY_IPV4,
    template: str | None = None,
) -> KubeObject:
    """The manifest of a replica's pod. ``template``: its hash, to be found again by.

    ``bind_address``: what the engine listens on, all addresses of its pod.
    """
    shape = deployment.shape
    assert shape is not None  # noqa: S101
    shared = placed.mode is PlacementMode.SHARED
    capacity = shape.kv_layout.capacity_tokens(
        kv_cache_bytes(deployment, placed), deployment.max_context_tokens
    )
    spec: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "affinity": _on_node(placed.node),
        "tolerations": [
            {"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"},
            {"key": TAINT_SHARED, "operator": "Exists", "effect": "NoSchedule"},
        ],
        "containers": [_engine_container(deployment, placed, default_image, bind_address)],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    if is_gated:
        spec["schedulingGates"] = [{"name": START_GATE}]
    if runtime_class := shared_runtime_class if shared else exclusive_runtime_class:
        spec["runtimeClassName"] = runtime_class
    pod: KubeObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": placed.key.pod_name,
            "namespace": deployment.namespace,
            "labels": {
                LABEL_DEPLOYMENT: deployment.name,
                LABEL_REPLICA: str(placed.key.index),
                "app.kubernetes.io/managed-by": "memroute",
            },
            "annotations": ({} if template is None else {ANNOTATION_TEMPLATE: template})
            | {
                ANNOTATION_RESERVATION: encode_reservation(
                    placed, generation=deployment.generation
                ),
                ANNOTATION_REVISION: deployment.legacy_revision or deployment.revision,
                ANNOTATION_STARTED_WITH: deployment.revision,
                ANNOTATION_ENGINE_IMAGE: deployment.engine_image or default_image,
                ANNOTATION_PLACEMENT_REASON: placed.why,
                ANNOTATION_SERVED_MODEL: deployment.served_name,
                ANNOTATION_KV_CAPACITY_TOKENS: str(capacity),
                ANNOTATION_MAX_CONTEXT_TOKENS: str(deployment.max_context_tokens),
            },
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": spec,
    }
    return overlay(pod, deployment.template.said)


def _on_node(node: str) -> dict[str, Any]:
    # Affinity, never spec.nodeName: kube-scheduler stays the arbiter of the node's room.
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }


def _engine_container(
    deployment: Deployment, placed: Placed, default_image: str, bind_address: str
) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": BIND_VARIABLE, "value": bind_address},
    ]
    if placed.device_uuids:
        environment.append(
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": ",".join(placed.device_uuids)}
        )
    health = {"httpGet": {"path": "/health", "port": "http"}}
    container: dict[str, Any] = {
        "name": ENGINE_CONTAINER,
        "image": deployment.engine_image or default_image,
        "args": engine_arguments(deployment, placed),
        "env": environment + list(deployment.engine_env),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "startupProbe": health
        | {"periodSeconds": STARTUP_PERIOD_SECONDS, "failureThreshold": STARTUP_FAILURES},
        "readinessProbe": health | {"periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": health | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "volumeMounts": [{"name": "shm", "mountPath": SHARED_MEMORY}],
    }
    is_exclusive = placed.mode is PlacementMode.EXCLUSIVE
    devices = {placed.resource: str(placed.num_devices)} if is_exclusive else {}
    container["resources"] = resources(deployment.footprint_on(placed.product), devices)
    container["securityContext"] = security_context()
    return container
