"""Streams in real time: one engine process, one core, against the open-loop generator.

The engine is given a fixed pace (its steps are scaled so that a sequence gets a token every 20 ms)
and so many streams at once; what is reported is how many tokens per second each stream got, and
how full both cores were.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.load.__main__ import summary
from bench.load.generator import LoadSettings, generate
from bench.server import Server, serving
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.workloads.request import Session, Workload, WorkloadRequest

MODEL = "meta-llama/Llama-3.1-8B"
ACCELERATOR = "H200"
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 400
TOKENS_PER_SECOND = 50.0
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """So many streams at once, and how they fared."""

    num_streams: int
    num_whole: int
    tokens_per_second_per_stream: float
    """Of the median stream, after its first token."""
    itl_p99_seconds: float | None
    chunks_per_second: float
    engine_cpu_ratio: float
    generator_cpu_ratio: float
    send_lag_p99_seconds: float | None


def measure(num_streams: int) -> Streams:
    """Start an engine on the first core, stream from the last."""
    accelerator = accelerator_by_name(ACCELERATOR)
    if accelerator is None:
        msg = f"no accelerator {ACCELERATOR}"
        raise LookupError(msg)
    spec = EngineSpec(
        architecture=architecture_for_model(MODEL), accelerator=accelerator,
        max_num_seqs=num_streams, max_num_batched_tokens=max(8192, num_streams),
        max_context_tokens=4096,
    )  # fmt: skip
    context = PROMPT_TOKENS + OUTPUT_TOKENS // 2
    scale = 1 / TOKENS_PER_SECOND / spec.step_time.decode_seconds(num_streams, context)
    requests = [
        WorkloadRequest(
            prompt=((n, PROMPT_TOKENS),), num_output_tokens=OUTPUT_TOKENS, output_id=-n - 1
        )
        for n in range(num_streams)
    ]
    # Within a second: all of them run for most of the time.
    sessions = tuple(
        Session(start_seconds=n / num_streams, requests=(request,))
        for n, request in enumerate(requests)
    )
    with _engine(num_streams, scale) as engine:
        before, wall = engine.usage().cpu_seconds, time.perf_counter()
        run = uvloop.run(
            generate(
                Workload(name="streams", sessions=sessions),
                LoadSettings(url=engine.url, model=MODEL),
            )
        )
        used, wall = engine.usage().cpu_seconds - before, time.perf_counter() - wall
    figures = summary(run, ttft=5.0, tpot=1.0)
    tpot = figures["tpot_seconds"]["p50"]
    return Streams(
        num_streams=num_streams,
        num_whole=figures["num_whole"],
        tokens_per_second_per_stream=1 / tpot if tpot else 0.0,
        itl_p99_seconds=figures["itl_seconds"]["p99"],
        chunks_per_second=figures["chunks_per_second"],
        engine_cpu_ratio=used / wall,
        generator_cpu_ratio=figures["cpu_ratio"],
        send_lag_p99_seconds=figures["send_lag_seconds"]["p99"],
    )


@contextmanager
def _engine(num_streams: int, time_scale: float) -> Iterator[Server]:
    """An engine on the first core; we are on the last meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    command = [
        sys.executable, "-m", "memroute_simulator", "engine", "--model", MODEL,
        "--port", str(port), "--max-model-len", "4096", "--max-num-seqs", str(num_streams),
        "--max-num-batched-tokens", str(max(8192, num_streams)),
        "--simulator-accelerator", ACCELERATOR, "--simulator-time-scale", str(time_scale),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="memroute-streams-") as name:
        engine = Server(
            command,
            url=f"http://127.0.0.1:{port}",
            log=Path(name) / "log",
            environment={"MEMROUTE_DRIVER_URL": ""},
            core=cores[0],
        )
        with serving(engine, within_seconds=START_SECONDS):
            os.sched_setaffinity(0, {cores[-1]})
            try:
                yield engine
            finally:
                os.sched_setaffinity(0, cores)
