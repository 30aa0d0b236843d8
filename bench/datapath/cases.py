"""What is measured of each router."""

import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.datapath.peer import Peer, PeerError, RunningPeer
from bench.datapath.rig import ROUTER_CORE, Measured, engines, measure, measure_scraping

FIRST_PORT = 8900
NUM_STREAMS = 1000
NUM_SCRAPED = 400
SCRAPED_PORT = 8802
SETTLE_SECONDS = 3.0
NUM_IDLE_STREAMS = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 200)
# A router needs two files for each; not every machine lets a process open so many.
RATES = [round(10_000 * 1.12**step) for step in range(26)]
# Events per second that are offered to a router, in steps of 12 %: 10k to 170k.
MAX_EVENTS_PER_READ = 1.25
MIN_DELIVERED_RATIO = 0.98
MAX_GAP_INTERVALS = 3.0
# Beyond these the router clumps: it saves work by passing on several events at once, late.


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A load."""

    title: str
    connections: int
    body_bytes: int
    is_stream: bool = False
    interval_seconds: float | None = None
    """Between events of a stream; None looks for the shortest that the router keeps up with."""
    num_scraped: int = 0
    """Engines that are only read, once a second; 0: this case has requests."""


CASES = {
    "1KB": Case(title="1 KB bodies, 32 connections", connections=32, body_bytes=1024),
    "40KB": Case(title="40 KB bodies, 32 connections", connections=32, body_bytes=40 * 1024),
    "one": Case(title="1 KB bodies, one connection", connections=1, body_bytes=1024),
    "streams": Case(
        title=f"{NUM_STREAMS:,} streams: the most events before they clump",
        connections=NUM_STREAMS,
        body_bytes=1024,
        is_stream=True,
    ),
    "idle": Case(
        title=f"{NUM_IDLE_STREAMS:,} streams, an event on each every 5 s: memory",
        connections=NUM_IDLE_STREAMS,
        body_bytes=1024,
        is_stream=True,
        interval_seconds=5.0,
    ),
    "scrape": Case(
        title=f"{NUM_SCRAPED} engines read once a second (pages of 53 KB), no request",
        connections=1,
        body_bytes=0,
        num_scraped=NUM_SCRAPED,
    ),
}
SCRAPERS = ("memroute", "memroute, not compiled")
# The other routers here do not read engines' metrics.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """What all runs share."""

    engine: Path
    load: Path
    page: Path
    addresses: list[tuple[str, int]]
    folder: Path
    search: list[Path]
    """Folders of programs, before those of PATH."""


@dataclass(slots=True)
class Results:
    """Runs of each router in each case, in rounds; None where a run failed, and why."""

    runs: dict[str, dict[str, list[Measured | None]]] = field(default_factory=dict)
    direct: dict[str, list[Measured]] = field(default_factory=dict)
    """Of the engine itself, without a router."""
    failures: list[str] = field(default_factory=list)


def run_cases(
    peers: list[Peer],
    *,
    cases: list[str],
    runs: int,
    seconds: float,
    rig: Rig,
    progress: Callable[[str], None],
) -> Results:
    """All routers in all cases, ``runs`` times, one after another in each round."""
    results = Results(runs={case: {peer.name: [] for peer in peers} for case in cases})
    for number in range(runs):
        for name in cases:
            case = CASES[name]
            if not case.is_stream and not case.num_scraped:
                host, port = rig.addresses[0]
                results.direct.setdefault(name, []).append(
                    measure(
                        rig.load, host=host, port=port, router=None,
                        connections=case.connections, seconds=min(seconds, 1.0),
                        body_bytes=case.body_bytes,
                    )
                )  # fmt: skip
            for index, peer in enumerate(peers):
                if case.num_scraped and peer.name not in SCRAPERS:
                    continue
                measured: Measured | None = None
                try:
                    measured = _measure_one(case, peer, FIRST_PORT + 10 * index, seconds, rig)
                except PeerError as error:
                    if str(error) not in results.failures:
                        results.failures.append(str(error))
                results.runs[name][peer.name].append(measured)
                progress(f"round {number + 1}/{runs}, {name}, {peer.name}: {_told(case, measured)}")
    return results


def _measure_one(case: Case, peer: Peer, port: int, seconds: float, rig: Rig) -> Measured:
    with ExitStack() as stack:
        addresses = rig.addresses
        if case.num_scraped:
            addresses = stack.enter_context(
                engines(rig.engine, rig.page, count=case.num_scraped, port=SCRAPED_PORT)
            )
        own = stack.enter_context(tempfile.TemporaryDirectory(dir=rig.folder))
        router = RunningPeer(
            peer, engines=addresses, port=port, core=ROUTER_CORE, folder=Path(own),
            search=rig.search,
        )  # fmt: skip
        stack.callback(router.stop)
        router.wait_until_ready()
        if case.num_scraped:
            time.sleep(SETTLE_SECONDS)
            return measure_scraping(router, num_engines=case.num_scraped, seconds=seconds)
        return _run(case, router, rig.load, seconds)


def _run(case: Case, router: RunningPeer, load: Path, seconds: float) -> Measured:
    def once(interval_us: int | None) -> Measured:
        return measure(
            load, host=router.host, port=router.port, router=router,
            connections=case.connections, seconds=seconds, body_bytes=case.body_bytes,
            interval_us=interval_us,
        )  # fmt: skip

    if case.interval_seconds is not None:
        return once(round(case.interval_seconds * 1e6))
    return _highest_rate(once) if case.is_stream else once(None)


def _highest_rate(once: Callable[[int], Measured]) -> Measured:
    """The run at the highest rate that is passed on event by event: a search by halves."""
    low, high = 0, len(RATES)
    best: Measured | None = None
    while low < high:
        middle = (low + high) // 2
        interval = NUM_STREAMS / RATES[middle]
        found = once(round(interval * 1e6))
        time.sleep(0.5)  # the streams that were left are being cancelled
        keeps_up = (
            found.events_per_second >= MIN_DELIVERED_RATIO * RATES[middle]
            and found.events_per_read <= MAX_EVENTS_PER_READ
            and found.p99_seconds <= MAX_GAP_INTERVALS * interval
        )
        if keeps_up:
            best, low = found, middle + 1
        else:
            high = middle
            best = best or (found if middle == 0 else None)
    return best or found


def _told(case: Case, measured: Measured | None) -> str:
    if measured is None:
        return "failed"
    if case.num_scraped:
        each = measured.router_cpu_seconds / (case.num_scraped * measured.seconds)
        return f"{each * 1e3:.3f} ms of CPU per page, core {measured.router_core_ratio:.1%}"
    rate = measured.events_per_second if case.is_stream else measured.requests_per_second
    return (
        f"{rate:,.0f}/s, p50 {measured.p50_seconds * 1e3:.3f} ms, p99 "
        f"{measured.p99_seconds * 1e3:.2f} ms, cores {measured.router_core_ratio:.0%} and "
        f"{measured.load_core_ratio:.0%}"
    )
