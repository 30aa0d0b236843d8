"""The engines and the client of a measurement: small C programs, each started and ended here."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.datapath.peer import RunningPeer

NATIVE = Path(__file__).parent / "native"
ROUTER_CORE, LOAD_CORE = 0, 1
ENGINE_PORT = 8801
NUM_ENGINES = 8


class RigError(Exception):
    """The measurement cannot be made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of the client against one router."""

    requests_per_second: float
    events_per_second: float
    events_per_read: float
    errors: int
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    router_core_ratio: float
    """How full the router's core was, 0 to 1: below about 0.95 the rate is not its limit."""
    load_core_ratio: float
    router_cpu_seconds: float
    seconds: float
    router_rss_bytes: int
    """At the end."""
    rss_per_connection_bytes: float
    """What each connection and its request added to the router's memory."""
    rss_growth_bytes: int
    """Of the router's memory while it was measured: a leak would show."""


def build(folder: Path) -> tuple[Path, Path]:
    """Compile engine and client; their paths."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        msg = "a C compiler (cc) is needed for the engine and the client"
        raise RigError(msg)
    if (os.cpu_count() or 1) <= LOAD_CORE:
        msg = "two cores are needed: one for the router, one for engine and client"
        raise RigError(msg)
    for name in ("engine", "load"):
        source, program = NATIVE / f"{name}.c", folder / name
        subprocess.run([compiler, "-O2", "-o", program, source], check=True)  # noqa: S603
    return folder / "engine", folder / "load"


def metrics_page(text: str) -> str:
    """A real page, as an engine with room has it: else routers that look would refuse."""
    text = re.sub(r"(?m)^(vllm:kv_cache_usage_perc\{.*\}) .*$", r"\1 0.10", text)
    text = re.sub(r"(?m)^(vllm:num_requests_(?:running|waiting)\{.*\}) .*$", r"\1 0.0", text)
    text = re.sub(r'kv_cache_size_tokens="\d+"', 'kv_cache_size_tokens="4500480"', text)
    return re.sub(r'num_gpu_blocks="\d+"', 'num_gpu_blocks="35161"', text)


@contextmanager
def engines(
    program: Path, page: Path, *, count: int = NUM_ENGINES, port: int = ENGINE_PORT
) -> Iterator[list[tuple[str, int]]]:
    """Engines in one process; their addresses."""
    addresses = [(f"127.0.{i // 200}.{11 + i % 200}", port) for i in range(count)]
    process = subprocess.Popen(  # noqa: S603 - built a moment ago
        [program, page, str(port), *(host for host, _ in addresses)],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}),  # noqa: PLW1509 - no threads here
    )
    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            msg = f"the engine did not start: is port {port} of {addresses[0][0]} and on free?"
            raise RigError(msg)
        yield addresses
    finally:
        process.terminate()
        process.wait()


def measure(
    load: Path,
    *,
    host: str,
    port: int,
    router: RunningPeer | None,
    connections: int,
    seconds: float,
    body_bytes: int,
    interval_us: int | None = None,
) -> Measured:
    """One run, after a second of warming up. ``router`` None: the engine itself is measured."""
    command = [str(load), host, str(port), str(connections), str(seconds), str(body_bytes)]
    if interval_us is not None:
        command.append(str(interval_us))
    rss_before = router.usage().rss_bytes if router else 0
    with subprocess.Popen(  # noqa: S603 - built a moment ago
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}),  # noqa: PLW1509 - no threads here
    ) as process:
        if process.stdout is None or process.stdout.readline() != b"begin\n":
            msg = "the client could not connect"
            raise RigError(msg)
        cores, used = _core_ticks(), router.usage() if router else None
        time.sleep(seconds)
        cores_after, used_after = _core_ticks(), router.usage() if router else None
        document = json.loads(process.stdout.read())
    took = document["seconds"]
    ratios = _busy(cores, cores_after)
    return Measured(
        requests_per_second=document["requests"] / took,
        events_per_second=document["events"] / took,
        events_per_read=document["events"] / max(1, document["reads"]),
        errors=document["errors"],
        p50_seconds=document["p50_us"] / 1e6,
        p90_seconds=document["p90_us"] / 1e6,
        p99_seconds=document["p99_us"] / 1e6,
        router_core_ratio=ratios[ROUTER_CORE],
        load_core_ratio=ratios[LOAD_CORE],
        router_cpu_seconds=used_after.cpu_seconds - used.cpu_seconds if used and used_after else 0,
        seconds=took,
        router_rss_bytes=used_after.rss_bytes if used_after else 0,
        rss_per_connection_bytes=(
            (used_after.rss_bytes - rss_before) / connections if used_after else 0
        ),
        rss_growth_bytes=used_after.rss_bytes - used.rss_bytes if used and used_after else 0,
    )


def measure_scraping(router: RunningPeer, *, num_engines: int, seconds: float) -> Measured:
    """What a router uses without any request, if it reads each engine once a second."""
    cores, used, begun = _core_ticks(), router.usage(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begun
    cores_after, used_after = _core_ticks(), router.usage()
    ratios = _busy(cores, cores_after)
    return Measured(
        requests_per_second=num_engines,
        events_per_second=0,
        events_per_read=0,
        errors=0,
        p50_seconds=0,
        p90_seconds=0,
        p99_seconds=0,
        router_core_ratio=ratios[ROUTER_CORE],
        load_core_ratio=ratios[LOAD_CORE],
        router_cpu_seconds=used_after.cpu_seconds - used.cpu_seconds,
        seconds=took,
        router_rss_bytes=used_after.rss_bytes,
        rss_per_connection_bytes=0,
        rss_growth_bytes=used_after.rss_bytes - used.rss_bytes,
    )


def _busy(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> list[float]:
    return [
        (busy_after - busy) / max(1, total_after - total)
        for (busy, total), (busy_after, total_after) in zip(before, after, strict=True)
    ]


def _core_ticks() -> list[tuple[int, int]]:
    """Busy and total ticks of the two cores. Time that the host stole is not counted as idle."""
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        match = re.match(r"cpu(\d+) (.*)", line)
        if match:
            ticks = [int(x) for x in match[2].split()]
            idle = ticks[3] + ticks[4]
            found[int(match[1])] = (sum(ticks[:8]) - idle, sum(ticks[:8]))
    return [found[ROUTER_CORE], found[LOAD_CORE]]
