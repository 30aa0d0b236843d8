"""Has engines do what is written on their pods: fall asleep, or wake.

It goes by the mark alone (``memroute.dev/sleep``), asks the engine where it stands, and tells it
what is missing. So whoever takes over from an operator that died goes on where that one was. It
writes nothing to the API server: what it sees goes into the next step, which writes the next mark.

Owns what each engine was last seen to do, how often that has failed, and when it is asked next.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import NoReturn, assert_never

from memroute_kube.routing import read_routing_status
from memroute_kube.shapes import mapping
from memroute_kube.sleeping import SleepState
from memroute_operator.actions.backoff import Backoff
from memroute_operator.adapters.caller import Caller
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.calls import Engine, fall_asleep, is_sleeping, wake
from memroute_operator.sleeping.giving_up import MAX_FAILED_WAKES
from memroute_operator.sleeping.mark import SleepMark
from memroute_operator.sleeping.sight import EngineSight
from memroute_operator.sleeping.telling import SLEEP_FAILED
from memroute_operator.spec.deployment import Deployment
from memroute_operator.turns import Turns, look_forever

LOGGER = logging.getLogger(__name__)
# How often it is looked for what is due, in seconds.
TICK_SECONDS = 0.25
# Before an engine is asked again, while something is under way, and while it sleeps as it should (a
# person may wake it by hand). Chosen by hand; a question costs it 1 ms.
BUSY_SECONDS = 0.5
SETTLED_SECONDS = 30.0
# The same after a failure, twice as long after each one in a row, up to the most: chosen by hand. A
# wake maps gigabytes before it fails, and its reason seldom goes by itself within seconds.
FIRST_TROUBLED_SECONDS = 5.0
MAX_TROUBLED_SECONDS = 60.0
# How long an engine that did not fall asleep is left awake, in seconds: chosen by hand. Its next
# refusal costs its clients as long as it falls asleep, so it should be rare.
REFUSED_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One engine, and what is written of it."""

    uid: str
    engine: Engine
    mark: SleepMark
    state: SleepState | None
    """None: it is awake, and has been on the way to sleep before."""
    may_fall_asleep: bool

    @property
    def namespace(self) -> str:
        """Of its pod."""
        return self.engine.pod.partition("/")[0]


class SleepKeeper:
    """See above. ``want`` says for whom; ``run`` goes on for ever."""

    def __init__(
        self,
        caller: Caller,
        *,
        clock: Callable[[], float],
        on_change: Callable[[], None],
        on_bug: Callable[[str, Exception], None],
        on_woken: Callable[[float], None] = lambda _: None,
        rng: random.Random | None = None,
    ) -> None:
        """``on_change``: a step has something new to see. ``on_woken``: a wake took so long."""
        self._caller = caller
        self._clock = clock
        self._on_change = on_change
        self._on_bug = on_bug
        self._on_woken = on_woken
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._failures = _no_failures()
        self._targets: dict[str, Target] = {}
        self._due: dict[str, tuple[SleepMark, bool, float]] = {}
        """Pod → the mark and the leave that its next question is about, and when that is due."""
        self._turns: Turns[Target] = Turns()
        self.sights: dict[str, EngineSight] = {}
        """What engines were last seen to do, by the uid of their pod."""
        self._refusals: dict[str, tuple[str, float]] = {}
        self._told_at: dict[str, float] = {}
        """Since when statuses tell routers that a pod falls asleep, by its uid."""
        self.wake_seconds: dict[str, float] = {}
        """How long the last wake of each engine took, by the uid of its pod."""

    def want(
        self,
        replicas: Iterable[Replica],
        may_fall_asleep: Collection[str],
        told: Collection[str] = (),
    ) -> None:
        """The replicas of the last step. ``may_fall_asleep``: those that are quiet, by uid.

        ``told``: those that fall asleep by the statuses that routers see.
        """
        targets: dict[str, Target] = {}
        present: set[str] = set()
        falling: set[str] = set()
        for one in replicas:
            if not one.may_sleep:
                continue
            present.add(one.uid)
            if one.sleep_state is SleepState.FALLING_ASLEEP:
                falling.add(one.uid)
            target = _target(one, may_fall_asleep)
            if target is not None:
                targets[one.uid] = target
        now = self._clock()
        self._told_at = {uid: self._told_at.get(uid, now) for uid in falling.intersection(told)}
        due = {}
        for uid, target in targets.items():
            before = self._due.get(uid)
            about = (target.mark, target.may_fall_asleep)
            is_same = before is not None and before[:2] == about
            due[uid] = before if is_same and before is not None else (*about, now)
        self._targets, self._due = targets, due
        for key, _ in self._failures.all_known():
            target = targets.get(key.uid)
            if target is None or target.mark != key.mark:
                self._failures.succeeded(key)
        self.sights = {uid: one for uid, one in self.sights.items() if uid in targets}
        self.wake_seconds = {uid: one for uid, one in self.wake_seconds.items() if uid in present}
        self._refusals = {uid: one for uid, one in self._refusals.items() if uid in present}

    def refusals(self) -> dict[str, str]:
        """Engines that did not fall asleep of late, by the uid of their pod → why."""
        now = self._clock()
        return {uid: why for uid, (why, at) in self._refusals.items() if now - at < REFUSED_SECONDS}

    def told_seconds(self) -> dict[str, float]:
        """For how long statuses have told routers of those that fall asleep, by uid."""
        now = self._clock()
        return {uid: now - at for uid, at in self._told_at.items()}

    def forget(self) -> None:
        """Begin anew: what was seen in an earlier term may be so no more."""
        self._due.clear()
        self._failures = _no_failures()
        self._targets.clear()
        self._told_at.clear()
        self.sights.clear()

    async def run(self, is_leading: Callable[[], bool]) -> NoReturn:
        """Go on for ever. Only the operator that leads tells engines anything."""
        await look_forever(self._begun, self._look, is_leading, tick_seconds=TICK_SECONDS)

    async def round(self) -> None:
        """Ask all that are due once."""
        await asyncio.gather(*(self._look(target) for target in self._begun()))

    def _begun(self) -> list[Target]:
        """Those that are to be asked now."""
        due = {uid: at for uid, (_, _, at) in self._due.items()}
        return self._turns.take(due, self._targets, self._clock())

    async def _look(self, target: Target) -> None:
        """See one through. A named boundary: a bug in one is that engine's alone."""
        is_bug = False
        try:
            sight = await self._keep(target)
        except Exception as error:  # noqa: BLE001 - as said above
            self._on_bug("sleep", error)
            is_bug = True
            sight = EngineSight(mark=target.mark, trouble="an internal error: see the logs")
        finally:
            self._turns.end(target)
        sight, pause = self._judged(target, sight, is_bug=is_bug)
        due = self._due.get(target.uid)
        if due is not None and due[:2] == (target.mark, target.may_fall_asleep):
            self._due[target.uid] = (*due[:2], self._clock() + pause)
        if target.uid in self._targets and sight != self.sights.get(target.uid):
            self.sights[target.uid] = sight
            if sight.trouble is not None:
                LOGGER.warning("sleep troubled pod=%s error=%s", target.engine.pod, sight.trouble)
            self._on_change()

    def _judged(
        self, target: Target, sight: EngineSight, *, is_bug: bool
    ) -> tuple[EngineSight, float]:
        """What was seen, with how often it has failed, and for how long to wait, in seconds.

        A bug of ours is no failure of the engine: nothing is given up for it.
        """
        key = _Tried(uid=target.uid, mark=target.mark, is_bug=is_bug)
        if sight.trouble is None:
            self._failures.succeeded(key)
            is_settled = target.state in (None, SleepState.ASLEEP)
            return sight, SETTLED_SECONDS if is_settled else BUSY_SECONDS
        now = self._clock()
        failure = self._failures.failed(
            key,
            reason=SLEEP_FAILED,
            message=sight.trouble,
            now_seconds=now,
            chance=self._rng.random(),
        )
        pause = failure.due_seconds - now
        if is_bug or target.state is not SleepState.WAKING:
            return sight, pause
        told = (
            f"{failure.told}; failed {failure.count} time(s), and after {MAX_FAILED_WAKES} it is "
            "replaced"
        )
        return replace(sight, trouble=told, why=failure.message, num_failed=failure.count), pause

    async def _keep(self, target: Target) -> EngineSight:
        """Ask one engine where it stands, and tell it what is missing."""
        said = await is_sleeping(self._caller, target.engine)
        if isinstance(said, str):
            # One that is awake serves, or does not: its probes tell.
            trouble = None if target.state is None else said
            return EngineSight(mark=target.mark, trouble=trouble)
        match target.state:
            case None | SleepState.ASLEEP:
                return EngineSight(mark=target.mark, is_sleeping=said)
            case SleepState.FALLING_ASLEEP:
                return await self._fall_asleep(target, is_asleep=said)
            case SleepState.WAKING:
                return await self._wake(target, is_asleep=said)
            case _:
                assert_never(target.state)

    async def _fall_asleep(self, target: Target, *, is_asleep: bool) -> EngineSight:
        """Tell it, though it says that it sleeps: it may have been told by an operator before.

        With ``mode=wait`` an engine says so from the first moment on, and frees its memory once
        it has finished what it has begun; told twice, it answers when that is done.
        """
        sight = EngineSight(mark=target.mark, is_sleeping=None if is_asleep else False)
        if not target.may_fall_asleep:
            return sight
        # Seen by the next step at once: one that has been told finishes that first.
        self.sights[target.uid] = replace(sight, is_told=True)
        why = await fall_asleep(self._caller, target.engine)
        if why is None:
            LOGGER.info("engine sleeps pod=%s", target.engine.pod)
            return replace(sight, is_sleeping=True)
        self._refusals[target.uid] = why, self._clock()
        return replace(sight, refuses=True, trouble=why)

    async def _wake(self, target: Target, *, is_asleep: bool) -> EngineSight:
        if not is_asleep:
            return EngineSight(mark=target.mark, is_sleeping=False)
        began = self._clock()
        why = await wake(self._caller, target.engine)
        if why is not None:
            return EngineSight(mark=target.mark, is_sleeping=None, trouble=why)
        seconds = self._clock() - began
        self.wake_seconds[target.uid] = seconds
        self._on_woken(seconds)
        LOGGER.info("engine woken pod=%s seconds=%.2f", target.engine.pod, seconds)
        return EngineSight(mark=target.mark, is_sleeping=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What has failed: of which engine, and what was written of it then."""

    uid: str
    mark: SleepMark
    is_bug: bool


def _no_failures() -> Backoff[_Tried]:
    return Backoff(first_seconds=FIRST_TROUBLED_SECONDS, max_seconds=MAX_TROUBLED_SECONDS)


def told_to_routers(deployments: Iterable[Deployment]) -> frozenset[str]:
    """Pods by uid of which the statuses say that they fall asleep: what routers go by."""
    statuses = (read_routing_status(one.obj) for one in deployments)
    return frozenset(
        uid
        for status in statuses
        if status is not None
        for uid, one in status.replicas.items()
        if one.sleep is SleepState.FALLING_ASLEEP
    )


def _target(replica: Replica, may_fall_asleep: Collection[str]) -> Target | None:
    """One that has a mark, as it is to be told; None for one that cannot be, or ends.

    One that is awake is asked too, now and then: what it was told may have come true since.
    """
    address = mapping(replica.obj.get("status")).get("podIP")
    state, mark, level = replica.sleep_state, replica.sleep_mark, replica.sleep_level
    if mark is None or level is None or not isinstance(address, str):
        return None
    if mark.restarts != replica.num_restarts:
        return None
    if replica.is_terminating or replica.is_terminal or replica.is_down:
        return None
    return Target(
        uid=replica.uid,
        engine=Engine(pod=replica.key, address=address, level=level),
        mark=mark,
        state=state,
        may_fall_asleep=replica.uid in may_fall_asleep,
    )
