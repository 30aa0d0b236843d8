"""Replicas that do not serve, in the sentences of a condition.

What is wrong with one pod is in ``failures``; here it is told for all of a ModelDeployment: the
first of a kind in full, those like it by name.
"""

from memroute_operator.backoff import Failure
from memroute_operator.failures import refusal_of, scheduling_of
from memroute_operator.replica import Replica

# Kinds of failures that a message tells one by one, and replicas that it names of each.
MAX_KINDS = 3
MAX_LISTED = 3
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


def on_the_way(replica: Replica) -> str:
    """What keeps one that has not failed, in parentheses; empty where nothing is known to."""
    if replica.scheduler_message:
        meant = scheduling_of("", replica.scheduler_message)
        means = f": {meant.message}" if meant is not None else ""
        return f" (kube-scheduler: {replica.scheduler_message}){means}"
    if replica.last_end is not None and not replica.is_ready:
        return f" (again, after {replica.num_restarts} restart(s): {replica.last_end.message})"
    return ""


def refused(failure: Failure) -> str:
    """The API server's refusal of a pod, and what helps."""
    meant = refusal_of(failure.message)
    return failure.told if meant is None else f"{failure.told}; {meant.sentence}; {meant.next_step}"
