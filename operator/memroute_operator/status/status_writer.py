"""Writes a status when it says something new. Owns what it last wrote of each object.

Status is not telemetry. Three things keep it from being written for nothing:

* what is *measured* moves by itself (times, free bytes in a refusal, the pressure's word): where
  nothing else has changed, it is written again after ``MEASURED_SECONDS`` at the earliest;
* what was asked is remembered beside what came back, so that a field which an old CRD prunes
  is asked for once and not at every reconcile;
* only the fields that differ are sent.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memroute_kube import MODEL_DEPLOYMENTS, ApiError, KubernetesClient
from memroute_kube.client import NOT_FOUND
from memroute_kube.sleeping import SleepState
from memroute_operator.adapters.events import adapter_events
from memroute_operator.spec.deployment import Deployment
from memroute_operator.status.events import EventWriter
from memroute_operator.status.health_conditions import EXPECTED_REASONS
from memroute_operator.status.rollout_status import FAILED_PHASES, rollout_of
from memroute_operator.status.served_names import NAME_SHARED
from memroute_operator.store.store import Store

LOGGER = logging.getLogger(__name__)
# How long what is measured may be out of date in a status, in seconds: chosen by hand. Halved,
# a fleet of 1,000 that waits for room is patched 33 times a second at the most, not 16.
MEASURED_SECONDS = 60.0
# In a message: free bytes, learned times, percentages. Counts ("1 of 3") are no measurements.
_MEASURED = re.compile(
    r"[+-]?\d+(?:\.\d+)?(?= ?(?:GiB|MiB|Gi|ms|s|%|tokens?)(?![A-Za-z0-9]))", re.ASCII
)
# Conditions beside Ready that are told when they become true. Not among them: those that repeat
# Ready, and those that one exporter or one upgrade makes true for a whole fleet.
TOLD_KINDS = ("Overbooked", "TargetsUnmet", "PolicyUnknown", "FootprintDrift", "SleepFailing")
# Reasons of Ready that another Event has told: what is placed, and what had failed (step_events).
TOLD_OTHERWISE = frozenset({"Placing", "PodFailed"})
# Reasons of one that sleeps and wakes all day: FellAsleep and Woken tell that (step_events).
SLEEPS = frozenset(state.value for state in SleepState)
# As the schema has it, in characters.
MAX_MESSAGE = 32_768


@dataclass(frozen=True, slots=True)
class _Written:
    """One write: what was asked, and what the object's status was after it."""

    asked: dict[str, Any]
    answered: dict[str, Any]
    at_seconds: float


class StatusWriter:
    """The status subresource of ModelDeployments, and an Event when Ready flips."""

    def __init__(
        self,
        client: KubernetesClient,
        store: Store,
        events: EventWriter,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._store = store
        self._events = events
        self._clock = clock
        self._written: dict[str, _Written] = {}

    def forget_all_but(self, uids: frozenset[str]) -> None:
        """Drop what was written of objects that are gone."""
        self._written = {uid: one for uid, one in self._written.items() if uid in uids}

    def is_due(self, deployment: Deployment, status: dict[str, Any]) -> bool:
        """Whether ``status`` says something that the object's does not."""
        before = _status_of(deployment)
        if not _differing(before, status):
            return False
        written = self._written.get(deployment.uid)
        if written is None:
            return True
        if written.answered == before and written.asked == status:
            return False  # the API server has dropped a field: it will again
        return (
            _lasting(before, status) != _lasting(status, status)
            or self._clock() - written.at_seconds >= MEASURED_SECONDS
        )

    async def write(self, deployment: Deployment, status: dict[str, Any]) -> None:
        """Write it, and tell when Ready has changed. Raises ``ApiError``."""
        before = _status_of(deployment)
        try:
            patched = await self._client.patch(
                MODEL_DEPLOYMENTS,
                deployment.namespace,
                deployment.name,
                {"metadata": {"uid": deployment.uid}, "status": _differing(before, status)},
                sub="status",
            )
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            self._written.pop(deployment.uid, None)  # it was deleted meanwhile
            return
        if self._store.model_deployments.upsert(patched):
            # Some of it is planned on (a pin, a revision that failed), and its event is no news.
            self._store.mark_dirty()
        answered = patched.get("status")
        self._written[deployment.uid] = _Written(
            asked=status,
            answered=answered if isinstance(answered, dict) else {},
            at_seconds=self._clock(),
        )
        await self._tell(deployment, before, status)

    async def _tell(
        self, deployment: Deployment, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        """An Event when Ready flips, its reason or a rollout's phase changes, or more is wrong."""
        for event in adapter_events(before.get("adapters"), after.get("adapters")):
            await self._events.write(
                deployment, reason=event.reason, message=event.message, is_normal=event.is_normal
            )
        # One reason is told once, whatever it changes.
        told = await self._tell_rollout(deployment, before, after)
        for kind in TOLD_KINDS:
            one, was = _condition(after, kind), _condition(before, kind)
            is_new = one.get("status") == "True" and was.get("status") != "True"
            if is_new and one["reason"] != told:
                await self._events.write(deployment, reason=one["reason"], message=one["message"])
        named = _condition(after, "Named")
        if named.get("reason") == NAME_SHARED != _condition(before, "Named").get("reason"):
            await self._events.write(
                deployment, reason=NAME_SHARED, message=named["message"], is_normal=True
            )
        was = _condition(before, "Ready")
        ready = _condition(after, "Ready")
        if (was.get("status"), was.get("reason")) == (ready.get("status"), ready.get("reason")):
            return
        if ready["reason"] in TOLD_OTHERWISE | SLEEPS or ready["reason"] == told:
            return
        if was.get("reason") in SLEEPS and ready["status"] == "True" == was.get("status"):
            return  # it is awake, or waits for room: its condition Asleep says so
        is_normal = ready["status"] == "True" or ready["reason"] in EXPECTED_REASONS
        await self._events.write(
            deployment, reason=ready["reason"], message=ready["message"], is_normal=is_normal
        )

    async def _tell_rollout(
        self, deployment: Deployment, before: dict[str, Any], after: dict[str, Any]
    ) -> str | None:
        """An Event for another phase, and when replicas begin to leave before their successors.

        Its reason; None where there is nothing to tell.
        """
        was, (phase, method, message) = rollout_of(before), rollout_of(after)
        is_other = was[0] != phase or (method is not None and was[1] != method)
        if phase is None or was[0] is None or not is_other:
            return None
        if phase == "Progressing" and method is None:
            return None  # a replica starts again: no other revision is there
        reason = f"Rollout{phase}"
        await self._events.write(
            deployment,
            reason=reason,
            message=message,
            is_normal=phase not in FAILED_PHASES and phase != "Blocked",
        )
        return reason


def bounded(message: str) -> str:
    """A message that the API server takes."""
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 4] + " ..."


def _status_of(deployment: Deployment) -> dict[str, Any]:
    status = deployment.obj.get("status")
    return status if isinstance(status, dict) else {}


def _differing(before: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``status`` that are not so yet; None is a field that is to go."""
    return {key: value for key, value in status.items() if before.get(key) != value}


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = status.get("conditions")
    listed = conditions if isinstance(conditions, list) else []
    found = (c for c in listed if isinstance(c, dict) and c.get("type") == kind)
    return next(found, {})


def _lasting(status: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Those fields of a status without what moves by itself."""
    kept = {key: status.get(key) for key in fields if key not in ("kvPressure", "conditions")}
    rollout = kept.get("rollout")
    if isinstance(rollout, dict):
        kept["rollout"] = {**rollout, "message": _MEASURED.sub("#", str(rollout.get("message")))}
    conditions = status.get("conditions")
    if isinstance(conditions, list):
        kept["conditions"] = [
            {**c, "message": _MEASURED.sub("#", str(c.get("message")))}
            for c in conditions
            if isinstance(c, dict)
        ]
    return kept
