"""The most replicas that any placement holds, however it is found: by HiGHS, exactly.

Devices that are alike (free bytes, product, who may use them) are counted, not named, and so are
replicas. What one device holds is a path through its bytes, from 0 to full, each arc a replica's
rank (Valerio de Carvalho's arc-flow model of bin packing): the flow of all devices of a kind is
one integer program with a bound that is hardly ever off. Whole devices are the same with nodes
for bins and devices for bytes.

What the program leaves out is that a tensor-parallel group stays on *one* node, where a node has
fewer devices than its kind: its answer is an upper bound then. ``Optimum.is_proven`` says whether
some policy, or a second program that knows nodes, has found a placement of as many.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.placement.books import Books
from bench.placement.instance import UNIT_BYTES, Instance
from memroute.placement import PlacementMode, WantedReplica


class SolverMissingError(Exception):
    """HiGHS is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """How many replicas any placement can hold."""

    num_replicas: int
    """At most so many: the bound that HiGHS has proven, rounded down."""
    num_found: int
    """So many it has found room for, nodes aside."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Replicas that are alike."""

    need_units: int
    num_devices: int
    mode: PlacementMode
    selector: frozenset[tuple[str, str]]


@dataclass(slots=True)
class _Bins:
    """Devices (shared) or nodes (exclusive) that are alike."""

    capacity: int
    group: Hashable
    """Where a tensor-parallel group's ranks may come together."""
    sizes: dict[_Kind, int]
    count: int = 0
    arcs: list[tuple[int, int, _Kind | None]] = field(default_factory=list)


def kind_of(replica: WantedReplica) -> _Kind:
    """What the program tells of a replica."""
    return _Kind(
        need_units=-(-replica.footprint.total_bytes // UNIT_BYTES),
        num_devices=replica.footprint.num_devices,
        mode=replica.mode,
        selector=frozenset(replica.node_selector.items()),
    )


def optimum_of(
    instance: Instance,
    *,
    limit_seconds: float,
    all_or_nothing: bool = False,
    by_node: bool = False,
) -> Optimum:
    """How many of the replicas fit at most. ``all_or_nothing``: only whether all do."""
    demand: dict[_Kind, int] = defaultdict(int)
    examples: dict[_Kind, WantedReplica] = {}
    for replica in instance.wanted:
        demand[kind_of(replica)] += 1
        examples[kind_of(replica)] = replica
    bins = _bins_of(instance, examples, by_node=by_node)
    program = _Program(demand, bins, all_or_nothing=all_or_nothing)
    return program.solve(limit_seconds)


def _bins_of(
    instance: Instance, examples: Mapping[_Kind, WantedReplica], *, by_node: bool
) -> list[_Bins]:
    books = Books(instance)
    found: dict[Hashable, _Bins] = {}
    for node in instance.inventory.nodes:
        bins: list[tuple[int, str | None, dict[_Kind, int]]] = []
        may = {kind: one for kind, one in examples.items() if books.may(node, one)}
        if node.mode is PlacementMode.EXCLUSIVE:
            capacity = books.num_whole[node.name]
            units = books.whole_bytes(node) // UNIT_BYTES
            sizes = {
                kind: kind.num_devices
                for kind in may
                if kind.need_units <= units and kind.num_devices <= capacity
            }
            bins.append((capacity, "whole", sizes))
        else:
            for device in node.devices:
                units = books.free_bytes(device) // UNIT_BYTES
                sizes = {
                    kind: kind.need_units
                    for kind in may
                    if kind.need_units <= units
                    and kind.num_devices
                    <= sum(
                        other.product == device.product
                        and books.free_bytes(other) // UNIT_BYTES >= kind.need_units
                        for other in node.devices
                    )
                }
                bins.append((units, device.product, sizes))
        for capacity, group, sizes in bins:
            if not sizes:
                continue
            has_groups = by_node and any(kind.num_devices > 1 for kind in sizes)
            together = (node.mode, group, node.name if has_groups else None)
            key = (capacity, together, frozenset(sizes))
            found.setdefault(key, _Bins(capacity=capacity, group=together, sizes=sizes)).count += 1
    return list(found.values())


def _arcs(bins: _Bins, demand: Mapping[_Kind, int]) -> list[tuple[int, int, _Kind | None]]:
    """Arcs of the paths: replicas in falling order of size, no more of a kind than are wanted."""
    arcs: set[tuple[int, int, _Kind | None]] = set()
    starts = {0}
    for kind, size in sorted(bins.sizes.items(), key=lambda item: (-item[1], repr(item[0]))):
        reached = dict.fromkeys(starts, 0)
        for start in sorted(starts):
            position, taken = start, 0
            while position + size <= bins.capacity and taken < demand[kind]:
                arcs.add((position, position + size, kind))
                position += size
                taken += 1
                if reached.get(position, taken + 1) <= taken:
                    # A path that has taken no more of the kind goes on from here.
                    break
                reached[position] = taken
        starts = set(reached)
    arcs |= {(start, bins.capacity, None) for start in starts if start < bins.capacity}
    return sorted(arcs, key=lambda arc: (arc[0], arc[1], repr(arc[2])))


class _Program:
    """The integer program, built row by row for HiGHS."""

    def __init__(
        self, demand: Mapping[_Kind, int], bins: list[_Bins], *, all_or_nothing: bool
    ) -> None:
        self._demand = demand
        self._costs: list[float] = []
        self._upper: list[float] = []
        self._lower: list[float] = []
        self._rows: list[tuple[float, float, list[tuple[int, float]]]] = []
        ranks: dict[tuple[_Kind, Hashable], list[int]] = defaultdict(list)
        for one in bins:
            self._add_bins(one, ranks)
        placed: dict[_Kind, list[int]] = defaultdict(list)
        for (kind, _), columns in ranks.items():
            replicas = self._column(cost=1.0, upper=demand[kind])
            per_replica = 1 if kind.mode is PlacementMode.EXCLUSIVE else kind.num_devices
            row = [(replicas, -float(per_replica)), *((column, 1.0) for column in columns)]
            self._rows.append((0.0, 0.0, row))
            placed[kind].append(replicas)
        self.is_possible = True
        for kind, wanted in demand.items():
            if not placed[kind]:
                self.is_possible = self.is_possible and not all_or_nothing
                continue
            least = float(wanted) if all_or_nothing else 0.0
            self._rows.append((least, float(wanted), [(column, 1.0) for column in placed[kind]]))

    def _column(self, *, cost: float = 0.0, upper: float) -> int:
        self._costs.append(cost)
        self._lower.append(0.0)
        self._upper.append(float(upper))
        return len(self._costs) - 1

    def _add_bins(self, bins: _Bins, ranks: dict[tuple[_Kind, Hashable], list[int]]) -> None:
        balance: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for start, end, kind in _arcs(bins, self._demand):
            column = self._column(upper=bins.count)
            balance[start].append((column, -1.0))
            balance[end].append((column, 1.0))
            if kind is not None:
                ranks[kind, bins.group].append(column)
        for position, row in balance.items():
            if position == 0:
                self._rows.append((-float(bins.count), 0.0, row))
            elif position < bins.capacity:
                self._rows.append((0.0, 0.0, row))

    def solve(self, limit_seconds: float) -> Optimum:
        """The optimum, or the best bound after so many seconds."""
        if not self.is_possible or not self._costs:
            return Optimum(num_replicas=0, num_found=0)
        highspy, numpy = _libraries()
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self._costs), len(self._rows)
        model.sense_ = highspy.ObjSense.kMaximize
        model.col_cost_ = numpy.array(self._costs)
        model.col_lower_ = numpy.array(self._lower)
        model.col_upper_ = numpy.array(self._upper)
        model.row_lower_ = numpy.array([row[0] for row in self._rows])
        model.row_upper_ = numpy.array([row[1] for row in self._rows])
        entries = [row[2] for row in self._rows]
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = numpy.cumsum([0, *map(len, entries)])
        model.a_matrix_.index_ = numpy.array([c for row in entries for c, _ in row])
        model.a_matrix_.value_ = numpy.array([v for row in entries for _, v in row])
        model.integrality_ = [highspy.HighsVarType.kInteger] * len(self._costs)
        highs = _quiet(highspy)
        highs.setOptionValue("threads", 1)
        highs.setOptionValue("time_limit", limit_seconds)
        highs.setOptionValue("mip_rel_gap", 0.0)
        highs.setOptionValue("mip_abs_gap", 0.99)
        highs.passModel(model)
        highs.run()
        if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            return Optimum(num_replicas=0, num_found=0)
        info = highs.getInfo()
        wanted = sum(self._demand.values())
        has_found = info.primal_solution_status == int(
            highspy.SolutionStatus.kSolutionStatusFeasible
        )
        found = round(info.objective_function_value) if has_found else 0
        bound = info.mip_dual_bound
        # Past every number when nothing was bounded in time.
        most = wanted if bound > wanted else int(bound + 1e-6)
        return Optimum(num_replicas=most, num_found=found)


def _quiet(highspy: Any) -> Any:
    """A solver that prints nothing; the first one prints who it is, which belongs to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    return highs


def _libraries() -> tuple[Any, Any]:
    try:
        import highspy  # noqa: PLC0415 - only the optimum needs it
        import numpy  # noqa: PLC0415, ICN001 - as above
    except ImportError as error:
        msg = "the exact optimum needs HiGHS (highspy), which `make install` installs"
        raise SolverMissingError(msg) from error
    return highspy, numpy


def fullest_part(instance: Instance, *, limit_seconds: float) -> Instance:
    """The part of what is wanted that just fits, oldest first: nothing more of any kind would.

    From the first replica that no placement holds beside all before it, its kind is left out,
    and so on. The optimum of what comes back is all of it.
    """
    part = _fullest(instance, limit_seconds=limit_seconds, by_node=False)
    options = {"limit_seconds": 4 * limit_seconds, "all_or_nothing": True, "by_node": True}
    if optimum_of(part, **options).num_found < len(part.wanted):  # type: ignore[arg-type]
        part = _fullest(part, limit_seconds=limit_seconds, by_node=True)
    return part


def _fullest(instance: Instance, *, limit_seconds: float, by_node: bool) -> Instance:
    wanted = list(instance.wanted)
    fitting = 0
    while fitting < len(wanted):
        high = len(wanted) + 1
        while high - fitting > 1:
            middle = (fitting + high) // 2
            found = optimum_of(
                replace(instance, wanted=tuple(wanted[:middle])),
                limit_seconds=limit_seconds,
                all_or_nothing=True,
                by_node=by_node,
            )
            if found.num_found == middle:
                fitting = middle
            else:
                high = middle
        if fitting < len(wanted):
            full = kind_of(wanted[fitting])
            rest = [replica for replica in wanted[fitting:] if kind_of(replica) != full]
            wanted = wanted[:fitting] + rest
    return replace(instance, wanted=tuple(wanted))
