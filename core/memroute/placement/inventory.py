"""What the cluster has, what of it is promised, and what is in use: one immutable snapshot.

A node's accelerators are handed out in one of two ways, never both:

* **exclusive**: whole, by the device plugin (``nvidia.com/gpu``). Which one a pod gets is the
  kubelet's choice, so a replica is judged by the least-free device it could be given.
* **shared**: by memroute, per UUID and in bytes, on nodes that were given to it.

How much of that is still free is the ledger's to say (``memroute.placement.ledger``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from memroute.placement.scheduling import Taint


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
class SleepHold:
    """How a replica that may sleep stands, for whoever counts its bytes."""

    rest_bytes: int
    """Of each device, what it keeps while it sleeps."""
    is_asleep: bool = False
    """Whether its engine has confirmed that it sleeps: until then it counts in full."""
    settled_seconds: float | None = None
    """For how long it has been seen so; None on the way between the two, infinite for one that has
    never slept. Only a reading younger than that shows it as it stands."""


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
    exclusive_bytes: int = 0
    """Bytes promised on each of the whole devices."""
    resource: str | None = None
    """Of which resource the whole devices are; None where nobody says."""
    ready_seconds: float | None = None
    """How long its engine has been seen holding all it was promised; None while it loads.
    Only a reading younger than that shows all of it."""
    is_moving: bool = False
    """Whether its engine starts, ends, or is queued to start: nobody else may start there now."""
    is_stuck: bool = False
    """Whether it hangs in Terminating: nobody else can start on its devices until it has gone."""
    occupancy_ratio: float | None = None
    """Share of each device's time in which its engine moves or computes, when it has work;
    None where nobody knows: it counts as 1."""
    replaces: str | None = None
    """For the claim of a successor: the pod that it replaces. The two are never there at once,
    so where they share a device the larger of them counts."""
    sleep: SleepHold | None = None
    """Of a replica that may sleep; None for one that never does."""
    host_bytes: int = 0
    """Of its node's memory, what it may pin: KV cache there, weights while it sleeps."""
    is_preemptor: bool = False
    """For the claim of a replica of higher priority that pods give way to. It is there once for
    each of those pods (``replaces``), and is one claim: that of its ``owner``."""

    def rest_on(self, uuid: str) -> int:
        """Bytes that it has on a device while it sleeps; all of them, if it never does."""
        size = self.device_bytes.get(uuid, 0)
        return size if self.sleep is None else min(size, self.sleep.rest_bytes)

    def lent_on(self, uuid: str) -> int:
        """Bytes of a device that it lends to others while it sleeps; 0 while it does not."""
        if self.sleep is None or not self.sleep.is_asleep:
            return 0
        return self.device_bytes.get(uuid, 0) - self.rest_on(uuid)

    @property
    def namespace(self) -> str:
        """Whose HBM it is."""
        return self.deployment.partition("/")[0]

    @property
    def total_bytes(self) -> int:
        """Bytes on all of its devices."""
        return sum(self.device_bytes.values()) + self.num_exclusive_devices * self.exclusive_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Departed:
    """What a replica of ours was promised that has ended: a reading may be from before that."""

    device_bytes: Mapping[str, int]
    """Bytes per device UUID (shared)."""
    ended_seconds: float
    """How long ago its pod was seen gone, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, as far as placement cares; once for each resource that it hands out."""

    name: str
    mode: PlacementMode
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    taints: tuple[Taint, ...] = ()
    """Those that not every replica tolerates."""
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
    notes: tuple[str, ...] = ()
    """What sources have said of the node that cannot be, and was left out."""
    host_bytes: int | None = None
    """Memory of the node itself that pods can be given; None where nobody says."""
    link: str | None = None
    """What joins its devices, as somebody has said (``memroute.bandwidth.link_of``); None where
    nobody has."""
    host_link: str | None = None
    """How each reaches the node's memory, likewise (``memroute.hierarchy.host_link_of_text``)."""

    @property
    def key(self) -> str:
        """Unique in an inventory: a node is there once for each resource that it hands out."""
        return f"{self.name}/{self.resource}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The snapshot that a plan is made on."""

    nodes: tuple[Node, ...]
    reservations: tuple[Reservation, ...] = ()
    departed: tuple[Departed, ...] = ()
    max_contention: float | None = None
    """Engines' shares of one device's time, summed, beyond which another device is preferred;
    None: bytes alone decide. It refuses nobody: where nothing else fits, it is exceeded."""
    live_pods: frozenset[str] | None = None
    """``namespace/name`` of all pods that exist, of anybody; None when nobody has looked.
    An exporter attributes a device to its last pod until it collects again: only an attribution
    to a pod that exists counts."""
