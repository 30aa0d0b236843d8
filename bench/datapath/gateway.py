"""``python -m bench.datapath.gateway``: what a gateway costs with a picker, beside one without.

The picker alone on one core; Envoy, engine and client on the other. Rates are for each second of
CPU that a program has used, not of the clock: they hold where something else runs here as well.
Latencies do not: they are for a machine that does nothing else. With ``--cases one`` the last lines
say whether the bars of one connection are met, as measured and at the speed of the machine that the
bars are from.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench.datapath.rig import LOAD_CORE, ROUTER_CORE, RigError, build, engines, metrics_page
from bench.native import NATIVE, build_native
from bench.server import Server, ServerError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tests" / "data" / "vllm-0.32-metrics-loaded.txt"
SUITE = ROOT / "tests" / "picker_conformance"
ENVOY_PORT, PICKER_PORT, OPS_PORT = 8950, 8952, 8953
START_SECONDS, STOP_SECONDS = 60.0, 3.0
SETTLE_SECONDS = 2.0
# What llm-d's picker does for each core, where Envoy alone does the other. Unit: requests per
# second, bodies of 1 KB. Source: issue 23.
LLM_D_RATE, LLM_D_ENVOY_RATE = 1_530, 25_700
BAR = 5
# Of one connection through Envoy and the picker: what is added, and the whole answer. Source: issue
# 23.
BAR_ADDED_P50_SECONDS, BAR_P99_SECONDS = 0.0006, 0.003
NUM_STREAMS = 1000
CASES = {"1KB": (32, 1024, None), "one": (1, 1024, None), "40KB": (32, 40 * 1024, None),
         "streams": (NUM_STREAMS, 1024, 500_000)}  # fmt: skip
"""Connections, bytes of a body, and microseconds between events of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: a picker and how bodies come, or no picker."""

    name: str
    picker: str = ""
    """``memroute``, ``trivial`` or empty."""
    answers: str = "FULL_DUPLEX_STREAMED"


SUBJECTS = (
    Subject(name="Envoy alone"),
    Subject(name="memroute, duplex", picker="memroute"),
    Subject(name="memroute, NONE", picker="memroute", answers="NONE"),
    Subject(name="trivial, duplex", picker="trivial"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement."""

    requests: int
    errors: int
    p50_seconds: float
    p99_seconds: float
    picker_seconds: float
    """Of CPU."""
    envoy_seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _options(argv)
    subjects = [each for each in SUBJECTS if each.picker != "trivial" or options.trivial_python]
    found: dict[tuple[str, str], list[Run]] = {}
    try:
        if not options.interpreted:
            build_native()
        with tempfile.TemporaryDirectory(prefix="memroute-bench-") as name, ExitStack() as stack:
            folder = Path(name)
            engine, load = build(folder)
            page = folder / "metrics.txt"
            page.write_text(metrics_page(PAGE.read_text()))
            addresses = stack.enter_context(engines(engine, page, count=1))
            for number in range(options.runs):
                for subject in subjects:
                    with _running(subject, addresses, folder, options) as servers:
                        for case in _cases_of(subject, options.cases):
                            run = _measured(load, case, servers, options.seconds)
                            found.setdefault((case, subject.name), []).append(run)
                            print(f"round {number + 1}, {case}, {subject.name}", file=sys.stderr)
    except (RigError, ServerError) as error:
        print(f"bench.datapath.gateway: {error}", file=sys.stderr)
        return 2
    console = Console(width=132)
    for case in options.cases:
        console.print(_table(case, subjects, found))
    if "one" in options.cases:
        alone, picked = found["one", "Envoy alone"], found["one", "memroute, duplex"]
        print(verdict(alone, picked, own_rate=_own_rate(found["1KB", "Envoy alone"])))
    return 0


def _cases_of(subject: Subject, cases: Sequence[str]) -> list[str]:
    """Envoy alone does bodies of 1 KB too: how fast the machine is."""
    wants_speed = not subject.picker and "one" in cases and "1KB" not in cases
    return [*cases, *(["1KB"] if wants_speed else [])]


def verdict(alone: list[Run], picked: list[Run], *, own_rate: float) -> str:
    """Whether the bars of one connection are met, in two lines: here, and where they are from.

    ``own_rate``: requests of 1 KB that Envoy alone does for each second of its CPU.
    """
    added = statistics.median(run.p50_seconds for run in picked) - statistics.median(
        run.p50_seconds for run in alone
    )
    p99 = statistics.median(run.p99_seconds for run in picked)
    worst = max(run.p99_seconds for run in picked)
    scale = own_rate / LLM_D_ENVOY_RATE
    bars = f"bar {BAR_ADDED_P50_SECONDS * 1e3:.1f}", f"bar {BAR_P99_SECONDS * 1e3:.0f}"
    return (
        f"one connection, Envoy and picker (duplex), {len(picked)} rounds: "
        f"p50 {added * 1e3:.2f} ms over Envoy alone ({bars[0]}), "
        f"p99 {p99 * 1e3:.2f} ms ({bars[1]}, worst round {worst * 1e3:.2f}, "
        f"{_added_p99(alone, picked) * 1e3:.2f} over Envoy alone): {_met(added, p99)}\n"
        f"at the speed of the machine that the bars are from (Envoy alone {own_rate:,.0f} "
        f"requests/s of CPU here, {LLM_D_ENVOY_RATE:,} there): "
        f"p50 {added * scale * 1e3:.2f} ms, p99 {p99 * scale * 1e3:.2f} ms: "
        f"{_met(added * scale, p99 * scale)}"
    )


def _met(added_p50_seconds: float, p99_seconds: float) -> str:
    is_met = added_p50_seconds <= BAR_ADDED_P50_SECONDS and p99_seconds < BAR_P99_SECONDS
    return "met" if is_met else "not met"


def _added_p99(alone: list[Run], picked: list[Run]) -> float:
    """Seconds over Envoy alone: the median of rounds, each with Envoy's own of that round."""
    return statistics.median(
        run.p99_seconds - before.p99_seconds for before, run in zip(alone, picked, strict=True)
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.datapath.gateway", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--interpreted", action="store_true", help="memroute's plain source")
    parser.add_argument("--envoy", default=found_envoy(), help="default: %(default)s")
    parser.add_argument(
        "--trivial-python", help="a Python with grpcio and xds-protos: measures that picker, too"
    )
    return parser.parse_args(argv)


def found_envoy() -> str:
    """That of the bench's peers or of the picker's conformance suite, else the one on PATH."""
    for folder in (".venv-bench", ".venv-picker"):
        if (path := ROOT / folder / "bin" / "envoy").exists():
            return str(path)
    return "envoy"


@contextmanager
def _running(
    subject: Subject, addresses: list[tuple[str, int]], folder: Path, options: argparse.Namespace
) -> Iterator[tuple[Server, Server | None]]:
    """Envoy, and the picker before which it stands."""
    endpoint = "{}:{}".format(*addresses[0])
    picker: Server | None = None
    with ExitStack() as stack:
        if subject.picker:
            picker = _picker(subject, endpoint, folder, options)
            picker.start()
            stack.callback(picker.stop, within_seconds=STOP_SECONDS)
            time.sleep(SETTLE_SECONDS)
        modes = "FULL_DUPLEX_STREAMED", subject.answers
        config = bootstrap()(f"127.0.0.1:{PICKER_PORT}", ENVOY_PORT, modes)
        if picker is None:
            _without_picker(config, addresses[0])
        path = folder / "envoy.yaml"
        path.write_text(yaml.safe_dump(config))
        envoy = Server(
            [options.envoy, "-c", str(path), "--concurrency", "1", "--log-level", "error",
             "--use-dynamic-base-id"],
            url=f"http://127.0.0.1:{ENVOY_PORT}", log=folder / "envoy.log", environment={},
            core=ROUTER_CORE if picker is None else LOAD_CORE,
        )  # fmt: skip
        envoy.start()
        stack.callback(envoy.stop, within_seconds=STOP_SECONDS)
        envoy.wait_until_ready("/health", within_seconds=START_SECONDS)
        time.sleep(SETTLE_SECONDS)
        yield envoy, picker


def _picker(subject: Subject, endpoint: str, folder: Path, options: argparse.Namespace) -> Server:
    if subject.picker == "trivial":
        command = [options.trivial_python, str(ROOT / "tests/support/gateways/trivial_picker.py"),
                   "--port", str(PICKER_PORT), "--endpoints", endpoint]  # fmt: skip
        environment = {"PYTHONPATH": ""}
    else:
        path = folder / "fleet.yaml"
        path.write_text(f"models: [{{name: m, replicas: ['http://{endpoint}']}}]\n")
        command = [sys.executable, "-m", "memroute_picker", "--config", str(path),
                   "--host", "127.0.0.1", "--port", str(PICKER_PORT), "--ops-port", str(OPS_PORT),
                   "--access-log", "off", "--pass-other-paths"]  # fmt: skip
        source = os.environ.get("PYTHONPATH", "")
        environment = {
            "PYTHONPATH": source if options.interpreted else f"{NATIVE}{os.pathsep}{source}"
        }
    return Server(
        command, url=f"http://127.0.0.1:{OPS_PORT}", log=folder / "picker.log",
        environment=environment, core=ROUTER_CORE,
    )  # fmt: skip


def bootstrap() -> Any:
    """What makes Envoy's configuration: the conformance suite's, so that both are one."""
    sys.path.insert(0, str(SUITE))
    return importlib.import_module("picker_gateway").bootstrap


def _without_picker(config: dict[str, Any], address: tuple[str, int]) -> None:
    """The same Envoy, to one engine, with nobody to ask."""
    resources = config["static_resources"]
    filters = resources["listeners"][0]["filter_chains"][0]["filters"]
    del filters[0]["typed_config"]["http_filters"][0]
    host, port = address
    cluster = resources["clusters"][0]
    del cluster["original_dst_lb_config"]
    cluster |= {"type": "STATIC", "lb_policy": "ROUND_ROBIN", "load_assignment": {
        "cluster_name": "endpoints", "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": host, "port_value": port}}}}]}]}}  # fmt: skip
    del resources["clusters"][1]


def _measured(load: Path, case: str, servers: tuple[Server, Server | None], seconds: float) -> Run:
    connections, num_bytes, interval = CASES[case]
    command = [str(load), "127.0.0.1", str(ENVOY_PORT), str(connections), str(seconds),
               str(num_bytes)]  # fmt: skip
    if interval is not None:
        command.append(str(interval))
    envoy, picker = servers
    with subprocess.Popen(  # noqa: S603 - built a moment ago
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}),  # noqa: PLW1509 - no threads here
    ) as process:
        if process.stdout is None or process.stdout.readline() != b"begin\n":
            msg = "the client could not connect"
            raise RigError(msg)
        envoy_before = envoy.usage().cpu_seconds
        picker_before = picker.usage().cpu_seconds if picker else 0.0
        document = json.loads(process.stdout.read())
    return Run(
        requests=document["requests"] if interval is None else document["events"],
        errors=document["errors"],
        p50_seconds=document["p50_us"] / 1e6,
        p99_seconds=document["p99_us"] / 1e6,
        envoy_seconds=envoy.usage().cpu_seconds - envoy_before,
        picker_seconds=(picker.usage().cpu_seconds if picker else 0.0) - picker_before,
    )


def _own_rate(alone: list[Run]) -> float:
    """Requests per second of CPU, of Envoy alone."""
    return statistics.median(run.requests / max(run.envoy_seconds, 1e-9) for run in alone)


def _table(case: str, subjects: list[Subject], found: dict[tuple[str, str], list[Run]]) -> Table:
    table = Table(title=case, title_justify="left")
    for column in ("gateway", "p50 ms", "added p50 ms", "p99 ms", "added p99 ms", "Envoy us each",
                   "picker us each", "picker/s of CPU", "bar/s of CPU", "errors"):  # fmt: skip
        table.add_column(column, justify="left" if column == "gateway" else "right")
    alone = found[case, "Envoy alone"]
    bar = BAR * LLM_D_RATE * _own_rate(alone) / LLM_D_ENVOY_RATE
    alone_p50 = statistics.median(run.p50_seconds for run in alone)
    for subject in subjects:
        runs = found[case, subject.name]
        p50 = statistics.median(run.p50_seconds for run in runs)
        each = statistics.median(run.picker_seconds / max(1, run.requests) for run in runs)
        envoys = statistics.median(run.envoy_seconds / max(1, run.requests) for run in runs)
        table.add_row(
            subject.name,
            f"{p50 * 1e3:.3f}",
            "" if not subject.picker else f"{(p50 - alone_p50) * 1e3:.3f}",
            f"{statistics.median(run.p99_seconds for run in runs) * 1e3:.3f}",
            "" if not subject.picker else f"{_added_p99(alone, runs) * 1e3:.3f}",
            f"{envoys * 1e6:.0f}",
            f"{each * 1e6:.0f}" if subject.picker else "",
            f"{1 / each:,.0f}" if subject.picker and each else "",
            f"{bar:,.0f}" if subject.picker else "",
            str(sum(run.errors for run in runs)),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
