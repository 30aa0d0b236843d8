"""Who sleeps and who wakes in this step, with the room for it. Pure.

```text
(awake) ──idle, or another needs its room──► FallingAsleep ──its engine says so──► Asleep
   ▲                                              │                                  │
   └──its engine says so── Waking ◄──asked for────┴──────asked for, and there is room┘
```

Bytes are given up only after an engine has confirmed that it sleeps (``Asleep`` is written), and
are taken before it is told to wake (``Waking`` is written, and booked in the step that chose it).
An operator that dies at any line leaves a mark that says what to do next, and counts at least
what is in use. The calls themselves are the keeper's.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from memroute.placement import Device, Solver
from memroute_kube.sleeping import SleepState
from memroute_operator.engines.sleep_mode import sleep_mode_of
from memroute_operator.gateway.deciding import FAIL_OPEN, failure_mode
from memroute_operator.gather import Facts
from memroute_operator.plan.actions import Delete, MarkSleep, PlanContext, Step
from memroute_operator.plan.draining import DRAIN_NOTICE_SECONDS
from memroute_operator.plan.preemption import priority_of
from memroute_operator.plan.wishes import Missing
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.beside import Beside
from memroute_operator.sleeping.mark import MarkedState
from memroute_operator.sleeping.models import UNWATCHED, UNWATCHED_SECONDS, Model
from memroute_operator.sleeping.newcomers import room_for_newcomer
from memroute_operator.sleeping.room import Late, Room, find_room, grows, shortage_of
from memroute_operator.sleeping.sight import EngineSight
from memroute_operator.spec.deployment import Deployment

# How long a newcomer's room is kept for it that another has fallen asleep for, in seconds: until
# a reading shows that (``device_metrics``: collected 35 s before it was read), and a step more.
NEWCOMER_SECONDS = 60.0
# How long an engine that falls asleep may not answer before it is woken again, in seconds. Chosen
# by hand: its first sleep pins its weights, which takes 10 s for 16 GB.
SILENT_SECONDS = 300.0
# Before an idle model is looked at again whose sleep is due, in seconds.
TIMER_SECONDS = 1.0


class Sleeps:
    """The sleeps of one step. Owns who was marked in it."""

    def __init__(
        self,
        facts: Facts,
        context: PlanContext,
        solver: Solver,
        step: Step,
        *,
        deployments: Sequence[Deployment],
        going: Iterable[str],
        refused: Sequence[Missing],
    ) -> None:
        """``going``: pods that leave. ``refused``: replicas that may sleep and found no place."""
        self._context, self._solver, self._step = context, solver, step
        self._shown = context.demand
        """What those routers have shown that answer: it wakes, and puts nobody to sleep."""
        is_complete = context.demand is not None and context.demand.is_complete
        self._demand = context.demand if is_complete else None
        self._replicas = [one for one in facts.replicas if one.may_sleep]
        self._devices: dict[str, Device] = {
            device.uuid: device
            for node in facts.inventory.nodes
            for device in node.devices
            if device.uuid is not None
        }
        leaving = set(going)
        by_deployment: dict[str, list[Replica]] = {}
        for one in facts.replicas:
            if not (one.is_terminating or one.is_draining or one.key in leaving):
                by_deployment.setdefault(one.deployment, []).append(one)
        self._models = {
            one.key: self._model(one, by_deployment[one.key])
            for one in deployments
            if any(replica.may_sleep for replica in by_deployment.get(one.key, ()))
        }
        self._refused = {one.deployment.key: one for one in reversed(refused)}
        self._marked: set[str] = set()
        self._beside = Beside(
            facts.replicas,
            context,
            models=self._models,
            demand=self._demand,
            marked=self._marked,
        )
        self._kept = Counter[str]()
        """Bytes by device that are kept for somebody who waits for them."""

    def run(self) -> None:
        """Fill the step."""
        if not self._models and not self._refused:
            return
        for model in self._models.values():
            for replica in model.replicas:
                if (why := self._context.sleep_refusals.get(replica.uid)) is not None:
                    self._trouble(model, f"{replica.pod_name} is kept awake: {why}")
                if replica.sleep_mark is not None and replica.may_sleep:
                    self._settle(model, replica)
        self._await_pickers()
        self._keep_for_newcomers()
        for model in self._by_need():
            self._wake(model)
        for missing in self._refused.values():
            self._make_room_for(missing)
        for model in self._models.values():
            self._let_sleep(model)

    def _model(self, deployment: Deployment, replicas: Sequence[Replica]) -> Model:
        known = priority_of(deployment, self._context)
        fails_open = failure_mode(deployment) == FAIL_OPEN
        return Model(
            deployment=deployment,
            replicas=replicas,
            mode=sleep_mode_of(deployment),
            priority=0 if known is None else known.value,
            unwatched_seconds=self._context.picker_away_seconds if fails_open else None,
        )

    # What is under way.

    def _settle(self, model: Model, replica: Replica) -> None:
        """The next mark of one that has a mark, if it is due."""
        mark = replica.sleep_mark
        assert mark is not None  # noqa: S101 - its caller has seen it
        if mark.restarts != replica.num_restarts:
            if mark.state is not MarkedState.AWAKE:
                self._mark(replica, MarkedState.AWAKE, "its container was started anew")
            return
        sight = self._sight_of(model, replica)
        is_awake = sight is not None and sight.is_sleeping is False
        match replica.sleep_state:
            case SleepState.FALLING_ASLEEP:
                self._settle_falling(model, replica, sight)
            case SleepState.ASLEEP if is_awake:
                # Somebody else woke it: its bytes are there already.
                self._rouse(replica, "its engine says that it is awake")
            case SleepState.WAKING:
                self._due(TIMER_SECONDS)
                if is_awake:
                    self._mark(replica, MarkedState.AWAKE, "its engine is awake")
            case None if sight is not None and sight.is_sleeping:
                # It was told long ago and has done it now, or somebody else has told it.
                self._mark(replica, MarkedState.WAKING, "its engine says that it sleeps")

    def _sight_of(self, model: Model, replica: Replica) -> EngineSight | None:
        """What its engine has answered since this was written; None where it has not."""
        sight = self._context.sights.get(replica.uid)
        if sight is None or sight.mark != replica.sleep_mark:
            return None
        if sight.trouble is not None:
            self._trouble(model, f"{replica.pod_name}: {sight.trouble}")
        return sight

    def _settle_falling(self, model: Model, replica: Replica, sight: EngineSight | None) -> None:
        self._due(TIMER_SECONDS)
        if sight is not None and sight.is_sleeping:
            self._mark(replica, MarkedState.ASLEEP, "its engine sleeps", keep_room=True)
            return
        seconds = replica.seen.sleep_seconds or 0.0
        why = self._why_woken(model, replica, seconds)
        if sight is not None and sight.refuses:
            why = sight.trouble or "its engine does not fall asleep"
        elif sight is not None and sight.is_told and seconds < SILENT_SECONDS:
            return  # it finishes that first
        if why is not None:
            self._mark(replica, MarkedState.WAKING, why)
        elif self._is_quiet(replica):
            self._step.may_fall_asleep.add(replica.uid)

    def _why_woken(self, model: Model, replica: Replica, seconds: float) -> str | None:
        """Why one that falls asleep is to stay awake; None where it goes on."""
        demand = self._demand
        if demand is None:
            return "a router does not answer, or does not count arrivals"
        if seconds >= SILENT_SECONDS:
            return "it did not fall asleep in time"
        if model.unwatched_seconds is not None:
            return UNWATCHED
        is_recent = seconds - demand.read_seconds >= DRAIN_NOTICE_SECONDS
        if is_recent and demand.in_flight.get(replica.key, 0):
            return "a request is at it"
        mark = replica.sleep_mark
        room_for = None if mark is None else mark.makes_room_for
        if model.is_wanted(demand) and not self._needs_room(room_for):
            return "it is asked for"
        return None

    def _needs_room(self, key: str | None) -> bool:
        """Whether that model still waits for the room that another makes for it."""
        if key is None or self._demand is None:
            return False
        if key in self._refused:
            return True
        model = self._models.get(key)
        return model is not None and bool(model.asleep) and model.is_wanted(self._demand)

    def _is_quiet(self, replica: Replica) -> bool:
        """Whether every router has nothing in flight at it, by a look from after they were told.

        They are told by the status, which may be written long after the mark, or never.
        """
        demand, told_seconds = self._demand, self._context.told_seconds.get(replica.uid)
        if demand is None or told_seconds is None:
            return False
        is_recent = told_seconds - demand.read_seconds >= DRAIN_NOTICE_SECONDS
        return is_recent and not demand.in_flight.get(replica.key, 0)

    def _keep_for_newcomers(self) -> None:
        """Room of replicas that have just fallen asleep for one that is about to be placed."""
        for one in self._replicas:
            mark = one.sleep_mark
            if mark is None or mark.makes_room_for not in self._refused:
                continue
            if one.is_resting and (one.seen.sleep_seconds or 0.0) < NEWCOMER_SECONDS:
                self._kept.update(grows(one))
                self._due(TIMER_SECONDS)

    def _await_pickers(self) -> None:
        """Look again when those are to be woken whose gateways do without a picker."""
        for model in self._models.values():
            seconds = model.unwatched_seconds
            if seconds is not None and seconds < UNWATCHED_SECONDS and model.asleep:
                self._due(max(TIMER_SECONDS, UNWATCHED_SECONDS - seconds))

    # Who wakes.

    def _by_need(self) -> list[Model]:
        """Those that are asked for while they sleep: by priority, then the longest wait."""
        demand = self._shown
        if demand is None:
            return []
        wanted = [one for one in self._models.values() if one.asleep and one.is_wanted(demand)]

        def rank(model: Model) -> tuple[int, float, str]:
            waits = demand.waiting_seconds.get(model.key, 0.0)
            return -model.priority, -waits, model.key

        return sorted(wanted, key=rank)

    def _wake(self, model: Model) -> None:
        for replica in model.asleep:
            if replica.uid in self._marked or replica.is_waking_told:
                continue
            if not replica.is_ready:
                self._waits(model, f"waits for {replica.pod_name}, which is not ready")
                self._due(TIMER_SECONDS)
                continue
            if model.deployment.paused:
                self._waits(model, "is asked for, and spec.paused holds it as it is")
                return
            room = self._room_for(model, replica)
            if room.is_there:
                is_watched = model.unwatched_seconds is None
                self._rouse(replica, "it is asked for" if is_watched else UNWATCHED)
                continue
            self._due(TIMER_SECONDS)
            self._waits(model, room.waits or "waits for room")
            if room.is_coming:
                self._kept.update(grows(replica))
            for late in room.ended:
                self._end(late, model)
            for other in room.chosen:
                self._put_to_sleep(other, f"{model.key} needs its room", room_for=model.key)

    def _room_for(self, model: Model, replica: Replica) -> Room:
        ledger = self._solver.ledger
        shortage = shortage_of(replica, ledger, self._devices, self._kept)
        if shortage is None:
            return Room(waits="waits for its devices: they are not there, or may not be used")
        return find_room(
            shortage,
            falling=[one for one in self._replicas if one.uid not in self._marked],
            ending=self._beside.ending(replica),
            late=self._beside.late(model, replica),
            candidates=self._beside.candidates(model.key, model.priority, replica),
        )

    def _end(self, late: Late, model: Model) -> None:
        """End a replica that does not start, for a sleeper that had lent it its room."""
        replica = late.replica
        self._beside.ended.add(replica.uid)
        self._step.outcomes[replica.deployment].kept.discard(replica.key)
        why = f"{late.why}; {model.key} is asked for, and had lent it its room"
        self._step.actions.append(
            Delete(replica=replica, why=why, has_failed=True, room_for=model.key)
        )

    # Who sleeps.

    def _make_room_for(self, missing: Missing) -> None:
        """Have idle models fall asleep for a replica that found no place."""
        key = missing.deployment.key
        is_under_way = any(
            one.sleep_mark is not None
            and one.sleep_mark.makes_room_for == key
            and (
                one.sleep_state is SleepState.FALLING_ASLEEP
                or (one.is_resting and (one.seen.sleep_seconds or 0.0) < NEWCOMER_SECONDS)
            )
            for one in self._replicas
        )
        if is_under_way or self._demand is None:
            return
        known = priority_of(missing.deployment, self._context)
        candidates = [
            one
            for one in self._beside.candidates(key, 0 if known is None else known.value)
            if one.why_not is None
        ]
        for other in room_for_newcomer(missing.wanted, self._solver, candidates):
            self._put_to_sleep(other, f"{key} needs its room", room_for=key)

    def _let_sleep(self, model: Model) -> None:
        """Put a model to sleep that nobody has asked for of late."""
        demand, mode = self._demand, model.mode
        awake = [one for one in model.awake if one.uid not in self._marked]
        if demand is None or mode is None or not awake or model.deployment.paused:
            return
        if self._beside.has_refused(model):
            return
        left = mode.after_seconds - model.idle_seconds(demand)
        if left > 0 or model.is_busy(demand):
            self._due(max(TIMER_SECONDS, left))
            return
        if not model.is_settled or self._beside.starts_beside(model):
            self._due(TIMER_SECONDS)
            return
        self._put_to_sleep(model, f"nobody has asked for it for {mode.after_seconds:.0f} s")

    def _put_to_sleep(self, model: Model, why: str, *, room_for: str | None = None) -> None:
        for replica in model.awake:
            if replica.uid not in self._marked:
                self._mark(replica, MarkedState.FALLING_ASLEEP, why, room_for=room_for)

    # What is written.

    def _rouse(self, replica: Replica, why: str) -> None:
        """Take its room, and write that it wakes."""
        self._solver.change_sleep(replica.key, is_asleep=False)
        self._mark(replica, MarkedState.WAKING, why)

    def _mark(
        self,
        replica: Replica,
        state: MarkedState,
        why: str,
        *,
        room_for: str | None = None,
        keep_room: bool = False,
    ) -> None:
        if keep_room and replica.sleep_mark is not None:
            room_for = replica.sleep_mark.makes_room_for
        self._marked.add(replica.uid)
        self._due(TIMER_SECONDS)
        self._step.actions.append(
            MarkSleep(replica=replica, state=state, why=why, makes_room_for=room_for)
        )

    def _waits(self, model: Model, what: str) -> None:
        outcome = self._step.outcomes.get(model.key)
        if outcome is not None and outcome.sleep_waits is None:
            outcome.sleep_waits = what

    def _trouble(self, model: Model, what: str) -> None:
        outcome = self._step.outcomes.get(model.key)
        if outcome is not None:
            outcome.sleep_trouble = what

    def _due(self, seconds: float) -> None:
        due = self._step.due_seconds
        self._step.due_seconds = seconds if due is None else min(due, seconds)
