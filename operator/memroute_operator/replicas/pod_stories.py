"""What is told of a replica where its pod's status is silent and its Events are not.

Applied before anything is planned: a replica that no volume can be mounted for counts as failed,
as one whose image cannot be pulled does. It holds its room, and no other engine waits for it to
have started.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memroute_operator.failures import Diagnosis
from memroute_operator.failures.happenings import (
    Happening,
    end,
    hindrance,
    is_pulling,
    missing_pull_secret,
    not_answering,
)
from memroute_operator.replicas.replica import Replica, ReplicaState

Stories = Mapping[str, Sequence[Happening]]
"""Events by the uid of their pod, the oldest first."""
# Diagnoses that say that somebody has ended the engine, and not who.
ENDED_BY_SOMEBODY = frozenset({"KilledFromOutside", "EngineEnded"})
IMAGE_FORBIDDEN = "ImageForbidden"
PULLING_IMAGE = "its image is being pulled"


def with_stories(replicas: Sequence[Replica], stories: Stories) -> list[Replica]:
    """The replicas, with what Events say of those that have some."""
    if not stories:
        return list(replicas)
    return [with_story(one, stories[one.uid]) if one.uid in stories else one for one in replicas]


def with_story(replica: Replica, happenings: Sequence[Happening]) -> Replica:
    """The replica, with what its Events say where its status does not."""
    if replica.is_ready or replica.is_terminating or replica.is_terminal or not happenings:
        return replica
    if replica.diagnosis is not None:
        return _failed_otherwise(replica, _better(replica.diagnosis, happenings))
    if replica.last_end is not None:
        better = _better(replica.last_end, happenings)
        return replica if better is None else replace(replica, last_end=better)
    return _started_so_far(replica, happenings)


def _started_so_far(replica: Replica, happenings: Sequence[Happening]) -> Replica:
    """One that has neither failed nor ended: what it waits for, or does not answer to."""
    if replica.state is not ReplicaState.STARTING:
        return replica
    if not replica.has_run:
        found = hindrance(happenings)
        pulling = PULLING_IMAGE if is_pulling(happenings) else None
        return _failed_otherwise(replace(replica, on_the_way=pulling), found)
    # Before it has started, a probe that fails is no news: its weights load.
    found = not_answering(happenings) if replica.has_started else None
    return replica if found is None else replace(replica, on_the_way=found.message)


def _better(known: Diagnosis, happenings: Sequence[Happening]) -> Diagnosis | None:
    """What Events know better; None where they do not."""
    if known.name in ENDED_BY_SOMEBODY:
        found = end(happenings)
        if found is not None and known.evidence:
            # What the engine has said last is worth more than kubelet's word for its end.
            return replace(found, evidence=known.evidence)
        return found
    if known.name == IMAGE_FORBIDDEN:
        return missing_pull_secret(happenings)
    return None


def _failed_otherwise(replica: Replica, found: Diagnosis | None) -> Replica:
    if found is None:
        return replica
    state = ReplicaState.FAILED if replica.state is ReplicaState.STARTING else replica.state
    return replace(replica, state=state, diagnosis=found, failure=found.message)
