"""What stands in the cells of tables: means with their intervals, ratios, and which rows."""

from typing import Any

from bench.routing.statistics import half_width, mean

Rows = list[dict[str, Any]]


def mixes_of(rows: Rows) -> list[str]:
    """The mixes of requests, in the order of the rows."""
    return list(dict.fromkeys(row["mix"] for row in rows))


def of_mix(rows: Rows, mix: str) -> Rows:
    """The rows of one mix."""
    return [row for row in rows if row["mix"] == mix]


def by_case_and_policy(rows: Rows, field: str) -> dict[tuple[str, str], list[float]]:
    """The values of a field by (case, policy), in the order of the seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        values.setdefault((row["case"], row["policy"]), []).append(row[field])
    return values


def with_interval(values: list[float]) -> str:
    """The mean, and half of its 95 % interval where there is more than one value."""
    half = half_width(values)
    middle = mean(values)
    return f"{middle:.3g}" if half is None else f"{middle:.3g} ± {half:.2g}"


def ratio(ours: float | None, theirs: float | None) -> str:
    """How many times theirs ours is; a dash where either is unknown."""
    return "-" if ours is None or not theirs else f"{ours / theirs:.2f}x"


def share(rows: Rows, field: str) -> str:
    """The mean of a ratio (0 to 1), over the rows that know it; a dash where none does."""
    values = [row[field] for row in rows if row[field] is not None]
    return f"{mean(values):.2f}" if values else "-"
