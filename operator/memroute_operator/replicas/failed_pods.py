"""Pods that ended before their time, and how long their successors wait, and where.

An evicted pod (a full disk), one that kubelet or a device plugin did not admit
(``UnexpectedAdmissionError``, ``OutOfnvidia.com/gpu``, ``NodeAffinity``) or one that
kube-scheduler had no room for is replaced, but neither at once nor in the same place: what made
it end is still there. The wait before the next try and the time for which the node is avoided
grow with each failure. Owns both. One that was given up because its engine does not do what it is
told (``Delete.has_failed``) waits as long, and may come back to its node, which has its weights.
"""

import random
from dataclasses import dataclass, field

from memroute_operator.actions.backoff import Backoff, Failure, Key
from memroute_operator.plan import Delete, EndFetch
from memroute_operator.replicas.replica import Replica

# Before a failed replica is made again: kubelet needs some 10 s to free a full disk.
FIRST_WAIT_SECONDS = 10.0
MAX_WAIT_SECONDS = 300.0
# For how long its node is avoided, in seconds: a node's room changes in about the first.
FIRST_AVOID_SECONDS = 30.0
MAX_AVOID_SECONDS = 1800.0
# The reason of the condition while its successor waits, and of the Event when it failed.
POD_FAILED = "PodFailed"
REPLICA_FAILED = "ReplicaFailed"


@dataclass(slots=True)
class FailedPods:
    """What failed where, of late."""

    rng: random.Random = field(default_factory=random.Random)
    _replicas: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )
    _nodes: Backoff[tuple[str, str]] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_AVOID_SECONDS, max_seconds=MAX_AVOID_SECONDS
        )
    )

    _aside: dict[str, str] = field(default_factory=dict)
    """Slots whose replica was ended for a sleeper → the ModelDeployment of that one."""

    def on_deleted(self, action: Delete, *, now_seconds: float) -> Failure | None:
        """A replica's pod was deleted; the failure to tell, if it had failed."""
        replica = action.replica
        if action.room_for is not None:
            self._aside[replica.slot] = action.room_for
        if action.has_failed:
            return self._failed(replica, action.why, now_seconds)
        if not action.avoid_node and not replica.is_terminal:
            return None
        said = replica.scheduler_message or ""
        self._note(self._nodes, (replica.deployment, replica.node), said, now_seconds)
        if not (replica.is_terminal or replica.is_out_of_disk):
            return None  # kube-scheduler's refusal: elsewhere at once
        return self._failed(replica, replica.failure or "its containers have ended", now_seconds)

    def on_fetch_ended(self, action: EndFetch, *, now_seconds: float) -> None:
        """A pod that went ahead was deleted: its node is avoided where it could not do it."""
        if action.avoid_node:
            self._note(self._nodes, (action.ahead.deployment, action.ahead.node), "", now_seconds)

    def avoided_nodes(self, now_seconds: float) -> dict[str, frozenset[str]]:
        """ModelDeployment → nodes that it is not placed on now."""
        avoided: dict[str, frozenset[str]] = {}
        for (deployment, node), _ in self._nodes.all_waiting(now_seconds):
            avoided[deployment] = avoided.get(deployment, frozenset()) | {node}
        return avoided

    def scheduler_words(self, deployment: str, now_seconds: float) -> dict[str, str]:
        """Nodes that kube-scheduler has refused of late → its own words."""
        return {
            node: failure.message
            for (key, node), failure in self._nodes.all_waiting(now_seconds)
            if key == deployment and failure.message
        }

    def stood_aside(self) -> dict[str, str]:
        """Slots whose replica did not start in lent room, of late → whose room that was."""
        self._aside = {
            slot: key for slot, key in self._aside.items() if self._replicas.last(slot) is not None
        }
        return dict(self._aside)

    def held_back(self, now_seconds: float) -> frozenset[str]:
        """Slots (``namespace/name#index``) whose replicas are not made again yet."""
        return frozenset(slot for slot, _ in self._replicas.all_waiting(now_seconds))

    def failures_of(self, deployment: str, now_seconds: float) -> tuple[Failure, ...]:
        """Why replicas of a deployment are not made again yet."""
        waiting = self._replicas.all_waiting(now_seconds)
        return tuple(one for slot, one in waiting if slot.rpartition("#")[0] == deployment)

    def next_due_seconds(self, now_seconds: float) -> float | None:
        """When the next thing is due by time alone; None when nothing is."""
        dues = (b.next_due_seconds(now_seconds) for b in (self._replicas, self._nodes))
        return min((due for due in dues if due is not None), default=None)

    def forget_old(self, now_seconds: float) -> None:
        """Drop what has not failed again for long."""
        self._replicas.forget_old(now_seconds)
        self._nodes.forget_old(now_seconds)

    def _failed(self, replica: Replica, why: str, now_seconds: float) -> Failure:
        message = f"{replica.pod_name} failed on node {replica.node}: {why}"
        return self._note(self._replicas, replica.slot, message, now_seconds)

    def _note(self, backoff: Backoff[Key], key: Key, message: str, now_seconds: float) -> Failure:
        return backoff.failed(
            key,
            reason=POD_FAILED,
            message=message,
            now_seconds=now_seconds,
            chance=self.rng.random(),
        )
