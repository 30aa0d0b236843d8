"""What is served in trouble: replicas that fail, a flood of one tenant, engines that are slow."""

from typing import Any

from rich.table import Table

from bench.routing.slow import LEAST_REQUEST
from bench.routing.statistics import mean
from bench.routing.tables.cells import Rows, with_interval


def faults_tables(rows: Rows) -> list[Table | str]:
    """How many requests touched the replica, and what became of all."""
    table = Table(
        title="after the trouble began: touched the replica; not served; attained; TTFT p99 s"
    )
    table.add_column("scenario")
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    for policy in policies:
        table.add_column(policy, justify="right")
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = []
        for policy in policies:
            own = [row for row in rows if (row["case"], row["policy"]) == (case, policy)]
            p99 = [row["ttft_p99_seconds"] for row in own if row["ttft_p99_seconds"] is not None]
            cells.append(
                f"{mean([row['num_touched'] for row in own]):.0f}; "
                f"{mean([row['num_lost'] for row in own]):.0f}; "
                f"{with_interval([row['attainment_ratio'] for row in own])}; "
                f"{mean(p99) if p99 else float('nan'):.1f}"
            )
        table.add_row(case, *cells)
    return [table]


def fairness_tables(rows: Rows) -> list[Table | str]:
    """The nine tenants who send their share, without and with the flood of the tenth."""
    table = Table(title="nine tenants of ten: TTFT p99 s, attained; then the tenth sends 10 times")
    for name in ("told apart", "policy", "p99", "attained", "p99 flooded", "attained flooded"):
        table.add_column(name, justify="left" if name in {"told apart", "policy"} else "right")
    fields = (
        "shares_ttft_p99_seconds", "shares_attainment_ratio", "flooded_ttft_p99_seconds",
        "flooded_attainment_ratio",
    )  # fmt: skip
    for case, policy in dict.fromkeys((row["case"], row["policy"]) for row in rows):
        own = [row for row in rows if (row["case"], row["policy"]) == (case, policy)]
        cells = [
            with_interval([row[field] for row in own if row[field] is not None]) for field in fields
        ]
        table.add_row(case, policy, *cells)
    return [table]


def slow_tables(rows: Rows) -> list[Table | str]:
    """What slow engines refuse and serve, beside least-request, by load."""
    table = Table(
        title="default targets on slow engines, beside least-request: load is a share of what that "
        "carries with first tokens in time"
    )
    for name in ("case", "policy"):
        table.add_column(name)
    for name in (
        "alone, ms per token", "load", "rate, 1/s", "refused", "failed", "of its tokens/s",
        "TTFT p99, s", "its TTFT p99, s",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    keys = dict.fromkeys((row["case"], row["load"], row["policy"]) for row in rows)
    for case, load, policy in keys:
        if policy == LEAST_REQUEST:
            continue
        own = _of_seeds(rows, case, load, policy)
        peers = _of_seeds(rows, case, load, LEAST_REQUEST)
        pairs = [(own[seed], peers[seed]) for seed in own if seed in peers]
        if not pairs:
            continue
        table.add_row(
            case,
            policy,
            f"{pairs[0][0]['tpot_alone_seconds'] * 1e3:.0f}",
            f"{load:g}",
            with_interval([row["rate"] for row, _ in pairs]),
            f"{mean([row['num_shed'] / row['num_offered'] for row, _ in pairs]):.1%}",
            f"{mean([row['num_failed'] / row['num_offered'] for row, _ in pairs]):.1%}",
            with_interval(
                [
                    row["output_tokens_per_second"] / peer["output_tokens_per_second"]
                    for row, peer in pairs
                ]
            ),
            _interval_of([row for row, _ in pairs], "ttft_p99_seconds"),
            _interval_of([peer for _, peer in pairs], "ttft_p99_seconds"),
        )
    return [table]


def _of_seeds(rows: Rows, case: str, load: float, policy: str) -> dict[int, dict[str, Any]]:
    return {
        row["seed"]: row
        for row in rows
        if (row["case"], row["load"], row["policy"]) == (case, load, policy)
    }


def _interval_of(rows: Rows, field: str) -> str:
    values = [row[field] for row in rows if row[field] is not None]
    return with_interval(values) if values else "-"
