"""Tables of the studies."""

from typing import Any

from rich.table import Table

from bench.routing.constants.page import constants_table
from bench.routing.slow import LEAST_REQUEST
from bench.routing.statistics import geometric_mean, half_width, mean
from bench.routing.studies import BOUND, OURS, PEERS
from memroute_simulator.virtual.router import CLAIRVOYANT

Rows = list[dict[str, Any]]


def tables_of(study: str, rows: Rows) -> list[Table | str]:
    """What is printed of a study."""
    return _TABLES[study](rows)


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
                    _share(own, name)
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
            case, policy, f"{load:g}", _share(own, "attainment_ratio"),
            " ".join(f"{mean(list(fifth)):.2f}" for fifth in fifths),
            _share(own, "token_attainment_ratio"),
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
            _with_interval([row["attainment_ratio"] for row in own]),
            " ".join(f"{mean(list(fifth)):.2f}" for fifth in fifths),
            _share(own, "token_attainment_ratio"),
            f"{mean([row['goodput_per_second'] for row in own]):.1f}",
            f"{mean([row['goodput_tokens_per_second'] for row in own]):,.0f}",
        )  # fmt: skip
    return [table]


def deciding_tables(rows: Rows) -> list[Table | str]:
    """What one decision costs."""
    table = Table(title="one decision: prompts of 32k tokens, 20 answers per replica")
    columns = ("replicas", "median, us", "p99, us", "reference loop, ms", "reference hash, ms")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["num_replicas"]),
            f"{row['median_microseconds']:.0f}",
            f"{row['p99_microseconds']:.0f}",
            f"{row['loop_milliseconds']:.1f}",
            f"{row['hash_milliseconds']:.1f}",
        )
    return [table]


def constants_tables(_rows: Rows) -> list[Table | str]:
    """What each constant does, halved and doubled: as docs/reference/constants.md has it."""
    table = Table(title="points of attainment, plain / real, where a constant is scaled")
    for name in ("constant", "value", "0.5 x", "2 x", "verdict"):
        table.add_column(name)
    for cells in constants_table():
        table.add_row(*cells)
    return [table]


def capacity_tables(rows: Rows) -> list[Table | str]:
    """Capacity per mix, case and policy, and what follows from it."""
    return [part for mix in _mixes(rows) for part in _capacity_tables(mix, _of_mix(rows, mix))]


def answers_tables(rows: Rows) -> list[Table | str]:
    """Capacity by what answers are like, over that with a token per event, all streamed.

    With several choices there is more to do: then only how far it is behind an oracle counts.
    """
    mixes = _mixes(rows)
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    told: list[Table | str] = []
    for policy in policies:
        table = Table(title=f"{policy}: capacity over that of the plain mix (itself, per s)")
        table.add_column("case")
        for mix in mixes:
            table.add_column(mix, justify="right")
        values = {mix: _by(_of_mix(rows, mix), "capacity_per_second") for mix in mixes}
        for case in dict.fromkeys(row["case"] for row in rows):
            cells = []
            for mix in mixes:
                own = values[mix].get((case, policy), [])
                base = _base(values, mix, case, policy)
                pairs = [one / other for one, other in zip(own, base, strict=False)]
                cells.append(_with_interval(own if mix == mixes[0] else pairs) if pairs else "-")
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


def _mixes(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["mix"] for row in rows))


def _of_mix(rows: Rows, mix: str) -> Rows:
    return [row for row in rows if row["mix"] == mix]


def _capacity_tables(mix: str, rows: Rows) -> list[Table | str]:
    values = _by(rows, "capacity_per_second")
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
            *(_with_interval(values[case, policy]) for policy in policies),
            _ratio(means.get(OURS), best),
            _ratio(means.get(OURS), means.get(CLAIRVOYANT)),
            _ratio(means.get(OURS), means.get(BOUND)),
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
        f"{_with_interval(ratios)} times its capacity"
    )


def point_tables(rows: Rows, column: str, title: str) -> list[Table | str]:
    """Attainment (and goodput, preemptions, shed) by one column, for each mix."""
    return [
        table
        for mix in _mixes(rows)
        for table in _point_tables(_of_mix(rows, mix), column, f"{mix} mix, {title}")
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
                    f"{_with_interval([row['attainment_ratio'] for row in own])} "
                    f"({mean([row['goodput_per_second'] for row in own]):.1f}, "
                    f"{mean([row['num_preemptions'] for row in own]):.0f}, "
                    f"{mean([row['num_shed'] for row in own]):.0f})"
                )
            table.add_row(policy, *cells)
        told.append(table)
    return told


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
                f"{_with_interval([row['attainment_ratio'] for row in own])}; "
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
            _with_interval([row[field] for row in own if row[field] is not None])
            for field in fields
        ]
        table.add_row(case, policy, *cells)
    return [table]


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
    return _ratio(least("prefix_hit_ratio"), one), f"{attained:+.3f}"


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
            _with_interval([row["rate"] for row, _ in pairs]),
            f"{mean([row['num_shed'] / row['num_offered'] for row, _ in pairs]):.1%}",
            f"{mean([row['num_failed'] / row['num_offered'] for row, _ in pairs]):.1%}",
            _with_interval(
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
    return _with_interval(values) if values else "-"


BASELINE = "memroute"
"""The router that the others are compared with, over HTTP."""


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
                _with_interval([run["attainment_ratio"] for run in runs]),
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


def _by(rows: Rows, field: str) -> dict[tuple[str, str], list[float]]:
    values: dict[tuple[str, str], list[float]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        values.setdefault((row["case"], row["policy"]), []).append(row[field])
    return values


def _with_interval(values: list[float]) -> str:
    half = half_width(values)
    middle = mean(values)
    return f"{middle:.3g}" if half is None else f"{middle:.3g} ± {half:.2g}"


def _ratio(ours: float | None, theirs: float | None) -> str:
    return "-" if ours is None or not theirs else f"{ours / theirs:.2f}x"


def _share(rows: Rows, field: str) -> str:
    values = [row[field] for row in rows if row[field] is not None]
    return f"{mean(values):.2f}" if values else "-"


_TABLES = {
    "capacity": capacity_tables,
    "answers": answers_tables,
    "scrape": scrape_tables,
    "overload": overload_tables,
    "objectives": objectives_tables,
    "faults": faults_tables,
    "fairness": fairness_tables,
    "routers": routers_tables,
    "slow": slow_tables,
    "http": http_tables,
    "deciding": deciding_tables,
    "constants": constants_tables,
}
