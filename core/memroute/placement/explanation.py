"""Why a replica does not fit, in a sentence with numbers, and what would make it fit.

Three answers are told apart: *never* (an empty cluster has no room either), *not now* (others
hold it) and *unknown* (nothing says what the devices are).
"""

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from memroute.footprint import ReplicaFootprint, ReplicaShape, smaller_alternatives
from memroute.footprint.alternatives import Alternative
from memroute.placement.eligibility import ineligible_reason
from memroute.placement.inventory import Device, Inventory, Node, PlacementMode
from memroute.placement.ledger import Ledger
from memroute.placement.opening import Openings
from memroute.placement.pools import FootprintOn, Pools
from memroute.placement.problem import Refused, RefusedReason, WantedReplica
from memroute.units import format_gib

# A message is read on one screen of `kubectl describe`; the nearest three changes are enough.
MAX_SUGGESTIONS = 3
# Node names that a message lists before it only counts.
MAX_NAMES = 5
_NEVER = "it would not fit an empty cluster"


class _Eligible(NamedTuple):
    """What is the same in the refusals of all replicas that the same nodes may take."""

    nodes: list[Node]
    considered: str
    left_out: str


class Explainer:
    """The refusals of one step. Owns what is the same for many of them.

    An empty cluster is looked at once, and what is nearest to fit is searched once for all
    replicas that the same nodes may take, until something is booked.
    """

    def __init__(self, inventory: Inventory, ledger: Ledger, pools: Pools) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._pools = pools
        self._openings = Openings(ledger, pools)
        self._empty: tuple[Ledger, Pools] | None = None
        self._closest: dict[tuple[object, ...], tuple[int, _Closest | None]] = {}
        self._eligible: dict[tuple[object, ...], _Eligible] = {}

    def explain(self, replica: WantedReplica) -> Refused:
        """The refusal of a replica that no candidate was found for."""
        keys = self._pools.eligible(replica)
        if not keys:
            return _no_eligible_node(self._ledger, self._openings, replica)
        shared = replica.mode is PlacementMode.SHARED
        found = self._eligible.get(replica.eligibility_key)
        if found is None:
            nodes = [node for node in self._ledger.nodes if node.key in keys]
            found = _Eligible(nodes, _considered(nodes), _left_out(self._ledger, replica))
            self._eligible[replica.eligibility_key] = found
        eligible = found.nodes
        unknown = _devices_unknown(eligible, replica, shared=shared)
        if unknown is not None:
            return unknown
        if self._fits_but_for_host_memory(replica):
            return _host_memory_short(self._ledger, eligible, replica)
        empty, empty_pools = self._empty_cluster()
        ever = empty_pools.best(replica, replica.footprint_on) is not None
        reason = RefusedReason.INSUFFICIENT_HBM if ever else RefusedReason.NO_DEVICE_LARGE_ENOUGH
        cure = None if ever else _cure_of(eligible)
        if cure is not None:
            reason = RefusedReason.DEVICES_UNKNOWN  # "never" is more than anybody knows
        # What can never fit is measured against empty devices: who holds them now is no matter.
        measured = self._ledger if ever else empty
        parts = [
            _need(replica),
            self._nearest_miss_shared(measured, found, replica)
            if shared
            else _nearest_miss_exclusive(measured, found, replica),
            cure or ("it fits once others release enough" if ever else _NEVER),
            self._suggestions(replica, fits_ever=ever),
            found.left_out,
        ]
        message = "; ".join(part for part in parts if part)
        return Refused(key=replica.key, reason=reason, message=message)

    def _fits_but_for_host_memory(self, replica: WantedReplica) -> bool:
        if not replica.host_bytes:
            return False
        pinning_nothing = replace(replica, host_bytes=0)
        return self._pools.best(pinning_nothing, replica.footprint_on) is not None

    def _empty_cluster(self) -> tuple[Ledger, Pools]:
        if self._empty is None:
            ledger = Ledger(self._inventory, ignore_use=True)
            self._empty = ledger, Pools(ledger)
        return self._empty

    def _nearest_miss_shared(
        self, ledger: Ledger, eligible: _Eligible, replica: WantedReplica
    ) -> str:
        nodes = eligible.nodes
        num_devices, need = replica.footprint.num_devices, replica.footprint.total_bytes
        rest = replica.rest_bytes
        key = (id(ledger), replica.eligibility_key, num_devices, rest)
        known = self._closest.get(key)
        if known is None or known[0] != ledger.version:
            known = self._closest[key] = (
                ledger.version,
                _closest(ledger, nodes, num_devices, rest),
            )
        closest = known[1]
        considered = eligible.considered
        if closest is None:
            return f"{considered}, no node has {num_devices} devices"
        free, device = closest
        text = f"{considered}: closest {device.display_name} has {format_gib(free)} free"
        text += f", short by {format_gib(need - free)}" if need > free else ", of another product"
        if device.unusable_reason is not None:
            text += f" ({device.unusable_reason})"
        holders = [
            f"{owner} {format_gib(size)}"
            for size, owner in ledger.holders(device)[:MAX_SUGGESTIONS]
        ]
        holders += [f"{words} {format_gib(size)}" for words, size in ledger.users(device)]
        if holders:
            text += f" (held by {', '.join(holders)})"
        return text

    def _suggestions(self, replica: WantedReplica, *, fits_ever: bool) -> str:
        """Changes that would make it fit. What fits an empty cluster as it is needs none there."""
        now: list[str] = []
        later: list[str] = []
        seen_now: set[str] = set()
        seen_later: set[str] = set()
        _, empty_pools = self._empty_cluster()
        for alternative in _alternatives(replica.shape):
            field, footprint = alternative.field, alternative.footprint
            if (
                field not in seen_now
                and self._pools.best(replica, _everywhere(footprint)) is not None
            ):
                seen_now.add(field)
                now.append(alternative.change)
            elif (
                not fits_ever
                and field not in seen_later
                and empty_pools.best(replica, _everywhere(footprint)) is not None
            ):
                seen_later.add(field)
                later.append(alternative.change)
            if len(now) == MAX_SUGGESTIONS:
                break
        if now:
            return f"would fit now with {', or '.join(now)}"
        if later:
            return f"would fit an empty cluster with {', or '.join(later[:MAX_SUGGESTIONS])}"
        return "" if fits_ever else "no single change of the ModelDeployment would make it fit"


def _everywhere(footprint: ReplicaFootprint) -> FootprintOn:
    """The same need on every kind of accelerator."""
    return lambda _: footprint


_Closest = tuple[int, Device]


# Shapes of one fleet; each has some twenty alternatives.
@lru_cache(maxsize=1024)
def _alternatives(shape: ReplicaShape) -> tuple[Alternative, ...]:
    return tuple(smaller_alternatives(shape))


def _need(replica: WantedReplica) -> str:
    f = replica.footprint
    devices = "1 device" if f.num_devices == 1 else f"each of {f.num_devices} devices of one node"
    return (
        f"needs {format_gib(f.total_bytes)} on {devices} (weights {format_gib(f.weights_bytes)}, "
        f"KV cache {format_gib(f.kv_cache_bytes)}, overhead {format_gib(f.overhead_bytes)})"
    )


def _considered(nodes: list[Node]) -> str:
    num_devices, num_nodes = sum(len(one.devices) for one in nodes), len({n.name for n in nodes})
    return f"{num_devices} device(s) on {num_nodes} node(s)"


def _names(nodes: list[Node]) -> str:
    names = list(dict.fromkeys(node.name for node in nodes))
    listed = ", ".join(names[:MAX_NAMES])
    more = len(names) - MAX_NAMES
    return f"{listed} and {more} more" if more > 0 else listed


def _cure_of(nodes: list[Node]) -> str | None:
    """What would tell what the devices of most nodes are; None when all are known."""
    reasons = Counter(node.devices_unknown for node in nodes if node.devices_unknown is not None)
    return reasons.most_common(1)[0][0] if reasons else None


def _devices_unknown(
    eligible: list[Node], replica: WantedReplica, *, shared: bool
) -> Refused | None:
    """The refusal when nothing says what any of the eligible nodes has; None when one is known."""
    if any(device.uuid is not None or not shared for node in eligible for device in node.devices):
        return None
    known_cure = _cure_of(eligible)
    if known_cure is not None:
        cure = known_cure
    elif shared:
        cure = (
            f"no exporter has named the devices of {_names(eligible)}, and sharing places by "
            f"UUID: is the DCGM exporter running?"
        )
    else:
        cure = (
            f"nothing says what the devices of {_names(eligible)} are: is GPU feature discovery "
            f"or the DCGM exporter running?"
        )
    return Refused(
        key=replica.key,
        reason=RefusedReason.DEVICES_UNKNOWN,
        message=f"{_need(replica)}; {cure}",
    )


def _host_memory_short(ledger: Ledger, nodes: list[Node], replica: WantedReplica) -> Refused:
    """The refusal of a replica that devices have room for, and no node's own memory."""
    need, memory = replica.host_bytes, ledger.node_memory
    # Of a node that has enough of it, devices are what is short.
    known = [
        (free, one)
        for one in nodes
        if (free := memory.free_bytes(one.name)) is not None and free < need
    ]
    free, node = max(known, key=lambda item: (item[0], item[1].name))
    size = node.host_bytes or 0
    ever = any((one.host_bytes or 0) >= need for one in nodes)
    asked = f" (by {', '.join(replica.host_fields)})" if replica.host_fields else ""
    return Refused(
        key=replica.key,
        reason=RefusedReason.INSUFFICIENT_HOST_MEMORY,
        message=(
            f"{_need(replica)}; devices have that, but it needs {format_gib(need)} of host memory"
            f"{asked}; "
            f"{node.name} has {format_gib(free)} free of {format_gib(size)}; "
            f"{'it fits once others release enough' if ever else _NEVER}"
        ),
    )


def _no_eligible_node(ledger: Ledger, openings: Openings, replica: WantedReplica) -> Refused:
    reasons = Counter(ineligible_reason(node, replica) for node in ledger.nodes)
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=str))
    return Refused(
        key=replica.key,
        reason=RefusedReason.NO_ELIGIBLE_NODE,
        message=(
            f"{_need(replica)}; none of {len(ledger.nodes)} nodes may take it "
            f"({listed or 'the cluster has no node'}); {openings.opened_by(replica)}"
        ),
    )


def _left_out(ledger: Ledger, replica: WantedReplica) -> str:
    """Which nodes of that mode kube-scheduler would refuse; empty when none."""
    refusals = Counter(
        refusal
        for node in ledger.nodes
        if node.mode is replica.mode
        and node.unusable_reason is None
        and (refusal := replica.scheduling.refusal(node.name, node.labels, node.taints)) is not None
        and ineligible_reason(node, replica) == refusal
    )
    if not refusals:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(refusals.items()))
    return f"other nodes are left out ({listed})"


def _closest(
    ledger: Ledger, nodes: list[Node], num_devices: int, rest_bytes: int | None
) -> _Closest | None:
    """Free bytes and device that decide: the least free of the best group a node can offer."""
    best: _Closest | None = None
    for node in nodes:
        if len(node.devices) < num_devices:
            continue
        ranked = sorted(
            ((ledger.free_bytes(device, rest_bytes=rest_bytes), device) for device in node.devices),
            key=lambda item: (-item[0], item[1].index),
        )
        deciding = ranked[num_devices - 1]
        if best is None or deciding[0] > best[0]:
            best = deciding
    return best


def _nearest_miss_exclusive(ledger: Ledger, eligible: _Eligible, replica: WantedReplica) -> str:
    nodes, considered = eligible.nodes, eligible.considered
    need = replica.footprint.total_bytes
    offered = {node.key: _offered_bytes(ledger, node) for node in nodes}
    large_enough = [node for node in nodes if offered[node.key] >= need]
    num_devices = replica.footprint.num_devices
    whole = [one for one in large_enough if not any(device.is_slice for device in one.devices)]
    if large_enough and not whole and num_devices > 1:
        return f"{considered}: all are slices, and a group of {num_devices} cannot span several"
    if large_enough:
        large_enough = whole if num_devices > 1 else large_enough
        freest = max(large_enough, key=lambda node: (ledger.num_free_devices(node), node.key))
        return (
            f"{considered}: closest {freest.name} has {ledger.num_free_devices(freest)} of "
            f"{freest.num_allocatable} device(s) free, {replica.footprint.num_devices} wanted"
        )
    largest = max(nodes, key=lambda node: (offered[node.key], node.key))
    available = offered[largest.key]
    return (
        f"{considered}: closest {largest.name} offers {format_gib(available)} per device, "
        f"short by {format_gib(need - available)}"
    )


def _offered_bytes(ledger: Ledger, node: Node) -> int:
    """Bytes per device of what is free on the node; of any device when none is free."""
    if ledger.num_free_devices(node) and (free := ledger.exclusive_bytes(node)):
        return free
    return min((device.usable_bytes for device in node.devices), default=0)
