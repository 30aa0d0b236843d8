"""Replicas that do not start, in room that a sleeper has lent them. Pure.

| a replica in lent room | while the room's owner is asked for |
| --- | --- |
| is on the way, within the time that its start may take | keeps it |
| is not ready after that, or cannot be (``start_failure``) | is ended, and made again later |
| starts again after it was ended so, and was not ready yet | is ended at once: it had its time |

The time is that by which a rollout is judged, ``spec.rollout.progressDeadlineSeconds``. What is
made again gets no room before its owner has had it (``called_back``).
"""

from collections.abc import Iterable, Mapping, Sequence

from memroute_kube.sleeping import SleepState
from memroute_operator.engines.sleep_mode import sleep_mode_of
from memroute_operator.plan.verdict import start_failure
from memroute_operator.readings.demand import Demand
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.models import Model
from memroute_operator.spec.deployment import Deployment


def why_late(deployment: Deployment, replica: Replica, *, has_been_ended: bool) -> str | None:
    """Why a replica keeps no room from a sleeper that had lent it; None where it does.

    ``has_been_ended``: whether the one before it in its slot was, for the same reason.
    """
    if not replica.may_sleep or replica.is_resting:
        return None  # whoever never sleeps has no lent room
    if replica.sleep_state is SleepState.FALLING_ASLEEP:
        return None
    failure = start_failure(deployment, replica)
    if failure is not None:
        return failure[1]
    seen = replica.seen
    if has_been_ended and seen.starting_seconds is not None and seen.serving_seconds is None:
        return f"{replica.pod_name} starts again, and the one before it did not become ready"
    return None


def called_back(
    deployments: Iterable[Deployment],
    replicas: Mapping[str, Sequence[Replica]],
    demand: Demand | None,
) -> frozenset[str]:
    """Those that sleep, are asked for and could be woken, by key: their room is theirs first.

    ``replicas``: by the key of their ModelDeployment.
    """
    if demand is None:
        return frozenset()
    found = set()
    for one in deployments:
        own = [
            replica for replica in replicas.get(one.key, ())
            if not (replica.is_terminating or replica.is_draining)
        ]  # fmt: skip
        model = Model(deployment=one, replicas=own, mode=sleep_mode_of(one), priority=0)
        is_wakeable = not one.paused and any(replica.is_ready for replica in model.asleep)
        if is_wakeable and model.is_wanted(demand):
            found.add(one.key)
    return frozenset(found)
