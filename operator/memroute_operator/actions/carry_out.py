"""A step's actions, carried out so that each fails alone and is tried again with patience.

One lane per ModelDeployment (``lanes``), so that a call that hangs holds up nobody else. What
fails is noted under its key with a growing wait (``backoff``):

| what | key | first wait | at most |
| --- | --- | --- | --- |
| a pod of a ModelDeployment is refused (quota, webhook, policy) | deployment | 1 s | 60 s |
| the name of a pod is taken | pod | 1 s | 60 s |
| a delete, a mark, a gate fails | pod and action | 1 s | 60 s |
| the cluster had moved on (404, 409) | pod and action | 0.2 s | 5 s |

Of a deployment whose pods are refused, one is tried at a time: the others follow when that one
is accepted. No connection, and credentials that are not valid, concern everybody: then the step
ends, and nothing is noted against its objects.
"""

import logging
import math
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeGuard

from memroute.placement import Reservation
from memroute_kube import ApiError
from memroute_kube.client import CONFLICT
from memroute_operator.actions.apply import (
    NAME_TAKEN,
    QUOTA_WORDS,
    WOULD_REFUSE,
    Applier,
    RehearsalRefusedError,
    deployment_key,
    pod_key,
    promised,
)
from memroute_operator.actions.backoff import Backoff, Failure
from memroute_operator.actions.lanes import LATE_SECONDS as LATE_LANE_SECONDS
from memroute_operator.actions.lanes import Lanes
from memroute_operator.actions.on_their_way import OnTheirWay
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.plan import Action, Create, FetchAhead, GiveWay, MarkSleep
from memroute_operator.sleeping.mark import MarkedState

LOGGER = logging.getLogger(__name__)
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0
# The next event usually tells within milliseconds why the cluster has moved on.
FIRST_SUPERSEDED_SECONDS = 0.2
MAX_SUPERSEDED_SECONDS = 5.0
# How long the room of a pod stays counted at least whose creation may have come through, in
# seconds: where no answer came in time, longer than the API server works on a request (34 s);
# where it answered with an error of its own, until the pod's event would have come.
LATE_SECONDS = 40.0
ANSWERED_SECONDS = 2.0
GATEWAY_TIMEOUT = 504
# The reason of a pod that the API server refused.
POD_REFUSED = "PodRefused"


@dataclass(slots=True)
class CarryOut:
    """Carries out steps. Owns what failed and what is on its way."""

    applier: Applier
    lanes: Lanes
    metrics: OperatorMetrics
    clock: Callable[[], float]
    rng: random.Random = field(default_factory=random.Random)
    failures: Backoff[tuple[str, str]] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )
    superseded: Backoff[tuple[str, str]] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_SUPERSEDED_SECONDS, max_seconds=MAX_SUPERSEDED_SECONDS
        )
    )
    global_error: ApiError | None = None
    on_their_way: OnTheirWay = field(default_factory=OnTheirWay)
    _waking: dict[str, float] = field(default_factory=dict)
    """Pods that are marked to wake, by uid, until it is known whether that was written (seconds of
    the clock; infinite while it is asked): until then they count in full."""

    async def carry_out(
        self,
        actions: Iterable[Action],
        on_done: Callable[[Action], None],
        *,
        busy: Collection[str] = (),
    ) -> None:
        """Carry out a step's actions, as far as they may be tried now and are soon done.

        ``on_done``: told of each that was. ``busy``: deployments whose lanes ran when the step was
        thought out: what it says of them may have been done since, so it waits for the next one.
        Raises ``ApiError`` when nothing can be done at all.
        """
        by_deployment: dict[str, list[Action]] = {}
        for action in actions:
            by_deployment.setdefault(deployment_key(action), []).append(action)
        for key, own in by_deployment.items():
            due = [action for action in own if self._may_try(action)]
            if due and key not in busy:
                self._start_lane(key, due, on_done)
        await self.lanes.settle(late_seconds=LATE_LANE_SECONDS)
        self.raise_global_error()

    def _start_lane(self, key: str, due: list[Action], on_done: Callable[[Action], None]) -> None:
        creates = {pod_key(action): action for action in due if isinstance(action, Create)}

        wakes = [action.replica.uid for action in due if _is_wake(action)]

        def drop_what_was_not_tried() -> None:
            self.on_their_way.drop_untried(creates)
            for uid in wakes:
                if self._waking.get(uid) == math.inf:
                    del self._waking[uid]

        if self.lanes.start(key, self._lane(due, on_done), on_end=drop_what_was_not_tried):
            # From now on, not from when its turn comes.
            for pod, create in creates.items():
                self.on_their_way.begin(pod, promised(create))
            self._waking |= dict.fromkeys(wakes, math.inf)

    def raise_global_error(self) -> None:
        """Raise what ended a lane and concerns everybody, once."""
        error, self.global_error = self.global_error, None
        if error is not None:
            raise error

    def held_back(self) -> frozenset[str]:
        """Whose pods are not created now, as ``PlanContext.held_back`` names them."""
        now = self.clock()
        held = set(self.on_their_way.keys())
        for (kind, key), _ in self.failures.all_waiting(now):
            if kind == "create":
                held.add(f"{key}/")
            elif kind == "name":
                held.add(key)
        return frozenset(held)

    def quota_refusals(self) -> dict[str, str]:
        """ModelDeployments for which a quota has no pod more: what is there has to leave first."""
        return {
            key: "a quota of the namespace takes no pod more"
            for (kind, key), failure in self.failures.all_known()
            if kind == "create" and QUOTA_WORDS in failure.message
        }

    def refused_aheads(self) -> dict[str, str]:
        """Pods that should go ahead of a rollout, and that the API server does not take → why."""
        return {
            pod: failure.message
            for (kind, pod), failure in self.failures.all_known()
            if kind == FetchAhead.__name__ and failure.reason == POD_REFUSED
        }

    def reservations(self, seen: Callable[[str], bool]) -> list[Reservation]:
        """What pods that nobody has seen yet will hold. ``seen``: whether the store has a pod."""
        return self.on_their_way.reservations(seen, self.clock())

    def waking(self) -> frozenset[str]:
        """Pods by uid that may be marked to wake, though nobody has seen that."""
        now = self.clock()
        self._waking = {uid: until for uid, until in self._waking.items() if until > now}
        return frozenset(self._waking)

    @property
    def wants_list(self) -> bool:
        """Whether a full list of pods would tell what became of one that was on its way."""
        return self.on_their_way.wants_list(self.clock())

    def create_failure(self, deployment: str) -> Failure | None:
        """Why the deployment's pods are not accepted; None when they are."""
        return self.failures.last(("create", deployment))

    def action_failures(self, pods: Iterable[str]) -> list[Failure]:
        """What else failed of these pods."""
        kinds = ("Delete", "MarkDraining", "ClaimRoom", "GiveWay", "OpenGate", "MarkSleep")
        found = (self.failures.last((kind, pod)) for pod in pods for kind in kinds)
        return [failure for failure in found if failure is not None]

    def name_failures(self, deployment: str) -> tuple[Failure, ...]:
        """Why names of a deployment's pods cannot be had."""
        return tuple(
            failure
            for (kind, pod), failure in self.failures.all_known()
            if kind == "name" and pod.rsplit("-", 2)[0] == deployment
        )

    def forget_old(self, deployments: Collection[str]) -> None:
        """Drop what is old, and what is about deployments that are gone."""
        now = self.clock()
        self.failures.forget_old(now)
        self.superseded.forget_old(now)
        for (kind, key), _ in self.failures.all_waiting(now):
            if kind == "create" and key not in deployments:
                self.failures.succeeded((kind, key))

    def next_due_seconds(self) -> float | None:
        """When the next thing is due by time alone; None when nothing is."""
        now = self.clock()
        dues = [b.next_due_seconds(now) for b in (self.failures, self.superseded)]
        dues += self.on_their_way.dues(now)
        return min((due for due in dues if due is not None), default=None)

    def _may_try(self, action: Action) -> bool:
        now = self.clock()
        kind, pod = type(action).__name__, pod_key(action)
        if self.superseded.waiting((kind, pod), now) is not None:
            return False
        if not isinstance(action, Create):
            return self.failures.waiting((kind, pod), now) is None
        return (
            self.failures.waiting(("create", deployment_key(action)), now) is None
            and self.failures.waiting(("name", pod), now) is None
            and pod not in self.on_their_way
        )

    def _lane(self, actions: list[Action], on_done: Callable[[Action], None]) -> "_Lane":
        return _Lane(self, actions, on_done)

    async def attempt(self, action: Action, on_done: Callable[[Action], None]) -> bool:
        """Try one action and note how it went; False when its deployment's creates must wait."""
        kind, pod = type(action).__name__, pod_key(action)
        if isinstance(action, Create):
            self.on_their_way.on_tried(pod)
        try:
            done = await self.applier.apply(action)
        except ApiError as error:
            self._note(action, error)
            return not isinstance(action, Create) or error.reason == NAME_TAKEN
        except BaseException:
            # Cancelled, or a bug: whether it came through is not known.
            if _is_wake(action):
                self._note_wake(action.replica.uid, is_known=False)
            self._leave_on_its_way(pod, LATE_SECONDS, needs_list=True)
            raise
        self.on_their_way.end(pod)
        if _is_wake(action):
            self._waking.pop(action.replica.uid, None)
        if not done:
            self._failed(self.superseded, (kind, pod), "Superseded", "the cluster has moved on")
            return True
        self.superseded.succeeded((kind, pod))
        self.failures.succeeded((kind, pod))
        if isinstance(action, Create):
            self.failures.succeeded(("create", deployment_key(action)))
            self.failures.succeeded(("name", pod))
        self.metrics.on_action(action)
        on_done(action)
        return True

    def _note(self, action: Action, error: ApiError) -> None:
        kind, pod = type(action).__name__, pod_key(action)
        if isinstance(action, Create):
            if error.is_outcome_known:
                self.on_their_way.end(pod)
            else:
                answered = error.status not in (0, GATEWAY_TIMEOUT)
                is_late = not answered and not error.is_global
                seconds = ANSWERED_SECONDS if answered else LATE_SECONDS if is_late else 0.0
                self._leave_on_its_way(pod, seconds, needs_list=not answered)
        if _is_wake(action):
            self._note_wake(action.replica.uid, is_known=error.is_outcome_known)
        if error.is_global:
            self.global_error = error
            return
        key = (kind, pod)
        reason = f"{kind}Failed"
        if isinstance(action, Create):
            is_taken = error.reason == NAME_TAKEN
            key = ("name", pod) if is_taken else ("create", deployment_key(action))
            reason = NAME_TAKEN if is_taken else POD_REFUSED
        elif isinstance(action, FetchAhead) and error.status in {*WOULD_REFUSE, CONFLICT}:
            reason = POD_REFUSED
        elif isinstance(error, RehearsalRefusedError) and isinstance(action, GiveWay):
            # It is the one that waits whose pod is refused: nobody gives way to it meanwhile.
            waiting = action.deployment
            key = ("create", deployment_key(action) if waiting is None else waiting.key)
            reason = POD_REFUSED
        failure = self._failed(
            self.failures, key, reason, error.message, retry_after_seconds=error.retry_after_seconds
        )
        self.metrics.on_failure(kind, error.status)
        LOGGER.warning(
            "action failed action=%s pod=%s error=%s retry_seconds=%.0f",
            kind, pod, error, failure.retry_seconds,
        )  # fmt: skip

    def _note_wake(self, uid: str, *, is_known: bool) -> None:
        """Whether a mark was written is known, or will be once the API server has given up."""
        if is_known:
            self._waking.pop(uid, None)
        else:
            self._waking[uid] = self.clock() + LATE_SECONDS

    def _failed(
        self,
        backoff: Backoff[tuple[str, str]],
        key: tuple[str, str],
        reason: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
    ) -> Failure:
        return backoff.failed(
            key,
            reason=reason,
            message=message,
            now_seconds=self.clock(),
            chance=self.rng.random(),
            retry_after_seconds=retry_after_seconds,
        )

    def _leave_on_its_way(self, pod: str, seconds: float, *, needs_list: bool) -> None:
        self.on_their_way.leave(pod, decided_seconds=self.clock() + seconds, needs_list=needs_list)


def _is_wake(action: Action) -> TypeGuard[MarkSleep]:
    return isinstance(action, MarkSleep) and action.state is MarkedState.WAKING


@dataclass(frozen=True, slots=True)
class _Lane:
    """The work of one lane: a deployment's actions, in their order."""

    hands: CarryOut
    actions: list[Action]
    on_done: Callable[[Action], None]

    async def __call__(self) -> None:
        may_create = True
        for action in self.actions:
            if self.hands.global_error is not None:
                return
            if isinstance(action, Create) and not may_create:
                continue
            may_create = await self.hands.attempt(action, self.on_done) and may_create
