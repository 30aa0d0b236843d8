"""The pod of one replica: pinned, reserved, and with flags sized to what was reserved."""

from typing import Any

from memroute.placement import Placed, PlacementMode
from memroute_kube import KubeObject
from memroute_kube.resources import (
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_MAX_CONTEXT_TOKENS,
    ANNOTATION_OCCUPANCY,
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
from memroute_operator.adapters.container import ANNOTATION_ADAPTERS
from memroute_operator.adapters.pod import (
    adapter_mounts,
    adapter_volumes,
    adapters_container,
    store_of,
)
from memroute_operator.engines import sleep_mode
from memroute_operator.engines.host_cache import host_cache_of
from memroute_operator.engines.host_memory import pinned_bytes
from memroute_operator.engines.registry import Drain, engine_of
from memroute_operator.engines.seam import SHARED_MEMORY, ports
from memroute_operator.pod.pod_defaults import (
    ANY_IPV4,
    BIND_VARIABLE,
    ENGINE_CONTAINER,
    resources,
    security_context,
)
from memroute_operator.pod_template import overlay
from memroute_operator.replicas.placed_by import placed_by
from memroute_operator.replicas.promises import encode_reservation
from memroute_operator.replicas.replica import (
    ANNOTATION_ENGINE_IMAGE,
    ANNOTATION_ENGINE_TYPE,
    ANNOTATION_PLACED_BY,
    ANNOTATION_PLACEMENT_REASON,
    ANNOTATION_REVISION,
    ANNOTATION_STARTED_WITH,
    ANNOTATION_WEIGHTS,
    START_GATE,
)
from memroute_operator.spec.deployment import Deployment
from memroute_operator.weights.pod import (
    engine_mounts,
    engine_variables,
    init_containers,
    pod_security,
    volumes,
)

SCRAPE_ANNOTATIONS = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(ENGINE_PORT),
    "prometheus.io/path": "/metrics",
}
"""By which the usual jobs of Prometheus find an engine's page."""
ANNOTATION_TEMPLATE = f"{GROUP}/template"
"""On replica pods: a hash of what the operator that made it puts into every pod of that spec."""


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
    hub_endpoint: str | None = None,
    fetch_image: str = "",
) -> KubeObject:
    """The manifest of a replica's pod. ``template``: its hash, to be found again by.

    ``bind_address``: what the engine listens on, all addresses of its pod. ``hub_endpoint``:
    where engines find models; None for the usual hub. ``fetch_image``: what fetches weights.
    """
    engine = engine_of(deployment.engine)
    shared = placed.mode is PlacementMode.SHARED
    capacity = engine.capacity_tokens(deployment, placed)
    host = host_cache_of(deployment, placed)
    drain = engine.drain(deployment)
    spec: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": drain.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "affinity": _on_node(placed.node),
        "tolerations": [
            {"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"},
            {"key": TAINT_SHARED, "operator": "Exists", "effect": "NoSchedule"},
        ],
        "containers": [
            _engine_container(deployment, placed, default_image, bind_address, hub_endpoint)
        ],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *volumes(deployment.weights),
        ],
    }
    fetching = init_containers(
        deployment.weights,
        image=fetch_image,
        hub=deployment.source,
        hub_endpoint=hub_endpoint,
        bind_address=bind_address,
        engine_env=deployment.engine_env,
    )
    if fetching:
        spec["initContainers"] = fetching
    if security := pod_security(deployment.weights):
        spec["securityContext"] = security
    if deployment.slots is not None:
        store = store_of(deployment)
        spec["volumes"] += adapter_volumes(deployment.adapters, store)
        spec["containers"].append(
            adapters_container(
                deployment.adapters,
                store,
                namespace=deployment.namespace,
                image=fetch_image,
                hub_endpoint=hub_endpoint,
                bind_address=bind_address,
                engine_env=deployment.engine_env,
            )
        )
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
            | _weights_annotation(deployment)
            | _adapters_annotation(deployment)
            | _occupancy_annotation(placed)
            | sleep_mode.annotations(deployment, placed)
            | ({} if host is None else host.annotations)
            | {
                ANNOTATION_RESERVATION: encode_reservation(
                    placed, generation=deployment.generation
                ),
                ANNOTATION_REVISION: deployment.legacy_revision or deployment.revision,
                ANNOTATION_STARTED_WITH: deployment.revision,
                ANNOTATION_ENGINE_TYPE: deployment.engine.spelled,
                ANNOTATION_ENGINE_IMAGE: deployment.engine_image or default_image,
                ANNOTATION_PLACED_BY: placed_by(deployment),
                ANNOTATION_PLACEMENT_REASON: placed.why,
                ANNOTATION_SERVED_MODEL: deployment.served_name,
                ANNOTATION_KV_CAPACITY_TOKENS: str(capacity),
                ANNOTATION_MAX_CONTEXT_TOKENS: str(deployment.max_context_tokens),
            },
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": spec,
    }
    pod = overlay(pod, deployment.template.said)
    # Its owner's word counts: "false", or another port.
    pod["metadata"]["annotations"] = SCRAPE_ANNOTATIONS | pod["metadata"]["annotations"]
    return pod


def _weights_annotation(deployment: Deployment) -> dict[str, str]:
    """What its node has of weights once they are fetched."""
    key = deployment.weights_key
    return {} if key is None else {ANNOTATION_WEIGHTS: key}


def _occupancy_annotation(placed: Placed) -> dict[str, str]:
    """What it takes of a shared device's time, for the plans to come; nothing of a whole one."""
    ratio = placed.occupancy_ratio
    if ratio is None or placed.mode is not PlacementMode.SHARED:
        return {}
    return {ANNOTATION_OCCUPANCY: f"{ratio:g}"}


def _adapters_annotation(deployment: Deployment) -> dict[str, str]:
    """Where its engine sees adapters, if it takes any."""
    if deployment.slots is None:
        return {}
    mounts = adapter_mounts(deployment.adapters, deployment.namespace)
    return {ANNOTATION_ADAPTERS: ",".join(one["mountPath"] for one in mounts)}


def _on_node(node: str) -> dict[str, Any]:
    # Affinity, never spec.nodeName: kube-scheduler stays the arbiter of the node's room.
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }


def _engine_container(
    deployment: Deployment,
    placed: Placed,
    default_image: str,
    bind_address: str,
    hub_endpoint: str | None,
) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": BIND_VARIABLE, "value": bind_address},
    ]
    if placed.device_uuids:
        environment.append(
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": ",".join(placed.device_uuids)}
        )
    own = {variable.get("name") for variable in deployment.engine_env}
    environment += [
        variable
        for variable in engine_variables(deployment.weights, deployment.source, hub_endpoint)
        if variable["name"] not in own
    ]
    engine = engine_of(deployment.engine)
    probes = engine.probes(deployment)
    environment += engine.environment(deployment, placed)
    container: dict[str, Any] = {
        "name": ENGINE_CONTAINER,
        "image": deployment.engine_image or default_image,
        "args": engine.arguments(deployment, placed),
        "env": environment + list(deployment.engine_env),
        "ports": ports(),
        # Its last lines are in its status: no right to read logs is needed to tell them.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": probes.startup.to_spec(),
        "readinessProbe": probes.readiness.to_spec(),
        "livenessProbe": probes.liveness.to_spec(),
        "volumeMounts": [
            {"name": "shm", "mountPath": SHARED_MEMORY},
            *engine_mounts(deployment.weights),
        ],
    }
    if deployment.slots is not None:
        container["volumeMounts"] += adapter_mounts(deployment.adapters, deployment.namespace)
    if command := engine.command(deployment):
        container["command"] = command
    container |= _before_the_end(engine.drain(deployment))
    is_exclusive = placed.mode is PlacementMode.EXCLUSIVE
    devices = {placed.resource: str(placed.num_devices)} if is_exclusive else {}
    container["resources"] = resources(
        deployment.footprint_on(placed.product),
        devices,
        pinned_bytes=pinned_bytes(deployment, deployment.footprint_on(placed.product)),
    )
    container["securityContext"] = security_context()
    return container


def _before_the_end(drain: Drain) -> dict[str, Any]:
    """What keeps SIGTERM from an engine that would drop its requests."""
    if not drain.pre_stop_seconds:
        return {}
    return {"lifecycle": {"preStop": {"sleep": {"seconds": drain.pre_stop_seconds}}}}
