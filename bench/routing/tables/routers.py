"""What several routers find cached and attain, beside one."""

from rich.table import Table

from bench.routing.statistics import mean
from bench.routing.tables.cells import Rows, ratio


def routers_tables(rows: Rows) -> list[Table | str]:
    """Several routers beside one, then the same while they come and go."""
    told: list[Table | str] = []
    counts = sorted({row["num_routers"] for row in rows})
    for come_and_go in sorted({row["come_and_go"] for row in rows}):
        how = "while they come and go" if come_and_go else "all the time"
        table = Table(title=f"routers, {how}: cached of prompts; attained; TTFT p50 ms; preempted")
        for name in ("case", "way", *map(str, counts), "cached, least", "attained, least"):
            table.add_column(name, justify="left" if name in {"case", "way"} else "right")
        for case, way in dict.fromkeys((row["case"], row["policy"]) for row in rows):
            alone = [r for r in rows if r["case"] == case and r["num_routers"] == 1]
            own = [
                row
                for row in rows
                if (row["case"], row["policy"], row["come_and_go"]) == (case, way, come_and_go)
                and row["num_routers"] > 1
            ]
            if own:
                by_count = {n: [r for r in own if r["num_routers"] == n] for n in counts} | {
                    1: alone
                }
                table.add_row(
                    case, way, *map(_routers_cell, by_count.values()), *_beside(own, alone)
                )
        told.append(table)
    return told


def _routers_cell(rows: Rows) -> str:
    if not rows:
        return "-"
    return (
        f"{mean([r['prefix_hit_ratio'] for r in rows]):.3f}; "
        f"{mean([r['attainment_ratio'] for r in rows]):.3f}; "
        f"{_mean_milliseconds(rows)}; {mean([r['num_preemptions'] for r in rows]):.0f}"
    )


def _mean_milliseconds(rows: Rows) -> str:
    values = [1e3 * r["ttft_p50_seconds"] for r in rows if r["ttft_p50_seconds"] is not None]
    return f"{mean(values):.0f}" if values else "-"


def _beside(rows: Rows, alone: Rows) -> tuple[str, str]:
    """The least of any number of routers, beside what one finds and attains."""

    def least(field: str) -> float:
        counts = {row["num_routers"] for row in rows}
        return min(mean([r[field] for r in rows if r["num_routers"] == n]) for n in counts)

    if not alone:
        return "-", "-"
    one = mean([row["prefix_hit_ratio"] for row in alone])
    attained = least("attainment_ratio") - mean([row["attainment_ratio"] for row in alone])
    return ratio(least("prefix_hit_ratio"), one), f"{attained:+.3f}"
