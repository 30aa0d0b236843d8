"""Who else has room where a replica is to wake, and what of it can be had. Pure."""

from collections.abc import Mapping, Sequence

from memroute_kube.sleeping import SleepState
from memroute_operator.plan.actions import PlanContext
from memroute_operator.readings.demand import Demand
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.latecomers import why_late
from memroute_operator.sleeping.models import UNWATCHED, Model
from memroute_operator.sleeping.room import Candidate, Late


class Beside:
    """The other models of one step. Owns whose replicas were ended in it."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        context: PlanContext,
        *,
        models: Mapping[str, Model],
        demand: Demand | None,
        marked: set[str],
    ) -> None:
        """``replicas``: all there are. ``demand``: None where it is not known in full.

        ``marked``: pods by uid whose sleep was marked in this step; read at each question.
        """
        self._all = replicas
        self._context = context
        self._models = models
        self._demand = demand
        self._marked = marked
        self._starting = {uuid for one in replicas if one.is_starting for uuid in one.device_bytes}
        self.ended: set[str] = set()
        """Pods by uid that are ended in this step, because they do not start."""

    def candidates(
        self, key: str, priority: int, replica: Replica | None = None
    ) -> list[Candidate]:
        """Other models that have room where it sleeps, and why each of them keeps it."""
        demand = self._demand
        found = []
        for other in self._models.values():
            awake = [one for one in other.awake if one.uid not in self._marked]
            if replica is not None:
                there = replica.device_bytes.keys()
                awake = [one for one in awake if there & one.device_bytes.keys()]
            if other.key == key:
                continue
            if not awake:
                if replica is not None and self._keeps_room(other, replica):
                    why = "is on the way to serve"
                    found.append(Candidate(model=other, idle_seconds=0.0, why_not=why))
                continue
            found.append(
                Candidate(
                    model=other,
                    idle_seconds=0.0 if demand is None else other.idle_seconds(demand),
                    why_not=self._why_not(other, priority),
                )
            )
        return found

    def late(self, model: Model, replica: Replica) -> list[Late]:
        """Replicas that do not start, on devices of one that is to wake: the longest at it first.

        Those of its own model too. None of a higher priority, and none that is paused.
        """
        found = []
        for other in self._models.values():
            if other.priority > model.priority or other.deployment.paused:
                continue
            for one in other.replicas:
                if one.uid in self.ended or not self._is_in_the_way(one, replica):
                    continue
                has_been_ended = one.slot in self._context.stood_aside
                why = why_late(other.deployment, one, has_been_ended=has_been_ended)
                if why is not None:
                    found.append(Late(replica=one, why=why))
        return sorted(
            found, key=lambda one: (-(one.replica.seen.starting_seconds or 0.0), one.replica.key)
        )

    def ending(self, replica: Replica) -> list[Replica]:
        """Replicas on its devices that end, and have not served: they are gone within seconds."""
        return [
            one for one in self._all
            if not one.device_bytes.keys().isdisjoint(replica.device_bytes)
            and (one.uid in self.ended or _ends_soon(one))
        ]  # fmt: skip

    def has_refused(self, model: Model) -> bool:
        """Whether an engine of it did not fall asleep of late."""
        return any(one.uid in self._context.sleep_refusals for one in model.replicas)

    def starts_beside(self, model: Model) -> bool:
        """Whether an engine starts on one of its devices: memory that is freed would confuse it."""
        return any(uuid in self._starting for one in model.awake for uuid in one.device_bytes)

    def _keeps_room(self, other: Model, replica: Replica) -> bool:
        """Whether a replica of it has room on those devices, and neither serves nor gives it up."""
        return any(
            one.uid not in self.ended and self._is_in_the_way(one, replica)
            for one in other.replicas
        )

    def _is_in_the_way(self, one: Replica, replica: Replica) -> bool:
        return (
            one.uid not in self._marked
            and not one.is_resting
            and one.sleep_state is not SleepState.FALLING_ASLEEP
            and not one.device_bytes.keys().isdisjoint(replica.device_bytes)
        )

    def _why_not(self, other: Model, priority: int) -> str | None:
        """Why a model that is awake is not put to sleep for one of that priority."""
        demand = self._demand
        reasons = (
            (demand is None, "may be busy: a router does not answer"),
            (other.unwatched_seconds is not None, f"may be busy: {UNWATCHED}"),
            (demand is not None and other.is_busy(demand), "is busy there"),
            (other.mode is None or other.deployment.paused, "is not to sleep"),
            (other.priority > priority, "has a higher priority"),
            (other.woke_lately, "woke a moment ago"),
            (not other.is_settled, "is on the way to serve"),
            (self.has_refused(other), "did not fall asleep when it was told to"),
            (self.starts_beside(other), "has an engine beside it that starts"),
        )
        return next((why for holds, why in reasons if holds), None)


def _ends_soon(one: Replica) -> bool:
    """Whether it ends, and does not hang; one that has served may have answers to finish."""
    if not one.is_terminating or one.is_stuck:
        return False
    return not one.is_ready and one.seen.serving_seconds is None
