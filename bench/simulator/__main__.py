"""``python -m bench.simulator``: against recorded runs; ``fit``, ``speed`` and ``study`` beside.

Exit status 1 when a figure is further than 10 % from the recorded one.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.simulator import fit, speed
from bench.simulator.ground_truth import compare, plot, table
from bench.simulator.recorded import RunError, runs_in
from bench.simulator.studies import command as studies

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "fit": fit.main,
    "speed": speed.main,
    "study": studies.main,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Compare recorded runs, or run one of the other commands."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulator",
        description="Replay recorded runs of real engines and compare every figure.",
        epilog="Other commands: fit (kernel prices from profiles), speed (steps per second, a "
        "thousand replicas), study (published curves). Each has --help.",
    )
    parser.add_argument(
        "--ground-truth", type=Path, required=True, metavar="DIR",
        help="folder with runs: meta.json, requests.jsonl, timeseries.csv; workloads beside them",
    )  # fmt: skip
    parser.add_argument(
        "--model-configs", type=Path, metavar="DIR",
        help="folder with owner--name.json configurations (else the catalogue)",
    )  # fmt: skip
    parser.add_argument(
        "--link", metavar="NAME",
        help="what joins the devices of runs that do not say so (memroute simulate --link)",
    )  # fmt: skip
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="write one overlay per run into this folder"
    )
    options = parser.parse_args(arguments)
    try:
        runs = runs_in(options.ground_truth, options.model_configs, options.link)
        comparisons = [compare(run) for run in runs]
    except RunError as error:
        print(f"bench.simulator: {error}", file=sys.stderr)
        return 2
    figures = [figure for comparison in comparisons for figure in comparison.figures]
    if options.plot:
        options.plot.mkdir(parents=True, exist_ok=True)
        for comparison in comparisons:
            plot(comparison, options.plot / f"{comparison.run.name}.png")
    if options.output == "json":
        document = [
            {
                "run": comparison.run.name,
                "num_blocks": comparison.run.spec.total_blocks,
                "are_blocks_recorded": comparison.run.are_blocks_recorded,
                "has_prefixes": comparison.run.has_prefixes,
                "step_time_error_ratio": comparison.run.spec.step_time.error_ratio,
                "step_time_source": comparison.run.spec.step_time.source,
                "link": comparison.run.spec.step_time.link.name,
                "figures": [
                    asdict(f)
                    | {
                        "error_ratio": f.error_ratio,
                        "is_off": f.is_off,
                        "is_inside": f.is_inside,
                    }
                    for f in comparison.figures
                ],
            }
            for comparison in comparisons
        ]
        print(json.dumps(document, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        for comparison in comparisons:
            console.print(table(comparison))
        judged = [figure for figure in figures if figure.error_ratio is not None]
        worst = max(abs(figure.error_ratio or 0.0) for figure in judged)
        num_off = sum(figure.is_off for figure in figures)
        inside = sum(figure.is_inside for figure in judged)
        console.print(f"{inside} of {len(judged)} recorded figures inside their range")
        console.print(f"{len(judged)} figures, {num_off} further off than 10 %, worst {worst:.1%}")
        console.print(
            "The CPU terms were fitted on LLMServingSim's two runs of Llama-3.1-8B: agreement "
            "there is calibration."
        )
    return int(any(figure.is_off for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
