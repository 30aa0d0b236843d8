"""Every policy on every instance: what it places, what it strands, how long it takes."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.placement.books import Books
from bench.placement.cases import CASES
from bench.placement.instance import Instance
from bench.placement.optimum import fullest_part
from bench.placement.policies import POLICIES

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is compared."""

    cases: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    part_ratio: float
    """Of what the optimum just holds: how much is wanted. Below 1 the cluster has room."""
    limit_seconds: float
    """Of HiGHS, for each program; what it has not answered by then counts as *does not fit*."""


def compare(options: Options) -> list[Row]:
    """The rows of all runs, told on stderr as they end; those so far on an interrupt."""
    rows: list[Row] = []
    total = len(options.cases) * len(options.seeds)
    try:
        for number, instance in enumerate(_instances(options), 1):
            rows += [run(instance, policy) for policy in options.policies]
            told = f"compare: {number} of {total} ({instance.case}, seed {instance.seed})"
            print(f"\r{told}".ljust(79), end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"\ninterrupted after {len(rows)} runs", file=sys.stderr)
    print(file=sys.stderr)
    return rows


def _instances(options: Options) -> Iterator[Instance]:
    for name in options.cases:
        for seed in options.seeds:
            instance = CASES[name].instance(seed)
            if not CASES[name].is_planted:
                instance = fullest_part(instance, limit_seconds=options.limit_seconds)
            yield instance.first(max(1, round(options.part_ratio * len(instance.wanted))))


def run(instance: Instance, policy: str) -> Row:
    """One policy on one instance, all of which an exact optimum places."""
    books = Books(instance)
    began = time.perf_counter()
    refused = POLICIES[policy](instance, books)
    seconds = time.perf_counter() - began
    total = books.usable_bytes()
    return {
        "case": instance.case,
        "seed": instance.seed,
        "is_adversarial": CASES[instance.case].is_planted,
        "policy": policy,
        "num_devices": instance.num_devices,
        "optimum_replicas": len(instance.wanted),
        "placed_replicas": books.num_placed,
        "never_starting_replicas": books.num_never_starts,
        "placed_ratio": books.num_placed / len(instance.wanted),
        "placed_bytes": books.placed_bytes,
        "stranded_bytes": books.left_bytes(refused),
        "stranded_ratio": books.left_bytes(refused) / total,
        "contention": books.contention(),
        "lost_engines": books.lost_engines(),
        "seconds": seconds,
    }


def ratio_of(rows: Sequence[Row]) -> float:
    """Replicas placed of those that the optimum places, all instances together."""
    placed = sum(row["placed_replicas"] for row in rows)
    return float(placed / sum(row["optimum_replicas"] for row in rows))
