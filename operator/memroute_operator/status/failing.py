"""Replicas that do not serve, in the sentences of a condition.

What is wrong with one pod is in ``failures``; here it is told for all of a ModelDeployment: the
first of a kind in full, those like it by name.
"""

from collections.abc import Mapping

from memroute.units import GIB
from memroute_operator.actions.backoff import Failure
from memroute_operator.failures import refusal_of, scheduling_of
from memroute_operator.replicas.replica import Replica, ReplicaState

# Kinds of failures that a message tells one by one, and replicas that it names of each.
MAX_KINDS = 3
MAX_LISTED = 3
# How fast weights are taken to come, in bytes per second: a network disk's (8B in 48 s from gp3,
# 894 GiB in 43 min from a network file system). Halved, a slow start is told twice as late.
LOAD_BYTES_PER_SECOND = 300e6
# How long the rest of a start takes, and how long a container may be in the making before it is
# worth a look, in seconds. Chosen by hand: graphs and profiles take one to two minutes, an image
# of 10 GB comes in about two.
SETTLE_SECONDS = 120.0
CREATE_SECONDS = 180.0
# The name of what nobody has words for.
ENGINE_FAILING = "EngineFailing"


def failing(broken: list[Replica]) -> tuple[str, str]:
    """The reason of most of those that have failed, and what to tell of all. ``broken``: not empty.

    Of equally many the first in order.
    """
    kinds: dict[str, list[Replica]] = {}
    for replica in broken:
        name = ENGINE_FAILING if replica.diagnosis is None else replica.diagnosis.name
        kinds.setdefault(name, []).append(replica)
    ordered = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    told = "; ".join(_kind(replicas) for _, replicas in ordered[:MAX_KINDS])
    return ordered[0][0], told


def _kind(replicas: list[Replica]) -> str:
    first = replicas[0]
    names = ", ".join(replica.pod_name for replica in replicas[:MAX_LISTED])
    if replicas[MAX_LISTED:]:
        names += f" and {len(replicas) - MAX_LISTED} more"
    restarts = f" ({first.num_restarts} restart(s))" if first.num_restarts else ""
    return f"{names}{restarts}: {first.failure} ({_where_to_look(first)})"


def _where_to_look(replica: Replica) -> str:
    """The command that shows more: a container that never ran has no log."""
    verb = "logs --previous" if replica.num_restarts else "describe pod"
    return f"kubectl {verb} -n {replica.namespace} {replica.pod_name}"


def on_the_way(replica: Replica, weights_bytes: int | None) -> str:
    """What keeps one that has not failed, in parentheses; empty where nothing is known to.

    ``weights_bytes``: of the whole replica; None where they are not known. No time is told that
    grows by itself: a status is written when something has changed.
    """
    if replica.scheduler_message:
        meant = scheduling_of("", replica.scheduler_message)
        means = f": {meant.message}" if meant is not None else ""
        return f" (kube-scheduler: {replica.scheduler_message}){means}"
    if replica.state is ReplicaState.DOWNLOADING:
        return _downloading(replica)
    if replica.last_end is not None and not replica.is_ready:
        return f" (again, after {replica.num_restarts} restart(s): {replica.last_end.message})"
    if replica.on_the_way is not None and not replica.is_ready:
        return f" ({replica.on_the_way})"
    if replica.state is ReplicaState.STARTING:
        return _starting(replica, weights_bytes)
    return ""


def _downloading(replica: Replica) -> str:
    """How far its weights are: what stands behind ``Downloading``; with why it tries again."""
    where = f" {replica.fetch}" if replica.fetch else " its weights"
    if replica.last_end is None:
        return where
    return f"{where} (again: {replica.last_end.message})"


def _starting(replica: Replica, weights_bytes: int | None) -> str:
    """Whether a start is slow, and whether that is to be expected."""
    seconds = replica.seen.unready_seconds or 0.0
    if replica.is_down:
        if seconds < CREATE_SECONDS:
            return ""
        return (
            " (its container is not there yet: the image is being pulled, or a volume mounted; "
            f"kubectl describe pod -n {replica.namespace} {replica.pod_name} shows which)"
        )
    if weights_bytes is None:
        return ""
    expected = weights_bytes / LOAD_BYTES_PER_SECOND + SETTLE_SECONDS
    size, minutes = f"{weights_bytes / GIB:.1f} GiB", f"{max(1, round(expected / 60))} min"
    if seconds < expected:
        return f" ({size} of weights; {minutes} from a network disk is usual)"
    return (
        f" (slower than the {minutes} that {size} of weights take from a network disk: kubectl "
        f"logs -n {replica.namespace} {replica.pod_name} shows whether it still loads, or is stuck)"
    )


def scheduler_refusals(said: Mapping[str, str]) -> str:
    """What kube-scheduler has said of nodes of late, the end of a sentence; empty without any."""
    told = []
    for node, message in sorted(said.items())[:MAX_LISTED]:
        meant = scheduling_of("", message)
        means = f": {meant.message}" if meant is not None else ""
        told.append(f"; kube-scheduler of {node}: {message}{means}")
    more = len(said) - MAX_LISTED
    return "".join(told) + (f"; and so of {more} more node(s)" if more > 0 else "")


def refused(failure: Failure) -> str:
    """The API server's refusal of a pod, and what helps."""
    meant = refusal_of(failure.message)
    return failure.told if meant is None else f"{failure.told}; {meant.sentence}; {meant.next_step}"
