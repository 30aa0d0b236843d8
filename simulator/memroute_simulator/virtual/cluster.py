"""A cluster in virtual time: replicas, routers, clients, and what goes wrong when.

Deterministic: the same fleet, workload, settings and seed give the same run, event by event.
A cluster can be given one workload after another; its caches stay warm.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from memroute.bandwidth import SharingMechanism
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.card import SharedCard
from memroute_simulator.virtual.clients import Client
from memroute_simulator.virtual.kv_events import EventFeed, Hears
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.mix import PLAIN, TrafficMix
from memroute_simulator.virtual.outcome import Outcome, OutcomeStatus
from memroute_simulator.virtual.peer_network import PeerNetwork, PeerSettings
from memroute_simulator.virtual.replica import VirtualReplica
from memroute_simulator.virtual.router import OURS, RouterSettings, VirtualRouter
from memroute_simulator.workloads.request import Session, Workload

UNFINISHED_AFTER_SECONDS = 3600.0
# A request that nothing answers is given up so long after the last one was sent.


class FleetChange(StrEnum):
    """What can happen to a replica."""

    FAIL = "fail"
    RECOVER = "recover"
    FREEZE = "freeze"
    THAW = "thaw"
    SLOW = "slow"
    ADD = "add"
    REMOVE = "remove"
    MUTE = "mute"
    """It serves, and answers no scrape."""
    ROUTER_LEAVES = "router-leaves"
    """It gets no more requests, and says and hears nothing; what it has goes on."""
    ROUTER_JOINS = "router-joins"
    """One of that name, new: it knows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """Something that happens to the fleet, seconds after the workload's start."""

    at_seconds: float
    change: FleetChange
    replica: str = ""
    """Its name, or the router's (``router-0`` on); empty for ``add``."""
    slowdown_ratio: float = 1.0
    """For ``slow``: how much longer steps take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSample:
    """The fleet at one moment."""

    seconds: float
    num_running: int
    num_waiting: int
    kv_cache_ratios: tuple[float, ...]
    """Of each replica."""
    num_preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What a cluster is made of."""

    engines: tuple[tuple[EngineSpec, int], ...]
    """(engine, replicas of it)."""
    replicas_per_card: int = 1
    """Replicas of one engine that share each card."""
    sharing: SharingMechanism = SharingMechanism.TIME_SLICES
    policy: str = "memroute"
    num_routers: int = 1
    router: RouterSettings = field(default_factory=RouterSettings)
    peers: PeerSettings | None = field(default_factory=PeerSettings)
    """How several routers of ours hear each other; None: they do not know of each other."""
    mix: TrafficMix = PLAIN
    """What requests, answers and clients are like beside their lengths."""
    timeout_seconds: float | None = None
    """After which a client gives up, whatever has come by then."""

    @property
    def prefill_tokens_per_second(self) -> float:
        """Of one replica, the mean: what an operator would have calibrated its routers to."""
        rates = sum(count * spec.prefill_tokens_per_second for spec, count in self.engines)
        return rates / self.num_replicas

    @property
    def num_replicas(self) -> int:
        """Replicas at the start."""
        return sum(count for _, count in self.engines)


class Cluster:
    """One simulation. Owns the loop and everything in it."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        seed: int = 0,
        sample_seconds: float | None = 1.0,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """``sample_seconds``: None for no time series; ``on_progress`` gets requests ended."""
        self.loop = VirtualLoop()
        self.fleet = fleet
        self.replicas: list[VirtualReplica] = []
        self.samples: list[FleetSample] = []
        self._seed = seed
        self._rng = random.Random(seed)  # noqa: S311 - a simulation
        self._sample_seconds = sample_seconds
        self._on_progress = on_progress
        self._num_open = 0
        self._num_ended = 0
        self.routers = [self._new_router(f"router-{n}") for n in range(fleet.num_routers)]
        """Those that get requests."""
        self.network: PeerNetwork | None = None
        # The published policies' own routers share nothing.
        if fleet.peers is not None and fleet.num_routers > 1 and fleet.policy in OURS:
            chance = random.Random(self._rng.random())  # noqa: S311
            self.network = PeerNetwork(self.loop, fleet.peers, chance)
            for router in self.routers:
                self.network.join(router)
        for spec, count in fleet.engines:
            card = None
            for number in range(count):
                if number % fleet.replicas_per_card == 0:
                    card = SharedCard(fleet.sharing) if fleet.replicas_per_card > 1 else None
                self._add_replica(spec, card)

    def run(self, workload: Workload, events: Sequence[FleetEvent] = ()) -> list[Outcome]:
        """Serve a workload from now on; everything that is sent has an outcome."""
        outcomes: list[Outcome] = []
        start = self.loop.now_seconds
        self._num_open = workload.num_requests
        for event in events:
            self.loop.at(start + event.at_seconds, self._happening(event))
        for session in workload.sessions:
            self.loop.at(start + session.start_seconds, self._opening(session, outcomes))
        for router in self.routers:
            self._start_router(router)
        if self._sample_seconds is not None:
            self._sample()
        last = max((session.start_seconds for session in workload.sessions), default=0.0)
        self.loop.run(
            start + last + UNFINISHED_AFTER_SECONDS, is_running=lambda: self._num_open > 0
        )
        for outcome in outcomes:
            if outcome.status is OutcomeStatus.OPEN:
                outcome.end(OutcomeStatus.FAILED, self.loop.now_seconds, "never answered")
        self._num_open = 0
        return outcomes

    # Clients.

    def _opening(self, session: Session, outcomes: list[Outcome]) -> Callable[[], None]:
        def open_outcome(session: Session, turn: int) -> Outcome:
            asked = session.requests[turn]
            number = len(outcomes)
            outcome = Outcome(
                number=number,
                asked=asked,
                sent_seconds=self.loop.now_seconds,
                asked_how=self.fleet.mix.draw(f"{self._seed}/{number}", asked.num_prompt_tokens),
                idle_prefill_seconds=self._idle_prefill_seconds(asked.num_prompt_tokens),
            )
            outcomes.append(outcome)
            return outcome

        client = Client(
            loop=self.loop,
            session=session,
            mix=self.fleet.mix,
            timeout_seconds=self.fleet.timeout_seconds,
            open_outcome=open_outcome,
            route=self._route,
            ended=self._end,
        )
        return client.send

    def _route(self, outcome: Outcome, on_end: Callable[[Outcome], None]) -> None:
        router = self.routers[0]
        if len(self.routers) > 1:
            router = self._rng.choice(self.routers)
        router.route(outcome, on_end)

    def _end(self) -> None:
        self._num_open -= 1
        self._num_ended += 1
        if self._on_progress is not None:
            self._on_progress(self._num_ended)

    def _idle_prefill_seconds(self, num_tokens: int) -> float:
        return min(
            spec.step_time.prefill_seconds(num_tokens, spec.max_num_batched_tokens)
            for spec, _ in self.fleet.engines
        )

    # The fleet.

    def _new_router(self, name: str) -> VirtualRouter:
        fleet = self.fleet
        return VirtualRouter(
            loop=self.loop,
            policy=fleet.policy,
            settings=fleet.router,
            mix=fleet.mix,
            rng=random.Random(self._rng.random()),  # noqa: S311
            prefill_tokens_per_second=fleet.prefill_tokens_per_second,
            is_running=self._is_running,
            name=name,
        )

    def _start_router(self, router: VirtualRouter) -> None:
        router.start_scraping()
        if self.network is not None:
            self.network.start(router, is_running=self._is_running)

    def _is_running(self) -> bool:
        return self._num_open > 0

    def _router_leaves(self, name: str) -> None:
        for router in self.routers:
            if router.name == name:
                router.hear_no_more()
        self.routers = [router for router in self.routers if router.name != name]
        if self.network is not None:
            self.network.leave(name)

    def _router_joins(self, name: str) -> None:
        router = self._new_router(name)
        if self.network is not None:
            self.network.join(router)
        self._start_router(router)
        # Each is scraped from here on: the router runs.
        for replica in self.replicas:
            router.add_replica(replica)
        self.routers.append(router)

    def _add_replica(self, spec: EngineSpec, card: SharedCard | None = None) -> VirtualReplica:
        name, hears = str(len(self.replicas)), self.fleet.router.hears
        feed = None
        if hears is not Hears.NOTHING:
            feed = EventFeed(self.loop, replica=name, hears=hears)
        replica = VirtualReplica(
            self.loop,
            spec.schedulers(on_event=None if feed is None else feed.on_event),
            spec.step_time,
            name=name,
            steps_together=spec.steps_together,
            card=card,
            feed=feed,
        )
        self.replicas.append(replica)
        for router in self.routers:
            router.add_replica(replica)
        return replica

    def _happening(self, event: FleetEvent) -> Callable[[], None]:
        if event.change is FleetChange.ROUTER_LEAVES:
            return lambda: self._router_leaves(event.replica)
        if event.change is FleetChange.ROUTER_JOINS:
            return lambda: self._router_joins(event.replica)
        return lambda: self._apply(event)

    def _apply(self, event: FleetEvent) -> None:
        if event.change is FleetChange.ADD:
            self._add_replica(self.fleet.engines[0][0])
            return
        replica = next(r for r in self.replicas if r.name == event.replica)
        match event.change:
            case FleetChange.FAIL:
                replica.fail()
            case FleetChange.RECOVER:
                replica.recover()
            case FleetChange.FREEZE:
                replica.freeze()
            case FleetChange.THAW:
                replica.thaw()
            case FleetChange.SLOW:
                replica.slowdown_ratio = event.slowdown_ratio
            case FleetChange.MUTE:
                replica.is_mute = True
            case FleetChange.REMOVE:
                for router in self.routers:
                    router.remove_replica(replica)

    def _sample(self) -> None:
        readings = [replica.reading() for replica in self.replicas]
        self.samples.append(
            FleetSample(
                seconds=self.loop.now_seconds,
                num_running=sum(r.num_running for r in readings),
                num_waiting=sum(r.num_waiting for r in readings),
                kv_cache_ratios=tuple(r.kv_cache_utilization_ratio for r in readings),
                num_preemptions=sum(r.num_preemptions for r in readings),
            )
        )
        if self._num_open > 0 and self._sample_seconds is not None:
            self.loop.after(self._sample_seconds, self._sample)
