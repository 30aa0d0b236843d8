"""Who gives way to a replica of higher priority: the least costly set of replicas on one node.

```text
needs D bins of B each                     bins: shared devices, or a node's whole devices
bin's free + what its victims hold >= B    victims: replicas of lower priority that may go
```

A set is judged by, in this order: the highest priority in it (lowest is best, as kube-scheduler
judges), how many models it leaves without a replica that serves, how many replicas it has, their
priorities, how many of them serve, what they hold of the fleet's KV cache. On each node all
victims are taken out and given back one by one as long as it still fits: what is left is
a set of which nobody can stay. Two orders are tried, the most valuable back first and the smallest
back first; of several devices each is tried alone.

The sets are found by sums of bytes alone. Whether the replica then really fits is tried by the
solver (``Solver.make_way``), on the same ledger that places everything else.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from memroute.placement.inventory import Node, PlacementMode
from memroute.placement.ledger import Ledger
from memroute.placement.problem import Placed, WantedReplica

# Nodes on which sets are weighed for one replica, of those where all victims together would make
# room: those whose victims are lowest and fewest. Chosen by hand; 5 ms in all.
MAX_NODES = 32
# Sets that are tried on the ledger for one replica, the least costly first.
MAX_TRIALS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A replica that would leave if it had to."""

    owner: str
    """``namespace/name`` of its pod."""
    deployment: str
    """``namespace/name`` of its ModelDeployment."""
    node: str
    priority: int
    is_serving: bool
    value: int
    """Tokens of KV cache that it serves with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """Where a replica goes once others have given way."""

    placed: Placed
    victims: tuple[str, ...]
    """Their pods, by name."""


class _Room(Protocol):
    """What of the solver is needed: whether it would really fit."""

    @property
    def ledger(self) -> Ledger: ...

    def make_way(
        self, replica: WantedReplica, victims: Sequence[str], node: str
    ) -> Placed | None: ...


class Preemptor:
    """Finds who gives way, in one planning step. Owns what it has found hopeless."""

    def __init__(self, solver: _Room, victims: Sequence[Victim]) -> None:
        self._solver = solver
        self._by_node: dict[str, list[Victim]] = {}
        for victim in victims:
            self._by_node.setdefault(victim.node, []).append(victim)
        self._owners = {victim.deployment for victim in victims}
        self._num_serving = Counter(one.deployment for one in victims if one.is_serving)
        self._gone: set[str] = set()
        self._hopeless: set[tuple[object, ...]] = set()
        self.num_weighed = 0
        """Replicas for which nodes were looked at; for all others the answer was known."""

    def preempt(
        self,
        replica: WantedReplica,
        priority: int,
        eligible: frozenset[str],
        *,
        num_serving: Mapping[str, int] | None = None,
    ) -> Preemption | None:
        """Make room for a replica that fits nowhere; None when no set of lower ones makes any.

        ``eligible``: keys of the nodes that may take it. ``num_serving``: replicas that serve, by
        ModelDeployment, where more of them do than may leave. Its claim is counted from now on,
        and whoever gives way gives way to nobody else.
        """
        own = replica.key.deployment if replica.key.deployment in self._owners else None
        key = (priority, own, replica.refusal_key)
        if key in self._hopeless:
            return None
        self.num_weighed += 1
        serving = self._num_serving if num_serving is None else num_serving
        costs = {
            (victims, node): _cost(victims, serving)
            for node, victims in self._sets(replica, priority, eligible)
        }
        for victims, node in sorted(costs, key=costs.__getitem__)[:MAX_TRIALS]:
            owners = tuple(sorted(one.owner for one in victims))
            placed = self._solver.make_way(replica, owners, node)
            if placed is not None:
                self._gone.update(owners)
                return Preemption(placed=placed, victims=owners)
        self._hopeless.add(key)
        return None

    def _sets(
        self, replica: WantedReplica, priority: int, eligible: frozenset[str]
    ) -> Iterator[tuple[str, "_Set"]]:
        """Sets that make room, by node, on as many nodes as are weighed."""
        hopeful: list[tuple[tuple[int, int, str], _Problem]] = []
        ledger = self._solver.ledger
        for name, known in self._by_node.items():
            lower = [
                one
                for one in known
                if one.priority < priority
                and one.deployment != replica.key.deployment
                and one.owner not in self._gone
            ]
            if not lower:
                continue
            for node in ledger.by_name.get(name, ()):
                if node.key not in eligible:
                    continue
                for problem in _problems(ledger, node, replica, lower):
                    if problem.is_enough(set()):
                        continue  # bytes are not what it lacks there
                    if problem.is_enough(set(problem.held)):
                        rank = (max(v.priority for v in problem.held), len(problem.held), node.key)
                        hopeful.append((rank, problem))
        hopeful.sort(key=lambda one: one[0])
        for (_, _, node_key), problem in hopeful[:MAX_NODES]:
            for found in problem.sets():
                yield node_key.partition("/")[0], found


_Set = frozenset[Victim]
_Cost = tuple[object, ...]


@dataclass(slots=True)
class _Problem:
    """One node, or the devices of one product on it."""

    free: list[int]
    """By bin; below 0 by what must go first."""
    need: int
    num_bins: int
    held: dict[Victim, dict[int, int]]
    """What each victim holds, by bin."""

    def is_enough(self, gone: set[Victim]) -> bool:
        """Whether the replica fits once those have gone."""
        free = list(self.free)
        for victim in gone:
            for position, amount in self.held[victim].items():
                free[position] += amount
        return sum(amount >= self.need for amount in free) >= self.num_bins

    def sets(self) -> Iterator[_Set]:
        """Sets that make room, and of which nobody can stay."""
        everybody = set(self.held)
        starts = [everybody]
        if self.num_bins == 1 and len(self.free) > 1:
            starts = [
                on_it
                for position in range(len(self.free))
                if (on_it := {v for v in everybody if position in self.held[v]})
                and self.is_enough(on_it)
            ]
        orders: tuple[Callable[[Victim], tuple[object, ...]], ...] = (
            lambda v: (-v.priority, not v.is_serving, -v.value, v.owner),
            lambda v: (-v.priority, sum(self.held[v].values()), v.owner),
        )
        for start in starts:
            for order in orders:
                gone = set(start)
                for victim in sorted(start, key=order):
                    gone.discard(victim)
                    if not self.is_enough(gone):
                        gone.add(victim)
                yield frozenset(gone)


def _problems(
    ledger: Ledger, node: Node, replica: WantedReplica, victims: Sequence[Victim]
) -> Iterator[_Problem]:
    """What has to become free on that node, as sums."""
    num_devices = replica.footprint.num_devices
    if num_devices > 1 and any(device.is_slice for device in node.devices):
        return
    promised = {v: ledger.by_owner[v.owner] for v in victims if v.owner in ledger.by_owner}
    if node.mode is PlacementMode.EXCLUSIVE:
        counts = {
            victim: {0: one.num_exclusive_devices}
            for victim, one in promised.items()
            if one.num_exclusive_devices and ledger.key_of(one) == node.key
        }
        if counts:
            yield _Problem([ledger.num_free_devices(node)], num_devices, 1, counts)
        return
    for product in dict.fromkeys(device.product for device in node.devices):
        bins = [d for d in node.devices if d.product == product and ledger.is_usable(d)]
        place = {device.uuid: position for position, device in enumerate(bins)}
        held = {
            victim: there
            for victim, one in promised.items()
            if (there := {place[u]: size for u, size in one.device_bytes.items() if u in place})
        }
        if held:
            yield _Problem(
                [ledger.unbounded_free_bytes(device) for device in bins],
                replica.footprint_on(product).total_bytes,
                num_devices,
                held,
            )


def _cost(victims: _Set, num_serving: Mapping[str, int]) -> _Cost:
    """What the set costs; the lowest is chosen, and of equals the first by name."""
    leaving = Counter(one.deployment for one in victims if one.is_serving)
    unserved = sum(count >= num_serving.get(name, 0) for name, count in leaving.items())
    return (
        max(one.priority for one in victims),
        unserved,
        len(victims),
        sum(one.priority for one in victims),
        sum(one.is_serving for one in victims),
        sum(one.value for one in victims if one.is_serving),
        tuple(sorted(one.owner for one in victims)),
    )
