"""Tables and the plot of the comparison."""

from pathlib import Path

from rich.table import Table

from bench.placement.measure import Row, ratio_of
from bench.placement.policies import OURS
from bench.routing.statistics import mean

ENDINGS = (".png", ".svg", ".pdf")
TOTALS = (("random", False), ("adversarial", True))


def tables(rows: list[Row]) -> list[Table]:
    """What each policy places of the optimum by case, and what else there is to say."""
    return [_placed_table(rows), _other_table(rows)]


def _policies(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in rows))


def _placed_table(rows: list[Row]) -> Table:
    table = Table(
        title="replicas placed, of those that the exact optimum places (the least by seed)"
    )
    for name in ("case", "instances", "replicas"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for name in _policies(rows):
        table.add_column(name, justify="right")
    for case in dict.fromkeys(row["case"] for row in rows):
        _add(table, case, [row for row in rows if row["case"] == case], spread=True)
    table.add_section()
    for name, is_adversarial in TOTALS:
        own = [row for row in rows if row["is_adversarial"] is is_adversarial]
        if own:
            _add(table, name, own)
    _add(table, "all", rows)
    return table


def _add(table: Table, name: str, rows: list[Row], *, spread: bool = False) -> None:
    policies = _policies(rows)
    one = [row for row in rows if row["policy"] == policies[0]]
    cells = []
    for policy in policies:
        own = [row for row in rows if row["policy"] == policy]
        least = f" ({min(row['placed_ratio'] for row in own):.0%})" if spread else ""
        cells.append(f"{ratio_of(own):.1%}{least}")
    wanted = sum(row["optimum_replicas"] for row in one)
    table.add_row(name, str(len(one)), str(wanted), *cells)


def _other_table(rows: list[Row]) -> Table:
    table = Table(title=f"all instances; how many times the others' replicas {OURS} places")
    names = (
        "policy", "placed", "least instance", f"{OURS} is", "random", "adversarial", "never start",
        "GiB stranded", "of the cluster", "contention", "engines lost", "seconds, mean", "at most",
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy in _policies(rows):
        own = [row for row in rows if row["policy"] == policy]
        seconds = [row["seconds"] for row in own]
        table.add_row(
            policy,
            f"{ratio_of(own):.1%}",
            f"{min(row['placed_ratio'] for row in own):.1%}",
            *(_times(rows, policy, adversarial) for adversarial in (None, False, True)),
            str(sum(row["never_starting_replicas"] for row in own)),
            f"{mean([row['stranded_bytes'] / 2**30 for row in own]):,.0f}",
            f"{mean([row['stranded_ratio'] for row in own]):.1%}",
            _mean([row["contention"] for row in own]),
            f"{mean([row['lost_engines'] for row in own]):,.1f}",
            f"{mean(seconds):.2f}",
            f"{max(seconds):.2f}",
        )
    return table


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.3f}" if known else "-"


def _times(rows: list[Row], policy: str, is_adversarial: bool | None) -> str:
    chosen = [row for row in rows if is_adversarial in {None, row["is_adversarial"]}]
    ours = [row for row in chosen if row["policy"] == OURS]
    theirs = [row for row in chosen if row["policy"] == policy]
    if not ours or not theirs or policy == OURS:
        return "-"
    return f"{ratio_of(ours) / ratio_of(theirs):.3f}"


def scale_table(rows: list[Row]) -> Table:
    """CPU seconds of one plan."""
    table = Table(title="one plan, cold")
    for name in ("mode", "what", "GPUs", "models", "replicas", "placed", "CPU seconds"):
        table.add_column(name, justify="left" if name in {"mode", "what"} else "right")
    for row in rows:
        table.add_row(
            row["mode"], row["what"], f"{row['num_devices']:,}", f"{row['num_models']:,}",
            f"{row['wanted_replicas']:,}", f"{row['placed_replicas']:,}",
            f"{row['cpu_seconds']:.2f}",
        )  # fmt: skip
    return table


def plot(rows: list[Row], path: Path) -> None:
    """Bars by case: the share of the optimum that each policy places, and its range by seed."""
    import matplotlib as mpl  # noqa: PLC0415 - a second of import that only plots need

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    cases = list(dict.fromkeys(row["case"] for row in rows))
    policies = _policies(rows)
    figure, axis = plt.subplots(figsize=(1.1 * len(cases) + 2, 4.5), layout="constrained")
    width = 0.85 / len(policies)
    for number, policy in enumerate(policies):
        own = [
            [row["placed_ratio"] for row in rows if (row["case"], row["policy"]) == (case, policy)]
            for case in cases
        ]
        axis.bar(
            [place + number * width for place in range(len(cases))],
            [mean(values) for values in own],
            width,
            yerr=[
                [max(0.0, mean(values) - min(values)) for values in own],
                [max(0.0, max(values) - mean(values)) for values in own],
            ],
            label=policy,
            color="tab:red" if policy == OURS else f"C{number if number < 3 else number + 1}",  # noqa: PLR2004
            error_kw={"linewidth": 0.7},
        )
    axis.axhline(0.99, color="black", linewidth=0.7, linestyle="--", label="99 %")
    places = [place + 0.42 - width / 2 for place in range(len(cases))]
    axis.set_xticks(places, cases, rotation=25, ha="right")
    axis.set(ylabel="replicas placed, of the exact optimum", ylim=(0.3, 1.02))
    figure.legend(fontsize=7, ncols=len(policies) + 1, loc="outside upper center")
    figure.savefig(path, dpi=110)
    plt.close(figure)
