"""What the status tells routers: the names that a ModelDeployment may serve, and its replicas."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from memroute_kube import KubeObject
from memroute_kube.resources import (
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_MAX_CONTEXT_TOKENS,
    ANNOTATION_SERVED_MODEL,
)
from memroute_kube.routing import (
    NamedReplica,
    RoutingStatus,
    read_claimed_names,
    read_routing_status,
)
from memroute_kube.shapes import OddObjectError, is_object_name, mapping, name_of, tokens
from memroute_kube.sleeping import wake_seconds_of
from memroute_operator.adapters.telling import View
from memroute_operator.gather import Facts
from memroute_operator.replicas.pods import controller_of
from memroute_operator.replicas.replica import Replica
from memroute_operator.rules.name_grants import GRANTS_NAME
from memroute_operator.spec.deployment import INTERNAL_ERROR, Deployment
from memroute_operator.status.conditions import MAX_LISTED, Condition
from memroute_operator.status.served_names import (
    GRANTS_UNKNOWN,
    NAME_HELD,
    NAME_INVALID,
    NAME_SHARED,
    SERVED_NAME_TAKEN,
    Grants,
    NameClaim,
    NamesDecision,
    decide_names,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What routers are told of a ModelDeployment, and why."""

    told: RoutingStatus
    decision: NamesDecision
    grants_namespace: str
    """Where an administrator grants names: the operator's own namespace."""


def routing_statuses(
    facts: Facts,
    grants: Grants | None,
    *,
    grants_namespace: str,
    now: str,
    views: Mapping[str, View] = MappingProxyType({}),
    wake_seconds: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Routing]:
    """For each ModelDeployment, by its key.

    ``views``: which adapters replicas were seen to have, by the uid of their pod.
    ``wake_seconds``: how long engines took to wake last, by the uid of their pod.
    """
    pods: dict[str, list[KubeObject]] = {}
    for replica in facts.replicas:
        pods.setdefault(replica.deployment, []).append(replica.obj)
    for unreadable in facts.unreadable_pods:
        # Nobody knows what it holds, but it may well serve.
        pods.setdefault(unreadable.deployment, []).append(unreadable.obj)
    before = {one.key: read_routing_status(one.obj) for one in facts.deployments}
    replicas = {
        one.key: _with_adapters(
            one, _named(one, pods.get(one.key, ()), before[one.key]), before[one.key], views
        )
        for one in facts.deployments
    }
    by_uid = {one.uid: one for one in facts.replicas}
    replicas = {
        key: {uid: _with_sleep(one, by_uid.get(uid), wake_seconds) for uid, one in named.items()}
        for key, named in replicas.items()
    }
    decisions = decide_names(
        (_claim(one, before[one.key], replicas[one.key]) for one in facts.deployments),
        grants,
        now=now,
    )
    return {
        key: Routing(
            told=RoutingStatus(names=decision.held, replicas=replicas[key]),
            decision=decision,
            grants_namespace=grants_namespace,
        )
        for key, decision in decisions.items()
    }


def named_replica(pod: KubeObject, deployment_uid: str) -> NamedReplica | None:
    """A replica as routers are told of it; None when the pod is not that ModelDeployment's."""
    try:
        controller = controller_of(pod)
    except (AttributeError, KeyError, TypeError):
        return None
    if controller is None or controller.get("uid") != deployment_uid:
        return None
    metadata = pod["metadata"]
    annotations = mapping(metadata.get("annotations"))
    served = name_of(annotations.get(ANNOTATION_SERVED_MODEL))
    name, uid = metadata.get("name"), metadata.get("uid")
    if served is None or not is_object_name(name) or not is_object_name(uid):
        return None
    return NamedReplica(
        pod=name,
        uid=uid,
        served_name=served,
        kv_capacity_tokens=tokens(annotations.get(ANNOTATION_KV_CAPACITY_TOKENS)),
        max_context_tokens=tokens(annotations.get(ANNOTATION_MAX_CONTEXT_TOKENS)),
    )


def named_condition(deployment: Deployment, routing: Routing) -> Condition:
    """The condition ``Named``: whether routers know it by all the names that it asks for."""
    decision = routing.decision
    where = f"the ConfigMap {routing.grants_namespace}/{GRANTS_NAME}"
    if deployment.failure is not None and deployment.failure.reason == INTERNAL_ERROR:
        return "Unknown", INTERNAL_ERROR, "it keeps the names that it has until it can be read"
    if not decision.is_readable:
        message = "spec.model.servedName has characters that cannot be printed"
        return "False", NAME_INVALID, message
    if not decision.are_grants_known:
        message = f"{where} cannot be read; names stay with whom they are, and no new one is given"
        return "Unknown", GRANTS_UNKNOWN, message
    refused = decision.refused
    if refused:
        told = "; ".join(one.told for one in refused[:MAX_LISTED])
        more = len(refused) - MAX_LISTED
        told += f"; and {more} more" if more > 0 else ""
        message = (
            f"{told}. Routers send its replicas nothing under such a name. Ask for another "
            f"spec.model.servedName (or adapter), or have an administrator grant the name to "
            f"namespace {deployment.namespace} in {where}"
        )
        return "False", SERVED_NAME_TAKEN, message
    names = [one.name for one in decision.held or ()]
    told = ", ".join(names[:MAX_LISTED])
    told += f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    for name, other in decision.elsewhere[:MAX_LISTED]:
        told += f"; requests for its adapter {name!r} go to {other}, which has that name too"
    if decision.shared_with is None:
        return "True", NAME_HELD, f"routers know it as {told}"
    others = "and others serve" if decision.is_shared_by_more else "serves"
    message = (
        f"routers know it as {told}; {decision.shared_with} {others} the same name, and requests "
        f"for {deployment.served_name!r} go to one of them by spec.routing.weight; if that is no "
        "canary, give one of them another spec.model.servedName"
    )
    return "True", NAME_SHARED, message


def is_served_name_refused(deployment: Deployment, routing: Routing) -> bool:
    """Whether no request for the model itself can reach it; adapters alone are another matter."""
    decision = routing.decision
    is_refused = any(one.name == deployment.served_name for one in decision.refused)
    return is_refused or not decision.is_readable


def _named(
    deployment: Deployment, pods: Iterable[KubeObject], before: RoutingStatus | None
) -> Mapping[str, NamedReplica]:
    """Its replicas, each as it was named at first: later edits of a pod change nothing."""
    known = before.replicas if before is not None else {}
    found: dict[str, NamedReplica] = {}
    for pod in pods:
        # What a uid was named with once needs no second look.
        named = known.get(str(pod["metadata"].get("uid"))) or named_replica(pod, deployment.uid)
        if named is not None:
            found[named.uid] = named
    return found


def _with_adapters(
    deployment: Deployment,
    replicas: Mapping[str, NamedReplica],
    before: RoutingStatus | None,
    views: Mapping[str, View],
) -> Mapping[str, NamedReplica]:
    """What each has loaded: as it was seen last, else as it was told before; else nothing.

    Where memroute loads no adapters, nobody knows.
    """
    if deployment.slots is None:
        if all(one.adapters is None for one in replicas.values()):
            return replicas
        return {uid: replace(one, adapters=None) for uid, one in replicas.items()}
    names = {one.name for one in deployment.adapters.listed}
    known = {} if before is None else before.replicas
    found = {}
    for uid, one in replicas.items():
        view, told = views.get(uid), known.get(uid)
        if view is not None:
            loaded = view.loaded or frozenset()
        else:
            loaded = frozenset((told.adapters if told is not None else None) or ())
        found[uid] = replace(one, adapters=tuple(sorted(loaded & names)))
    return found


def _with_sleep(
    named: NamedReplica, replica: Replica | None, wake_seconds: Mapping[str, float]
) -> NamedReplica:
    """How it sleeps now, and how long it takes to wake: as it did last, else as predicted."""
    sleep = None if replica is None else replica.sleep_state
    seconds = None
    if replica is not None and replica.may_sleep:
        last = wake_seconds.get(named.uid)
        seconds = replica.wake_seconds if last is None else max(1, math.ceil(last))
        seconds = wake_seconds_of(seconds)
    if (named.sleep, named.wake_seconds) == (sleep, seconds):
        return named
    return replace(named, sleep=sleep, wake_seconds=seconds)


def _claim(
    deployment: Deployment, before: RoutingStatus | None, replicas: Mapping[str, NamedReplica]
) -> NameClaim:
    try:
        names = read_claimed_names(deployment.obj)
    except OddObjectError:
        names = None
    return NameClaim(
        key=deployment.key,
        namespace=deployment.namespace,
        created_at=deployment.created_at,
        names=names,
        before=before,
        running=frozenset(one.served_name for one in replicas.values()),
    )
