"""``python -m bench.simulator study NAME``: run, print beside what is published, draw."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.simulator.studies import (
    heterogeneous,
    host_events,
    host_tier,
    knee,
    ladder,
    published,
)

Rows = list[dict[str, Any]]


def main(argv: Sequence[str]) -> int:
    """Run one study; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulator study",
        description="Published curves, made again. Levels are the simulator's own; what is judged "
        "is the order and the shape.",
    )
    parser.add_argument("name", choices=tuple(STUDIES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--full", action="store_true", help="every stage and load (minutes instead of one)"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument(
        "--trace", default="azure-conv", metavar="FILE",
        help="heterogeneous: the chats, a generator's name or a trace file",
    )  # fmt: skip
    options = parser.parse_args(argv)
    study, tabulate, draw = STUDIES[options.name]
    rows = study(options)
    if options.output == "json":
        print(json.dumps(rows, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 150)
        for table in tabulate(rows):
            console.print(table)
    if options.plot is not None:
        draw(rows, options.plot)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# llm-d's ladder.


def _ladder(options: argparse.Namespace) -> Rows:
    rows: Rows = []
    for policy in ladder.POLICIES:
        _say(f"ladder: {policy}")
        stages = ladder.run(policy, seed=options.seed, full=options.full)
        rows += [asdict(stage) for stage in stages]
    return rows


def _ladder_tables(rows: Rows) -> list[Table | str]:
    table = Table(title="llm-d 73-capacity: all stages")
    columns = (
        "out tok/s, mean", "published", "TTFT p90 s, worst stage", "published, overall",
        "ITL mean ms", "prefix hit", "preempted", "shed",
    )  # fmt: skip
    table.add_column("policy")
    for name in columns:
        table.add_column(name, justify="right")
    stages = Table(title="By rate: output tokens/s; TTFT p90, seconds")
    stages.add_column("policy")
    for rate in sorted({row["rate"] for row in rows}):
        stages.add_column(f"{rate:g}/s", justify="right")
    for policy in ladder.POLICIES:
        own = [row for row in rows if row["policy"] == policy]
        known = published.LADDER_73.get(policy, {})
        tokens = sum(row["out_tokens_per_second"] for row in own) / len(own)
        p90 = max(row["ttft_p90_seconds"] or 0.0 for row in own)
        itl = [row["itl_mean_seconds"] for row in own if row["itl_mean_seconds"]]
        table.add_row(
            policy, f"{tokens:,.0f}", _known(known.get("out_tokens_per_second")), f"{p90:.2f}",
            _known(known.get("ttft_p90_seconds")), f"{1e3 * sum(itl) / len(itl):.0f}",
            f"{sum(r['prefix_hit_ratio'] for r in own) / len(own):.0%}",
            f"{sum(r['num_preemptions'] for r in own):,}", f"{sum(r['num_shed'] for r in own):,}",
        )  # fmt: skip
        stages.add_row(
            policy,
            *(f"{r['out_tokens_per_second']:,.0f}; {_seconds(r['ttft_p90_seconds'])}" for r in own),
        )
    return [table, stages, published.LADDER_BASELINE]


def _ladder_plot(rows: Rows, path: Path) -> None:
    _lines(
        rows, path, "policy", "rate",
        (("out_tokens_per_second", "output tokens/s", False),
         ("ttft_p90_seconds", "TTFT p90, seconds", True)),
        "llm-d shared-prefix ladder, 8 x Qwen3-32B TP2 H100",
        [(0, level, f"published {name}") for name, level in
         ((k, v["out_tokens_per_second"]) for k, v in published.LADDER_73.items())],
    )  # fmt: skip


# Heterogeneous KV.


def _heterogeneous(options: argparse.Namespace) -> Rows:
    chats = heterogeneous.workload(options.seed, options.trace)
    speeds = heterogeneous.SPEEDS if options.full else (8, 14, 26)
    scrapes = heterogeneous.SCRAPES if options.full else (0.05, 1.0, 15.0)
    points = [(speed, 0.05) for speed in speeds] + [(14, s) for s in scrapes if s != 0.05]  # noqa: PLR2004
    rows: Rows = []
    for policy in heterogeneous.POLICIES:
        _say(f"heterogeneous: {policy}")
        for speed, scrape in points:
            point = heterogeneous.run(policy, chats, speed=speed, scrape=scrape, seed=options.seed)
            rows.append(asdict(point))
    return rows


def _heterogeneous_tables(rows: Rows) -> list[Table | str]:
    speeds = sorted({row["speed"] for row in rows})
    scrapes = sorted({row["scrape_seconds"] for row in rows})
    loads = Table(title="SLO attained by load (scrape 50 ms): TTFT 1 s, TPOT 50 ms")
    stale = Table(title="SLO attained by scrape period, at x14 (TTFT p99 s, preemptions)")
    loads.add_column("policy")
    stale.add_column("policy")
    for speed in speeds:
        loads.add_column(f"x{speed:g}", justify="right")
    loads.add_column("x14, prototype", justify="right")
    loads.add_column("shed at x14", justify="right")
    for scrape in scrapes:
        stale.add_column(f"{scrape:g} s", justify="right")
    by_key = {(r["policy"], r["speed"], r["scrape_seconds"]): r for r in rows}
    for policy in heterogeneous.POLICIES:
        own = [by_key[policy, speed, 0.05] for speed in speeds]
        known = published.HETEROGENEOUS.get(policy)
        loads.add_row(
            policy, *(f"{r['attainment_ratio']:.3f}" for r in own), _known(known),
            str(by_key[policy, 14, 0.05]["num_shed"]),
        )  # fmt: skip
        stale.add_row(
            policy,
            *(
                f"{r['attainment_ratio']:.3f} ({_seconds(r['ttft_p99_seconds'])}, "
                f"{r['num_preemptions']})"
                for r in (by_key[policy, 14, scrape] for scrape in scrapes)
            ),
        )
    return [loads, stale]


def _heterogeneous_plot(rows: Rows, path: Path) -> None:
    _lines(
        [row for row in rows if row["scrape_seconds"] == 0.05], path, "policy", "speed",  # noqa: PLR2004
        (("attainment_ratio", "SLO attained", False),
         ("tpot_p90_seconds", "TPOT p90, seconds", False)),
        "430k and 24k KV tokens, Azure chats",
        [],
    )  # fmt: skip


# The knee.


def _knee(options: argparse.Namespace) -> Rows:
    rows: Rows = []
    rates = knee.RATES if options.full else knee.RATES[::2]
    for policy in knee.POLICIES:
        _say(f"knee: {policy}")
        rows += [asdict(knee.run(policy, rate=rate, seed=options.seed)) for rate in rates]
    return rows


def _knee_tables(rows: Rows) -> list[Table | str]:
    rates = sorted({row["rate"] for row in rows})
    table = Table(
        title="6 x Llama-2-7B, ShareGPT: attained (TTFT 0.5 s, TPOT 50 ms); p90 of latency per "
        "output token, ms; preemptions"
    )
    table.add_column("policy")
    for rate in rates:
        table.add_column(f"{rate:g}/s", justify="right")
    for policy in knee.POLICIES:
        own = {row["rate"]: row for row in rows if row["policy"] == policy}
        table.add_row(
            policy,
            *(
                f"{own[rate]['attainment_ratio']:.3f}; "
                f"{(own[rate]['ntpot_p90_seconds'] or 0) * 1e3:.0f}; "
                f"{own[rate]['num_preemptions']}"
                + (f"; shed {own[rate]['num_shed']}" if own[rate]["num_shed"] else "")
                for rate in rates
            ),
        )
    chart = ", ".join(f"{q}: {a} / {b}" for q, (a, b) in published.GIE_CHART.items())
    return [
        table,
        f"GIE's chart, p90 of latency per output token, EPP / Service, ms, by QPS: {chart}",
    ]


def _knee_plot(rows: Rows, path: Path) -> None:
    _lines(
        rows, path, "policy", "rate",
        (("attainment_ratio", "SLO attained", False),
         ("ntpot_p90_seconds", "latency per output token p90, seconds", True)),
        "6 x Llama-2-7B H100, ShareGPT",
        [],
        [(1, [(q, pair[index] / 1e3) for q, pair in published.GIE_CHART.items()], label)
         for index, label in enumerate(("GIE chart: EPP", "GIE chart: Service"))],
    )  # fmt: skip


# The host's tier.


def _host_tier(options: argparse.Namespace) -> Rows:
    rows: Rows = []
    sizes = host_tier.HOST_GIB if options.full else host_tier.HOST_GIB[::2]
    for reuse in host_tier.REUSE_RATIOS:
        _say(f"host-tier: {reuse:.0%} of each prompt known")
        chats = host_tier.workload(reuse, options.seed)
        for host_gib in sizes:
            for routing in host_tier.ROUTING:
                if not host_gib and routing == "device only":
                    continue  # the same as both tiers where there is one
                point = host_tier.run(
                    routing, chats, reuse_ratio=reuse, host_gib=host_gib, seed=options.seed
                )
                rows.append(asdict(point))
    return rows


def _host_tier_tables(rows: Rows) -> list[Table | str]:
    table = Table(
        title="4 x Llama-3.1-8B L40S: mean TTFT, s (SLO attained; hits, of these by the host)"
    )
    table.add_column("reuse")
    table.add_column("host GiB", justify="right")
    for routing in host_tier.ROUTING:
        table.add_column(routing, justify="right")
    by_key = {(r["reuse_ratio"], r["host_gib"], r["routing"]): r for r in rows}
    sentences: list[Table | str] = []
    for reuse in host_tier.REUSE_RATIOS:
        for host_gib in sorted({row["host_gib"] for row in rows}):
            own = [by_key.get((reuse, host_gib, routing)) for routing in host_tier.ROUTING]
            table.add_row(f"{reuse:.0%}", str(host_gib), *(_host_tier_cell(row) for row in own))
        largest = max(row["host_gib"] for row in rows)
        none = by_key[reuse, 0, "both tiers"]["ttft_mean_seconds"]
        both = by_key[reuse, largest, "both tiers"]["ttft_mean_seconds"]
        device = by_key[reuse, largest, "device only"]["ttft_mean_seconds"]
        sentences.append(
            f"{reuse:.0%} known: {largest} GiB change the mean TTFT by {both / none - 1:+.0%}; "
            f"routing that sees them by {both / device - 1:+.0%} against routing that does not"
        )
    return [table, *sentences]


def _host_tier_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return (
        f"{row['ttft_mean_seconds'] or 0:.3f} ({row['attainment_ratio']:.3f}; "
        f"{row['hit_ratio']:.0%}, {row['host_hit_ratio']:.0%})"
    )


def _host_tier_plot(rows: Rows, path: Path) -> None:
    named = [
        row | {"name": f"{row['reuse_ratio']:.0%} known, {row['routing']}"}
        for row in rows
        if row["routing"] != "round-robin"
    ]
    _host_lines(named, path, "host_gib", "KV cache on the host")


# Events of the host.


def _host_events(options: argparse.Namespace) -> Rows:
    rows: Rows = []
    sizes = host_events.HOST_GIB if options.full else host_events.HOST_GIB[-1:]
    situations = host_events.SITUATIONS if options.full else host_events.SHORT_SITUATIONS
    known = tuple(host_events.KNOWLEDGE) if options.full else host_events.SHORT_KNOWLEDGE
    for reuse in host_tier.REUSE_RATIOS:
        chats = host_tier.workload(reuse, options.seed, host_events.NUM_REQUESTS)
        for situation in situations:
            _say(f"host-events: {reuse:.0%} of each prompt known, {situation}")
            for host_gib in sizes:
                for knowledge in known:
                    point = host_events.run(
                        situation, knowledge, chats,
                        reuse_ratio=reuse, host_gib=host_gib, seed=options.seed,
                    )  # fmt: skip
                    rows.append(asdict(point))
    return rows


def _host_events_tables(rows: Rows) -> list[Table | str]:
    table = Table(title="4 x Llama-3.1-8B L40S: mean TTFT, s (p90; hits)")
    table.add_column("situation")
    table.add_column("reuse", justify="right")
    table.add_column("host GiB", justify="right")
    for knowledge in dict.fromkeys(row["knowledge"] for row in rows):
        table.add_column(knowledge, justify="right")
    table.add_column("last against the one before", justify="right")
    by_key: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        key = row["situation"], row["reuse_ratio"], row["host_gib"]
        by_key.setdefault(key, []).append(row)
    for (situation, reuse, host_gib), own in by_key.items():
        *_, device, both = (row["ttft_mean_seconds"] for row in own)
        cells = (
            f"{row['ttft_mean_seconds']:.3f} ({row['ttft_p90_seconds']:.2f}; "
            f"{row['hit_ratio']:.0%})"
            for row in own
        )
        table.add_row(situation, f"{reuse:.0%}", str(host_gib), *cells, f"{both / device - 1:+.0%}")
    return [table]


def _host_events_plot(rows: Rows, path: Path) -> None:
    named = [
        row | {"name": f"{row['situation']}, {row['knowledge']}"}
        for row in rows
        if row["host_gib"] == max(one["host_gib"] for one in rows)
    ]
    _host_lines(named, path, "reuse_ratio", "What routers know of hosts")


# Shared.


def _host_lines(rows: Rows, path: Path, x: str, title: str) -> None:
    """What the host's memory gains: both studies of it run the same fleet."""
    _lines(
        rows, path, "name", x,
        (("ttft_mean_seconds", "mean TTFT, seconds", False),
         ("hit_ratio", "share of prompt tokens found", False)),
        f"{title}, 4 x Llama-3.1-8B L40S",
        [],
    )  # fmt: skip


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2g}"  # noqa: PLR2004


def _lines(
    rows: Rows,
    path: Path,
    series: str,
    x: str,
    panels: Sequence[tuple[str, str, bool]],
    title: str,
    levels: Sequence[tuple[int, float, str]],
    curves: Sequence[tuple[int, list[tuple[float, float]], str]] = (),
) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - a second of import that only plots need

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(panels), figsize=(13, 5), layout="constrained")
    for index, (axis, (field, label, is_log)) in enumerate(zip(axes, panels, strict=True)):
        for name in dict.fromkeys(row[series] for row in rows):
            points = sorted((r[x], r[field]) for r in rows if r[series] == name and r[field])
            if points:
                axis.plot(*zip(*points, strict=True), "o-", markersize=3, label=name)
        for panel, level, text in levels:
            if panel == index:
                axis.axhline(level, linestyle="--", linewidth=0.8, color="gray")
                axis.annotate(text, (0.01, level), xycoords=("axes fraction", "data"), fontsize=7)
        for panel, line, text in curves:
            if panel == index:
                axis.plot(*zip(*line, strict=True), "k:", label=text, linewidth=1)
        axis.set(xlabel=x, ylabel=label, yscale="log" if is_log else "linear")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


Study = tuple[
    Callable[[argparse.Namespace], Rows],
    Callable[[Rows], list[Table | str]],
    Callable[[Rows, Path], None],
]
STUDIES: dict[str, Study] = {
    "ladder": (_ladder, _ladder_tables, _ladder_plot),
    "heterogeneous": (_heterogeneous, _heterogeneous_tables, _heterogeneous_plot),
    "host-events": (_host_events, _host_events_tables, _host_events_plot),
    "host-tier": (_host_tier, _host_tier_tables, _host_tier_plot),
    "knee": (_knee, _knee_tables, _knee_plot),
}
