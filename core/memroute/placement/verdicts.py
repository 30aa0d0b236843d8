"""Why not there? Each node's answer to one replica, with the numbers that decide."""

from dataclasses import dataclass

from memroute.placement.eligibility import ineligible_reason
from memroute.placement.inventory import Device, Inventory, Node, PlacementMode
from memroute.placement.ledger import Ledger
from memroute.placement.problem import WantedReplica
from memroute.units import format_gib

# Holders of a device that are named one by one.
MAX_HOLDERS = 3
# What the words of ``ineligible_reason`` mean to a reader. Others are sentences already.
_MEANINGS = {
    "NoAccelerator": "it has no accelerator",
    "NotShared": "its devices are handed out whole: it is not labelled "
    "memroute.dev/gpu-sharing=shared",
    "NotExclusive": "its devices are shared (label memroute.dev/gpu-sharing=shared)",
    "VendorNotSelected": "its devices are AMD's, and placement.nodeSelector does not ask for them",
    "RefusedByScheduler": "kube-scheduler or kubelet has just refused a replica there",
    "Cordoned": "it is cordoned",
    "NotReady": "it is not ready",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one node may take the replica now, and the reason."""

    node: str
    resource: str
    fits: bool
    why: str
    short_bytes: int | None = None
    """By how much its devices are too full or too small; None where that is not what it lacks."""


def verdicts(inventory: Inventory, replica: WantedReplica) -> tuple[Verdict, ...]:
    """Each node's answer: those that would take it first, then the nearest misses."""
    ledger = Ledger(inventory)
    found = [_verdict(ledger, node, replica) for node in inventory.nodes]
    return tuple(
        sorted(
            found,
            key=lambda one: (
                not one.fits, one.short_bytes is None, one.short_bytes or 0, one.node, one.resource,
            ),
        )
    )  # fmt: skip


def _verdict(ledger: Ledger, node: Node, replica: WantedReplica) -> Verdict:
    reason = ineligible_reason(node, replica)
    if reason is not None:
        return _no(node, _meaning(reason, node, replica))
    if node.devices_unknown is not None and not node.devices:
        return _no(node, node.devices_unknown)
    num_devices = replica.footprint.num_devices
    if num_devices > 1 and any(device.is_slice for device in node.devices):
        return _no(
            node, f"its devices are slices, and a group of {num_devices} cannot span several"
        )
    if replica.mode is PlacementMode.SHARED:
        found = _shared(ledger, node, replica)
    else:
        found = _whole(ledger, node, replica)
    if not found.fits or ledger.node_memory.has_room(node.name, replica.host_bytes):
        return found
    free, size = ledger.node_memory.free_bytes(node.name) or 0, node.host_bytes or 0
    text = (
        f"it has {format_gib(free)} of {format_gib(size)} host memory free, "
        f"{format_gib(replica.host_bytes)} are needed"
    )
    return _no(node, text)


def _no(node: Node, why: str, *, short_bytes: int | None = None) -> Verdict:
    return Verdict(
        node=node.name, resource=node.resource, fits=False, why=why, short_bytes=short_bytes
    )


def _yes(node: Node, why: str) -> Verdict:
    return Verdict(node=node.name, resource=node.resource, fits=True, why=why)


def _meaning(reason: str, node: Node, replica: WantedReplica) -> str:
    if reason == "SelectorMismatch":
        wrong = [
            f"{key}={value} is asked, it has {node.labels.get(key) or 'no such label'}"
            for key, value in sorted(replica.node_selector.items())
            if node.labels.get(key) != value
        ]
        return f"placement.nodeSelector: {'; '.join(wrong)}"
    return _MEANINGS.get(reason, reason)


def _shared(ledger: Ledger, node: Node, replica: WantedReplica) -> Verdict:
    num_devices = replica.footprint.num_devices
    if len(node.devices) < num_devices:
        return _no(node, f"it has {len(node.devices)} device(s), {num_devices} are needed")
    named = [device for device in node.devices if device.uuid is not None]
    if not named:
        return _no(node, "no exporter has named its devices, and sharing places by UUID")
    by_product: dict[str | None, list[Device]] = {}
    for device in named:
        by_product.setdefault(device.product, []).append(device)
    answers = [
        _group(ledger, node, replica, product, devices)
        for product, devices in by_product.items()
        if len(devices) >= num_devices
    ]
    if not answers:
        return _no(node, f"no {num_devices} of its devices are of one product")
    return min(answers, key=lambda one: (not one.fits, one.short_bytes or 0))


def _group(
    ledger: Ledger, node: Node, replica: WantedReplica, product: str | None, devices: list[Device]
) -> Verdict:
    footprint = replica.footprint_on(product)
    need = footprint.total_bytes
    rest = replica.rest_bytes
    ranked = sorted(devices, key=lambda one: (-ledger.free_bytes(one, rest_bytes=rest), one.index))
    deciding = ranked[footprint.num_devices - 1]
    free = ledger.free_bytes(deciding, rest_bytes=rest)
    text = f"{_name(deciding)} has {format_gib(free)} of {_size(deciding)} free"
    if free >= need:
        return _yes(node, f"{text}, {format_gib(need)} are needed")
    if deciding.unusable_reason is not None:
        return _no(node, f"{_name(deciding)}: {deciding.unusable_reason}")
    if deciding.usable_bytes < need:
        short = need - deciding.usable_bytes
        text = f"{_name(deciding)} has {_size(deciding)} when empty, "
        return _no(node, f"{text}{format_gib(short)} too few", short_bytes=short)
    return _no(
        node,
        f"{text}, {format_gib(need - free)} too few{_held_by(ledger, deciding)}",
        short_bytes=need - free,
    )


def _name(device: Device) -> str:
    """Its name on its node."""
    return device.display_name.removeprefix(f"{device.node}/")


def _size(device: Device) -> str:
    return format_gib(device.usable_bytes)


def _held_by(ledger: Ledger, device: Device) -> str:
    held = [f"{owner} {format_gib(size)}" for size, owner in ledger.holders(device)[:MAX_HOLDERS]]
    more = len(ledger.holders(device)) - MAX_HOLDERS
    if more > 0:
        held.append(f"{more} more")
    held += [f"{words} {format_gib(size)}" for words, size in ledger.users(device)]
    return f" (held by {', '.join(held)})" if held else ""


def _whole(ledger: Ledger, node: Node, replica: WantedReplica) -> Verdict:
    num_devices = replica.footprint.num_devices
    free, offered = ledger.num_free_devices(node), ledger.exclusive_bytes(node)
    need = max(
        (replica.footprint_on(device.product).total_bytes for device in node.devices),
        default=replica.footprint.total_bytes,
    )
    of = f"{free} of {node.num_allocatable} device(s) free"
    if node.num_allocatable < num_devices:
        return _no(node, f"it hands out {node.num_allocatable} device(s), {num_devices} are needed")
    smallest = min((device.usable_bytes for device in node.devices), default=0)
    is_too_small = bool(smallest) and smallest < need
    if offered < need and is_too_small:
        short = need - smallest
        return _no(
            node,
            f"its devices have {format_gib(smallest)} when empty, {format_gib(short)} too few",
            short_bytes=short,
        )
    if free < num_devices:
        holders = [
            f"{one.owner} {one.num_exclusive_devices}"
            for one in ledger.by_owner.values()
            if one.num_exclusive_devices and ledger.key_of(one) == node.key
        ]
        held = holders[:MAX_HOLDERS]
        if holders[MAX_HOLDERS:]:
            held.append(f"{len(holders) - MAX_HOLDERS} more")
        if node.num_foreign_devices:
            held.append(f"pods of others {node.num_foreign_devices}")
        by = f" (held by {', '.join(held)})" if held else ""
        return _no(node, f"{of}, {num_devices} are needed{by}")
    if offered < need:
        short = need - offered
        return _no(
            node,
            f"{of}, and the least free has {format_gib(offered)}, {format_gib(short)} too few: "
            "processes of others use it",
            short_bytes=short,
        )
    return _yes(node, f"{of} with {format_gib(offered)}, {format_gib(need)} are needed")
