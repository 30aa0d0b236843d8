"""What placement is asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from memroute.footprint import ReplicaFootprint, ReplicaShape
from memroute.placement.inventory import PlacementMode, Reservation, SleepHold
from memroute.placement.neighbours import ANY_NEIGHBOURS, NeighbourNeeds
from memroute.placement.scheduling import ANYWHERE, SchedulingNeeds


class PlacementStrategy(StrEnum):
    """How to choose among devices that fit."""

    PACK = "pack"
    """The tightest fit: keeps large free blocks whole for large models."""
    SPREAD = "spread"
    """Away from replicas of the same deployment: one lost node takes few replicas."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ReplicaKey:
    """One replica of one ModelDeployment."""

    namespace: str
    name: str
    index: int
    """Its slot: a number that tells it from the others and means no order."""
    suffix: str = ""
    """What is after the deployment's name in that of its pod; the number, where it is empty."""

    @property
    def deployment(self) -> str:
        """``namespace/name`` of the ModelDeployment."""
        return f"{self.namespace}/{self.name}"

    @property
    def pod_name(self) -> str:
        """The deterministic name of its pod: creating it twice is creating it once."""
        return f"{self.name}-{self.suffix or self.index}"

    @property
    def slot(self) -> str:
        """``namespace/name#index``: what stays the same when another pod takes its place."""
        return f"{self.deployment}#{self.index}"

    @property
    def pod(self) -> str:
        """``namespace/name`` of its pod."""
        return f"{self.namespace}/{self.pod_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a replica was, or was promised to be: it comes back there if it still fits."""

    node: str
    device_uuids: tuple[str, ...] = ()
    resource: str | None = None
    """Of which resource its whole devices were; None where nobody says."""
    claimed_bytes: int | None = None
    """Bytes per device that were claimed for it before its predecessor left; None for a replica
    that merely ran there, which is judged like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedReplica:
    """A replica that should run and does not."""

    key: ReplicaKey
    shape: ReplicaShape
    footprint: ReplicaFootprint
    mode: PlacementMode
    strategy: PlacementStrategy = PlacementStrategy.PACK
    node_selector: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    scheduling: SchedulingNeeds = ANYWHERE
    """What its pod tolerates, and what it asks of a node's labels."""
    footprints_by_product: Mapping[str, ReplicaFootprint] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Where an engine has measured itself on a kind of accelerator: what it needs there."""
    avoided_nodes: frozenset[str] = frozenset()
    """Nodes on which kube-scheduler has just refused a replica of this deployment."""
    home: Home | None = None
    neighbours: NeighbourNeeds = ANY_NEIGHBOURS
    """Which pods it must, must not or should not be beside."""
    occupancies_by_product: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Share of a device's time in which its engine moves or computes, by kind of accelerator;
    what is missing is not known, and counts as 1."""
    nodes_with_weights: frozenset[str] = frozenset()
    """Nodes whose disk has its weights, as far as is known: of equal ones these are preferred.
    They decide neither whether it fits, nor on which kind of accelerator."""

    rest_bytes: int | None = None
    """Of each device, what it keeps while it sleeps; None for one that never sleeps."""
    host_bytes: int = 0
    """Of its node's memory, what it may pin: KV cache there, weights while it sleeps."""
    host_fields: tuple[str, ...] = ()
    """What asks for that memory, as a person would change it: told where no node has it."""

    @property
    def minimum_bytes(self) -> int:
        """What it takes at least on all of its devices, wherever it goes."""
        footprints = (self.footprint, *self.footprints_by_product.values())
        return min(one.total_bytes * one.num_devices for one in footprints)

    @property
    def eligibility_key(self) -> tuple[object, ...]:
        """Equal for replicas that the same nodes may take."""
        selector = tuple(sorted(self.node_selector.items()))
        return (self.mode, selector, self.scheduling, self.avoided_nodes)

    @property
    def refusal_key(self) -> tuple[object, ...]:
        """Equal for replicas of which all fit nowhere when one does not, for the same reason.

        Footprints are compared by identity: those of one shape are one object.
        """
        by_product = tuple(
            sorted((name, one.total_bytes) for name, one in self.footprints_by_product.items())
        )
        memory = (self.rest_bytes, self.host_bytes, self.host_fields)
        return (id(self.footprint), by_product, memory, self.eligibility_key)

    def footprint_on(self, product: str | None) -> ReplicaFootprint:
        """What it needs on that kind of accelerator: as measured, else as estimated."""
        return self.footprints_by_product.get(product or "", self.footprint)

    def occupancy_on(self, product: str | None) -> float | None:
        """The share of such a device's time that its engine takes; None when not known."""
        return self.occupancies_by_product.get(product or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a replica goes, what it may use there, and why there."""

    key: ReplicaKey
    node: str
    mode: PlacementMode
    device_uuids: tuple[str, ...]
    """The chosen devices (shared); empty when the device plugin chooses (exclusive)."""
    num_devices: int
    bytes_per_device: int
    """What is promised on each device: what the engine's flags are computed from."""
    needed_bytes_per_device: int
    """What the replica was taken to need of it."""
    usable_bytes_per_device: int
    """What one process could use of such a device: what a utilization is a fraction of."""
    product: str | None
    why: str
    resource: str = "nvidia.com/gpu"
    """What an exclusive replica asks the device plugin for."""
    occupancy_ratio: float | None = None
    """Share of each device's time that its engine takes when it has work; None: not known."""
    contention: float | None = None
    """Engines' shares of the most contended of its devices, its own among them, summed: above 1
    they slow each other down. None for whole devices."""
    rest_bytes: int | None = None
    """Of each device, what it keeps while it sleeps; None for one that never sleeps."""
    host_bytes: int = 0
    """Of its node's memory, what it may pin."""
    host_link: str | None = None
    """How the node's devices reach its memory, as somebody has measured or named it; None: not
    said, so that the device's data sheet counts."""
    must_wait: bool = False
    """Whether an engine starts, ends or waits to start on one of its devices: they start one
    after the other."""

    def reservation(self) -> Reservation:
        """The promise, as the ledger counts it from now on: its engine is about to start."""
        return Reservation(
            owner=self.key.pod,
            deployment=self.key.deployment,
            node=self.node,
            device_bytes=dict.fromkeys(self.device_uuids, self.bytes_per_device),
            num_exclusive_devices=0 if self.device_uuids else self.num_devices,
            exclusive_bytes=0 if self.device_uuids else self.bytes_per_device,
            resource=self.resource,
            occupancy_ratio=self.occupancy_ratio,
            is_moving=True,
            sleep=None if self.rest_bytes is None else SleepHold(rest_bytes=self.rest_bytes),
            host_bytes=self.host_bytes,
        )

    @property
    def total_bytes(self) -> int:
        """What is promised on all of its devices."""
        return self.num_devices * self.bytes_per_device


class RefusedReason(StrEnum):
    """Why a replica is placed nowhere; the value is a condition reason."""

    NO_DEVICE_LARGE_ENOUGH = "NoDeviceLargeEnough"
    """Never: not even an empty cluster has room."""
    INSUFFICIENT_HBM = "InsufficientHBM"
    """Not now: others hold it."""
    INSUFFICIENT_HOST_MEMORY = "InsufficientHostMemory"
    """Its devices have room, and their nodes have too little memory for what it pins there."""
    NO_ELIGIBLE_NODE = "NoEligibleNode"
    """No node may take it: wrong mode, selector, taint, cordon."""
    DEVICES_UNKNOWN = "DevicesUnknown"
    """Unknown: no exporter has named the devices yet."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """Not now: its namespace holds what it may."""
    QUOTA_UNKNOWN = "QuotaUnknown"
    """Unknown: nobody can read how much its namespace may hold."""
    NEIGHBOURS = "Neighbours"
    """Not now: pods are where it must not be beside them, or are not where it must be."""
    PREEMPTING = "Preempting"
    """Soon: replicas of lower priority give way to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a replica is placed nowhere, with numbers, and what would make it fit."""

    key: ReplicaKey
    reason: RefusedReason
    message: str


Decision = Placed | Refused
