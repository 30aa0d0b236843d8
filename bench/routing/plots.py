"""Plots of the studies."""

from pathlib import Path
from typing import Any

from bench.routing.progress import Row
from bench.routing.statistics import half_width, mean
from bench.routing.studies import OURS

PLOTTED: dict[str, tuple[str, str, str | None]] = {
    "capacity": ("capacity_per_second", "policy", None),
    "answers": ("capacity_per_second", "mix", None),
    "scrape": ("attainment_ratio", "policy", "scrape_seconds"),
    "overload": ("goodput_per_second", "policy", "load"),
    "objectives": ("attainment_ratio", "objective", "load"),
    "faults": ("attainment_ratio", "policy", None),
    "fairness": ("flooded_ttft_p99_seconds", "policy", None),
    "routers": ("prefix_hit_ratio", "policy", "num_routers"),
    "slow": ("ttft_p99_seconds", "policy", "load"),
    "http": ("attainment_ratio", "router", "load"),
    "deciding": ("median_microseconds", "policy", "num_replicas"),
}
"""What is drawn of each study: a field, of whom, and along what (None: bars)."""
ENDINGS = (".png", ".svg", ".pdf")


def plot(study: str, rows: list[Row], path: Path) -> None:
    """One panel per case: bars by policy, or lines by load, period or replicas; 95 % intervals."""
    import matplotlib as mpl  # noqa: PLC0415 - a second of import that only plots need

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    field, by, along = PLOTTED[study]
    if along is not None and len({row[along] for row in rows}) == 1:
        along = None
    rows = [{"case": study, by: OURS} | row for row in rows]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    width = min(4, len(cases))
    height = -(-len(cases) // width)
    figure, axes = plt.subplots(
        height, width, figsize=(4.5 * width, 3.6 * height), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(cases) :]:
        axis.axis("off")
    for axis, case in zip(axes.flat, cases, strict=False):
        axis.set_title(case)
        own = [row for row in rows if row["case"] == case and row[field] is not None]
        if along is None:
            _draw_bars(axis, own, field, by)
        else:
            _draw_lines(axis, own, field, by, along)
    if along is not None:
        axes.flat[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_bars(axis: Any, rows: list[Row], field: str, by: str) -> None:
    names = list(dict.fromkeys(row[by] for row in rows))
    values = [[row[field] for row in rows if row[by] == name] for name in names]
    colors = ["tab:red" if name == OURS else "tab:blue" for name in names]
    errors = [half_width(own) or 0.0 for own in values]
    axis.barh(names, [mean(own) for own in values], xerr=errors, color=colors)
    axis.invert_yaxis()
    axis.set_xlabel(field)


def _draw_lines(axis: Any, rows: list[Row], field: str, by: str, along: str) -> None:
    for name in dict.fromkeys(row[by] for row in rows):
        own = [row for row in rows if row[by] == name]
        steps = sorted({row[along] for row in own})
        values = [[row[field] for row in own if row[along] == step] for step in steps]
        errors = [half_width(runs) or 0.0 for runs in values]
        middle = [mean(runs) for runs in values]
        axis.errorbar(steps, middle, yerr=errors, fmt="o-", markersize=3, capsize=2, label=name)
    axis.set(xlabel=along, ylabel=field, xscale="log")
    steps = sorted({row[along] for row in rows})
    axis.set_xticks(steps, [f"{step:g}" for step in steps])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
