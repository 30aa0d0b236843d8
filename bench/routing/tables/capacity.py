"""Capacity: the highest rate at which nearly all requests are served within their targets."""

from rich.table import Table

from bench.routing.statistics import geometric_mean, mean
from bench.routing.studies import BOUND, OURS, PEERS
from bench.routing.tables.cells import (
    Rows,
    by_case_and_policy,
    mixes_of,
    of_mix,
    ratio,
    with_interval,
)
from memroute_simulator.virtual.router import CLAIRVOYANT


def capacity_tables(rows: Rows) -> list[Table | str]:
    """Capacity per mix, case and policy, and what follows from it."""
    return [part for mix in mixes_of(rows) for part in _capacity_tables(mix, of_mix(rows, mix))]


def answers_tables(rows: Rows) -> list[Table | str]:
    """Capacity by what answers are like, over that with a token per event, all streamed.

    With several choices there is more to do: then only how far it is behind an oracle counts.
    """
    mixes = mixes_of(rows)
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    told: list[Table | str] = []
    for policy in policies:
        table = Table(title=f"{policy}: capacity over that of the plain mix (itself, per s)")
        table.add_column("case")
        for mix in mixes:
            table.add_column(mix, justify="right")
        values = {
            mix: by_case_and_policy(of_mix(rows, mix), "capacity_per_second") for mix in mixes
        }
        for case in dict.fromkeys(row["case"] for row in rows):
            cells = []
            for mix in mixes:
                own = values[mix].get((case, policy), [])
                base = _base(values, mix, case, policy)
                pairs = [one / other for one, other in zip(own, base, strict=False)]
                cells.append(with_interval(own if mix == mixes[0] else pairs) if pairs else "-")
            table.add_row(case, *cells)
        told.append(table)
    return told


def _base(
    values: dict[str, dict[tuple[str, str], list[float]]], mix: str, case: str, policy: str
) -> list[float]:
    """By seed: the plain mix, scaled by what several choices cost an oracle."""
    plain = values.get("plain", {}).get((case, policy), [])
    oracle = values.get("plain", {}).get((case, CLAIRVOYANT), [])
    scaled = values[mix].get((case, CLAIRVOYANT), [])
    if not mix.startswith("choices") or policy == CLAIRVOYANT or not oracle or not scaled:
        return plain
    factors = [one / other for one, other in zip(scaled, oracle, strict=False)]
    return [one * factor for one, factor in zip(plain, factors, strict=False)]


def _capacity_tables(mix: str, rows: Rows) -> list[Table | str]:
    values = by_case_and_policy(rows, "capacity_per_second")
    cases = list(dict.fromkeys(row["case"] for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    peers = [policy for policy in policies if policy in PEERS]
    table = Table(
        title=f"{mix} mix: SLO capacity, requests (sessions) per second; mean and 95 % interval"
    )
    table.add_column("case")
    for policy in policies:
        table.add_column(policy, justify="right")
    table.add_column("of best peer", justify="right")
    table.add_column("of clairvoyant", justify="right")
    table.add_column("of the bound", justify="right")
    for case in cases:
        means = {policy: mean(values[case, policy]) for policy in policies}
        best = max((means[peer] for peer in peers), default=None)
        table.add_row(
            case,
            *(with_interval(values[case, policy]) for policy in policies),
            ratio(means.get(OURS), best),
            ratio(means.get(OURS), means.get(CLAIRVOYANT)),
            ratio(means.get(OURS), means.get(BOUND)),
        )
    told: list[Table | str] = [table]
    if OURS in policies and peers:
        told.append(_single_best(values, cases, peers))
    return told


def _single_best(
    values: dict[tuple[str, str], list[float]], cases: list[str], peers: list[str]
) -> str:
    """Against the one peer that a user would choose for all of the cases."""
    scores = {peer: geometric_mean(mean(values[case, peer]) for case in cases) for peer in peers}
    best = max(scores, key=lambda peer: scores[peer])
    seeds = min(len(values[case, policy]) for case in cases for policy in (OURS, best))
    ratios = [
        geometric_mean(values[case, OURS][seed] / values[case, best][seed] for case in cases)
        for seed in range(seeds)
    ]
    return (
        f"geometric mean over {len(cases)} cases, against the best single peer ({best}): "
        f"{with_interval(ratios)} times its capacity"
    )
