"""Which pods are replicas, and who serves which name: pure decisions over what was read.

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

| a ModelDeployment may serve a name when | |
| --- | --- |
| ``status.routing.names`` has it | the operator has decided |
| nothing is decided for it, and one of its namespace has the name by its status | |
| nothing is decided for it, nobody has the name by a status, and none asks for longer | 0.1 |
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from memroute_router.kube_objects import DeploymentFacts, PodFacts
from memroute_router.pools import PoolSettings

DEFAULT_WEIGHT = 100.0


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


def names_served(deployments: Iterable[DeploymentFacts]) -> dict[str, frozenset[str]]:
    """The names that each ModelDeployment may serve, by its key."""
    served: dict[str, frozenset[str]] = {}
    holders: dict[str, set[str]] = {}
    undecided: list[DeploymentFacts] = []
    for one in deployments:
        if one.routing is None or one.routing.names is None:
            undecided.append(one)
            continue
        served[one.key] = frozenset(held.name for held in one.routing.names)
        for name in served[one.key]:
            holders.setdefault(name, set()).add(one.namespace)
    undecided.sort(key=lambda one: (one.created_at, one.key))
    for one in undecided:
        for name in one.names.all:
            # The first one to ask is the oldest: its namespace has the name.
            holders.setdefault(name, {one.namespace})
    for one in undecided:
        served[one.key] = frozenset(
            name for name in one.names.all if one.namespace in holders[name]
        )
    return served


def pool_settings(
    deployments: Iterable[DeploymentFacts], served: Mapping[str, frozenset[str]]
) -> dict[str, PoolSettings]:
    """By model, what those say that may serve it: the oldest decides, each has its weight."""
    settings: dict[str, PoolSettings] = {}
    weights: dict[str, dict[str, float | None]] = {}
    for one in sorted(deployments, key=lambda one: (one.created_at, one.key)):
        names, model = served.get(one.key, frozenset()), one.names.served
        if model not in names:
            continue
        adapters = tuple(name for name in one.names.adapters if name in names)
        settings.setdefault(model, replace(one.settings, adapters=adapters))
        weights.setdefault(model, {})[one.key] = one.weight
    return {
        model: replace(own, shares=complete_shares(weights[model]))
        for model, own in settings.items()
    }


def complete_shares(weights: Mapping[str, float | None]) -> dict[str, float]:
    """Shares of the traffic by ModelDeployment; empty when none says a weight: memory decides.

    Beside one that does, those that say none count as ``DEFAULT_WEIGHT``.
    """
    if all(weight is None for weight in weights.values()):
        return {}
    return {
        version: DEFAULT_WEIGHT if weight is None else weight for version, weight in weights.items()
    }
