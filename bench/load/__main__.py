"""``python -m bench.load``: a workload against a URL, on time or not at all.

Exit status 0: measured; 1: the generator could not keep up, so nothing is reported; 2: bad
arguments.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load.generator import LoadRun, LoadSettings, generate
from memroute_simulator.workloads import GENERATORS, WorkloadError, workload_by_name
from memroute_simulator.workloads.lengths import percentile

MAX_SEND_LAG_SECONDS = 0.005
# p99 of the time between the intended and the actual send: beyond, latencies are our own.


def main(argv: Sequence[str] | None = None) -> int:
    """Generate the load and print what came of it."""
    options = _options(argv)
    try:
        workload = workload_by_name(
            options.workload,
            num_requests=options.requests,
            rate_per_second=options.rate,
            seed=options.seed,
            max_context_tokens=options.context,
        )
    except WorkloadError as error:
        print(f"bench.load: {error}", file=sys.stderr)
        return 2
    settings = LoadSettings(
        url=options.url,
        model=options.model,
        is_chat=options.endpoint == "chat",
        is_stream=options.stream,
        headers=tuple(tuple(text.split(":", 1)) for text in options.header),
        timeout_seconds=options.timeout,
    )
    run = uvloop.run(generate(workload, settings))
    document = summary(run, ttft=options.ttft, tpot=options.tpot)
    lag = document["send_lag_seconds"]["p99"]
    if lag is not None and lag > options.max_lag and not options.report_anyway:
        print(
            f"bench.load: could not keep up: requests were sent {lag * 1e3:.1f} ms late (p99, at "
            f"most {options.max_lag * 1e3:.1f} ms are allowed) with {document['cpu_ratio']:.0%} of "
            "a core; nothing is reported. Lower --rate, or give the generator a core of its own.",
            file=sys.stderr,
        )
        return 1
    if options.output == "json":
        print(json.dumps(document, indent=1))
    else:
        _print(document)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load",
        description="Open-loop load on an OpenAI-compatible server: the schedule is fixed in "
        "advance, latency counts from the intended send.",
        epilog=f"workloads: {', '.join(GENERATORS)}, or a trace file",
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000")
    add("--model", required=True)
    add("--workload", default="sharegpt")
    add("--requests", type=int, default=1000)
    add("--rate", type=float, help="requests per second (default: the workload's own)")
    add("--context", type=int, help="drop requests that need more tokens")
    add("--endpoint", choices=("completions", "chat"), default="completions")
    add("--stream", action=argparse.BooleanOptionalAction, default=True)
    add("--header", action="append", default=[], metavar="NAME:VALUE")
    add("--timeout", type=float, default=600.0, help="seconds after the last request is sent")
    add("--ttft", type=float, default=1.0, help="SLO, seconds")
    add("--tpot", type=float, default=0.05, help="SLO, seconds")
    add("--max-lag", type=float, default=MAX_SEND_LAG_SECONDS, help="p99 of the send lag, seconds")
    add("--report-anyway", action="store_true", help="report even if it could not keep up")
    add("--seed", type=int, default=0)
    add("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    for text in options.header:
        if ":" not in text:
            parser.error(f"--header takes NAME:VALUE, not {text}")
    return options


def summary(run: LoadRun, *, ttft: float, tpot: float) -> dict:  # type: ignore[type-arg]
    """The figures of a run. Seconds; misses are counted against everything sent.

    An answer that is not streamed shows no first token: it is in time if it is there by when a
    streamed one would have been whole.
    """
    whole = [answer for answer in run.answers if answer.is_whole]
    met = 0
    for answer in whole:
        first, each = answer.ttft_seconds, answer.tpot_seconds
        in_time = first is None or first <= ttft
        if not answer.is_stream:
            last = ttft + tpot * (answer.num_output_tokens - 1)
            in_time = answer.e2e_seconds is not None and answer.e2e_seconds <= last
        met += in_time and (each is None or each <= tpot)
    sent = [a for a in run.answers if a.sent_seconds is not None]
    lags = [(a.sent_seconds or 0.0) - a.intended_seconds for a in sent]
    gaps = [
        later - earlier
        for answer in whole
        for earlier, later in zip(answer.chunk_seconds, answer.chunk_seconds[1:], strict=False)
    ]
    first = min((a.intended_seconds for a in run.answers), default=0.0)
    last = max((a.ended_seconds or first for a in run.answers), default=first)
    span = max(last - first, 1e-9)
    tokens = sum(answer.num_events for answer in whole)
    return {
        "num_requests": len(run.answers),
        "num_whole": len(whole),
        "statuses": dict(Counter(str(a.status or "none") for a in run.answers)),
        "errors": dict(Counter(a.error for a in run.answers if a.error)),
        "attainment_ratio": met / len(run.answers) if run.answers else 0.0,
        "goodput_per_second": met / span,
        "requests_per_second": len(whole) / span,
        "chunks_per_second": tokens / span,
        "ttft_seconds": _quantiles([a.ttft_seconds for a in whole]),
        "ttft_from_send_seconds": _quantiles(
            [
                a.chunk_seconds[0] - a.sent_seconds
                for a in whole
                if a.chunk_seconds and a.sent_seconds is not None
            ]
        ),
        "tpot_seconds": _quantiles([a.tpot_seconds for a in whole]),
        "itl_seconds": _quantiles(gaps),
        "e2e_seconds": _quantiles([a.e2e_seconds for a in whole]),
        "send_lag_seconds": _quantiles(lags),
        "loop_lag_seconds": _quantiles(run.loop_lags_seconds),
        "cpu_ratio": run.cpu_seconds / run.wall_seconds if run.wall_seconds else 0.0,
    }


def _quantiles(values: Sequence[float | None]) -> dict[str, float | None]:
    known = sorted(value for value in values if value is not None)
    if not known:
        return dict.fromkeys(("mean", "p50", "p90", "p99", "max"))
    return {
        "mean": sum(known) / len(known),
        "p50": percentile(known, 50),
        "p90": percentile(known, 90),
        "p99": percentile(known, 99),
        "max": known[-1],
    }


def _print(document: dict) -> None:  # type: ignore[type-arg]
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(
        f"{document['num_whole']:,} of {document['num_requests']:,} whole; statuses "
        f"{document['statuses']}; errors {document['errors'] or 'none'}"
    )
    console.print(
        f"attained {document['attainment_ratio']:.1%}, goodput "
        f"{document['goodput_per_second']:.3g}/s, {document['requests_per_second']:.3g} "
        f"requests/s, {document['chunks_per_second']:,.0f} chunks/s; the generator used "
        f"{document['cpu_ratio']:.0%} of a core"
    )
    table = Table()
    table.add_column("milliseconds")
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    for name, label in (
        ("ttft_seconds", "TTFT from the intended send"),
        ("ttft_from_send_seconds", "TTFT from the actual send"),
        ("tpot_seconds", "TPOT"),
        ("itl_seconds", "ITL, all gaps"),
        ("e2e_seconds", "E2E"),
        ("send_lag_seconds", "our send lag"),
        ("loop_lag_seconds", "our loop lag"),
    ):
        values = document[name].values()
        table.add_row(label, *("-" if v is None else f"{v * 1e3:.2f}" for v in values))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
