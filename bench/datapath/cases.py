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
from bench.reference import loop_milliseconds

FIRST_PORT = 8900
NUM_STREAMS = 1000
NUM_SCRAPED = 400
SCRAPED_PORT = 8802
SETTLE_SECONDS = 3.0
NUM_IDLE_STREAMS = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 200)
# A router needs two files for each; not every machine lets a process open so many.
RATES = tuple(round(10_000 * 1.12**step) for step in range(26))
# Events per second that are offered to a router, in steps of 12 %: 10k to 170k.
QUICK_CONNECTIONS = 2_000
# Idle streams of a quick run: opening ten thousand through a slow router takes a minute.
QUICK_RATES = RATES[::3]
# In steps of 40 %: three or four looks find the highest.
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
        title=f"up to {NUM_IDLE_STREAMS:,} streams, an event on each every 5 s: memory",
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
SLOW_CASES = ("streams", "idle", "scrape")
# Each takes several times as long as one of the others.
SCRAPERS = ("memroute", "memroute, not compiled")
# The other routers here do not read engines' metrics.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    runs: int
    """Rounds."""
    seconds: float
    """Of each run, after a second of warming up."""
    rates: tuple[int, ...] = RATES
    """Events per second that are offered on streams."""
    max_connections: int = NUM_IDLE_STREAMS
    num_slow_rounds: int
    """Of the rounds, the last ones, that have ``SLOW_CASES``."""
    keeps_running: bool = False
    """Whether each router is started once for all cases; else anew for each."""


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
    """What kept a router from being measured, each once: it may not be installed."""
    loop_milliseconds: list[float] = field(default_factory=list)
    """Of the reference loop, before each round and after the last."""


class _Routers:
    """The routers that run. Owns them, and why those that do not run cannot be started."""

    def __init__(self, peers: list[Peer], rig: Rig, stack: ExitStack) -> None:
        """``stack``: ends what is kept."""
        self._ports = {peer.name: FIRST_PORT + 10 * index for index, peer in enumerate(peers)}
        self._rig = rig
        self._stack = stack
        self._kept: dict[str, RunningPeer] = {}
        self._failed: dict[str, PeerError] = {}

    def start(self, peer: Peer, stack: ExitStack, addresses: list[tuple[str, int]]) -> RunningPeer:
        """One that serves these engines until ``stack`` ends. Raises ``PeerError``."""
        own = stack.enter_context(tempfile.TemporaryDirectory(dir=self._rig.folder))
        router = RunningPeer(
            peer, engines=addresses, port=self._ports[peer.name], core=ROUTER_CORE,
            folder=Path(own), search=self._rig.search,
        )  # fmt: skip
        stack.callback(router.stop)
        router.wait_until_ready()
        return router

    def keep(self, peer: Peer) -> RunningPeer:
        """One that serves all cases. Raises ``PeerError``, the same each time."""
        failed = self._failed.get(peer.name)
        if failed is not None:
            raise failed
        router = self._kept.get(peer.name)
        if router is None:
            try:
                router = self.start(peer, self._stack, self._rig.addresses)
            except PeerError as error:
                self._failed[peer.name] = error
                raise
            self._kept[peer.name] = router
        return router

    def end(self, peer: Peer) -> None:
        """What was kept of it ends: its port is needed."""
        router = self._kept.pop(peer.name, None)
        if router is not None:
            router.stop()


def run_cases(
    peers: list[Peer],
    *,
    cases: list[str],
    plan: Plan,
    rig: Rig,
    progress: Callable[[str], None],
) -> Results:
    """All routers in all cases, in rounds, one after another in each round."""
    results = Results(runs={case: {peer.name: [] for peer in peers} for case in cases})
    with ExitStack() as stack:
        routers = _Routers(peers, rig, stack)
        for number in range(plan.runs):
            results.loop_milliseconds.append(loop_milliseconds())
            for name in cases:
                if name in SLOW_CASES and number < plan.runs - plan.num_slow_rounds:
                    continue
                case = CASES[name]
                if not case.is_stream and not case.num_scraped:
                    results.direct.setdefault(name, []).append(_without_router(case, plan, rig))
                for peer in peers:
                    if case.num_scraped and peer.name not in SCRAPERS:
                        continue
                    measured: Measured | None = None
                    try:
                        measured = _measure_one(case, peer, plan, rig, routers)
                    except PeerError as error:
                        if str(error) not in results.failures:
                            results.failures.append(str(error))
                    results.runs[name][peer.name].append(measured)
                    progress(
                        f"round {number + 1}/{plan.runs}, {name}, {peer.name}: "
                        f"{_told(case, measured)}"
                    )
    results.loop_milliseconds.append(loop_milliseconds())
    return results


def _without_router(case: Case, plan: Plan, rig: Rig) -> Measured:
    host, port = rig.addresses[0]
    return measure(
        rig.load, host=host, port=port, router=None, connections=case.connections,
        seconds=min(plan.seconds, 1.0), body_bytes=case.body_bytes,
    )  # fmt: skip


def _measure_one(case: Case, peer: Peer, plan: Plan, rig: Rig, routers: _Routers) -> Measured:
    if plan.keeps_running and not case.num_scraped:
        return _run(case, routers.keep(peer), rig.load, plan)
    with ExitStack() as stack:
        addresses = rig.addresses
        if case.num_scraped:
            routers.end(peer)
            addresses = stack.enter_context(
                engines(rig.engine, rig.page, count=case.num_scraped, port=SCRAPED_PORT)
            )
        router = routers.start(peer, stack, addresses)
        if case.num_scraped:
            time.sleep(SETTLE_SECONDS)
            return measure_scraping(router, num_engines=case.num_scraped, seconds=plan.seconds)
        return _run(case, router, rig.load, plan)


def _run(case: Case, router: RunningPeer, load: Path, plan: Plan) -> Measured:
    def once(interval_us: int | None) -> Measured:
        return measure(
            load, host=router.host, port=router.port, router=router,
            connections=min(case.connections, plan.max_connections), seconds=plan.seconds,
            body_bytes=case.body_bytes, interval_us=interval_us,
        )  # fmt: skip

    if case.interval_seconds is not None:
        return once(round(case.interval_seconds * 1e6))
    if not case.is_stream:
        return once(None)

    def settled(interval_us: int) -> Measured:
        measured = once(interval_us)
        time.sleep(0.5)  # the streams that were left are being cancelled
        return measured

    found = _highest_rate(settled, plan.rates)
    if found is None:
        msg = f"{router.peer.name}: clumps or is late with {plan.rates[0]:,} events/s already"
        raise PeerError(msg)
    return found


def _highest_rate(once: Callable[[int], Measured], rates: tuple[int, ...]) -> Measured | None:
    """The run at the highest rate that is passed on event by event: a search by halves.

    None: none is.
    """
    low, high = 0, len(rates)
    best: Measured | None = None
    while low < high:
        middle = (low + high) // 2
        interval = NUM_STREAMS / rates[middle]
        found = once(round(interval * 1e6))
        keeps_up = (
            found.events_per_second >= MIN_DELIVERED_RATIO * rates[middle]
            and found.events_per_read <= MAX_EVENTS_PER_READ
            and found.p99_seconds <= MAX_GAP_INTERVALS * interval
        )
        if keeps_up:
            best, low = found, middle + 1
        else:
            high = middle
    return best


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
