"""Stop new requests, wait for those in flight and for engines that start beside it, delete."""

from collections.abc import Iterable

from memroute_operator.plan.actions import Delete, MarkDraining, PlanContext, Step
from memroute_operator.replicas.replica import Replica

# The router sees the mark by its watch within milliseconds; a second one may be slower. A count
# of requests says something when it was read so long after the mark.
DRAIN_NOTICE_SECONDS = 2.0


class Drains:
    """The drains of one step. Owns nothing but which devices engines start on."""

    def __init__(self, replicas: Iterable[Replica], context: PlanContext, step: Step) -> None:
        self._context = context
        self._step = step
        self._starting: dict[str, set[str]] = {}
        for replica in replicas:
            if replica.is_starting:
                for uuid in replica.device_bytes:
                    self._starting.setdefault(uuid, set()).add(replica.key)

    def drain(self, replica: Replica, why: str) -> None:
        """The next action on the way to the replica's end."""
        if replica.is_broken:
            self._step.actions.append(Delete(replica=replica, why=why))
            return
        self._step.has_timers = True
        if not replica.is_draining:
            self._step.actions.append(MarkDraining(replica=replica, draining=True))
            return
        seconds = replica.seen.draining_seconds or 0.0
        is_quiet = self._is_idle(replica, seconds) and not self._starts_beside(replica)
        if seconds >= self._context.drain_timeout_seconds or is_quiet:
            self._step.actions.append(Delete(replica=replica, why=why))

    def _is_idle(self, replica: Replica, draining_seconds: float) -> bool:
        """Whether nothing is in flight, by a count from after the mark. Unknown is not idle."""
        in_flight, age = self._context.in_flight, self._context.in_flight_age_seconds
        if in_flight is None or age is None:
            return False
        # Every router has answered: one that does not name the replica has nothing at it.
        is_recent = draining_seconds - age >= DRAIN_NOTICE_SECONDS
        return is_recent and in_flight.get(replica.key, 0) == 0

    def _starts_beside(self, replica: Replica) -> bool:
        """Whether another engine starts on a device of it: it would miss its memory."""
        return any(self._starting.get(uuid, set()) - {replica.key} for uuid in replica.device_bytes)
