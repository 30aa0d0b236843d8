"""A model that may sleep, and whether anybody asks for it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from memroute_kube.sleeping import SleepState
from memroute_operator.engines.sleep_mode import SleepMode
from memroute_operator.readings.demand import Demand
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment

# A model that woke so lately does not make room for another, in seconds: chosen by hand, a few
# answers. Without it, two models that are asked for in turns would do nothing but wake.
MIN_AWAKE_SECONDS = 30.0
# For how long a request that was refused counts as a wish to wake it, in seconds, at least: its
# client was told to come back. Chosen by hand, as long as routers' longest Retry-After.
MIN_WISH_SECONDS = 60.0
# For how long no picker has been ready before those are woken whose gateways go on without one, in
# seconds: chosen by hand. A picker whose pod is replaced is back by then.
UNWATCHED_SECONDS = 30.0
UNWATCHED = "no picker is ready, and its gateway sends requests without one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One ModelDeployment with replicas that may sleep."""

    deployment: Deployment
    replicas: Sequence[Replica]
    """Those that stay: neither draining nor ending."""
    mode: SleepMode | None
    """What its spec asks for by now; None where it is not to sleep any more."""
    priority: int
    unwatched_seconds: float | None = None
    """For how long its gateway sends requests past every picker, so that nobody counts them (it
    fails open); None while none does."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return self.deployment.key

    @property
    def awake(self) -> list[Replica]:
        """Replicas whose engine serves, and could be put to sleep."""
        return [
            one for one in self.replicas
            if one.may_sleep and one.is_ready and one.sleep_state is None
        ]  # fmt: skip

    @property
    def asleep(self) -> list[Replica]:
        """Replicas that sleep."""
        return [one for one in self.replicas if one.sleep_state is SleepState.ASLEEP]

    @property
    def is_settled(self) -> bool:
        """Whether none of its replicas is on the way to serve."""
        return not any(one.is_starting or one.changes_sleep for one in self.replicas)

    def is_busy(self, demand: Demand) -> bool:
        """Whether a request of it waits, or is at a replica, or came with the last look.

        One that nobody watches may be: it is taken to be.
        """
        if self.unwatched_seconds is not None:
            return True
        if self.key in demand.waiting_seconds:
            return True
        if any(demand.in_flight.get(one.key, 0) for one in self.replicas):
            return True
        asked = demand.asked_seconds.get(self.key)
        return asked is not None and asked <= demand.read_seconds

    def idle_seconds(self, demand: Demand) -> float:
        """For how long nobody has asked for it, as far as that is known for certain.

        Counted from when its replicas served at the earliest: a model is not put to sleep before
        somebody had a chance to ask.
        """
        ages = [demand.known_seconds]
        if (asked := demand.asked_seconds.get(self.key)) is not None:
            ages.append(asked)
        for one in self.replicas:
            ages += [demand.busy_seconds[one.key]] if one.key in demand.busy_seconds else []
            if one.sleep_state is None and one.is_ready:
                ages.append(one.seen.serving_seconds or 0.0)
                if one.sleep_mark is not None:
                    ages.append(one.seen.sleep_seconds or 0.0)
        return min(ages)

    def is_wanted(self, demand: Demand) -> bool:
        """Whether somebody has asked for it since it fell asleep, or may have for a while."""
        if (self.unwatched_seconds or 0.0) >= UNWATCHED_SECONDS:
            return True
        if self.key in demand.waiting_seconds:
            return True
        if any(demand.in_flight.get(one.key, 0) for one in self.replicas):
            return True
        asked = demand.asked_seconds.get(self.key)
        resting = max((one.seen.resting_seconds or 0.0 for one in self.replicas), default=0.0)
        after = 0.0 if self.mode is None else self.mode.after_seconds
        return asked is not None and asked < min(resting, max(after, MIN_WISH_SECONDS))

    @property
    def woke_lately(self) -> bool:
        """Whether one of its replicas woke within the last ``MIN_AWAKE_SECONDS``."""
        return any(
            one.sleep_mark is not None
            and one.sleep_state is None
            and (one.seen.sleep_seconds or 0.0) < MIN_AWAKE_SECONDS
            for one in self.replicas
        )
