"""Which pods are replicas: a pure decision over what was read.

A router believes what only the operator can write: the status of a ModelDeployment. What a pod
says of itself is believed where it can take nothing from anybody: its address, whether it is
ready, and that it is draining.

| a pod is a replica of a ModelDeployment of its own namespace when | since |
| --- | --- |
| ``status.routing.replicas`` has its uid | operators that write it |
| ``status.placements`` has its name and its node, and that ModelDeployment controls it | 0.1 |
| it was one before by either, and neither its uid nor the ModelDeployment's has changed | |
| that ModelDeployment controls it, and its status has no ``routing`` and not all placements | |

The last two rows are for statuses that are late, cut, or of an older operator or schema: a
replica that serves is not lost by them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from memroute.traffic.replica import SleepPhase
from memroute_kube.sleeping import SleepState
from memroute_router.discovery.kube_objects import DeploymentFacts, PodFacts

PHASES: Final = {
    SleepState.FALLING_ASLEEP: SleepPhase.FALLING_ASLEEP,
    SleepState.ASLEEP: SleepPhase.ASLEEP,
    SleepState.WAKING: SleepPhase.WAKING,
}


class Disbelief(StrEnum):
    """Why a pod or a ModelDeployment is not gone by; the value is a metric label."""

    UNREADABLE = "unreadable"
    """Nothing of it can be read; what was read before stays."""
    ODD = "odd"
    """A part of it cannot be read, and its default is taken."""
    NO_DEPLOYMENT = "no-deployment"
    """The ModelDeployment of its label does not exist in its namespace."""
    NOT_NAMED = "not-named"
    """The status of its ModelDeployment does not name it."""
    NAME_TAKEN = "name-taken"
    """Its ModelDeployment may not serve that name."""
    INTERNAL_ERROR = "internal-error"
    """A bug of ours, in what was done for that object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is believed of one pod: whose replica it is, and what its engine was started with."""

    pod_uid: str
    deployment_uid: str
    served_name: str
    kv_capacity_tokens: int | None
    max_context_tokens: int | None
    is_named: bool
    """By a status; else by its owner reference alone, and only while the status is cut."""
    adapters: frozenset[str] | None = None
    """The LoRA adapters that it has loaded; None: nobody knows."""
    sleep: SleepPhase | None = None
    """None while it is awake."""
    wake_seconds: float | None = None
    """How long it takes to wake, as the operator predicts; None: unknown, or it is awake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMember:
    """Why a pod is nobody's replica."""

    reason: Disbelief
    why: str


def believe(
    pod: PodFacts, deployment: DeploymentFacts | None, before: Member | None
) -> Member | NotMember:
    """Whose replica the pod is. ``before``: what was believed of a pod of its name, if anything.

    ``deployment``: that of its label, in its namespace; None when there is none.
    """
    if deployment is None:
        why = f"there is no ModelDeployment {pod.deployment_key}"
        return NotMember(reason=Disbelief.NO_DEPLOYMENT, why=why)
    routing = deployment.routing
    named = None if routing is None else routing.replicas.get(pod.uid)
    if named is not None and named.pod == pod.name:
        return Member(
            pod_uid=pod.uid,
            deployment_uid=deployment.uid,
            served_name=named.served_name,
            kv_capacity_tokens=named.kv_capacity_tokens,
            max_context_tokens=named.max_context_tokens,
            is_named=True,
            adapters=None if named.adapters is None else frozenset(named.adapters),
            sleep=None if named.sleep is None else PHASES[named.sleep],
            wake_seconds=named.wake_seconds,
        )
    if (
        before is not None
        and before.is_named
        and before.pod_uid == pod.uid
        and before.deployment_uid == deployment.uid
    ):
        return before
    is_controlled = pod.controller_uid == deployment.uid
    is_placed = pod.node is not None and (pod.name, pod.node) in deployment.placements
    is_cut = routing is None and deployment.are_placements_cut
    if is_controlled and (is_placed or is_cut) and pod.served_name is not None:
        return Member(
            pod_uid=pod.uid,
            deployment_uid=deployment.uid,
            served_name=pod.served_name,
            kv_capacity_tokens=pod.kv_capacity_tokens,
            max_context_tokens=pod.max_context_tokens,
            is_named=is_placed,
        )
    why = f"the status of ModelDeployment {deployment.key} does not name it"
    return NotMember(reason=Disbelief.NOT_NAMED, why=why)
