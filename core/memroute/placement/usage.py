"""Where the HBM of a fleet is: promised, observed, others', free; device by device, node by node.

The numbers are the ledger's own, so that what a person is shown is what placement goes by. What
nobody has told is None.

| number | shared device | device that is handed out whole |
| --- | --- | --- |
| promised | the sum of the promises | that of the replica which has it, by its exporter |
| observed | in use, as its exporter reads | the same |
| foreign | in use beyond our replicas', for certain | all of another pod's; else no pod's use |
| unclear | in use, foreign or our replicas' | nothing |
| free | may still be promised | nothing where a pod has it; else what one could count on |

A reading may be from before a replica has ended, and shows any part of one that starts. What it
shows beyond the other promises, up to those replicas', is unclear: it is promised to nobody until
a younger reading tells, and is not called foreign. Where something is unclear, free is a lower
bound. A whole device whose reading names a pod that is gone was used by that one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from memroute.placement.inventory import Device, Inventory, Node, PlacementMode
from memroute.placement.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """One device, in bytes."""

    device: Device
    promised_bytes: int | None
    """None where nobody says which replica has it."""
    observed_bytes: int | None
    foreign_bytes: int | None
    free_bytes: int | None
    unclear_bytes: int = 0
    """In use by others, or by our replicas that start or have just ended: nobody knows yet."""
    lent_bytes: int = 0
    """Of what is promised, what replicas that sleep lend to others that may sleep."""
    contention: float | None = None
    """What engines on a shared device want of its time, summed: above 1 they slow each other.
    None where nobody shares it."""
    holders: tuple[tuple[str, int], ...]
    """``namespace/pod`` and bytes, the largest first."""

    @property
    def is_free_at_least(self) -> bool:
        """Whether a younger reading may show more free than this one does."""
        return self.free_bytes is not None and self.unclear_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUse:
    """One node (once for each resource that it hands out), in bytes of all its devices."""

    node: Node
    devices: tuple[DeviceUse, ...]
    num_free_devices: int
    """Devices that nobody has (whole), or with room that may be promised (shared)."""
    promised_bytes: int
    observed_bytes: int | None
    foreign_bytes: int
    free_bytes: int
    unclear_bytes: int = 0

    @property
    def is_free_at_least(self) -> bool:
        """Whether a younger reading may show more free than this one does."""
        return self.unclear_bytes > 0

    @property
    def usable_bytes(self) -> int:
        """What processes can use of all its devices when nothing else runs."""
        return sum(one.device.usable_bytes for one in self.devices)

    @property
    def age_seconds(self) -> float | None:
        """How old the oldest of its observations is; None where nothing is observed."""
        ages = [one.device.live_age_seconds for one in self.devices]
        known = [age for age in ages if age is not None]
        return max(known) if known else None


def uses(inventory: Inventory, ledger: Ledger | None = None) -> tuple[NodeUse, ...]:
    """All nodes with accelerators, by name. ``ledger``: of that inventory, where there is one."""
    ledger = Ledger(inventory) if ledger is None else ledger
    promised = _promised_whole(ledger)
    found = [
        _node_use(ledger, node, promised.get(node.key, 0))
        for node in inventory.nodes
        if node.devices or node.num_allocatable or node.devices_unknown is not None
    ]
    return tuple(sorted(found, key=lambda one: one.node.key))


def _node_use(ledger: Ledger, node: Node, promised_whole: int) -> NodeUse:
    if node.mode is PlacementMode.SHARED:
        devices = tuple(_shared(ledger, one) for one in node.devices)
    else:
        devices = tuple(_whole(ledger, node, one) for one in node.devices)
    return _sum(node, devices, ledger, promised_whole)


def _observed(device: Device) -> int | None:
    free = device.live_free_bytes
    return None if free is None else max(0, device.usable_bytes - free)


def _shared(ledger: Ledger, device: Device) -> DeviceUse:
    is_read, foreign = device.live_free_bytes is not None, ledger.certainly_foreign_bytes(device)
    return DeviceUse(
        device=device,
        promised_bytes=ledger.reserved_bytes(device),
        observed_bytes=_observed(device),
        foreign_bytes=foreign if is_read else None,
        unclear_bytes=ledger.foreign_bytes(device) - foreign if is_read else 0,
        free_bytes=ledger.free_bytes(device),
        lent_bytes=ledger.lent_bytes(device),
        contention=ledger.contention(device),
        holders=tuple((owner, size) for size, owner in ledger.holders(device)),
    )


def _whole(ledger: Ledger, node: Node, device: Device) -> DeviceUse:
    pod, observed = ledger.attributed_pod(device), _observed(device)
    reservation = None if pod is None else ledger.by_owner.get(pod)
    if reservation is not None:
        promised = reservation.exclusive_bytes
        return DeviceUse(
            device=device, promised_bytes=promised, observed_bytes=observed, foreign_bytes=0,
            free_bytes=0, holders=((reservation.owner, promised),),
        )  # fmt: skip
    if pod is not None:
        return DeviceUse(
            device=device, promised_bytes=0, observed_bytes=observed,
            foreign_bytes=device.usable_bytes, free_bytes=0, holders=((pod, device.usable_bytes),),
        )  # fmt: skip
    if ledger.num_free_devices(node) < node.num_allocatable and not _all_attributed(ledger, node):
        # Some are held, and nobody says which.
        return DeviceUse(
            device=device, promised_bytes=None, observed_bytes=observed, foreign_bytes=None,
            free_bytes=None, holders=(),
        )  # fmt: skip
    # A reading that names a pod is from before that pod has gone: nobody else used the device.
    foreign = 0 if device.assigned_pod is not None and observed is not None else observed
    free = 0 if device.unusable_reason is not None else device.usable_bytes - (foreign or 0)
    return DeviceUse(
        device=device, promised_bytes=0, observed_bytes=observed, foreign_bytes=foreign,
        free_bytes=max(0, free), holders=(),
    )  # fmt: skip


def _all_attributed(ledger: Ledger, node: Node) -> bool:
    """Whether the exporter says of every held device who has it."""
    held = node.num_allocatable - ledger.num_free_devices(node)
    return sum(ledger.attributed_pod(one) is not None for one in node.devices) >= held


def _sum(
    node: Node, devices: tuple[DeviceUse, ...], ledger: Ledger, promised_whole: int
) -> NodeUse:
    observed = [one.observed_bytes for one in devices]
    known = [number for number in observed if number is not None]
    if node.mode is PlacementMode.SHARED:
        num_free = sum(bool(one.free_bytes) for one in devices)
        promised = sum(one.promised_bytes or 0 for one in devices)
        foreign = sum(one.foreign_bytes or 0 for one in devices)
        free = sum(one.free_bytes or 0 for one in devices)
    else:
        num_free = 0 if node.unusable_reason else ledger.num_free_devices(node)
        promised = promised_whole
        largest = max((one.device.usable_bytes for one in devices), default=0)
        foreign = node.num_foreign_devices * largest
        free = num_free * ledger.exclusive_bytes(node)
    if node.unusable_reason is not None:
        free = 0
    return NodeUse(
        node=node, devices=devices, num_free_devices=num_free, promised_bytes=promised,
        observed_bytes=sum(known) if len(known) == len(observed) and known else None,
        foreign_bytes=foreign, free_bytes=free,
        unclear_bytes=sum(one.unclear_bytes for one in devices),
    )  # fmt: skip


def _promised_whole(ledger: Ledger) -> dict[str, int]:
    """Key of a node → bytes of whole devices that replicas on it were promised."""
    found: dict[str, int] = {}
    for one in ledger.by_owner.values():
        if one.num_exclusive_devices:
            key = ledger.key_of(one)
            promised = one.exclusive_bytes * one.num_exclusive_devices
            found[key] = found.get(key, 0) + promised
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetUse:
    """Sums over nodes, in bytes."""

    num_nodes: int
    num_devices: int
    usable_bytes: int
    promised_bytes: int
    observed_bytes: int | None
    """None unless every node is observed."""
    foreign_bytes: int
    free_bytes: int
    unclear_bytes: int = 0
    is_free_at_least: bool = False
    """Whether younger readings may show more free."""


def fleet_use(nodes: Iterable[NodeUse]) -> FleetUse:
    """The sums. A node that hands out several resources is one."""
    listed = tuple(nodes)
    observed = [one.observed_bytes for one in listed if one.devices]
    known = [number for number in observed if number is not None]
    return FleetUse(
        num_nodes=len({one.node.name for one in listed}),
        num_devices=sum(len(one.devices) for one in listed),
        usable_bytes=sum(one.usable_bytes for one in listed),
        promised_bytes=sum(one.promised_bytes for one in listed),
        observed_bytes=sum(known) if known and len(known) == len(observed) else None,
        foreign_bytes=sum(one.foreign_bytes for one in listed),
        free_bytes=sum(one.free_bytes for one in listed),
        unclear_bytes=sum(one.unclear_bytes for one in listed),
        is_free_at_least=any(one.is_free_at_least for one in listed),
    )
