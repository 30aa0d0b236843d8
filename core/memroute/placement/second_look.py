"""All that is wanted at once, where one after the other leaves somebody without a place.

The plan in order gives the oldest the tightest fit, and cannot know what comes after: a small
replica takes the only device that a large one, a group or a picky one could have had. Nothing
of a plan runs yet, so whoever it has placed may be placed elsewhere. The second look keeps one
promise: **whoever the plan in order has placed keeps a place**, and others get one beside them,
the oldest first. A young replica that fitted where an older one did not keeps its place too.

First the whole is packed anew (``packing``), kinds that found too little going first in the next
try. What is refused still is tried on a few nodes at a time, whose replicas are packed anew
with it. What runs never moves, the tries are counted, and the same facts give the same answer.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from memroute.placement.inventory import PlacementMode
from memroute.placement.packing import UNIT_BYTES, Kind, Packing, Place, Room, Work, groups
from memroute.placement.problem import WantedReplica
from memroute.units import ceil_div

MAX_TRIES = 8
# Orders in which the whole is packed, for each number of replicas that is asked about.
MAX_DEVICES = 512
# Beyond it the whole is not packed anew, only a few nodes at a time: a step must not take long.
MAX_WINDOWS = 100
# Times that a few nodes are packed anew, so that a step is bounded.
WINDOW_NODES = 8
# 64 devices of usual nodes. With 4 nodes or with 14 a little less is placed (bench.placement).
WINDOW_TRIES = 6
# Orders in which a few nodes are packed.
STRIDES = (1, 2, 3, 5)
# How far apart those nodes are.
MAX_WORK = 400_000
# Looks at a node, or at a kind for a device, in all tries together: a microsecond each, so that a
# second look takes half a second at most. With more nothing more was placed (bench.placement).
SMALLER_DEVICE_RATIOS = (0.3, 0.0, 1.0)
# Units of waste that a device smaller by one unit is worth, by try: large devices are for what
# fits nowhere else, and full ones are for what fills them.


def second_look(
    room: Room,
    kinds: Mapping[int, Kind],
    placed: Mapping[int, Place],
    refused: Sequence[int],
) -> Mapping[int, Place]:
    """Places for all of ``placed`` and as many of ``refused`` as are found beside them.

    Replicas are told by their position in what is wanted, the oldest first. ``room``: without
    those of ``placed``. The answer is ``placed`` itself when nobody can be helped.
    """
    fits = {kind: _fits_alone(room, kind) for kind in {kinds[one] for one in refused}}
    helped = [position for position in refused if fits[kinds[position]]]
    if not helped:
        return placed
    work = Work(MAX_WORK)
    places = dict(placed)
    if sum(map(len, room.products)) <= MAX_DEVICES:
        places |= _pack_whole(room, kinds, list(placed), helped, work)
    windows = _Windows(room, kinds, places, work)
    for position in helped:
        if position not in places:
            windows.admit(position)
    return windows.places


def kinds_of(
    wanted: Sequence[WantedReplica],
    products: Sequence[str | None],
    eligible: Callable[[WantedReplica], frozenset[int]],
) -> dict[int, Kind]:
    """The kind of each replica, by position. ``eligible``: nodes that may take one."""
    by_key: dict[object, Kind] = {}
    kinds: dict[int, Kind] = {}
    for position, replica in enumerate(wanted):
        key = (replica.refusal_key, replica.footprint.num_devices)
        if key not in by_key:
            by_key[key] = Kind(
                mode=replica.mode,
                num_devices=replica.footprint.num_devices,
                units_by_product={
                    product: ceil_div(replica.footprint_on(product).total_bytes, UNIT_BYTES)
                    for product in products
                },
                nodes=eligible(replica),
            )
        kinds[position] = by_key[key]
    return kinds


def _fits_alone(room: Room, kind: Kind) -> bool:
    return any(next(groups(room, kind, n), None) is not None for n in kind.nodes)


def _pack_whole(
    room: Room,
    kinds: Mapping[int, Kind],
    placed: Sequence[int],
    refused: Sequence[int],
    work: Work,
) -> dict[int, Place]:
    """Places for all of ``placed`` and for as many of the oldest of ``refused`` as is found."""
    best: dict[int, Place] = {}
    low, high = 0, len(refused) + 1
    asked = len(refused)
    while high - low > 1:
        found = _pack(room, kinds, [*placed, *refused[:asked]], MAX_TRIES, work)
        if found is None:
            high = asked
        else:
            best, low = found, asked
        asked = (low + high) // 2
    return best


def _pack(
    room: Room, kinds: Mapping[int, Kind], asked: Sequence[int], max_tries: int, work: Work
) -> dict[int, Place] | None:
    """Places for all that are asked for; None when no try found them."""
    members: dict[Kind, list[int]] = defaultdict(list)
    for position in sorted(asked):
        members[kinds[position]].append(position)
    order = sorted(members, key=lambda kind: (-kind.size, len(kind.nodes)))
    blame: Counter[Kind] = Counter()
    for number in range(max_tries):
        if work.left <= 0:
            break
        ratio = SMALLER_DEVICE_RATIOS[number % len(SMALLER_DEVICE_RATIOS)]
        packing = Packing(
            room.copy(), {kind: len(own) for kind, own in members.items()}, ratio, work
        )
        missing = packing.pack(order)
        if not missing:
            return {
                position: place
                for kind, own in members.items()
                for position, place in zip(own, packing.places[kind], strict=True)
            }
        blame.update(missing)
        order.sort(key=lambda kind: -blame[kind])
    return None


class _Windows:
    """A few nodes at a time, packed anew with one replica more. Owns the places so far."""

    def __init__(
        self, room: Room, kinds: Mapping[int, Kind], places: Mapping[int, Place], work: Work
    ) -> None:
        self.places = dict(places)
        self._room = room
        self._kinds = kinds
        self._work = work
        self._num_left = MAX_WINDOWS
        self._hopeless: set[Kind] = set()
        self._by_node: dict[int, set[int]] = defaultdict(set)
        for position, place in places.items():
            self._by_node[place[0]].add(position)
        self._shared = sorted(n for n, free in room.free.items() if free)

    def admit(self, position: int) -> None:
        """Find a place for one more, wherever those around it go."""
        kind = self._kinds[position]
        if kind in self._hopeless:
            return
        eligible = sorted(kind.nodes)
        others = self._shared if kind.mode is PlacementMode.SHARED else eligible
        for window in _windows(eligible, others):
            if self._num_left == 0 or self._work.left <= 0:
                return
            self._num_left -= 1
            own = [one for n in window for one in self._by_node[n]]
            found = _pack(
                self._room.copy(window), self._kinds, [*own, position], WINDOW_TRIES, self._work
            )
            if found is not None:
                self.places |= found
                for n in window:
                    self._by_node[n].clear()
                for one, place in found.items():
                    self._by_node[place[0]].add(one)
                return
        self._hopeless.add(kind)


def _windows(eligible: Sequence[int], others: Sequence[int]) -> Iterator[list[int]]:
    """A few nodes at a time: some that may take the replica, beside any to make room on.

    Neighbours first, then every second one, every third, and so on.
    """
    half = WINDOW_NODES // 2
    seen: set[frozenset[int]] = set()
    for stride in STRIDES:
        for first in range(0, len(eligible), half):
            near = {eligible[(first + stride * step) % len(eligible)] for step in range(half)}
            for more in (eligible, others):
                beside = {more[(first + half + stride * k) % len(more)] for k in range(half)}
                window = frozenset(near | beside)
                if window not in seen:
                    seen.add(window)
                    yield sorted(window)
