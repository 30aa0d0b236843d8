"""Why a replica does not fit, in a sentence with numbers, and what would make it fit.

Three answers are told apart: *never* (an empty cluster has no room either), *not now* (others
hold it) and *unknown* (the devices have not been named by an exporter yet).
"""

from collections import Counter
from collections.abc import Callable

from memroute.footprint import ReplicaFootprint, smaller_alternatives
from memroute.placement.eligibility import ineligible_reason
from memroute.placement.inventory import Device, Inventory, Ledger, Node, PlacementMode
from memroute.placement.problem import Refused, RefusedReason, WantedReplica
from memroute.units import format_gib

MAX_SUGGESTIONS = 3
# A message is read on one screen of `kubectl describe`; the nearest three changes are enough.

FitsFunction = Callable[[Ledger, WantedReplica, ReplicaFootprint], bool]


def explain(
    inventory: Inventory, ledger: Ledger, replica: WantedReplica, *, fits: FitsFunction
) -> Refused:
    """The refusal of a replica that no candidate was found for."""
    eligible = [n for n in ledger.nodes if ineligible_reason(n, replica) is None]
    if not eligible:
        return _no_eligible_node(ledger, replica)
    shared = replica.mode is PlacementMode.SHARED
    if shared and all(device.uuid is None for node in eligible for device in node.devices):
        return Refused(
            key=replica.key,
            reason=RefusedReason.DEVICES_UNKNOWN,
            message=(
                f"{_need(replica)}; no exporter has named the devices of "
                f"{_names(eligible)}, and sharing places by UUID: is the DCGM exporter running?"
            ),
        )
    empty = Ledger(inventory, ignore_use=True)
    ever = fits(empty, replica, replica.footprint)
    reason = RefusedReason.INSUFFICIENT_HBM if ever else RefusedReason.NO_DEVICE_LARGE_ENOUGH
    # What can never fit is measured against empty devices: who holds them now does not matter.
    measured = ledger if ever else empty
    parts = [
        _need(replica),
        _nearest_miss_shared(measured, eligible, replica)
        if shared
        else _nearest_miss_exclusive(measured, eligible, replica),
        "it fits once others release enough" if ever else "it would not fit an empty cluster",
        _suggestions(ledger, empty, replica, fits=fits),
    ]
    return Refused(key=replica.key, reason=reason, message="; ".join(parts))


def _need(replica: WantedReplica) -> str:
    f = replica.footprint
    devices = "1 device" if f.num_devices == 1 else f"each of {f.num_devices} devices of one node"
    return (
        f"needs {format_gib(f.total_bytes)} on {devices} (weights {format_gib(f.weights_bytes)}, "
        f"KV cache {format_gib(f.kv_cache_bytes)}, overhead {format_gib(f.overhead_bytes)})"
    )


def _names(nodes: list[Node]) -> str:
    return ", ".join(node.name for node in nodes)


def _no_eligible_node(ledger: Ledger, replica: WantedReplica) -> Refused:
    reasons = Counter(ineligible_reason(node, replica) for node in ledger.nodes)
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=str))
    hint = {
        PlacementMode.SHARED: "shared placement wants nodes with memroute.dev/gpu-sharing=shared",
        PlacementMode.EXCLUSIVE: "exclusive placement wants nodes with nvidia.com/gpu allocatable",
    }[replica.mode]
    return Refused(
        key=replica.key,
        reason=RefusedReason.NO_ELIGIBLE_NODE,
        message=(
            f"{_need(replica)}; none of {len(ledger.nodes)} nodes may take it "
            f"({listed or 'the cluster has no node'}); {hint}"
        ),
    )


def _nearest_miss_shared(ledger: Ledger, nodes: list[Node], replica: WantedReplica) -> str:
    devices = [device for node in nodes for device in node.devices]
    need = replica.footprint.total_bytes
    # The device that decides is the least free of the best group a node can offer.
    best: tuple[int, Device] | None = None
    for node in nodes:
        ranked = sorted(
            ((ledger.free_bytes(device), device) for device in node.devices),
            key=lambda item: (-item[0], item[1].index),
        )
        if len(ranked) < replica.footprint.num_devices:
            continue
        deciding = ranked[replica.footprint.num_devices - 1]
        if best is None or deciding[0] > best[0]:
            best = deciding
    considered = f"{len(devices)} device(s) on {len(nodes)} node(s)"
    if best is None:
        return f"{considered}, no node has {replica.footprint.num_devices} devices"
    free, device = best
    text = f"{considered}: closest {device.display_name} has {format_gib(free)} free"
    text += f", short by {format_gib(need - free)}" if need > free else ", of another product"
    holders = ledger.holders(device)
    if holders:
        held = ", ".join(f"{owner} {format_gib(size)}" for size, owner in holders[:MAX_SUGGESTIONS])
        text += f" (held by {held})"
    return text


def _nearest_miss_exclusive(ledger: Ledger, nodes: list[Node], replica: WantedReplica) -> str:
    need = replica.footprint.total_bytes
    considered = f"{sum(len(node.devices) for node in nodes)} device(s) on {len(nodes)} node(s)"
    large_enough = [node for node in nodes if _offered_bytes(ledger, node) >= need]
    if large_enough:
        freest = max(large_enough, key=lambda node: (ledger.num_free_devices(node), node.name))
        return (
            f"{considered}: closest {freest.name} has {ledger.num_free_devices(freest)} of "
            f"{freest.num_allocatable} device(s) free, {replica.footprint.num_devices} wanted"
        )
    largest = max(nodes, key=lambda node: (_offered_bytes(ledger, node), node.name))
    available = _offered_bytes(ledger, largest)
    return (
        f"{considered}: closest {largest.name} offers {format_gib(available)} per device, "
        f"short by {format_gib(need - available)}"
    )


def _offered_bytes(ledger: Ledger, node: Node) -> int:
    """Bytes per device of what is free on the node; of any device when none is free."""
    if ledger.num_free_devices(node) and (free := ledger.exclusive_bytes(node)):
        return free
    return min((device.usable_bytes for device in node.devices), default=0)


def _suggestions(
    ledger: Ledger, empty: Ledger, replica: WantedReplica, *, fits: FitsFunction
) -> str:
    now: list[str] = []
    later: list[str] = []
    seen_now: set[str] = set()
    seen_later: set[str] = set()
    for alternative in smaller_alternatives(replica.shape):
        if alternative.field not in seen_now and fits(ledger, replica, alternative.footprint):
            seen_now.add(alternative.field)
            now.append(alternative.change)
        elif alternative.field not in seen_later and fits(empty, replica, alternative.footprint):
            seen_later.add(alternative.field)
            later.append(alternative.change)
        if len(now) == MAX_SUGGESTIONS:
            break
    if now:
        return f"would fit now with {', or '.join(now)}"
    if later:
        return f"would fit an empty cluster with {', or '.join(later[:MAX_SUGGESTIONS])}"
    return "no single change of the ModelDeployment would make it fit"
