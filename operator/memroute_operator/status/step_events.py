"""What a step has done, as Events: one for all replicas of a ModelDeployment that fared alike.

| reason | type | when |
| --- | --- | --- |
| ``ReplicasPlaced`` | Normal | pods were created: where, and why there |
| ``ReplicasRemoved`` | Normal | pods were deleted that serve no more: why |
| ``ReplicasLost`` | Warning | pods were given up with their node, or by kube-scheduler's word |
| ``FetchingAhead`` | Normal | a pod went ahead of a rollout: for whom, and where |
| ``FellAsleep``, ``Woken`` | Normal | an engine has confirmed that it sleeps, or is awake: where |
| ``ReplicaFailed`` | Warning | a pod had failed and is made again: of what, and when |

What a condition says is told when ``Ready`` changes (``status_writer``). What is *done* changes no
condition, or so many at once that nobody can tell which replica it was: it is told here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from memroute_operator.actions.backoff import Failure
from memroute_operator.actions.lanes import Lanes
from memroute_operator.plan import Action, Create, Delete, FetchAhead, MarkSleep
from memroute_operator.replicas.failed_pods import REPLICA_FAILED
from memroute_operator.sleeping.telling import FELL_ASLEEP, WOKEN, event_of
from memroute_operator.spec.deployment import Deployment
from memroute_operator.status.events import EventWriter

PLACED, REMOVED, LOST = "ReplicasPlaced", "ReplicasRemoved", "ReplicasLost"
AHEAD = "FetchingAhead"
# Replicas that one Event tells one by one before it only counts.
MAX_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """One Event about one ModelDeployment."""

    deployment: str
    """``namespace/name``."""
    reason: str
    message: str
    is_normal: bool


@dataclass(slots=True)
class StepEvents:
    """Gathers what the actions of one step have done."""

    _told: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def on_done(self, action: Action, failure: Failure | None) -> None:
        """An action was carried out; ``failure``: why the pod that it deletes had failed."""
        if isinstance(action, Create):
            placed = action.placed
            self._add(
                action.deployment.key,
                PLACED,
                f"{placed.key.pod_name} on {placed.node}: {placed.why}",
            )
        elif isinstance(action, FetchAhead):
            self._add(
                action.deployment.key,
                AHEAD,
                f"{action.pod_key.partition('/')[2]} brings to {action.node} what the successor of "
                f"{action.replica.pod_name} needs; that one serves meanwhile",
            )
        elif isinstance(action, MarkSleep):
            if (told := event_of(action)) is not None:
                self._add(action.replica.deployment, *told)
        elif isinstance(action, Delete):
            replica = action.replica
            if failure is not None:
                self._add(replica.deployment, REPLICA_FAILED, failure.told)
            elif action.force or action.avoid_node:
                self._add(replica.deployment, LOST, f"{replica.pod_name}: {action.why}")
            elif not replica.is_terminating:
                self._add(replica.deployment, REMOVED, f"{replica.pod_name}: {action.why}")

    def _add(self, deployment: str, reason: str, sentence: str) -> None:
        self._told.setdefault((deployment, reason), []).append(sentence)

    async def write(
        self, deployments: Iterable[Deployment], lanes: Lanes, writer: EventWriter
    ) -> None:
        """Write them, each ModelDeployment's in its own lane."""
        by_key = {deployment.key: deployment for deployment in deployments}
        told: dict[str, list[StepEvent]] = {}
        for one in self.events():
            if one.deployment in by_key:
                told.setdefault(one.deployment, []).append(one)
        for key, events in told.items():
            lanes.start(key, partial(_write, writer, by_key[key], events))
        await lanes.settle()

    def events(self) -> Iterator[StepEvent]:
        """An Event for each ModelDeployment and kind."""
        for (deployment, reason), sentences in self._told.items():
            message = "; ".join(sentences[:MAX_TOLD])
            if sentences[MAX_TOLD:]:
                message += f"; and {len(sentences) - MAX_TOLD} more"
            yield StepEvent(
                deployment=deployment,
                reason=reason,
                message=message,
                is_normal=reason in (PLACED, REMOVED, AHEAD, FELL_ASLEEP, WOKEN),
            )


async def _write(writer: EventWriter, deployment: Deployment, events: Sequence[StepEvent]) -> None:
    for one in events:
        await writer.write(
            deployment, reason=one.reason, message=one.message, is_normal=one.is_normal
        )
