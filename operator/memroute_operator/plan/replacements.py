"""Replicas that others are to replace: which, why, and in which order."""

from dataclasses import dataclass

from memroute.placement import WantedReplica
from memroute_operator.plan.actions import ClaimRoom, MarkDraining, Step
from memroute_operator.replicas.replica import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A replica to be replaced, its successor, and why."""

    replica: Replica
    successor: WantedReplica
    why: str
    is_outdated: bool = False
    """By an edited spec: what stops its rollout is told as such."""

    @property
    def is_under_way(self) -> bool:
        """Whether it leaves first, and has begun to."""
        return self.replica.successor is not None


def grows(replacement: Replacement) -> bool:
    """Whether the successor takes more room than the replica has."""
    replica, footprint = replacement.replica, replacement.successor.footprint
    if footprint.num_devices != replica.num_devices:
        return footprint.num_devices > replica.num_devices
    return footprint.total_bytes > replica.bytes_per_device


def stay(replica: Replica, step: Step) -> None:
    """Let a replica serve on: what was begun to replace it is taken back."""
    if replica.is_draining:
        step.actions.append(MarkDraining(replica=replica, draining=False))
    if replica.successor is not None:
        step.actions.append(ClaimRoom(replica=replica, placed=None, revision=""))


def order(replacement: Replacement) -> tuple[object, ...]:
    """What serves nobody first, then what is under way, then edits, the oldest slot first."""
    replica = replacement.replica
    return (
        not replica.is_broken,
        not replica.is_draining,
        replica.successor is None,
        not replacement.is_outdated,
        replica.index,
        replica.key,
    )
