"""All that is to be said of one model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute.placement import Refused, Verdict, verdicts
from memroute_kube.routing import read_routing_status
from memroute_kube.shapes import listed, mapping
from memroute_operator.explaining.picture import DRAIN_SECONDS, Picture
from memroute_operator.explaining.remedies import Remedy, remedies
from memroute_operator.gather import Facts
from memroute_operator.plan import PlanContext, wanted_replica
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExplanation:
    """One ModelDeployment: where its replicas are and why, what is missing, what would help."""

    deployment: Deployment
    replicas: tuple[Replica, ...]
    conditions: Mapping[str, Mapping[str, Any]]
    """As the operator has written them, by type."""
    is_outdated: bool
    """Whether those are of an older spec."""
    status: Mapping[str, Any]
    loaded: Mapping[str, frozenset[str]]
    """Adapters that each replica has, as routers are told, by the uid of its pod; those of which
    nobody knows are not in it."""
    refused: Refused | None
    """Why the next replica is placed nowhere; None where all that are wanted have a place."""
    num_refused: int
    rollout: str | None
    """What is being replaced, or what keeps it from being; None where nothing is."""
    verdicts: tuple[Verdict, ...]
    """Of each node, on ``asked``."""
    asked: str
    """Which replica the nodes were asked about."""
    remedies: tuple[Remedy, ...]
    """Tried: after each of them a replica more is placed. Empty where none is missing."""

    @property
    def is_well(self) -> bool:
        """Whether all that is wanted serves the current spec."""
        ready = self.conditions.get("Ready", {})
        return not self.is_outdated and ready.get("status") == "True"


def explain_model(
    picture: Picture, key: str, *, replica_index: int | None = None
) -> ModelExplanation | None:
    """What is to be said of ``namespace/name``; None where it does not exist.

    ``replica_index``: which of its replicas the nodes are asked about; None: one more.
    """
    facts = picture.facts()
    deployment = next((one for one in facts.deployments if one.key == key), None)
    if deployment is None:
        return None
    step = picture.plan(facts)
    outcome = step.outcomes[key]
    status = mapping(deployment.obj.get("status"))
    refused = outcome.refused[min(outcome.refused)] if outcome.refused else None
    own = tuple(one for one in facts.replicas if one.deployment == key)
    blocked = outcome.rollout_blocked
    asked, answers = _answers(picture, facts, deployment, own, replica_index)
    return ModelExplanation(
        deployment=deployment,
        replicas=own if replica_index is None else _of_index(own, replica_index),
        conditions={
            str(one.get("type")): one for one in map(mapping, listed(status.get("conditions")))
        },
        is_outdated=status.get("observedGeneration") != deployment.generation,
        status=status,
        loaded=_loaded(deployment),
        refused=refused,
        num_refused=len(outcome.refused),
        rollout=f"the new spec {blocked.message}" if blocked is not None else outcome.rollout,
        verdicts=answers,
        asked=asked,
        remedies=tuple(remedies(picture, facts, step, deployment)) if refused else (),
    )


def _loaded(deployment: Deployment) -> dict[str, frozenset[str]]:
    told = read_routing_status(deployment.obj)
    if told is None:
        return {}
    return {
        uid: frozenset(one.adapters)
        for uid, one in told.replicas.items()
        if one.adapters is not None
    }


def _of_index(replicas: tuple[Replica, ...], index: int) -> tuple[Replica, ...]:
    return tuple(one for one in replicas if one.index == index)


def _answers(
    picture: Picture,
    facts: Facts,
    deployment: Deployment,
    replicas: tuple[Replica, ...],
    index: int | None,
) -> tuple[str, tuple[Verdict, ...]]:
    """Of which replica each node was asked, and what it says."""
    if deployment.footprint is None:
        return "", ()
    avoided = {} if picture.view is None else picture.view.avoided_nodes
    context = PlanContext(
        drain_timeout_seconds=DRAIN_SECONDS, in_flight=None, avoided_nodes=avoided,
        lost_nodes=frozenset(),
    )  # fmt: skip
    if index is None:
        wanted = wanted_replica(deployment, len(replicas), context)
        return "one more replica", verdicts(facts.inventory, wanted)
    wanted = wanted_replica(deployment, index, context)
    moved = _of_index(replicas, index)
    inventory = picture.without_replicas(moved).facts().inventory
    return f"replica {index}, without the room that it has", verdicts(inventory, wanted)
