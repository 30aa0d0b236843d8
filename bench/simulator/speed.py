"""How fast the simulator is: engine steps per second, and a thousand replicas.

Steps are counted on the heaviest of the workloads at hand: an RTX 4090's pool with Azure's
chats at three times what it can serve, so that the queue is full, blocks are short and
requests are preempted all the time; and on a plain one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.native import NativeBuildError, build_native
from bench.simulator.streams import Streams
from bench.simulator.streams import measure as measure_streams
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute_simulator.engine.model import vllm
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet
from memroute_simulator.virtual.outcome import LatencyTarget, OutcomeStatus, summarize
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import workload_by_name

MODEL = "meta-llama/Llama-3.1-8B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One measurement on one core."""

    what: str
    num_replicas: int
    num_requests: int
    num_steps: int
    num_preemptions: int
    num_served: int
    virtual_seconds: float
    wall_seconds: float

    @property
    def steps_per_second(self) -> float:
        """Engine steps per second of our time."""
        return self.num_steps / self.wall_seconds


def measure(
    what: str,
    accelerator: str,
    *,
    num_replicas: int,
    num_requests: int,
    rate: float,
    policy: str,
    scrape_seconds: float,
) -> Speed:
    """Run one fleet and take the time."""
    found = accelerator_by_name(accelerator)
    if found is None:
        msg = f"no accelerator {accelerator}"
        raise ValueError(msg)
    spec = EngineSpec(architecture=architecture_for_model(MODEL), accelerator=found,
                      max_context_tokens=16_384)  # fmt: skip
    workload = workload_by_name(
        "azure-conv", num_requests=num_requests, rate_per_second=rate, max_context_tokens=16_000
    )
    fleet = Fleet(
        engines=((spec, num_replicas),),
        policy=policy,
        router=RouterSettings(scrape_seconds=scrape_seconds),
    )
    start = time.perf_counter()
    cluster = Cluster(fleet, sample_seconds=None)
    outcomes = cluster.run(workload)
    wall = time.perf_counter() - start
    steps = sum(s.counts.num_steps for r in cluster.replicas for s in r.schedulers)
    return Speed(
        what=what,
        num_replicas=num_replicas,
        num_requests=len(outcomes),
        num_steps=steps,
        num_preemptions=summarize(outcomes, LatencyTarget()).num_preemptions,
        num_served=sum(o.status is OutcomeStatus.SERVED for o in outcomes),
        virtual_seconds=cluster.loop.now_seconds,
        wall_seconds=wall,
    )


def _run_compiled(argv: Sequence[str]) -> int:
    try:
        environment = os.environ | {"PYTHONPATH": str(build_native())}
    except NativeBuildError as error:
        print(f"bench.simulator: {error}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "bench.simulator", "speed", *argv]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - ourselves


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator speed", description=__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument(
        "--policies", default="least-request,kv-in-flight",
        help="for the big fleet, separated by commas",
    )  # fmt: skip
    parser.add_argument(
        "--streams", default="200,500", help="streams at once in real time, separated by commas"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--interpreted", action="store_true", help="the plain source (default: compiled)"
    )
    options = parser.parse_args(argv)
    is_compiled = vllm.__file__.endswith(".so")
    if not options.interpreted and not is_compiled:
        return _run_compiled(argv)
    speeds = [
        measure("one engine, thrashing", "RTX-4090", num_replicas=1, num_requests=3000, rate=10,
                policy="round-robin", scrape_seconds=1.0),
        measure("one engine, busy", "H100", num_replicas=1, num_requests=6000, rate=12,
                policy="round-robin", scrape_seconds=1.0),
    ]  # fmt: skip
    speeds += [
        measure(
            f"a big fleet, {policy}", "H100", num_replicas=options.replicas,
            num_requests=options.requests, rate=8.0 * options.replicas, policy=policy,
            scrape_seconds=1.0,
        )
        for policy in options.policies.split(",")
        if policy
    ]  # fmt: skip
    streams = [measure_streams(int(count)) for count in options.streams.split(",") if count]
    if options.output == "json":
        rows = [asdict(s) | {"steps_per_second": s.steps_per_second} for s in speeds]
        print(json.dumps({"virtual": rows, "streams": [asdict(s) for s in streams]}, indent=1))
        return 0
    how = "compiled" if is_compiled else "interpreted"
    table = Table(title=f"The simulator's own speed, one core, {how}")
    table.add_column("what")
    for name in ("replicas", "requests", "served", "preemptions", "steps", "virtual s", "wall s",
                 "steps/s"):  # fmt: skip
        table.add_column(name, justify="right")
    for s in speeds:
        table.add_row(
            s.what, f"{s.num_replicas:,}", f"{s.num_requests:,}", f"{s.num_served:,}",
            f"{s.num_preemptions:,}", f"{s.num_steps:,}", f"{s.virtual_seconds:,.0f}",
            f"{s.wall_seconds:,.1f}", f"{s.steps_per_second:,.0f}",
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    console.print(_streams_table(streams))
    return 0


def _streams_table(streams: Sequence[Streams]) -> Table:
    table = Table(title="One engine process in real time: 50 tokens/s asked of every stream")
    columns = (
        "streams", "whole", "tokens/s each", "ITL p99 ms", "chunks/s", "engine's core",
        "generator's core", "send lag p99 ms",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right")
    for s in streams:
        table.add_row(
            str(s.num_streams), str(s.num_whole), f"{s.tokens_per_second_per_stream:.1f}",
            _milliseconds(s.itl_p99_seconds), f"{s.chunks_per_second:,.0f}",
            f"{s.engine_cpu_ratio:.0%}", f"{s.generator_cpu_ratio:.0%}",
            _milliseconds(s.send_lag_p99_seconds),
        )  # fmt: skip
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"
