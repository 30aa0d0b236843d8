"""``python -m bench.datapath.pages``: what a page about the router costs the requests beside it.

A router with many replicas, in this process, and scrapers that ask as fast as they are answered. A
timer that should run every millisecond says how long the event loop was held up. ``at once`` is the
same page as ``prometheus_client`` renders it, in one step.
"""

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from random import Random

import uvloop
from prometheus_client import generate_latest

from memroute_router.app import Router
from memroute_router.http.client import Endpoint
from memroute_router.pages import debug
from memroute_router.pages.pages import STEP_SECONDS, json_list
from memroute_router.replicas.replica import ReplicaInfo
from memroute_router.settings import parse_settings

TICK_SECONDS = 0.001
PAGES = ("/metrics", "/debug/replicas", "/debug/decisions", "/debug/queue")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=400)
    parser.add_argument("--scrapers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each page")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(options.replicas, options.scrapers, options.seconds))


async def _measure(num_replicas: int, num_scrapers: int, seconds: float) -> None:
    router = Router(parse_settings([]), Random(1))  # noqa: S311 - breaks ties
    for number in range(num_replicas):
        router.pools.upsert_replica(_replica(number))
    port = await router.operations.server.start("127.0.0.1", 0)
    gc.collect()
    gc.freeze()  # as the program does
    print(f"{num_replicas} replicas, {num_scrapers} scrapers; the event loop held up for")
    print(f"{'':18} {'p50 ms':>8} {'p99 ms':>8} {'worst ms':>8} {'pages/s':>8}")
    print(_row("nothing asked", await _held_up(seconds), 0.0))
    for path in PAGES:
        counts = [0]
        scrapers = [asyncio.create_task(_scrape(port, path, counts)) for _ in range(num_scrapers)]
        held_up = await _held_up(seconds)
        for task in scrapers:
            task.cancel()
        await asyncio.gather(*scrapers, return_exceptions=True)
        print(_row(path, held_up, counts[0] / seconds))
    held_up = await _held_up(seconds, lambda: generate_latest(router.metrics.registry))
    print(_row("/metrics at once", held_up, 1.0))
    await router.operations.server.stop(timeout_seconds=0)
    print("\nCPU of one page        ms  longest step, ms")
    pieces: dict[str, Callable[[], Iterable[bytes]]] = {
        "/metrics": router.metrics.pieces,
        "/debug/replicas": lambda: json_list(debug.replicas(router.pools)),
        "/metrics at once": lambda: (generate_latest(router.metrics.registry) for _ in range(1)),
    }
    for name, make in pieces.items():
        rounds = [_cpu(make()) for _ in range(9)]
        whole, longest = (statistics.median(values) * 1e3 for values in zip(*rounds, strict=True))
        print(f"{name:18} {whole:6.1f} {longest:17.2f}")


def _cpu(pieces: Iterable[bytes]) -> tuple[float, float]:
    """CPU seconds of the whole page, and of its longest step, as ``SteppedPage`` takes them."""
    steps = [0.0]
    begun = time.thread_time()
    for _ in pieces:
        now = time.thread_time()
        steps[-1] += now - begun
        if steps[-1] >= STEP_SECONDS:
            steps.append(0.0)
        begun = time.thread_time()
    return sum(steps), max(steps)


def _replica(number: int) -> ReplicaInfo:
    return ReplicaInfo(
        namespace="default", pod=f"r{number}", deployment="m", served_model="m",
        endpoint=Endpoint("127.0.0.1", 1), promised_capacity_tokens=10_000,
        max_context_tokens=None, is_routable=True,
    )  # fmt: skip


async def _scrape(port: int, path: str, counts: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    try:
        while True:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            counts[0] += 1
    finally:
        writer.close()


async def _held_up(
    seconds: float, once_a_second: Callable[[], object] | None = None
) -> list[float]:
    """How much later than asked a timer ran, in seconds."""
    late = []
    begun = called = time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        if once_a_second is not None and now - called >= 1:
            called = now
            asyncio.get_running_loop().call_soon(once_a_second)
        await asyncio.sleep(TICK_SECONDS)
        late.append(max(0.0, time.perf_counter() - now - TICK_SECONDS))
    return late


def _row(name: str, held_up: list[float], pages: float) -> str:
    percentiles = statistics.quantiles(held_up, n=100)
    values = (percentiles[49], percentiles[98], max(held_up))
    return f"{name:18} " + " ".join(f"{v * 1e3:8.2f}" for v in values) + f" {pages:8.1f}"


if __name__ == "__main__":
    main()
