"""From raw objects and readings to the facts that a plan is made on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType

from memroute.catalog.accelerators import accelerator_for_product, usable_bytes
from memroute.footprint import Calibration, CalibrationKey
from memroute.placement import Device, Inventory, Node, PlacementMode
from memroute.units import MIB
from memroute_kube import KubeObject
from memroute_kube.resources import (
    GPU_RESOURCE,
    LABEL_DEPLOYMENT,
    LABEL_GPU_SHARING,
    TAINT_SHARED,
    is_condition_true,
    object_key,
)
from memroute_operator.calibrations import (
    EngineReport,
    calibrations_of,
    measure,
    read_calibrations,
)
from memroute_operator.deployment import Deployment, read_deployment
from memroute_operator.device_metrics import DeviceMetrics, DeviceReading
from memroute_operator.memory import PlanMemory
from memroute_operator.replica import Replica, is_terminal, read_replica
from memroute_operator.store import Store

LABEL_GPU_MEMORY_MIB = "nvidia.com/gpu.memory"
LABEL_GPU_COUNT = "nvidia.com/gpu.count"
LABEL_GPU_PRODUCT = "nvidia.com/gpu.product"
TIB_IN_MIB = 1024 * 1024
# Some versions of GPU feature discovery wrote bytes: no device has a tebibyte.
TOLERATED_TAINTS = frozenset({GPU_RESOURCE, TAINT_SHARED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one reconcile decides on."""

    deployments: tuple[Deployment, ...]
    """The oldest first: who came first is placed first."""
    replicas: tuple[Replica, ...]
    unreadable_pods: tuple[KubeObject, ...]
    """Pods with our label whose reservation cannot be read: nobody knows what they hold."""
    inventory: Inventory
    lost_nodes: frozenset[str]
    """Nodes that do not exist any more, or are not ready."""
    stale_nodes: frozenset[str]
    """Nodes with devices whose exporter does not answer."""

    def replicas_by_deployment(self) -> dict[str, list[Replica]]:
        """``namespace/name`` of the ModelDeployment → its replicas, the oldest first."""
        grouped: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            grouped.setdefault(replica.deployment, []).append(replica)
        return grouped


def gather(
    store: Store,
    metrics: DeviceMetrics,
    *,
    now_seconds: float,
    reports: Mapping[str, EngineReport | None] = MappingProxyType({}),
    memory: PlanMemory | None = None,
    now: datetime | None = None,
) -> Facts:
    """The facts, from the store and the last readings. ``now_seconds``: the readings' clock.

    ``reports``: what engines have said of themselves, by the uid of their pod.
    ``memory``: since when replicas have been seen as they are; without it, since now.
    ``now``: the wall clock.
    """
    replicas, unreadable, foreign_devices = _read_pods(store)
    replicas = (memory or PlanMemory()).stamp(
        replicas, now_seconds=now_seconds, now=now or datetime.now(UTC)
    )
    nodes = [
        _read_node(obj, metrics, foreign_devices.get(obj["metadata"]["name"], 0), now_seconds)
        for obj in sorted(store.nodes.values(), key=object_key)
    ]
    deployments = {
        deployment.key: deployment
        for deployment in map(read_deployment, store.model_deployments.values())
    }
    calibrations = read_calibrations(store.model_deployments.values())
    calibrations |= _measured(deployments, replicas, nodes, reports)
    wanted = sorted(
        (
            replace(one, calibrations=calibrations_of(one.obj["spec"], calibrations))
            for one in deployments.values()
            # One that is being deleted wants nothing any more: its pods are orphans by now.
            if "deletionTimestamp" not in one.obj["metadata"]
        ),
        key=lambda deployment: (deployment.created_at, deployment.key),
    )
    ready_nodes = {node.name for node in nodes if node.unusable_reason != "NotReady"}
    return Facts(
        deployments=tuple(wanted),
        replicas=tuple(sorted(replicas, key=lambda r: (r.created_at, r.key))),
        unreadable_pods=tuple(unreadable),
        inventory=Inventory(
            nodes=tuple(nodes),
            reservations=tuple(one for r in replicas for one in r.reservations()),
            live_pods=frozenset(
                object_key(pod) for pod in store.pods.values() if not is_terminal(pod)
            ),
        ),
        lost_nodes=frozenset({r.node for r in replicas} - ready_nodes),
        stale_nodes=frozenset(
            node.name for node in nodes if node.devices and not node.has_fresh_metrics
        ),
    )


def _read_pods(store: Store) -> tuple[list[Replica], list[KubeObject], dict[str, int]]:
    """Our replicas, our pods that cannot be read, and whole devices of others by node."""
    replicas: list[Replica] = []
    unreadable: list[KubeObject] = []
    foreign_devices: dict[str, int] = {}
    for pod in store.pods.values():
        if LABEL_DEPLOYMENT in (pod["metadata"].get("labels") or {}):
            replica = read_replica(pod)
            if replica is None:
                unreadable.append(pod)
            else:
                replicas.append(replica)
        elif not is_terminal(pod) and (node := pod["spec"].get("nodeName")):
            foreign_devices[node] = foreign_devices.get(node, 0) + _requested_devices(pod)
    return replicas, unreadable, foreign_devices


def _measured(
    deployments: Mapping[str, Deployment],
    replicas: list[Replica],
    nodes: list[Node],
    reports: Mapping[str, EngineReport | None],
) -> dict[CalibrationKey, Calibration]:
    """What engines of the current specs have measured; of several, the one that took most."""
    found: dict[CalibrationKey, Calibration] = {}
    by_name = {node.name: node for node in nodes}
    for replica in replicas:
        report, node = reports.get(replica.uid), by_name.get(replica.node)
        deployment = deployments.get(replica.deployment)
        if report is None or node is None or deployment is None:
            continue
        products = {device.product for device in node.devices}
        if deployment.footprint is None or replica.revision != deployment.revision:
            continue
        if len(products) != 1 or (product := products.pop()) is None:
            continue  # which kind the device plugin has given is not known
        calibration = measure(
            deployment.obj["spec"],
            report,
            deployment.footprint,
            product=product,
            usable_bytes=min(device.usable_bytes for device in node.devices),
        )
        if calibration is None:
            continue
        known = found.get(calibration.key)
        if known is None or known.overhead_bytes < calibration.overhead_bytes:
            found[calibration.key] = calibration
    return found


def _requested_devices(pod: KubeObject) -> int:
    return sum(
        int(container.get("resources", {}).get("limits", {}).get(GPU_RESOURCE, 0))
        for container in pod["spec"]["containers"]
    )


def _read_node(
    obj: KubeObject, metrics: DeviceMetrics, num_foreign_devices: int, now_seconds: float
) -> Node:
    name = obj["metadata"]["name"]
    labels = obj["metadata"].get("labels") or {}
    shared = labels.get(LABEL_GPU_SHARING) == "shared"
    fresh = metrics.is_fresh(name, now_seconds=now_seconds)
    reading = metrics.readings.get(name)
    if reading is not None and reading.devices:
        devices = tuple(_from_exporter(name, device, fresh=fresh) for device in reading.devices)
    else:
        devices = _from_labels(name, labels)
    return Node(
        name=name,
        mode=PlacementMode.SHARED if shared else PlacementMode.EXCLUSIVE,
        devices=tuple(device for device in devices if device is not None),
        labels=labels,
        unusable_reason=_unusable_reason(obj),
        num_allocatable=int(obj.get("status", {}).get("allocatable", {}).get(GPU_RESOURCE, 0)),
        num_foreign_devices=num_foreign_devices,
        has_fresh_metrics=fresh,
    )


def _from_exporter(node: str, reading: DeviceReading, *, fresh: bool) -> Device | None:
    total = reading.total_bytes
    if total is None:
        return None
    usable = usable_bytes(product=reading.product, reported_bytes=total)
    if reading.reserved_bytes is not None:
        usable = min(usable, total - reading.reserved_bytes)
    return Device(
        node=node,
        index=reading.index,
        uuid=reading.uuid,
        product=reading.product,
        usable_bytes=usable,
        usable_source="dcgm",
        live_free_bytes=reading.free_bytes if fresh else None,
        assigned_pod=reading.assigned_pod if fresh else None,
    )


def _from_labels(node: str, labels: dict[str, str]) -> tuple[Device, ...]:
    try:
        count, memory = int(labels[LABEL_GPU_COUNT]), int(labels[LABEL_GPU_MEMORY_MIB])
    except (KeyError, ValueError):
        return ()
    reported = memory if memory >= TIB_IN_MIB else memory * MIB
    product = labels.get(LABEL_GPU_PRODUCT)
    return tuple(
        Device(
            node=node,
            index=index,
            uuid=None,
            product=product if accelerator_for_product(product or "") else None,
            usable_bytes=usable_bytes(product=product, reported_bytes=reported),
            usable_source="label",
        )
        for index in range(count)
    )


def _unusable_reason(node: KubeObject) -> str | None:
    if not is_condition_true(node, "Ready"):
        return "NotReady"
    if node["spec"].get("unschedulable"):
        return "Cordoned"
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] in ("NoSchedule", "NoExecute") and taint["key"] not in TOLERATED_TAINTS:
            return "Tainted"
    return None
