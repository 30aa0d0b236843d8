"""What to do next, from the facts alone: pure, and the same for the same facts.

One step at a time, level-triggered: each reconcile looks at all pods anew and names the
actions that bring them closer to what is wanted. Nothing is remembered between two steps but
what the pods themselves carry, and for how long kube-scheduler refuses a node.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from memroute.placement import (
    Inventory,
    Placed,
    Refused,
    ReplicaKey,
    WantedReplica,
    plan,
)
from memroute_operator.deployment import Deployment
from memroute_operator.gather import Facts
from memroute_operator.replica import Replica, ReplicaState

UNSCHEDULABLE_SECONDS = 5.0
# kube-scheduler tries again within a second when a pod leaves; longer means that it lost.
DRAIN_NOTICE_SECONDS = 2.0
# The router sees the mark by its watch within milliseconds; a second one may be slower.


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create a replica's pod: from then on its bytes are reserved."""

    deployment: Deployment
    placed: Placed
    is_gated: bool
    """Whether it must wait for another engine to finish starting on its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete a replica's pod."""

    replica: Replica
    why: str
    force: bool = False
    """Without waiting for its node, which is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkDraining:
    """Tell the routers to send nothing more to a replica (or, with False, to go on)."""

    replica: Replica
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """Let a queued replica start."""

    replica: Replica


Action = Create | Delete | MarkDraining | OpenGate


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the plan found for one deployment, for its status."""

    refused: dict[int, Refused] = field(default_factory=dict)
    rollout: str | None = None
    """What a rollout is doing, as a sentence; None when nothing is rolled out."""
    rollout_blocked: Refused | None = None
    """Why the new spec would not fit even in place of an old replica."""


@dataclass(slots=True, kw_only=True)
class Step:
    """The next actions, and what was found on the way."""

    actions: list[Action] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    has_timers: bool = False
    """Whether something is due by time alone: look again soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What a step depends on beside the facts."""

    now: datetime
    drain_timeout_seconds: float
    in_flight: Mapping[str, int] | None
    """Requests at each replica, by pod; None when no router says."""
    avoided_nodes: Mapping[str, frozenset[str]]
    """Deployment → nodes on which kube-scheduler has just refused it."""
    lost_nodes: frozenset[str]
    """Nodes that have been unreachable for long enough to be given up."""
    held_back: frozenset[str] = frozenset()
    """Replicas (``namespace/pod``) and ModelDeployments (``namespace/name/``, with a slash at
    the end) whose pods are not created now: what they would take is free for others."""

    def is_held_back(self, deployment: str, index: int | None = None) -> bool:
        """Whether nothing is created for a deployment, or for one replica of it."""
        return f"{deployment}/" in self.held_back or f"{deployment}-{index}" in self.held_back


def plan_step(facts: Facts, context: PlanContext) -> Step:
    """The next step for all deployments together."""
    step = Step(outcomes={deployment.key: Outcome() for deployment in facts.deployments})
    by_deployment = facts.replicas_by_deployment()
    wanted: list[tuple[Deployment, WantedReplica]] = []
    going: set[str] = set()
    for deployment in facts.deployments:
        replicas = by_deployment.pop(deployment.key, [])
        _tend(deployment, replicas, facts, context, step, going)
        taken = {replica.index for replica in replicas}
        wanted += [(deployment, replica) for replica in _missing(deployment, taken, context)]
    for orphan in (r for replicas in by_deployment.values() for r in replicas):
        if orphan.state is not ReplicaState.TERMINATING:
            step.actions.append(Delete(replica=orphan, why="its ModelDeployment is gone"))
    _place(facts, wanted, step)
    _open_gates(facts, going, step)
    return step


def _tend(
    deployment: Deployment,
    replicas: list[Replica],
    facts: Facts,
    context: PlanContext,
    step: Step,
    going: set[str],
) -> None:
    """Look after the pods that exist: keep, drain, delete, roll out."""
    outdated: list[Replica] = []
    is_settled = True
    for replica in replicas:
        delete = _must_go(deployment, replica, context)
        if delete is not None:
            going.add(replica.key)
            if replica.state is not ReplicaState.TERMINATING or delete.force:
                step.actions.append(delete)
            is_settled = False
        elif replica.state is ReplicaState.TERMINATING:
            is_settled = False
        elif replica.index >= deployment.replicas:
            going.add(replica.key)
            _drain(replica, facts, context, step, why="fewer replicas are wanted")
        elif replica.revision != deployment.revision and deployment.footprint is not None:
            outdated.append(replica)
        else:
            is_settled = is_settled and replica.is_ready
            if replica.draining_since is not None:
                step.actions.append(MarkDraining(replica=replica, draining=False))
        if replica.unschedulable_since is not None or replica.node in facts.lost_nodes:
            step.has_timers = True
    if outdated:
        _roll_out(deployment, outdated, facts, context, step, going, is_settled=is_settled)


def _must_go(deployment: Deployment, replica: Replica, context: PlanContext) -> Delete | None:
    """Whether the pod has to be deleted at once, and why."""
    if replica.node in context.lost_nodes:
        return Delete(replica=replica, why=f"node {replica.node} is unreachable", force=True)
    if replica.owner_uid != deployment.uid:
        return Delete(replica=replica, why="it belongs to a ModelDeployment that was deleted")
    if replica.is_terminal:
        return Delete(replica=replica, why=replica.failure or "its containers have ended")
    since = replica.unschedulable_since
    if since is not None and (context.now - since).total_seconds() > UNSCHEDULABLE_SECONDS:
        return Delete(replica=replica, why=f"kube-scheduler found no room for it on {replica.node}")
    return None


def _drain(replica: Replica, facts: Facts, context: PlanContext, step: Step, *, why: str) -> None:
    """Stop new requests, wait for those in flight and for engines that start beside it, delete."""
    if not replica.is_ready:
        step.actions.append(Delete(replica=replica, why=why))
        return
    if replica.draining_since is None:
        step.actions.append(MarkDraining(replica=replica, draining=True))
        step.has_timers = True
        return
    age = (context.now - replica.draining_since).total_seconds()
    unknown = context.in_flight is None
    idle = unknown or context.in_flight.get(replica.key, 0) == 0  # type: ignore[union-attr]
    quiet = idle and not _starts_beside(replica, facts)
    if age >= context.drain_timeout_seconds or (quiet and age >= DRAIN_NOTICE_SECONDS):
        step.actions.append(Delete(replica=replica, why=why))
    else:
        step.has_timers = True


def _starts_beside(replica: Replica, facts: Facts) -> bool:
    """Whether an engine is starting on a device of this replica: it would miss its memory."""
    return any(
        other.is_starting and other.device_bytes.keys() & replica.device_bytes.keys()
        for other in facts.replicas
    )


def _roll_out(
    deployment: Deployment,
    outdated: list[Replica],
    facts: Facts,
    context: PlanContext,
    step: Step,
    going: set[str],
    *,
    is_settled: bool,
) -> None:
    """Replace outdated replicas, one at a time, drained first, and only if the new one fits."""
    outcome = step.outcomes[deployment.key]
    if context.is_held_back(deployment.key):
        # Its successor could not be created: what serves goes on serving.
        outcome.rollout = f"{len(outdated)} replica(s) to replace, once its pods are accepted"
        return
    draining = [replica for replica in outdated if replica.draining_since is not None]
    broken = [replica for replica in outdated if not replica.is_ready]
    if not draining and not broken and not is_settled:
        outcome.rollout = (
            f"{len(outdated)} replica(s) to replace; waiting for the last one to serve"
        )
        return
    replica = (draining or broken or outdated)[0]
    wanted = _wanted(deployment, replica.index, context)
    decision = plan(_without(facts.inventory, replica), [wanted])[0]
    if isinstance(decision, Refused):
        # Better an old replica that serves than a new one that cannot be placed.
        outcome.rollout_blocked = decision
        for other in draining:
            step.actions.append(MarkDraining(replica=other, draining=False))
        return
    outcome.rollout = (
        f"{len(outdated)} replica(s) to replace, one at a time, drained first; "
        f"now {replica.pod_name}"
    )
    going.add(replica.key)
    _drain(replica, facts, context, step, why="the spec has changed")


def _without(inventory: Inventory, replica: Replica) -> Inventory:
    """The inventory as if the replica had ended: its promise and its use are gone."""
    kept = tuple(r for r in inventory.reservations if r.owner != replica.key)
    nodes = tuple(
        replace(
            node,
            devices=tuple(
                replace(device, live_free_bytes=None, assigned_pod=None)
                if device.uuid in replica.device_bytes or device.assigned_pod == replica.key
                else device
                for device in node.devices
            ),
        )
        if node.name == replica.node
        else node
        for node in inventory.nodes
    )
    return Inventory(nodes=nodes, reservations=kept)


def _missing(
    deployment: Deployment, taken: set[int], context: PlanContext
) -> Iterable[WantedReplica]:
    if deployment.footprint is None:
        return
    for index in range(deployment.replicas):
        if index not in taken and not context.is_held_back(deployment.key, index):
            yield _wanted(deployment, index, context)


def _wanted(deployment: Deployment, index: int, context: PlanContext) -> WantedReplica:
    assert deployment.shape is not None  # noqa: S101 - callers have seen the footprint
    assert deployment.footprint is not None  # noqa: S101
    return WantedReplica(
        key=ReplicaKey(namespace=deployment.namespace, name=deployment.name, index=index),
        shape=deployment.shape,
        footprint=deployment.footprint,
        footprints_by_product={
            product: deployment.footprint_on(product) for product in deployment.calibrations
        },
        mode=deployment.mode,
        strategy=deployment.strategy,
        node_selector=deployment.node_selector,
        avoided_nodes=context.avoided_nodes.get(deployment.key, frozenset()),
    )


def _place(facts: Facts, wanted: list[tuple[Deployment, WantedReplica]], step: Step) -> None:
    # Where an engine starts or ends, or is queued to start, the next one waits its turn.
    queued = {uuid for r in facts.replicas if r.is_gated for uuid in r.device_bytes}
    busy = _moving_devices(facts) | queued
    for (deployment, _), decision in zip(
        wanted, plan(facts.inventory, [replica for _, replica in wanted]), strict=True
    ):
        if isinstance(decision, Refused):
            step.outcomes[deployment.key].refused[decision.key.index] = decision
            continue
        gated = any(uuid in busy for uuid in decision.device_uuids)
        busy.update(decision.device_uuids)
        step.actions.append(Create(deployment=deployment, placed=decision, is_gated=gated))


def _moving_devices(facts: Facts) -> set[str]:
    """Shared devices on which an engine is starting or ending: their free memory moves."""
    return {uuid for r in facts.replicas if r.occupies_start for uuid in r.device_bytes}


def _open_gates(facts: Facts, going: set[str], step: Step) -> None:
    """Let queued replicas start, the oldest first, one per device at a time."""
    occupied = _moving_devices(facts)
    for replica in facts.replicas:
        if not replica.is_gated or replica.state is ReplicaState.TERMINATING:
            continue
        if replica.key in going or occupied & replica.device_bytes.keys():
            continue
        occupied |= replica.device_bytes.keys()
        step.actions.append(OpenGate(replica=replica))
