"""``python -m bench.placement STUDY``: how many replicas find a place, beside the optimum?"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.arguments import positive, whole_number
from bench.placement.cases import CASES
from bench.placement.measure import Options, compare
from bench.placement.optimum import SolverMissingError
from bench.placement.policies import POLICIES
from bench.placement.report import ENDINGS, plot, scale_table, tables
from bench.placement.scale import NODE_DEVICES, scale

ABOUT = """\
compare    replicas placed, of those that the exact optimum places; bytes stranded; time.
           What is wanted is cut, oldest first, to what the optimum just holds: its answer is all
scale      seconds of one plan at the size of a fleet (10,000 GPUs x 1,000 models)

policies   memroute is one plan of all that is wanted (memroute-bytes without a look at bandwidth,
           memroute-limited with a limit of contention), memroute-online one plan for each
           deployment as it comes; the others place one replica after the other. `decreasing` sorts
           all by size first. The optimum knows everything in advance, for all of them

cases
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one study; the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    _check(parser, options)
    if options.study == "scale":
        rows = scale(
            num_devices=options.devices,
            num_models=options.models,
            num_replicas=options.replicas,
            num_hopeless=options.hopeless,
        )
        shown = [scale_table(rows)]
    else:
        try:
            rows = compare(
                Options(
                    cases=tuple(options.cases.split(",")),
                    policies=tuple(options.policies.split(",")),
                    seeds=tuple(range(1, options.seeds + 1)),
                    part_ratio=options.part,
                    limit_seconds=options.limit,
                )
            )
        except SolverMissingError as error:
            print(f"bench.placement: {error}", file=sys.stderr)
            return 2
        if not rows:
            return 1
        shown = tables(rows)
    if options.output == "json":
        print(json.dumps(rows, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 230)
        for table in shown:
            console.print(table)
    if options.plot is not None:
        plot(rows, options.plot)
    return 0


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name, known in (("cases", CASES), ("policies", POLICIES)):
        for value in getattr(options, name).split(","):
            if value not in known:
                parser.error(f"no such one in --{name}: {value!r}; there are {', '.join(known)}")
    if options.plot is None:
        return
    if options.study == "scale":
        parser.error("--plot: there is no plot of scale")
    if options.plot.suffix not in ENDINGS:
        parser.error(f"--plot: {options.plot} does not end in {', '.join(ENDINGS)}")
    if not options.plot.parent.is_dir():
        parser.error(f"no such folder: {options.plot.parent}")


def _ratio(text: str) -> float:
    value = positive(text)
    if value > 1:
        msg = f"{text} is more than 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.placement",
        description="Placement beside the exact optimum, kube-scheduler's packing and HAMi's.",
        epilog=ABOUT + "\n".join(f"  {case.name:16} {case.about}" for case in CASES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=("compare", "scale"))
    parser.add_argument(
        "--cases", default=",".join(CASES), help="some of them, by commas (default: all)"
    )
    parser.add_argument(
        "--policies", default=",".join(POLICIES),
        help=f"some of {','.join(POLICIES)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=whole_number, default=3, help="how many (default: 3)")
    parser.add_argument(
        "--limit", type=positive, default=2.0,
        help="seconds for each program of HiGHS (default: 2); what is not answered by then "
        "counts as more than fits",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=_ratio, default=1.0,
        help="share of what just fits that is wanted (default: 1): below it the cluster has room, "
        "and engines need not share devices",
    )  # fmt: skip
    sizes = parser.add_argument_group("scale")
    sizes.add_argument(
        "--devices", type=whole_number, default=10_000,
        help=f"accelerators, {NODE_DEVICES} to a node (default: 10000)",
    )  # fmt: skip
    sizes.add_argument("--models", type=whole_number, default=1000, help="models (default: 1000)")
    sizes.add_argument("--replicas", type=whole_number, default=1, help="of each (default: 1)")
    sizes.add_argument(
        "--hopeless", type=whole_number, default=1000,
        help="replicas of one model that fit nowhere (default: 1000)",
    )  # fmt: skip
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
