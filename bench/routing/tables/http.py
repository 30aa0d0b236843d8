"""Routers as programs, over HTTP."""

from rich.table import Table

from bench.routing.statistics import mean
from bench.routing.tables.cells import Rows, with_interval

BASELINE = "memroute"
"""The router that the others are compared with."""


def http_tables(rows: Rows) -> list[Table | str]:
    """Routers by what they attained."""
    told: list[Table | str] = []
    for case, load in dict.fromkeys((row["case"], row["load"]) for row in rows):
        own = [row for row in rows if (row["case"], row["load"]) == (case, load)]
        scale = own[0]["time_scale"]
        table = Table(title=f"{case} over HTTP at {load:g} x; times are of the hardware's scale")
        for name in (
            "router",
            "attained",
            "of memroute's",
            "TTFT p50, s",
            "p99, s",
            "TPOT p90, ms",
            "preempted",
            "shed",
        ):
            table.add_column(name, justify="left" if name == "router" else "right")
        by_router: dict[str, Rows] = {}
        for row in own:
            by_router.setdefault(row["router"], []).append(row)
        best_first = sorted(
            by_router, key=lambda name: -mean([r["attainment_ratio"] for r in by_router[name]])
        )
        for router in best_first:
            runs = by_router[router]
            table.add_row(
                router,
                with_interval([run["attainment_ratio"] for run in runs]),
                _of_baseline(runs, by_router.get(BASELINE, [])),
                _mean_of(runs, "ttft_seconds", "p50", 1 / scale),
                _mean_of(runs, "ttft_seconds", "p99", 1 / scale),
                _mean_of(runs, "tpot_seconds", "p90", 1e3 / scale),
                f"{mean([run['num_preemptions'] for run in runs]):.0f}",
                f"{mean([run['num_shed'] for run in runs]):.0f}",
            )
        told.append(table)
    return told


def _of_baseline(runs: Rows, baseline: Rows) -> str:
    """What they attained over what the baseline did on the same seed: the mean, and its range."""
    theirs = {row["seed"]: row["attainment_ratio"] for row in baseline}
    ratios = [
        row["attainment_ratio"] / theirs[row["seed"]] for row in runs if theirs.get(row["seed"])
    ]
    if not ratios or runs is baseline:
        return "-"
    return f"{mean(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _mean_of(runs: Rows, field: str, quantile: str, factor: float) -> str:
    values = [factor * run[field][quantile] for run in runs if run[field][quantile] is not None]
    return f"{mean(values):.3g}" if values else "-"
