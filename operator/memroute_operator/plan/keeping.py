"""Which pods must go at once, which stay, and which are too many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memroute_operator.plan.actions import Delete, PlanContext
from memroute_operator.replicas.replica import Replica
from memroute_operator.sleeping.giving_up import why_given_up
from memroute_operator.spec.deployment import Deployment

# kube-scheduler tries again within a second when a pod leaves; longer means that it lost.
UNSCHEDULABLE_SECONDS = 5.0


@dataclass(slots=True, kw_only=True)
class Keeping:
    """The pods of one deployment, by what becomes of them."""

    deletes: list[Delete] = field(default_factory=list)
    kept: list[Replica] = field(default_factory=list)
    """More than are wanted while a surge starts: what it will replace still serves."""
    surplus: list[Replica] = field(default_factory=list)
    """The least useful ones beyond the number that is wanted."""
    ending: list[Replica] = field(default_factory=list)
    """Terminating as they should."""
    stuck: list[Replica] = field(default_factory=list)
    """Terminating for longer than they may: replaced, while they hold their devices."""

    def num_missing(self, deployment: Deployment) -> int:
        """Replicas to create. One that ends is waited for: its successor takes its place."""
        return max(0, deployment.replicas - len(self.kept) - len(self.ending) - self._num_deleted)

    @property
    def num_pods(self) -> int:
        """Pods that are there, but for those that hang."""
        return len(self.kept) + len(self.surplus) + len(self.ending) + self._num_deleted

    @property
    def _num_deleted(self) -> int:
        return sum(not one.replica.is_stuck for one in self.deletes)

    @property
    def slots(self) -> set[int]:
        """The slots that pods hold."""
        pods = (*self.kept, *self.surplus, *self.ending, *self.stuck)
        return {one.index for one in pods} | {one.replica.index for one in self.deletes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the choice of who stays goes by, beside the pods themselves."""

    cordoned: frozenset[str]
    """Nodes that are about to be drained."""
    why_replaced: Callable[[Replica], str | None]
    """Why another replica should take a replica's place; None when it should stay."""
    freed: Callable[[Replica], float]
    """How much its end would free in one piece: the more, the better it goes."""


def sort_out(
    deployment: Deployment, replicas: list[Replica], context: PlanContext, worth: Worth
) -> Keeping:
    """Who goes, who stays."""
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
    _choose(deployment, _one_of_each(alive, found), found, worth)
    found.kept.sort(key=lambda replica: (replica.index, replica.key))
    return found


def _choose(deployment: Deployment, replicas: list[Replica], found: Keeping, worth: Worth) -> None:
    """Who of those that may stay does, and who is one too many."""
    num_excess = len(replicas) - deployment.replicas
    if num_excess <= 0:
        found.kept = replicas
        return
    replaced = unwanted(deployment, replicas, worth)
    surging = [
        one for one in replicas
        if one.key not in replaced and not one.is_ready and not one.is_draining
    ]  # fmt: skip
    surge = deployment.rollout.bounds(deployment.replicas).surge
    num_held = sum(one.key in replaced and not one.is_broken for one in replicas)
    if is_halted(deployment):
        num_held = len(surging)  # they stay, for a person to look at
    # Those that start in place of others are no reason to end these before they serve.
    surging = surging[: min(num_excess, surge, num_held, deployment.replicas)]
    held = {one.key for one in surging}
    others = [one for one in replicas if one.key not in held]
    rank = _usefulness(replaced, worth, found)
    ranked = sorted(others, key=rank)
    limit = len(others) - (num_excess - len(held))
    found.kept = ranked[:limit] + surging
    found.surplus += ranked[limit:]


def unwanted(deployment: Deployment, replicas: Sequence[Replica], worth: Worth) -> frozenset[str]:
    """Pods whose place others are to take: as many of the old revision stay as the spec keeps."""
    reasons = {one.key: worth.why_replaced(one) for one in replicas}
    replaced = {key for key, why in reasons.items() if why is not None}
    kept = num_old(deployment, replicas)
    if kept:
        old = [one for one in replicas if one.revision != deployment.revision]
        old.sort(key=_usefulness(frozenset(), worth, None))
        # Also on a cordoned node: what is evicted there is made again as it was.
        replaced -= {one.key for one in old[:kept]}
    return frozenset(replaced)


def num_old(deployment: Deployment, replicas: Sequence[Replica]) -> int:
    """Replicas that keep the revision before: those of the partition; of what is halted, all."""
    if deployment.returned_from is not None:
        return 0
    if is_halted(deployment):
        return max(deployment.replicas, len(replicas))
    return deployment.rollout.bounds(deployment.replicas).kept


def is_halted(deployment: Deployment) -> bool:
    """Whether its revision has failed, and is not taken back (yet)."""
    return deployment.failed is not None and deployment.returned_from is None


def why_surplus(
    deployment: Deployment, replica: Replica, kept: Sequence[Replica], worth: Worth
) -> str:
    """Why it is this one that goes. ``kept``: those that stay."""
    why = worth.why_replaced(replica)
    if why is not None and replica.is_ready and len(kept) >= deployment.replicas:
        return f"another replica has taken its place: {why}"
    frees_most = any(worth.freed(one) < worth.freed(replica) for one in kept)
    reasons = (
        (replica.is_broken, "does not run"),
        (not replica.is_ready, "does not serve"),
        (replica.revision != deployment.revision, "has an older spec"),
        (replica.node in worth.cordoned, "is on a cordoned node"),
        (frees_most, "leaves most room in one piece"),
    )
    this_one = next((told for holds, told in reasons if holds), "is the youngest")
    return f"fewer replicas are wanted, and this one {this_one}"


def _left_alone(deployment: Deployment, replicas: list[Replica], context: PlanContext) -> Keeping:
    """All as they are; those of a ModelDeployment that was deleted are not its own."""
    found = Keeping()
    for replica in replicas:
        if replica.owner_uid == deployment.uid:
            (found.ending if replica.is_terminating else found.kept).append(replica)
        elif (delete := _must_go(deployment, replica, context)) is not None:
            found.deletes.append(delete)
    return found


def _one_of_each(replicas: list[Replica], found: Keeping) -> list[Replica]:
    """The most useful pod of each slot: a second one (of a second operator) is too many."""
    by_slot: dict[int, Replica] = {}
    for replica in sorted(replicas, key=_usefulness(frozenset(), None, None)):
        if by_slot.setdefault(replica.index, replica) is not replica:
            found.surplus.append(replica)
    return list(by_slot.values())


class _usefulness:  # noqa: N801 - used as a key function
    """The most useful first: what serves stays; of equals the older one stays.

    What is broken or not scheduled goes first, then what has never served, then what drains
    already (so that the choice does not change under way), then what is not ready just now, what
    others are to replace, what is on a cordoned node, and what frees most where it is.
    """

    def __init__(
        self, replaced: frozenset[str], worth: Worth | None, found: Keeping | None
    ) -> None:
        """``found``: whose surplus is chosen; None where what is freed does not matter."""
        self._replaced = replaced
        self._worth = worth
        self._is_freeing = found is not None

    def __call__(self, replica: Replica) -> tuple[object, ...]:
        has_served = replica.is_ready or replica.seen.serving_seconds is not None
        worth = self._worth
        return (
            replica.is_broken,
            not has_served,
            replica.is_draining,
            not replica.is_ready,
            replica.key in self._replaced,
            worth is not None and replica.node in worth.cordoned,
            worth.freed(replica) if worth is not None and self._is_freeing else 0.0,
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
    gave_up = why_given_up(replica, context.sights.get(replica.uid))
    if gave_up is not None:
        return Delete(replica=replica, why=gave_up, has_failed=True)
    refusal = _node_refuses(replica)
    return None if refusal is None else Delete(replica=replica, why=refusal, avoid_node=True)


def _node_refuses(replica: Replica) -> str | None:
    """Why its node does not run it; None where it does, or may."""
    if replica.is_terminal:
        return replica.failure or "its containers have ended"
    if replica.is_out_of_disk:
        return f"node {replica.node} has no space for its weights: {replica.failure}"
    seconds = replica.seen.unschedulable_seconds
    if seconds is not None and seconds > UNSCHEDULABLE_SECONDS:
        said = f": {replica.scheduler_message}" if replica.scheduler_message else ""
        return f"kube-scheduler found no room for it on {replica.node}{said}"
    return None
