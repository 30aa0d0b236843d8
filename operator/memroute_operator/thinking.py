"""What is to be done, worked out in a thread: facts from a snapshot, then the plan.

A step of a large fleet takes seconds of computation. On the event loop it would delay watches,
readings and the renewal of the Lease. In a thread it must not see anything change: everything
that it reads is taken at one moment (``Look``), and what it remembers is touched by nobody else.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from memroute.footprint import Calibration, CalibrationKey
from memroute.placement import NO_QUOTAS, Departed, HBMQuotas, Reservation
from memroute_kube import KubeObject
from memroute_operator.gather import Facts, ReadingCache, gather, node_sights
from memroute_operator.isolation import PatientPlanner
from memroute_operator.memory import PlanMemory
from memroute_operator.plan import PlanContext, Step
from memroute_operator.readings.calibrations import EngineReport
from memroute_operator.readings.demand import Demand
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.readings.node_leases import Silence
from memroute_operator.readings.own_promises import OwnPromises, promised_bytes
from memroute_operator.replicas.lost_nodes import Ghosts, LostNodes, NodeLoss
from memroute_operator.replicas.pod_stories import Stories
from memroute_operator.replicas.replica import Replica, ReplicaState
from memroute_operator.rules.priorities import NO_CLASSES, PriorityClasses
from memroute_operator.sleeping.sight import EngineSight
from memroute_operator.store.store import StoreSnapshot
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings

# Pods with processes, or about to have some: what they hold may outlive their object.
RUNNING_STATES = frozenset(ReplicaState) - {ReplicaState.QUEUED, ReplicaState.PENDING}
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one step is decided on: everything as it was known at one moment."""

    store: StoreSnapshot
    devices: DeviceMetrics
    reports: Mapping[str, EngineReport | None]
    resource_slices: Mapping[str, Sequence[KubeObject]]
    now_seconds: float
    now: datetime
    held: tuple[Reservation, ...]
    """Of pods that are on their way."""
    busy: frozenset[str]
    """ModelDeployments whose lanes run: what is thought of them may be out of date by its end."""
    held_back: frozenset[str]
    no_surge: Mapping[str, str]
    refused_aheads: Mapping[str, str]
    avoided_nodes: Mapping[str, frozenset[str]]
    in_flight: Mapping[str, int] | None
    in_flight_age_seconds: float | None
    calibrations: Mapping[CalibrationKey, Calibration] = field(default_factory=dict)
    """What engines have measured before."""
    stories: Stories = field(default_factory=dict)
    """Events of pods that are not ready, by uid."""
    quotas: HBMQuotas = NO_QUOTAS
    priorities: PriorityClasses = NO_CLASSES
    silences: Mapping[str, Silence] = field(default_factory=dict)
    """Of kubelets, by node, where they are known."""
    fetches: Mapping[str, str] = field(default_factory=dict)
    """How far those are that fetch their weights, in words, by the uid of their pod."""
    demand: Demand | None = None
    """Since when nobody has asked for a model; None where no router says."""
    sights: Mapping[str, EngineSight] = field(default_factory=dict)
    """What engines that are not awake have answered, by the uid of their pod."""
    sleep_refusals: Mapping[str, str] = field(default_factory=dict)
    """Engines that have not fallen asleep of late, by the uid of their pod → why."""
    told_seconds: Mapping[str, float] = field(default_factory=dict)
    """Pods that fall asleep, by uid → for how long their status has told routers so."""
    picker_away_seconds: float | None = None
    """For how long no endpoint picker has been ready; None while one is, or none is asked for."""
    stood_aside: Mapping[str, str] = field(default_factory=dict)
    """Slots whose replica was ended for a sleeper → the ModelDeployment of that one."""
    waking: frozenset[str] = frozenset()
    """Pods by uid that may be marked to wake, though nobody has seen that."""
    weights: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Nodes that have weights, by the key of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The facts and what follows from them."""

    facts: Facts
    step: Step
    loss: NodeLoss
    nodes: frozenset[str]
    """All Node objects, by name."""


class Thinker:
    """Facts and plans. Owns what must be remembered from step to step."""

    def __init__(
        self,
        *,
        planner: PatientPlanner,
        default_image: str,
        node_lost_seconds: float,
        drain_timeout_seconds: float,
        max_contention: float | None = None,
        weights: WeightsSettings = NO_SETTINGS,
        watched: Collection[str] = (),
    ) -> None:
        self._weights = weights
        self._watched = watched
        self._planner = planner
        self._default_image = default_image
        self._node_lost_seconds = node_lost_seconds
        self._drain_timeout_seconds = drain_timeout_seconds
        self._max_contention = max_contention
        self._lost_nodes = LostNodes()
        self._ghosts = Ghosts()
        self._memory = PlanMemory()
        self._cache = ReadingCache()
        self._running: asyncio.Future[Any] | None = None
        self._last: tuple[Sequence[Replica], tuple[Departed, ...], float] = (), (), 0.0
        """The replicas that were there at the last look, those that had just ended, and when."""
        self.busy_seconds = 0.0
        """How long ``run`` has taken, since somebody last set it to 0."""

    async def run(self, work: Callable[[Given], Result], given: Given) -> Result:
        """Do pure work in a thread, one at a time: others have the event loop meanwhile.

        The garbage collector stays on: without it, one collection visits all facts at once
        afterwards, which holds up everybody. What it finds alive is frozen (``store.garbage``).
        """
        began = time.perf_counter()
        self._running = asyncio.ensure_future(asyncio.to_thread(work, given))
        try:
            return await asyncio.shield(self._running)
        finally:
            self.busy_seconds += time.perf_counter() - began

    def know_server(self, version: tuple[int, int] | None) -> None:
        """Of which Kubernetes the API server is; None when it did not say."""
        if version != self._weights.server_version:
            self._weights = replace(self._weights, server_version=version)
            self._cache = ReadingCache()

    async def begin_term(self) -> None:
        """Forget what was seen in an earlier term: it is no beginning of anything.

        A node that is unreachable again, or an engine that is unready again, has been so since
        now, as after a restart. Ghosts stay: what runs on may run on.
        """
        if self._running is not None:
            await asyncio.wait({self._running})  # a thread cannot be called back
        self._memory, self._lost_nodes = PlanMemory(), LostNodes()
        self._last = (), (), 0.0
        self._ghosts.forget_running()

    def decide(self, look: Look) -> Decided:
        """Gather and plan. For ``run``."""
        facts = self.gather(look)
        sights = node_sights(look.store, look.devices)
        for name in sights.keys() & look.silences.keys():
            silence = look.silences[name]
            sights[name] = replace(
                sights[name],
                silent_seconds=silence.seconds,
                renewal_seconds=silence.renewal_seconds,
            )
        loss = self._lost_nodes.decide(
            facts.gpu_nodes(sights),
            node_lost_seconds=self._node_lost_seconds,
            now_seconds=look.now_seconds,
        )
        context = PlanContext(
            drain_timeout_seconds=self._drain_timeout_seconds,
            in_flight=look.in_flight,
            in_flight_age_seconds=look.in_flight_age_seconds,
            avoided_nodes=look.avoided_nodes,
            lost_nodes=loss.given_up,
            departed_claims=self._memory.departed_claims(facts.deployments),
            quotas=look.quotas,
            priorities=look.priorities,
            gave_way=self._memory.ways.gave_way(one.key for one in facts.deployments),
            held_back=look.held_back | facts.taken_slots.keys(),
            no_surge=look.no_surge,
            engine_image=self._default_image,
            refused_aheads=look.refused_aheads,
            demand=look.demand,
            sights=look.sights,
            sleep_refusals=look.sleep_refusals,
            told_seconds=look.told_seconds,
            picker_away_seconds=look.picker_away_seconds,
            stood_aside=look.stood_aside,
            weights=look.weights,
        )
        step = self._planner.plan(facts, context, now_seconds=look.now_seconds)
        return Decided(facts=facts, step=step, loss=loss, nodes=frozenset(sights))

    def own_promises(self, *, now_seconds: float) -> OwnPromises:
        """What replicas held when they were looked at last, and what had just ended."""
        replicas, departed, at = self._last
        return OwnPromises(
            device_bytes=promised_bytes(replicas),
            departed=tuple(
                replace(one, ended_seconds=one.ended_seconds + now_seconds - at) for one in departed
            ),
        )

    def gather(self, look: Look, before: Facts | None = None) -> Facts:
        """The facts of a look. For ``run``.

        ``before``: facts of this step, whose nodes are taken as they are.
        """
        facts = gather(
            look.store,
            look.devices,
            now_seconds=look.now_seconds,
            reports=look.reports,
            resource_slices=look.resource_slices,
            memory=self._memory,
            now=look.now,
            held=look.held,
            cache=self._cache,
            default_image=self._default_image,
            before=before,
            calibrations=look.calibrations,
            stories=look.stories,
            weights=self._weights,
            watched=self._watched,
            fetches=look.fetches,
            waking=look.waking,
            max_contention=self._max_contention,
        )
        self._last = facts.replicas, facts.inventory.departed, look.now_seconds
        running = {
            replica.uid: replica.reservation()
            for replica in facts.replicas
            if replica.state in RUNNING_STATES and not replica.is_terminal
        }
        sights = node_sights(look.store, look.devices)
        held = self._ghosts.look(running, sights, now_seconds=look.now_seconds)
        return facts.with_held(held).with_unsure(self._ghosts.unsure_nodes)
