"""One question: a cluster, and the replicas that want a place in it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from memroute.catalog import architecture_for_model
from memroute.catalog.accelerators import ACCELERATORS
from memroute.footprint import (
    Quantization,
    ReplicaFootprint,
    ReplicaShape,
    replica_footprint,
)
from memroute.placement import (
    Device,
    Inventory,
    Node,
    PlacementMode,
    ReplicaKey,
    WantedReplica,
)
from memroute.sizing.occupancy import occupancy_ratio
from memroute.units import MIB, ceil_div

UNIT_BYTES = 512 * MIB
# Needs are rounded up, and devices down, to whole units for everybody: the exact optimum then
# counts in integers of some 100 to 300, and loses nothing by it.
USABLE_UNITS = {row.name: row.usable_bytes // UNIT_BYTES for row in ACCELERATORS}
"""What a process can use of each kind of accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A cluster and what wants a place in it."""

    case: str
    seed: int
    inventory: Inventory
    wanted: tuple[WantedReplica, ...]
    """Oldest first; replicas of one deployment stand together."""

    @property
    def num_devices(self) -> int:
        """Accelerators of the cluster."""
        return sum(len(node.devices) for node in self.inventory.nodes)

    def deployments(self) -> Iterator[tuple[WantedReplica, ...]]:
        """The replicas of each deployment, oldest first."""
        for _, replicas in groupby(self.wanted, key=lambda replica: replica.key.deployment):
            yield tuple(replicas)

    def first(self, num_replicas: int) -> "Instance":
        """The same cluster, asked for the oldest ``num_replicas`` alone."""
        return replace(self, wanted=self.wanted[:num_replicas])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """A deployment's memory, as its author would ask for it."""

    model: str
    max_context_tokens: int = 8192
    concurrency: int = 8
    tensor_parallel_size: int = 1
    quantization: Quantization = Quantization.NONE


@lru_cache(maxsize=1024)
def shape_of(size: ModelSize) -> ReplicaShape:
    """The shape of its replicas."""
    return ReplicaShape(
        architecture=architecture_for_model(size.model),
        max_context_tokens=size.max_context_tokens,
        concurrency=size.concurrency,
        tensor_parallel_size=size.tensor_parallel_size,
        quantization=size.quantization,
    )


@lru_cache(maxsize=4096)
def footprint_of_units(size: ModelSize, units: int | None = None) -> ReplicaFootprint:
    """What its replicas need, in whole units: as estimated, or made to be ``units``.

    What is added or taken is KV cache, so that the footprint is still one of an engine.
    """
    footprint = replica_footprint(shape_of(size))
    need = ceil_div(footprint.total_bytes, UNIT_BYTES) if units is None else units
    more = need * UNIT_BYTES - footprint.total_bytes
    return replace(footprint, kv_cache_bytes=footprint.kv_cache_bytes + more)


def deployment(
    number: int,
    size: ModelSize,
    num_replicas: int,
    *,
    mode: PlacementMode = PlacementMode.SHARED,
    selector: dict[str, str] | None = None,
    units: int | None = None,
    num_devices: int | None = None,
) -> tuple[WantedReplica, ...]:
    """The replicas of one deployment. ``units``, ``num_devices``: other than the model's own."""
    footprint = footprint_of_units(size, units)
    if num_devices is not None:
        footprint = replace(footprint, num_devices=num_devices)
    return tuple(
        WantedReplica(
            key=ReplicaKey(namespace="bench", name=f"m{number:04}", index=index),
            shape=shape_of(size),
            footprint=footprint,
            mode=mode,
            node_selector=selector or {},
            occupancies_by_product=_occupancies(size),
        )
        for index in range(num_replicas)
    )


@lru_cache(maxsize=1024)
def _occupancies(size: ModelSize) -> dict[str, float]:
    """The share of each kind of accelerator's time that its engine takes."""
    found = {}
    for row in ACCELERATORS:
        ratio = occupancy_ratio(shape_of(size), row)
        if ratio is not None:
            found[row.name] = ratio
    return found


def node(
    name: str,
    products: tuple[str, ...],
    *,
    mode: PlacementMode = PlacementMode.SHARED,
    labels: dict[str, str] | None = None,
    foreign_units: dict[int, int] | None = None,
    num_foreign_devices: int = 0,
) -> Node:
    """A node with a device per product. ``foreign_units``: by device, what others use of it."""
    foreign = foreign_units or {}
    devices = []
    for index, product in enumerate(products):
        usable = USABLE_UNITS[product] * UNIT_BYTES
        free = usable - foreign.get(index, 0) * UNIT_BYTES
        # Whole devices that others hold are read as full, and attributed to their pod.
        held = mode is PlacementMode.EXCLUSIVE and index < num_foreign_devices
        devices.append(
            Device(
                node=name,
                index=index,
                uuid=f"GPU-{name}-{index}",
                product=product,
                usable_bytes=usable,
                usable_source="dcgm",
                live_free_bytes=0 if held else free,
                assigned_pod="others/job" if held else None,
            )
        )
    return Node(
        name=name,
        mode=mode,
        devices=tuple(devices),
        labels=labels or {},
        num_allocatable=len(products) if mode is PlacementMode.EXCLUSIVE else 0,
        num_foreign_devices=num_foreign_devices,
        has_fresh_metrics=True,
    )
