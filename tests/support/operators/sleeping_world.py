"""Models that sleep on one shared H100, with the real plan, and engines and routers that pretend.

One second is a step: requests come, routers hold or send them, every router is read, the plan is
made, its marks are written, and engines do what is written on their pods.
"""

import copy
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from memroute.placement import Inventory
from memroute_kube.sleeping import SleepState
from memroute_operator.engines.sleep_mode import rest_bytes
from memroute_operator.gather import Facts
from memroute_operator.memory import PlanMemory
from memroute_operator.plan import MarkSleep, plan_step
from memroute_operator.readings.demand import DemandLog
from memroute_operator.replicas.reading import read_replica
from memroute_operator.sleeping.mark import ANNOTATION_SLEEP, MarkedState, mark_now
from memroute_operator.sleeping.sight import EngineSight
from planned_objects import GPU, NOW, SHARED, context, deployment, pod_of

ROUTER = "memroute-system/router-0"
# The concurrency of Qwen3-8B → GiB: 4 has 23.6, 12 has 32.6, 30 has 52.8, 38 has 61.8.
AFTER_SECONDS = 60
# Engines fall asleep and wake within so many steps.
SLEEP_STEPS, WAKE_STEPS = 2, 3


def sleeper(name, *, concurrency=30, after=AFTER_SECONDS, **others):
    of = deployment(name, uid=f"u-{name}", concurrency=concurrency, **others)
    of.obj["spec"]["sleep"] = {"afterSeconds": after, "level": "WeightsOnHost"}
    return of


@dataclass
class Engine:
    """What is true of one engine, whatever is written of it."""

    size: int
    rest: int
    is_asleep: bool = False
    busy_steps: int = 0
    """Until what it was told is done."""
    target: SleepState | None = None

    @property
    def bytes(self):
        return self.rest if self.is_asleep and self.target is None else self.size


@dataclass
class World:
    """Owns pods, engines, requests and the clock."""

    models: list
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 1_000.0

    def __post_init__(self):
        self.pods, self.engines, self.replicas_read = {}, {}, {}
        self.memory, self.log = PlanMemory(), DemandLog()
        self.arrivals = Counter()
        self.held = {of.key: [] for of in self.models}
        """Model → when each request came that a router holds."""
        self.in_flight = {of.key: [] for of in self.models}
        """Model → when each request at its engine ends."""
        self.waits = []
        """How long each served request waited, in seconds."""
        self.sights = {}
        self.may_fall_asleep = set()
        self.step_ = None
        self.routers_answer = True
        for of in self.models:
            self.add(of)

    def add(self, of, *, asleep=False):
        pod = pod_of(of)
        size = of.footprint.total_bytes
        self.pods[of.key] = pod
        self.engines[of.key] = Engine(size=size, rest=rest_bytes(of.footprint), is_asleep=asleep)
        if asleep:
            self.write(of.key, MarkedState.ASLEEP)

    def write(self, key, state, room_for=None):
        mark = mark_now(state, NOW + timedelta(seconds=self.now), 0, room_for)
        pod = copy.deepcopy(self.pods[key])
        pod["metadata"]["annotations"][ANNOTATION_SLEEP] = mark.text()
        self.pods[key] = pod

    def restart_operator(self):
        self.memory, self.log, self.sights = PlanMemory(), DemandLog(), {}
        self.may_fall_asleep = set()

    def ask(self, key):
        self.arrivals[key] += 1
        self.held[key].append(self.now)

    def read(self, key):
        """The replica of a model, read once for each version of its pod."""
        pod = self.pods[key]
        known = self.replicas_read.get(key)
        if known is None or known[0] is not pod:
            known = self.replicas_read[key] = pod, read_replica(pod)
        return known[1]

    def replicas(self):
        found = [self.read(key) for key in self.pods]
        at = NOW + timedelta(seconds=self.now)
        return self.memory.stamp(found, now_seconds=self.now, now=at)

    def state(self, key):
        return self.read(key).sleep_state

    def serve(self):
        """Routers send what they hold to who is awake; what has been answered is gone."""
        for key, ends in self.in_flight.items():
            self.in_flight[key] = [at for at in ends if at > self.now]
        for key, held in self.held.items():
            if self.state(key) is None and held:
                assert not self.engines[key].is_asleep, f"a request was sent to {key}, asleep"
                self.waits += [self.now - at for at in held]
                self.in_flight[key] += [self.now + self.rng.randint(1, 8) for _ in held]
                held.clear()

    def read_routers(self):
        self.log.look(
            {ROUTER: dict(self.arrivals)} if self.routers_answer else {},
            waiting={key: len(held) for key, held in self.held.items()},
            in_flight={f"{key}-0": len(ends) for key, ends in self.in_flight.items()},
            is_known=self.routers_answer,
            at_seconds=self.now,
        )

    def plan(self):
        replicas = self.replicas()
        inventory = Inventory(
            nodes=(SHARED,), reservations=tuple(one for r in replicas for one in r.reservations())
        )
        facts = Facts(
            deployments=tuple(self.models), replicas=tuple(replicas), unreadable_pods=(),
            inventory=inventory, lost_nodes=frozenset(), stale_nodes=frozenset(),
        )  # fmt: skip
        # Routers are told as soon as it is written.
        told = {one.uid: one.seen.sleep_seconds or 0.0 for one in replicas}
        of = context(demand=self.log.demand(self.now), sights=dict(self.sights), told_seconds=told)
        self.step_ = plan_step(facts, of)
        for action in self.step_.actions:
            assert isinstance(action, MarkSleep), action
            self.write(action.replica.deployment, action.state, action.makes_room_for)
        self.may_fall_asleep = self.step_.may_fall_asleep

    def keep(self):
        """Engines do what is written on their pods, and are seen to."""
        for replica in self.replicas():
            engine, state = self.engines[replica.deployment], replica.sleep_state
            if engine.target is not None:
                engine.busy_steps -= 1
                if engine.busy_steps <= 0:
                    engine.is_asleep = engine.target is SleepState.ASLEEP
                    engine.target = None
            elif state is SleepState.FALLING_ASLEEP and not engine.is_asleep:
                if replica.uid in self.may_fall_asleep:
                    engine.target, engine.busy_steps = SleepState.ASLEEP, SLEEP_STEPS
            elif state is SleepState.WAKING and engine.is_asleep:
                engine.target, engine.busy_steps = SleepState.WAKING, WAKE_STEPS
            if state is None:
                self.sights.pop(replica.uid, None)
                continue
            self.sights[replica.uid] = EngineSight(
                mark=replica.sleep_mark,
                is_sleeping=engine.is_asleep if engine.target is None else None,
                is_told=engine.target is SleepState.ASLEEP,
            )

    def step(self):
        self.now += 1.0
        self.serve()
        self.read_routers()
        self.plan()
        self.keep()
        self.check()

    def run(self, num_steps):
        for _ in range(num_steps):
            self.step()

    def check(self):
        """No byte of the device is there twice, by engines' truth and by what is written."""
        assert sum(one.bytes for one in self.engines.values()) <= GPU.usable_bytes
        counted = sum(self.read(key).present_bytes(GPU.uuid) for key in self.pods)
        assert sum(one.bytes for one in self.engines.values()) <= counted <= GPU.usable_bytes


def awake(world):
    return sorted(key for key in world.pods if world.state(key) is None)
