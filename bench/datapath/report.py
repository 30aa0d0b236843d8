"""The tables and the document of a measurement."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table

from bench.datapath.cases import CASES, Case, Results
from bench.datapath.rig import Measured

OURS = "memroute"


def tables(results: Results) -> Iterator[Table]:
    """One for each case."""
    for name, by_peer in results.runs.items():
        case = CASES[name]
        direct = results.direct.get(name)
        table = Table(title=case.title, title_justify="left")
        for column in (
            "router", "events/s" if case.is_stream else "req/s", f"{OURS} is", "p50 ms", "p99 ms",
            "added p50 ms", "CPU us each", "router's core", "other core",
            "RSS MB", "KiB each", "errors",
        ):  # fmt: skip
            table.add_column(column, justify="left" if column == "router" else "right")
        for peer, runs in by_peer.items():
            found = [run for run in runs if run is not None]
            if not found:
                table.add_row(peer, "failed" if runs else "does not do it")
                continue
            table.add_row(
                peer,
                f"{statistics.median(_rate(run, case.is_stream) for run in found):,.0f}",
                "" if peer == OURS or not _has_rate(case) else _ratio_in_words(by_peer, peer, case),
                f"{_median(found, lambda run: run.p50_seconds) * 1e3:.3f}",
                f"{_median(found, lambda run: run.p99_seconds) * 1e3:.3f}",
                _added(found, direct),
                f"{statistics.median(cpu_each(run, case.is_stream) for run in found) * 1e6:.1f}",
                f"{_median(found, lambda run: run.router_core_ratio):.0%}",
                f"{_median(found, lambda run: run.load_core_ratio):.0%}",
                f"{_median(found, lambda run: run.router_rss_bytes) / 1e6:.0f}",
                f"{_median(found, lambda run: run.rss_per_connection_bytes) / 1024:.1f}",
                str(sum(run.errors for run in found)),
            )
        if direct:
            p50 = statistics.median(run.p50_seconds for run in direct)
            rate = statistics.median(run.requests_per_second for run in direct)
            table.add_row("(no router)", f"{rate:,.0f}", "", f"{p50 * 1e3:.3f}")
        yield table
    for failure in results.failures:
        table = Table(title="failed", title_justify="left", show_header=False)
        table.add_row(failure)
        yield table


def ratios(results: Results) -> Table:
    """How many times each router's rate memroute's is, in every case, in one table."""
    peers = [name for name in next(iter(results.runs.values())) if name != OURS]
    table = Table(title=f"{OURS}'s rate is so many times theirs", title_justify="left")
    table.add_column("case")
    for peer in peers:
        table.add_column(peer, justify="right")
    for name, by_peer in results.runs.items():
        if not _has_rate(CASES[name]):
            continue
        table.add_row(name, *(_ratio_in_words(by_peer, peer, CASES[name]) for peer in peers))
    return table


def reference_line(results: Results) -> str:
    """How slow the machine was."""
    loops = results.loop_milliseconds
    return f"reference loop: {min(loops):.1f} to {max(loops):.1f} ms"


def document_of(results: Results) -> dict[str, Any]:
    """Everything, for programs: medians, ratios with their spread, and each run."""
    return {
        "cases": {
            name: {
                "title": CASES[name].title,
                "direct_p50_seconds": (
                    statistics.median(run.p50_seconds for run in results.direct[name])
                    if name in results.direct
                    else None
                ),
                "routers": {
                    peer: {
                        "runs": [None if run is None else _run_document(run) for run in runs],
                        "ratio_of_memroute": ratio_to(by_peer, peer, CASES[name].is_stream),
                    }
                    for peer, runs in by_peer.items()
                },
            }
            for name, by_peer in results.runs.items()
        },
        "failures": results.failures,
        "loop_milliseconds": results.loop_milliseconds,
    }


def ratio_to(
    by_peer: dict[str, list[Measured | None]], peer: str, is_stream: bool
) -> tuple[float, float, float] | None:
    """How many times the peer's rate ours is, within each round: lowest, median, highest."""
    ratios = [
        _rate(ours, is_stream) / _rate(theirs, is_stream)
        for ours, theirs in zip(by_peer.get(OURS, []), by_peer[peer], strict=False)
        if ours is not None and theirs is not None and _rate(theirs, is_stream)
    ]
    return (min(ratios), statistics.median(ratios), max(ratios)) if ratios else None


def _has_rate(case: Case) -> bool:
    """Whether it looks for the highest rate: the others are about memory and CPU."""
    return not case.num_scraped and case.interval_seconds is None


def _ratio_in_words(by_peer: dict[str, list[Measured | None]], peer: str, case: Case) -> str:
    ratio = ratio_to(by_peer, peer, case.is_stream)
    if ratio is None:
        return "not measured"
    return "{1:.2f}x ({0:.2f} to {2:.2f})".format(*ratio)


def cpu_each(run: Measured, is_stream: bool) -> float:
    """Seconds of the router's CPU for one request or event."""
    return run.router_cpu_seconds / max(1.0, _rate(run, is_stream) * run.seconds)


def _rate(run: Measured, is_stream: bool) -> float:
    return run.events_per_second if is_stream else run.requests_per_second


def _median(runs: list[Measured], value: Callable[[Measured], float]) -> float:
    return statistics.median(map(value, runs))


def _added(runs: list[Measured], direct: list[Measured] | None) -> str:
    if not direct:
        return ""
    own = statistics.median(run.p50_seconds for run in direct)
    return f"{(_median(runs, lambda run: run.p50_seconds) - own) * 1e3:.3f}"


def _run_document(run: Measured) -> dict[str, float]:
    return {name: getattr(run, name) for name in run.__slots__}
