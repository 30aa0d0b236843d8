"""Which pods must go at once, which stay, and which are too many."""

from dataclasses import dataclass, field

from memroute_operator.deployment import Deployment
from memroute_operator.plan.actions import Delete, PlanContext
from memroute_operator.replica import Replica

# kube-scheduler tries again within a second when a pod leaves; longer means that it lost.
UNSCHEDULABLE_SECONDS = 5.0


@dataclass(slots=True, kw_only=True)
class Keeping:
    """The pods of one deployment, by what becomes of them."""

    deletes: list[Delete] = field(default_factory=list)
    kept: list[Replica] = field(default_factory=list)
    surplus: list[Replica] = field(default_factory=list)
    """The least useful ones beyond the number that is wanted."""
    ending: list[Replica] = field(default_factory=list)
    """Terminating as they should."""
    stuck: list[Replica] = field(default_factory=list)
    """Terminating for longer than they may: replaced, while they hold their devices."""

    def num_missing(self, deployment: Deployment) -> int:
        """Replicas to create. One that ends is waited for: its successor takes its place."""
        going = len(self.ending) + sum(not one.replica.is_stuck for one in self.deletes)
        return max(0, deployment.replicas - len(self.kept) - going)


def sort_out(
    deployment: Deployment,
    replicas: list[Replica],
    context: PlanContext,
    cordoned: frozenset[str],
) -> Keeping:
    """Who goes, who stays. ``cordoned``: nodes that are about to be drained."""
    if deployment.paused:
        return _left_alone(deployment, replicas, context)
    found = Keeping()
    alive: list[Replica] = []
    for replica in replicas:
        delete = _must_go(deployment, replica, context)
        if delete is not None and (delete.force or not replica.is_terminating):
            found.deletes.append(delete)
        elif replica.is_stuck:
            found.stuck.append(replica)
        elif replica.is_terminating:
            found.ending.append(replica)
        else:
            alive.append(replica)
    ranked = sorted(_one_of_each(alive, found, cordoned), key=_usefulness(cordoned))
    found.kept, surplus = ranked[: deployment.replicas], ranked[deployment.replicas :]
    found.surplus += surplus
    found.kept.sort(key=lambda replica: (replica.index, replica.key))
    return found


def _left_alone(deployment: Deployment, replicas: list[Replica], context: PlanContext) -> Keeping:
    """All as they are; those of a ModelDeployment that was deleted are not its own."""
    found = Keeping()
    for replica in replicas:
        if replica.owner_uid == deployment.uid:
            (found.ending if replica.is_terminating else found.kept).append(replica)
        elif (delete := _must_go(deployment, replica, context)) is not None:
            found.deletes.append(delete)
    return found


def _one_of_each(
    replicas: list[Replica], found: Keeping, cordoned: frozenset[str]
) -> list[Replica]:
    """The most useful pod of each index: a second one (of a second operator) is too many."""
    by_index: dict[int, Replica] = {}
    for replica in sorted(replicas, key=_usefulness(cordoned)):
        if by_index.setdefault(replica.index, replica) is not replica:
            found.surplus.append(replica)
    return list(by_index.values())


class _usefulness:  # noqa: N801 - used as a key function
    """The most useful first: what serves stays; of equals the older one stays.

    What is broken or not scheduled goes first, then what has never served, then what drains
    already (so that the choice does not change under way), then what is on a cordoned node.
    """

    def __init__(self, cordoned: frozenset[str]) -> None:
        self._cordoned = cordoned

    def __call__(self, replica: Replica) -> tuple[object, ...]:
        has_served = replica.is_ready or replica.seen.serving_seconds is not None
        return (
            replica.is_broken,
            not has_served,
            replica.is_draining,
            replica.node in self._cordoned,
            replica.created_at,
            replica.index,
            replica.key,
        )


def _must_go(deployment: Deployment, replica: Replica, context: PlanContext) -> Delete | None:
    """Whether the pod has to be deleted at once, and why."""
    if replica.node in context.lost_nodes:
        return Delete(replica=replica, why=f"node {replica.node} is unreachable", force=True)
    if replica.owner_uid != deployment.uid:
        why = "it belongs to a ModelDeployment that was deleted"
        return Delete(replica=replica, why=why, only_as_seen=True)
    if replica.is_terminal:
        why = replica.failure or "its containers have ended"
        return Delete(replica=replica, why=why, avoid_node=True)
    if replica.is_out_of_disk:
        why = f"node {replica.node} has no space for its weights: {replica.failure}"
        return Delete(replica=replica, why=why, avoid_node=True)
    seconds = replica.seen.unschedulable_seconds
    if seconds is not None and seconds > UNSCHEDULABLE_SECONDS:
        said = f": {replica.scheduler_message}" if replica.scheduler_message else ""
        why = f"kube-scheduler found no room for it on {replica.node}{said}"
        return Delete(replica=replica, why=why, avoid_node=True)
    return None
