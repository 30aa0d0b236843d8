"""How long a command takes before it says anything, beside Python's own start.

``python -m bench.startup`` prints the least and the median of each, in seconds.
"""

import argparse
import statistics
import subprocess
import sys
import time

from memroute_cli.main import COMMANDS

# Runs of each, one after another: chosen by hand. The least is what the machine can do.
RUNS = 7
PROGRAMS = ("operator", "router", "picker", "fetch", "simulator")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each (default: 7)")
    runs = parser.parse_args().runs
    commands = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    print(f"{'':30} {'least':>7} {'median':>7}  seconds, {runs} runs")
    _print("python -c pass", ["-c", "pass"], runs)
    for arguments in commands:
        _print(f"memroute {' '.join(arguments)}", ["-m", "memroute_cli", *arguments], runs)
    for program in PROGRAMS:
        for argument in ("--help", "--version"):
            _print(f"memroute-{program} {argument}", ["-m", f"memroute_{program}", argument], runs)


def _print(title: str, arguments: list[str], runs: int) -> None:
    times = [_seconds(arguments) for _ in range(max(1, runs))]
    print(f"{title:30} {min(times):7.3f} {statistics.median(times):7.3f}")


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
