"""Replicas that are alike, packed into the room that is free: one try of a second look.

Kind after kind, largest first. For a replica of one device that device is chosen which others
of those still wanted fill up best beside it: a subset sum, where the sums that can be reached
are the bits of one integer. One choice serves all devices that are alike. A tensor-parallel
group takes the devices of a node whose rest can be filled up best.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memroute.placement.inventory import PlacementMode
from memroute.units import MIB

UNIT_BYTES = 64 * MIB
# Needs are rounded up to it and devices down: a sum on a device is then one of some 2,000 bits,
# and no more than 0.1 % of a device is given away per replica.

MAX_NODE_DEVICES = 64
# More than a node has: makes one number of bytes, which come first, and of devices.

Place = tuple[int, tuple[int, ...]]
"""A node and devices of it, by position; no devices where the device plugin chooses."""


@dataclass(eq=False, slots=True, kw_only=True)
class Kind:
    """Replicas that are alike."""

    mode: PlacementMode
    num_devices: int
    units_by_product: Mapping[str | None, int]
    nodes: frozenset[int]
    """Nodes that may take them, by position."""

    @property
    def size(self) -> int:
        """Units on all of their devices, where they need most."""
        return max(self.units_by_product.values()) * self.num_devices


@dataclass(slots=True)
class Work:
    """How much a second look may still compute: looks at a node or at a kind for a device."""

    left: int

    def spend(self, amount: int) -> bool:
        """Whether there is that much left; it is gone then."""
        self.left -= amount
        return self.left >= 0


@dataclass(slots=True)
class Room:
    """What is free: units by node and device; whole devices, and the units of each, by node."""

    products: Sequence[tuple[str | None, ...]]
    """Of each node's devices."""
    has_slices: Sequence[bool]
    """Whether a node has MIG or time slices, over which no group goes."""
    free: dict[int, list[int]]
    whole: dict[int, int]
    whole_units: Mapping[int, int]

    def copy(self, only: Sequence[int] | None = None) -> "Room":
        """Of those nodes (None: of all), to be changed."""
        kept = self.whole if only is None else only
        return Room(
            self.products,
            self.has_slices,
            {n: list(self.free[n]) for n in kept},
            {n: self.whole[n] for n in kept},
            self.whole_units,
        )

    def take(self, kind: Kind, place: Place, sign: int = 1) -> None:
        """Count a replica in (1) or out (-1)."""
        node, devices = place
        if kind.mode is PlacementMode.EXCLUSIVE:
            self.whole[node] -= sign * kind.num_devices
        for device in devices:
            need = kind.units_by_product[self.products[node][device]]
            self.free[node][device] -= sign * need


def groups(room: Room, kind: Kind, n: int) -> Iterator[list[int]]:
    """Devices of the node, of one product each time, on which a replica of the kind fits."""
    products = room.products[n]
    if kind.num_devices > 1 and room.has_slices[n]:
        return
    if kind.mode is PlacementMode.EXCLUSIVE:
        # The device plugin may hand out any of them: the largest need counts.
        need = max((kind.units_by_product[product] for product in products), default=0)
        if room.whole[n] >= kind.num_devices and 0 < need <= room.whole_units[n]:
            yield []
        return
    for product in dict.fromkeys(products):
        need = kind.units_by_product[product]
        group = [
            index
            for index, free in enumerate(room.free[n])
            if free >= need and products[index] == product
        ]
        if len(group) >= kind.num_devices:
            yield group


class Packing:
    """One try: what is left of the room and of each kind, and who went where."""

    def __init__(self, room: Room, left: dict[Kind, int], smaller_ratio: float, work: Work) -> None:
        self._work = work
        self.places: dict[Kind, list[Place]] = defaultdict(list)
        self._room = room
        self._left = left
        self._smaller_ratio = smaller_ratio
        self._fills: dict[object, tuple[int, tuple[int, ...]]] = {}
        self._singles = sorted(
            (k for k in left if k.num_devices == 1 and k.mode is PlacementMode.SHARED),
            key=lambda kind: (-kind.size, len(kind.nodes)),
        )
        self._may = {
            n: tuple(kind for kind in self._singles if n in kind.nodes) for n in room.whole
        }

    def pack(self, order: Sequence[Kind]) -> list[Kind]:
        """Place kind after kind; those for which not all found a place."""
        missing = []
        for kind in order:
            if kind.num_devices == 1 and kind.mode is PlacementMode.SHARED:
                self._place_singles(kind)
            else:
                self._place_groups(kind)
            if self._left[kind]:
                missing.append(kind)
                self._left[kind] = 0
        return missing

    def _cost(self, waste: float, free: float) -> float:
        return waste + self._smaller_ratio * free

    def _fill(
        self, capacity: int, product: str | None, n: int, seed: Kind | None = None
    ) -> tuple[int, list[tuple[Kind, int]]]:
        """How full single replicas can make so many units of a device, and which of them do."""
        kinds = [
            kind
            for kind in self._may[n]
            if self._left[kind] and kind.units_by_product[product] <= capacity
        ]
        items = tuple(
            (kind.units_by_product[product], self._left[kind] - (kind is seed)) for kind in kinds
        )
        if (capacity, items) not in self._fills:
            self._fills[capacity, items] = fullest(capacity, items)
        total, counts = self._fills[capacity, items]
        return total, [(k, num) for k, num in zip(kinds, counts, strict=True) if num]

    def _place_singles(self, kind: Kind) -> None:
        while self._left[kind] and self._work.spend(len(kind.nodes)):
            alike: dict[object, list[Place]] = {}
            for n in sorted(kind.nodes & self._room.whole.keys()):
                products = self._room.products[n]
                for group in groups(self._room, kind, n):
                    for index in group:
                        key = (self._room.free[n][index], products[index], self._may[n])
                        alike.setdefault(key, []).append((n, (index,)))
            best: tuple[float, list[Place], list[tuple[Kind, int]]] | None = None
            for places in alike.values():
                if not self._work.spend(len(self._singles)):
                    return
                n, (index,) = places[0]
                product = self._room.products[n][index]
                free = self._room.free[n][index]
                rest = free - kind.units_by_product[product]
                total, companions = self._fill(rest, product, n, kind)
                cost = self._cost(rest - total, free)
                if best is None or cost < best[0]:
                    best = cost, places, companions
            if best is None:
                return
            self._repeat(kind, best[1], best[2])

    def _repeat(
        self, kind: Kind, places: Sequence[Place], companions: Sequence[tuple[Kind, int]]
    ) -> None:
        """The same filling on as many devices that are alike as there are replicas for it."""
        each = Counter({kind: 1})
        for companion, num in companions:
            each[companion] += num
        times = min(len(places), *(self._left[one] // num for one, num in each.items()))
        for place in places[:times]:
            for one, num in each.items():
                for _ in range(num):
                    self._take(one, place)

    def _take(self, kind: Kind, place: Place) -> None:
        self._room.take(kind, place)
        self.places[kind].append(place)
        self._left[kind] -= 1

    def _place_groups(self, kind: Kind) -> None:
        # Which single replicas are left does not change meanwhile: what a rest costs is known.
        costs: dict[object, float] = {}
        offers: dict[int, tuple[float, Place] | None] = {
            n: self._offer(kind, n, costs) for n in sorted(kind.nodes & self._room.whole.keys())
        }
        while self._left[kind] and self._work.spend(len(offers)):
            found = [(offer[0], n, offer[1]) for n, offer in offers.items() if offer is not None]
            if not found:
                return
            _, n, place = min(found)
            self._take(kind, place)
            offers[n] = self._offer(kind, n, costs)

    def _offer(self, kind: Kind, n: int, costs: dict[object, float]) -> tuple[float, Place] | None:
        """The best devices of a node for a group, and what they cost."""
        best: tuple[float, Place] | None = None
        free = self._room.free[n]
        for group in groups(self._room, kind, n):
            if kind.mode is PlacementMode.EXCLUSIVE:
                # The smallest devices that will do; of those the node with the fewest left.
                return self._room.whole_units[n] * MAX_NODE_DEVICES + self._room.whole[n], (n, ())
            product = self._room.products[n][group[0]]
            need = kind.units_by_product[product]
            for size in {free[index] for index in group}:
                key = (size, product, self._may[n])
                if key not in costs:
                    rest = size - need
                    costs[key] = self._cost(rest - self._fill(rest, product, n)[0], size)
            ranked = sorted((costs[free[index], product, self._may[n]], index) for index in group)
            chosen = ranked[: kind.num_devices]
            # Of equals the node with the fewest such devices: others are kept for larger groups.
            cost = sum(cost for cost, _ in chosen) + len(group) / 1e3
            if best is None or cost < best[0]:
                best = cost, (n, tuple(index for _, index in chosen))
        return best


def fullest(capacity: int, items: Sequence[tuple[int, int]]) -> tuple[int, tuple[int, ...]]:
    """The largest sum within ``capacity``, and how many of each item make it.

    ``items``: size and how many there are, largest first; large ones are preferred. Bit ``s`` of
    a layer says whether the items so far can sum to ``s``.
    """
    mask = (1 << (capacity + 1)) - 1
    layers = [1]
    for size, available in items:
        reached = layers[-1]
        rest, power = min(available, capacity // size), 1
        while rest > 0:
            step = min(power, rest)
            reached |= (reached << (size * step)) & mask
            rest -= step
            power *= 2
        layers.append(reached)
    total = layers[-1].bit_length() - 1
    counts = [0] * len(items)
    left = total
    for position in range(len(items) - 1, -1, -1):
        while not layers[position] >> left & 1:
            left -= items[position][0]
            counts[position] += 1
    return total, tuple(counts)
