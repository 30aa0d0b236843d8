"""What the cluster has, what of it is promised, and what is in use: one immutable snapshot.

A node's accelerators are handed out in one of two ways, never both:

* **exclusive**: whole, by the device plugin (``nvidia.com/gpu``). Which one a pod gets is the
  kubelet's choice, so a replica is judged by the least-free device it could be given.
* **shared**: by memroute, per UUID and in bytes, on nodes that were given to it.

Free bytes of a shared device combine what was promised with what is seen:

```text
free = min( usable - sum(reserved) ,  live_free - sum(pending growth) )
pending growth of a pod = its reservation until it is ready, 0 afterwards
```

The first term alone is blind to foreign processes; the second alone books twice while
weights load. Live facts count only while they are fresh.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class PlacementMode(StrEnum):
    """Who hands out a node's accelerators."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator of a node."""

    node: str
    index: int
    uuid: str | None
    """None until an exporter has named it: such a device cannot be shared."""
    product: str | None
    usable_bytes: int
    """What processes can use when nothing else runs."""
    usable_source: str
    """Where ``usable_bytes`` comes from: ``dcgm`` or ``label``."""
    product_source: str | None = None
    """Where ``product`` comes from; None when it is not known."""
    live_free_bytes: int | None = None
    """What the exporter reports free; None when unknown or stale."""
    live_age_seconds: float | None = None
    """How old ``live_free_bytes`` is at most, at the exporter's own pace; None without it.
    What has happened since is not in the reading."""
    unusable_reason: str | None = None
    """Why no new replica may use this device (``DeviceCordoned``, ``DeviceFailing``); None if
    one may."""
    is_slice: bool = False
    """Whether it is a MIG or time slice: one process sees one of them, so that no
    tensor-parallel group spans several."""
    assigned_pod: str | None = None
    """``namespace/name`` of the pod that the exporter attributes it to, when it does."""

    @property
    def display_name(self) -> str:
        """``node/GPU-1f3c``: short enough for a message, long enough to find."""
        return f"{self.node}/{self.uuid[:12] if self.uuid else f'gpu {self.index}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one pod of ours was promised. Kept while the pod terminates."""

    owner: str
    """``namespace/name`` of the pod."""
    deployment: str
    """``namespace/name`` of the ModelDeployment."""
    node: str
    device_bytes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Bytes per device UUID (shared); empty for an exclusive replica."""
    num_exclusive_devices: int = 0
    is_ready: bool = False
    """Whether the engine serves: from then on live readings include all it was promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, as far as placement cares."""

    name: str
    mode: PlacementMode
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unusable_reason: str | None = None
    """Why nothing may be placed here now (``NotReady``, ``Cordoned``, …); None if it may."""
    num_allocatable: int = 0
    """Whole devices that the device plugin can hand out."""
    num_foreign_devices: int = 0
    """Whole devices that pods of others hold."""
    has_fresh_metrics: bool = False
    resource: str = "nvidia.com/gpu"
    """The resource that an exclusive replica asks for here (``nvidia.com/mig-3g.40gb``, …)."""
    devices_unknown: str | None = None
    """Why nobody knows what the node's accelerators are, and what cures that; None when known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The snapshot that a plan is made on."""

    nodes: tuple[Node, ...]
    reservations: tuple[Reservation, ...] = ()


class Ledger:
    """Free bytes and free whole devices of an inventory, while a plan books more.

    Owns its own counters; the inventory below stays as it is.
    """

    def __init__(self, inventory: Inventory, *, ignore_use: bool = False) -> None:
        """``ignore_use``: as if nothing ran anywhere ("would it fit an empty cluster?")."""
        self.nodes = inventory.nodes
        self._ignore_use = ignore_use
        self._reserved_bytes: dict[str, int] = {}
        self._pending_growth_bytes: dict[str, int] = {}
        self._num_exclusive: dict[str, int] = {}
        self._num_exclusive_ready: dict[str, int] = {}
        self._holders: dict[str, list[tuple[int, str]]] = {}
        self._replicas_on_node: dict[tuple[str, str], int] = {}
        for reservation in inventory.reservations:
            self._count(reservation)

    def book(self, reservation: Reservation) -> None:
        """Count one more promise."""
        self._count(reservation)

    def _count(self, reservation: Reservation) -> None:
        placed = (reservation.deployment, reservation.node)
        self._replicas_on_node[placed] = self._replicas_on_node.get(placed, 0) + 1
        if self._ignore_use:
            return
        for uuid, num_bytes in reservation.device_bytes.items():
            self._reserved_bytes[uuid] = self._reserved_bytes.get(uuid, 0) + num_bytes
            self._holders.setdefault(uuid, []).append((num_bytes, reservation.owner))
            if not reservation.is_ready:
                pending = self._pending_growth_bytes.get(uuid, 0)
                self._pending_growth_bytes[uuid] = pending + num_bytes
        if reservation.num_exclusive_devices:
            held = self._num_exclusive.get(reservation.node, 0)
            self._num_exclusive[reservation.node] = held + reservation.num_exclusive_devices
            if reservation.is_ready:
                ready = self._num_exclusive_ready.get(reservation.node, 0)
                self._num_exclusive_ready[reservation.node] = (
                    ready + reservation.num_exclusive_devices
                )

    def replicas_on_node(self, deployment: str, node: str) -> int:
        """How many replicas of a deployment the node holds."""
        return self._replicas_on_node.get((deployment, node), 0)

    def holders(self, device: Device) -> list[tuple[int, str]]:
        """Who was promised bytes of a shared device, the largest first."""
        return sorted(self._holders.get(device.uuid or "", []), reverse=True)

    def free_bytes(self, device: Device) -> int:
        """Bytes of a shared device that may still be promised; never negative."""
        if device.uuid is None:
            return 0
        nominal = device.usable_bytes - self._reserved_bytes.get(device.uuid, 0)
        if device.live_free_bytes is None or self._ignore_use:
            return max(0, nominal)
        live = device.live_free_bytes - self._pending_growth_bytes.get(device.uuid, 0)
        return max(0, min(nominal, live))

    def num_free_devices(self, node: Node) -> int:
        """Whole devices of the node that the device plugin can still hand out."""
        if self._ignore_use:
            return node.num_allocatable
        held = node.num_foreign_devices + self._num_exclusive.get(node.name, 0)
        return max(0, node.num_allocatable - held)

    def exclusive_bytes(self, node: Node) -> int:
        """Bytes that an exclusive replica can count on, whichever free device it is given.

        The least-free device that no pod holds: foreign processes on a device count against
        it, because the device plugin does not see them. Where the exporter does not attribute
        devices to pods, the fullest ones are taken to be those of the pods that run.
        """
        if self._ignore_use:
            return min((device.usable_bytes for device in node.devices), default=0)
        unassigned = sorted(
            device.usable_bytes
            if device.live_free_bytes is None
            else min(device.usable_bytes, device.live_free_bytes)
            for device in node.devices
            if device.assigned_pod is None
        )
        num_assigned = len(node.devices) - len(unassigned)
        num_running = node.num_foreign_devices + self._num_exclusive_ready.get(node.name, 0)
        candidates = unassigned[max(0, num_running - num_assigned) :]
        return candidates[0] if candidates else 0
