"""What is served at a rate that is set: by scrape period, by load, by objective."""

from rich.table import Table

from bench.routing.statistics import mean
from bench.routing.tables.cells import Rows, mixes_of, of_mix, share, with_interval


def scrape_tables(rows: Rows) -> list[Table | str]:
    """Attainment by scrape period."""
    return point_tables(rows, "scrape_seconds", "by scrape period, seconds")


def overload_tables(rows: Rows) -> list[Table | str]:
    """Goodput by load, and how the refused were told."""
    told = point_tables(rows, "load", "by load, times the rate near the knee")
    table = Table(title="refused: told within 100 ms; by when they were due; to come back rightly")
    for name in ("case", "policy", "load", "refused", "at once", "in time", "Retry-After right"):
        table.add_column(name, justify="left" if name in {"case", "policy"} else "right")
    for case, policy, load in dict.fromkeys((r["case"], r["policy"], r["load"]) for r in rows):
        own = [r for r in rows if (r["case"], r["policy"], r["load"]) == (case, policy, load)]
        if any(row["num_shed"] for row in own):
            table.add_row(
                case, policy, f"{load:g}", f"{mean([row['num_shed'] for row in own]):.0f}",
                *(
                    share(own, name)
                    for name in ("at_once_ratio", "in_time_ratio", "retry_after_right_ratio")
                ),
            )  # fmt: skip
    return [*told, *_size_tables(rows), table]


def _size_tables(rows: Rows) -> list[Table | str]:
    """Who is served under load: attainment by fifths of the requests' sizes, and in tokens."""
    table = Table(title="attained by fifths of the requests' sizes, shortest first; of tokens")
    names = ("case", "policy", "load", "attained", "by fifths", "of tokens", "goodput, tokens/s")
    for name in names:
        table.add_column(name, justify="left" if name in {"case", "policy"} else "right")
    for case, policy, load in dict.fromkeys((r["case"], r["policy"], r["load"]) for r in rows):
        own = [r for r in rows if (r["case"], r["policy"], r["load"]) == (case, policy, load)]
        fifths = zip(*(row["size_attainment_ratios"] for row in own), strict=True)
        table.add_row(
            case, policy, f"{load:g}", share(own, "attainment_ratio"),
            " ".join(f"{mean(list(fifth)):.2f}" for fifth in fifths),
            share(own, "token_attainment_ratio"),
            f"{mean([row['goodput_tokens_per_second'] for row in own]):.0f}",
        )  # fmt: skip
    return [table]


def objectives_tables(rows: Rows) -> list[Table | str]:
    """Who is served, by objective and load."""
    table = Table(title="by objective and load; fifths of the requests' sizes, shortest first")
    for name in (
        "case", "load", "objective", "attained", "by fifths", "of tokens", "goodput/s",
        "goodput, tokens/s",
    ):  # fmt: skip
        is_text = name in {"case", "objective"}
        table.add_column(name, justify="left" if is_text else "right")
    keys = dict.fromkeys((row["case"], row["load"], row["objective"]) for row in rows)
    for case, load, objective in sorted(keys, key=lambda key: key[:2]):
        own = [
            row for row in rows
            if (row["case"], row["load"], row["objective"]) == (case, load, objective)
        ]  # fmt: skip
        fifths = zip(*(row["size_attainment_ratios"] for row in own), strict=True)
        table.add_row(
            case, f"{load:g}", objective,
            with_interval([row["attainment_ratio"] for row in own]),
            " ".join(f"{mean(list(fifth)):.2f}" for fifth in fifths),
            share(own, "token_attainment_ratio"),
            f"{mean([row['goodput_per_second'] for row in own]):.1f}",
            f"{mean([row['goodput_tokens_per_second'] for row in own]):,.0f}",
        )  # fmt: skip
    return [table]


def point_tables(rows: Rows, column: str, title: str) -> list[Table | str]:
    """Attainment (and goodput, preemptions, shed) by one column, for each mix."""
    return [
        table
        for mix in mixes_of(rows)
        for table in _point_tables(of_mix(rows, mix), column, f"{mix} mix, {title}")
    ]


def _point_tables(rows: Rows, column: str, title: str) -> list[Table | str]:
    steps = sorted({row[column] for row in rows})
    told: list[Table | str] = []
    for case in dict.fromkeys(row["case"] for row in rows):
        table = Table(title=f"{case}: {title}; attained (goodput/s, preempted, shed)")
        table.add_column("policy")
        for step in steps:
            table.add_column(f"{step:g}", justify="right")
        for policy in dict.fromkeys(row["policy"] for row in rows):
            cells = []
            for step in steps:
                own = [
                    row
                    for row in rows
                    if (row["case"], row["policy"], row[column]) == (case, policy, step)
                ]
                cells.append(
                    f"{with_interval([row['attainment_ratio'] for row in own])} "
                    f"({mean([row['goodput_per_second'] for row in own]):.1f}, "
                    f"{mean([row['num_preemptions'] for row in own]):.0f}, "
                    f"{mean([row['num_shed'] for row in own]):.0f})"
                )
            table.add_row(policy, *cells)
        told.append(table)
    return told
