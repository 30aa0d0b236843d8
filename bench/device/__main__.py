"""``python -m bench.device``: measure a node's first device in under eight minutes.

Exit status 1 where there is no device, or nothing came of it.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.device.driver import NoDeviceError
from bench.device.parts import Budget, Machine, measure
from bench.device.processes import CudaMachine, run_child
from bench.device.report import annotate, document, told

# When all is ended, whatever it does: a call of a driver that hangs is not interrupted otherwise.
# Unit: seconds. Source: what was asked for, eight minutes, less 10 s to tell what there is.
HARD_STOP_SECONDS = 470.0


def main(argv: Sequence[str]) -> int:
    """Measure, or tell what was measured; the exit status."""
    options = _parser().parse_args(argv)
    if options.child:
        run_child(options.child)
        return 0
    if options.worker is not None:
        return work(options.worker, CudaMachine)
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        found = _read(options.read) if options.read else _measured(options.seconds)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
        if options.annotate:
            print(annotate(found["hostLink"], options.node))
            return 0
    except (NoDeviceError, ValueError, OSError) as error:
        print(f"bench.device: {error}", file=sys.stderr)
        return 1
    for line in told(found):
        console.print(line, highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.device",
        description="Rates between host and device, memory that a context takes, footprints "
        "against free memory, two processes at once. Needs an NVIDIA driver and nothing else.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--read", type=Path, metavar="FILE", help="tell what was written before")
    parser.add_argument(
        "--annotate", action="store_true", help="print the command that tells the cluster"
    )
    parser.add_argument("--node", default=socket.gethostname(), help="for --annotate")
    parser.add_argument(
        "--seconds", type=float, default=HARD_STOP_SECONDS,
        help="when all is ended, at the latest (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser


def work(path: Path, machine_here: type[Machine]) -> int:
    """Measure in this process; what there is by now is always in the file."""
    try:
        machine = machine_here()
    except NoDeviceError as error:
        path.write_text(json.dumps({"noDevice": str(error)}))
        return 1
    results: dict[str, Any] = {}
    budget = Budget(time.monotonic)
    for name, result in measure(machine, budget):
        results[name] = result
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(document(machine.devices[0].name, results)))
        beside.replace(path)
        print(f"{name}: {'left out' if result is None else 'measured'}", file=sys.stderr)
    return 0


def _measured(seconds: float) -> Mapping[str, Any]:
    """Measure in another process, which is ended in time; what it told by then."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured.json"
        worker = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "bench.device", "--worker", str(path)], start_new_session=True
        )
        try:
            worker.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"bench.device: ended after {seconds:.0f} s", file=sys.stderr)
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        if not path.exists():
            msg = f"nothing was measured (exit status {worker.returncode})"
            raise ValueError(msg)
        return _read(path)


def _read(path: Path) -> Mapping[str, Any]:
    found = json.loads(path.read_text())
    if "noDevice" in found:
        raise NoDeviceError(found["noDevice"])
    if not isinstance(found, Mapping) or "parts" not in found:
        msg = f"{path}: no measurement by this program"
        raise ValueError(msg)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
