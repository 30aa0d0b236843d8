"""Devices and nodes in the order of what is free: the tightest fit without a look at all.

A shared device that fits is found by bisection among the free bytes of its product; the first
entry that is large enough leaves the smallest fragment. An exclusive replica is found the same
way among nodes. Each booking changes the entries of one node.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from memroute.footprint import ReplicaFootprint
from memroute.placement.eligibility import ineligible_reason
from memroute.placement.inventory import Device, Node, PlacementMode
from memroute.placement.ledger import UNKNOWN_OCCUPANCY_RATIO, Ledger
from memroute.placement.problem import PlacementStrategy, WantedReplica

FootprintOn = Callable[[str | None], ReplicaFootprint]
"""What a replica needs on a kind of accelerator, by product label."""

Entry = tuple[int, int, int, float, str]
"""Shared: free bytes, whether an engine starts there, free bytes of the whole node, contention,
node. Exclusive: bytes per device, 0, free devices, 0, node. In the order in which they are
preferred: of devices that are as good by bytes, the one whose engines leave most of its time.
The node by its key: it is there once for each resource that it hands out."""
ViewKey = tuple[PlacementMode, bool, int | None]
"""Mode, whether the device is behind a pod that hangs, and what whoever asks keeps asleep."""
PoolKey = tuple[str | None, ...]
"""The products of the devices: one for shared entries, all of the node for exclusive ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node (and devices) that a replica fits on."""

    node: Node
    devices: tuple[Device, ...]
    """The chosen devices when shared; the devices it could be given when exclusive."""
    footprint: ReplicaFootprint
    """What the replica needs on each of them."""
    bytes_per_device: int
    """What would be promised."""
    leftover_bytes: int
    """Free bytes that the choice leaves on the tightest device: the fragment it makes."""


class Pools:
    """The sorted entries of one ledger. Owns them; ``refresh`` follows each booking."""

    def __init__(self, ledger: Ledger) -> None:
        """Nothing is sorted before something is asked: most steps place nothing."""
        self._ledger = ledger
        self._nodes = {node.key: node for node in ledger.nodes}
        self._sorted: dict[ViewKey, dict[PoolKey, list[Entry]]] | None = None
        self._rests: list[int | None] = [None]
        """What those that have asked keep while they sleep: devices are as free as that lets them
        be. None: never sleeps."""
        self._of_node: dict[str, list[tuple[list[Entry], Entry]]] = {}
        self._eligible: dict[tuple[object, ...], frozenset[str]] = {}
        self._may_be_stuck = False
        self._limit: float | None = None
        self._blocked: frozenset[str] = frozenset()

    def eligible(self, replica: WantedReplica) -> frozenset[str]:
        """Keys of the nodes that may take the replica, whatever their memory."""
        key = replica.eligibility_key
        found = self._eligible.get(key)
        if found is None:
            found = self._eligible[key] = frozenset(
                node.key for node in self._ledger.nodes if ineligible_reason(node, replica) is None
            )
        return found

    def refresh(self, node_name: str) -> None:
        """Sort a node's entries in again, after a booking on it."""
        if self._sorted is None:
            return
        for node in self._ledger.by_name.get(node_name, ()):
            for entries, entry in self._of_node.pop(node.key, ()):
                del entries[bisect_left(entries, entry)]
            for entries, entry in self._entries(node):
                insort(entries, entry)

    def best(
        self,
        replica: WantedReplica,
        footprint_on: FootprintOn,
        *,
        only: frozenset[str] | None = None,
        blocked_devices: frozenset[str] = frozenset(),
    ) -> Candidate | None:
        """The best node for a replica by its strategy; None when it fits nowhere.

        A node that has the replica's weights goes before others that are as good: on the kind of
        accelerator that is the tightest fit, or with as few siblings (``_with_weights``).
        Devices behind a pod that hangs in Terminating are taken only where nothing else fits:
        what is placed there waits for somebody to mend the node. Devices whose engines would take
        more of their time than the limit of contention likewise. ``only``: nodes to look at, by
        key. ``blocked_devices``: shared ones that it must not be on.
        """
        eligible = self.eligible(replica)
        if only is not None:
            eligible &= only
        if not eligible:
            return None
        self._blocked = blocked_devices
        rest = replica.rest_bytes if replica.mode is PlacementMode.SHARED else None
        pools = self._pools(rest)
        pick = self._spread if replica.strategy is PlacementStrategy.SPREAD else self._pack
        limits = dict.fromkeys((self._ledger.max_contention, None))
        for is_stuck, limit in ((stuck, limit) for stuck in (False, True) for limit in limits):
            self._may_be_stuck, self._limit = is_stuck, limit
            found = pick(pools[replica.mode, is_stuck, rest], replica, footprint_on, eligible)
            if found is not None:
                return found
        return None

    def _pools(self, rest_bytes: int | None) -> dict[ViewKey, dict[PoolKey, list[Entry]]]:
        if rest_bytes not in self._rests:
            self._rests.append(rest_bytes)
            self._sorted = None
        if self._sorted is None:
            self._of_node.clear()
            self._sorted = {
                (mode, stuck, rest): {}
                for mode in PlacementMode
                for stuck in (False, True)
                for rest in self._rests
            }
            for node in self._ledger.nodes:
                for entries, entry in self._entries(node):
                    entries.append(entry)
            for by_product in self._sorted.values():
                for entries in by_product.values():
                    entries.sort()
        return self._sorted

    def _entries(self, node: Node) -> list[tuple[list[Entry], Entry]]:
        """The entries of one node, each with the list it belongs to; remembered for later."""
        assert self._sorted is not None  # noqa: S101 - set by the caller
        ledger = self._ledger
        found: list[tuple[list[Entry], Entry]] = []
        if node.unusable_reason is not None:
            return found
        if node.mode is PlacementMode.EXCLUSIVE:
            num_free = ledger.num_free_devices(node)
            if num_free:
                products = tuple(sorted({device.product or "" for device in node.devices}))
                pool = self._sorted[PlacementMode.EXCLUSIVE, False, None].setdefault(products, [])
                found.append((pool, (ledger.exclusive_bytes(node), 0, num_free, 0.0, node.key)))
        else:
            for rest in self._rests:
                found += self._shared_entries(node, rest)
        self._of_node[node.key] = found
        return found

    def _shared_entries(
        self, node: Node, rest_bytes: int | None
    ) -> list[tuple[list[Entry], Entry]]:
        """Those of its devices, as free as they are for one that keeps so much while it sleeps."""
        assert self._sorted is not None  # noqa: S101 - set by the caller
        ledger = self._ledger
        free = [(one, ledger.free_bytes(one, rest_bytes=rest_bytes)) for one in node.devices]
        total = sum(size for _, size in free)
        least: dict[tuple[str | None, bool, int, int], float] = {}
        for device, size in free:
            if size:
                alike = (
                    device.product, device.uuid in ledger.stuck_devices, size,
                    int(device.uuid in ledger.busy_devices),
                )  # fmt: skip
                taken = ledger.contention(device)
                least[alike] = min(taken, least.get(alike, taken))
        found: list[tuple[list[Entry], Entry]] = []
        for (product, is_stuck, size, busy), taken in least.items():
            pools = self._sorted[PlacementMode.SHARED, is_stuck, rest_bytes]
            found.append((pools.setdefault((product,), []), (size, busy, total, taken, node.key)))
        return found

    def _pack(
        self,
        pools: Mapping[PoolKey, list[Entry]],
        replica: WantedReplica,
        footprint_on: FootprintOn,
        eligible: frozenset[str],
    ) -> Candidate | None:
        """The tightest fit; on that kind of accelerator, a node that has the weights.

        A download of an hour is worth more than a tight fit among devices of one kind; a larger
        kind is not taken for it, because another model may fit nowhere else.
        """
        best = self._tightest(pools, replica, footprint_on, eligible)
        preferred = self._with_weights(replica, eligible)
        if best is None or not preferred or best[0].node.name in replica.nodes_with_weights:
            return None if best is None else best[0]
        same_kind = {best[1]: pools[best[1]]}
        found = self._tightest(same_kind, replica, footprint_on, preferred)
        return (found or best)[0]

    def _with_weights(self, replica: WantedReplica, keys: frozenset[str]) -> frozenset[str]:
        """Those of the nodes that have the replica's weights."""
        if not replica.nodes_with_weights:
            return frozenset()
        return frozenset(key for key in keys if self._nodes[key].name in replica.nodes_with_weights)

    def _tightest(
        self,
        pools: Mapping[PoolKey, list[Entry]],
        replica: WantedReplica,
        footprint_on: FootprintOn,
        eligible: frozenset[str],
    ) -> tuple[Candidate, PoolKey] | None:
        """Of each product the first entry whose node has devices enough, and of which it is."""
        best: tuple[int, Entry, Candidate, PoolKey] | None = None
        for products, entries in pools.items():
            footprint = _largest(products, footprint_on)
            need = footprint.total_bytes
            for position in range(bisect_left(entries, (need,)), len(entries)):
                entry = entries[position]
                if entry[4] not in eligible:
                    continue
                rank = entry[0] - need
                if best is not None and (rank, entry) >= best[:2]:
                    break
                candidate = self._on(entry, replica, products, footprint)
                if candidate is not None:
                    best = (rank, entry, candidate, products)
                    break
        return best[2:] if best is not None else None

    def _spread(
        self,
        pools: Mapping[PoolKey, list[Entry]],
        replica: WantedReplica,
        footprint_on: FootprintOn,
        eligible: frozenset[str],
    ) -> Candidate | None:
        """The node with the fewest siblings; then one with the weights; then what leaves most."""
        names = self._ledger.nodes_of(replica.key.deployment)
        siblings = {key for key in eligible if self._nodes[key].name in names} if names else set()
        found = self._freest_known(pools, replica, footprint_on, eligible - siblings)
        if found is not None:
            return found
        by_count: dict[int, set[str]] = {}
        for key in siblings:
            name = self._nodes[key].name
            count = self._ledger.replicas_on_node(replica.key.deployment, name)
            by_count.setdefault(count, set()).add(key)
        for _, keys in sorted(by_count.items()):
            found = self._freest_known(pools, replica, footprint_on, frozenset(keys))
            if found is not None:
                return found
        return None

    def _freest_known(
        self,
        pools: Mapping[PoolKey, list[Entry]],
        replica: WantedReplica,
        footprint_on: FootprintOn,
        keys: frozenset[str],
    ) -> Candidate | None:
        """The freest of the nodes that have the weights; where it fits none of those, of all."""
        preferred = self._with_weights(replica, keys)
        found = self._freest(pools, replica, footprint_on, preferred) if preferred else None
        return found or self._freest(pools, replica, footprint_on, keys)

    def _freest(
        self,
        pools: Mapping[PoolKey, list[Entry]],
        replica: WantedReplica,
        footprint_on: FootprintOn,
        keys: frozenset[str],
    ) -> Candidate | None:
        best: Candidate | None = None
        for products, entries in pools.items():
            footprint = _largest(products, footprint_on)
            for entry in _emptiest_first(entries, footprint.total_bytes):
                # The emptiest device of a node bounds what a group on it can leave.
                if best is not None and entry[0] - footprint.total_bytes <= best.leftover_bytes:
                    break
                if entry[4] not in keys:
                    continue
                candidate = self._on(entry, replica, products, footprint)
                if candidate is not None and (
                    best is None or candidate.leftover_bytes > best.leftover_bytes
                ):
                    best = candidate
        return best

    def _on(
        self,
        entry: Entry,
        replica: WantedReplica,
        products: PoolKey,
        footprint: ReplicaFootprint,
    ) -> Candidate | None:
        """The replica on the node of an entry; None when it has too few such devices."""
        node = self._nodes[entry[4]]
        num_devices, need = footprint.num_devices, footprint.total_bytes
        is_cut = num_devices > 1 and any(device.is_slice for device in node.devices)
        if is_cut or not self._ledger.node_memory.has_room(node.name, replica.host_bytes):
            return None
        if replica.mode is PlacementMode.EXCLUSIVE:
            if entry[2] < num_devices:
                return None
            return Candidate(
                node=node,
                devices=node.devices,
                footprint=footprint,
                bytes_per_device=entry[0],
                leftover_bytes=entry[0] - need,
            )
        if len(node.devices) < num_devices:
            return None
        ledger = self._ledger
        is_spread = replica.strategy is PlacementStrategy.SPREAD
        # A tensor-parallel group runs at the pace of its slowest rank: one product only.
        group = sorted(
            (device.uuid in ledger.stuck_devices, -free if is_spread else free,
             device.uuid in ledger.busy_devices, ledger.contention(device), device.index,
             device.uuid or "")
            for device, free in (
                (one, ledger.free_bytes(one, rest_bytes=replica.rest_bytes))
                for one in node.devices
            )
            if free >= need
            and device.product == products[0]
            and (self._may_be_stuck or device.uuid not in ledger.stuck_devices)
            and device.uuid not in self._blocked
            and self._is_within(device, replica)
        )[:num_devices]  # fmt: skip
        if len(group) < num_devices:
            return None
        by_uuid = {device.uuid: device for device in node.devices}
        return Candidate(
            node=node,
            devices=tuple(by_uuid[uuid] for *_, uuid in group),
            footprint=footprint,
            bytes_per_device=need,
            leftover_bytes=min(abs(free) for _, free, *_ in group) - need,
        )

    def _is_within(self, device: Device, replica: WantedReplica) -> bool:
        """Whether the device's time is enough for the replica beside those on it.

        One engine alone never contends with anybody.
        """
        taken = self._ledger.contention(device)
        if self._limit is None or not taken:
            return True
        return taken + time_share(replica, device.product) <= self._limit


def time_share(replica: WantedReplica, product: str | None) -> float:
    """The share of such a device's time that a replica counts for."""
    known = replica.occupancy_on(product)
    return UNKNOWN_OCCUPANCY_RATIO if known is None else known


def _largest(products: PoolKey, footprint_on: FootprintOn) -> ReplicaFootprint:
    # On a mixed node the device plugin may hand out any kind: the largest need counts.
    if len(products) == 1:
        return footprint_on(products[0])
    return max(
        (footprint_on(product) for product in products or (None,)),
        key=lambda footprint: footprint.total_bytes,
    )


def _emptiest_first(entries: list[Entry], need: int) -> Iterator[Entry]:
    """Entries that are large enough, the largest first; of equals the first name first."""
    first = bisect_left(entries, (need,))
    end = len(entries)
    while end > first:
        start = bisect_left(entries, (entries[end - 1][0],), first, end)
        yield from entries[start:end]
        end = start
