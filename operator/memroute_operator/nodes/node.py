"""A Node object and the readings of its exporter as a node that placement can plan on."""

from memroute.catalog.accelerators import accelerator_for_product, usable_bytes
from memroute.placement import Device, Node, PlacementMode
from memroute.units import MIB
from memroute_kube import KubeObject
from memroute_kube.resources import (
    GPU_RESOURCE,
    LABEL_GPU_SHARING,
    TAINT_SHARED,
    is_condition_true,
)
from memroute_operator.device_metrics import DeviceMetrics, DeviceReading

LABEL_GPU_MEMORY_MIB = "nvidia.com/gpu.memory"
LABEL_GPU_COUNT = "nvidia.com/gpu.count"
LABEL_GPU_PRODUCT = "nvidia.com/gpu.product"
TIB_IN_MIB = 1024 * 1024
# Some versions of GPU feature discovery wrote bytes: no device has a tebibyte.
TOLERATED_TAINTS = frozenset({GPU_RESOURCE, TAINT_SHARED})


def read_node(
    obj: KubeObject, metrics: DeviceMetrics, num_foreign_devices: int, now_seconds: float
) -> Node:
    """One node. ``num_foreign_devices``: whole devices that pods of others hold there."""
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
