"""What gateways need is there, what nobody asks for is not: decided on all that is known.

| whose pool | its InferencePool | its Service and EndpointSlices |
| --- | --- | --- |
| a ModelDeployment with ``spec.routing.gateway`` | written | written |
| a ModelDeployment without | removed | removed |
| a ModelDeployment that cannot be read | as it is | as they are |
| somebody else's, labelled ``memroute.dev/picker: serve`` | theirs | written, by the name in it |
| somebody else's, without the label | theirs | removed, if we wrote them |

Whose an object is says the uid of an owner. What somebody else has under a name of ours is never
written over: that is told, and nothing of that pool is written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memroute_kube import ENDPOINT_SLICES, SERVICES, KubeObject, Resource
from memroute_kube.gateway import (
    INFERENCE_POOLS,
    PICKER_PORT,
    asks_for_picker,
    deployment_of_pool,
    picker_service_name,
    picker_service_of,
)
from memroute_kube.resources import object_key
from memroute_kube.shapes import listed, mapping
from memroute_operator.gateway.differences import app_protocols, is_as_wanted
from memroute_operator.gateway.objects import (
    MANAGED,
    endpoint_slices,
    inference_pool,
    picker_service,
)
from memroute_operator.gateway.pickers import Pickers
from memroute_operator.pod.manifests import owner_reference
from memroute_operator.spec.deployment import INTERNAL_ERROR, Deployment

# Of a pool whose ModelDeployment does not say. Source: the schema of InferencePool.
FAIL_CLOSE = "FailClose"
# What a gateway does then that goes on without a picker, to any pod of the pool that is ready.
FAIL_OPEN = "FailOpen"


class Verb(StrEnum):
    """What is done to an object; the value is a metric's label."""

    CREATE = "CreateForGateway"
    APPLY = "ApplyForGateway"
    DELETE = "DeleteForGateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One call to the API server."""

    verb: Verb
    resource: Resource
    body: KubeObject
    """What it is to be; the object as it is, where it is to go."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return object_key(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one pool needs."""

    key: str
    """Whose it is, for lanes and back-off: ``namespace/name/gateway`` or ``…/gateway-pool``."""
    uid: str
    """Of the owner of all of it."""
    pool: KubeObject | None
    """None: somebody else keeps it."""
    service: KubeObject
    slices: list[KubeObject] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What there is, by ``namespace/name``."""

    pools: Mapping[str, KubeObject]
    """All of them."""
    services: Mapping[str, KubeObject]
    """With our label."""
    slices: Mapping[str, KubeObject]
    """Likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """What is to be done for each pool."""

    changes: Mapping[str, list[Change]]
    """In this order, by ``Wish.key``."""
    taken: Mapping[str, str]
    """Why nothing is written for a pool: a sentence, by ``Wish.key``."""
    wishes: Mapping[str, Wish]
    """What each pool needs, by ``Wish.key``."""


def failure_mode(deployment: Deployment) -> str | None:
    """What a gateway does without a picker; None: no pool is asked for."""
    gateway = mapping(mapping(deployment.obj.get("spec")).get("routing")).get("gateway")
    if not isinstance(gateway, Mapping):
        return None
    return str(gateway.get("failureMode") or FAIL_CLOSE)


def wish_key(deployment: Deployment) -> str:
    """Under which it is planned, and fails."""
    return f"{deployment.key}/gateway"


def wish_of(deployment: Deployment, mode: str, pickers: Pickers) -> Wish:
    """What the pool of a ModelDeployment needs."""
    name, owner = picker_service_name(deployment.name), owner_reference(deployment)
    namespace = deployment.namespace
    return Wish(
        key=wish_key(deployment),
        uid=deployment.uid,
        pool=inference_pool(deployment, mode),
        service=picker_service(namespace, name, PICKER_PORT, owner, pickers),
        slices=endpoint_slices(namespace, name, owner, pickers),
    )


def wish_for(pool: KubeObject, pickers: Pickers) -> Wish | None:
    """What a pool that somebody else wrote needs; None where it asks for nothing that can be."""
    service = picker_service_of(pool)
    if service is None:
        return None
    metadata = pool["metadata"]
    owner = {
        "apiVersion": INFERENCE_POOLS.api_version,
        "kind": INFERENCE_POOLS.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    namespace = service.namespace
    return Wish(
        key=f"{object_key(pool)}/gateway-pool",
        uid=metadata["uid"],
        pool=None,
        service=picker_service(namespace, service.name, service.port, owner, pickers),
        slices=endpoint_slices(namespace, service.name, owner, pickers),
    )


def plan_gateway(
    deployments: Iterable[Deployment], existing: Existing, pickers: Pickers
) -> GatewayPlan:
    """All that is to be done."""
    keys: dict[str, str] = {}
    wishes = [
        *_of_deployments(deployments, pickers, keys),
        *_of_others(existing.pools.values(), pickers, keys),
    ]
    changes: dict[str, list[Change]] = {}
    taken: dict[str, str] = {}
    wanted: set[tuple[str, str, str]] = set()
    for wish in wishes:
        for resource, body in _bodies(wish):
            wanted.add((resource.plural, object_key(body), wish.uid))
        why = _taken(wish, existing)
        if why is not None:
            taken[wish.key] = why
        elif found := [*_missing(wish, existing), *_strays(wish, existing)]:
            changes[wish.key] = found
    for change, uid in _unwanted(existing, wanted, keys):
        changes.setdefault(keys[uid], []).append(change)
    return GatewayPlan(changes=changes, taken=taken, wishes={wish.key: wish for wish in wishes})


def _of_deployments(
    deployments: Iterable[Deployment], pickers: Pickers, keys: dict[str, str]
) -> Iterable[Wish]:
    """Their wishes. ``keys``: is given each one whose wish is known, by its uid."""
    for deployment in deployments:
        if deployment.failure is not None and deployment.failure.reason == INTERNAL_ERROR:
            continue
        keys[deployment.uid] = wish_key(deployment)
        mode = failure_mode(deployment)
        if mode is not None:
            yield wish_of(deployment, mode, pickers)


def _of_others(
    pools: Iterable[KubeObject], pickers: Pickers, keys: dict[str, str]
) -> Iterable[Wish]:
    """Likewise, of pools that others wrote."""
    for pool in pools:
        keys[pool["metadata"]["uid"]] = f"{object_key(pool)}/gateway-pool"
        wish = wish_for(pool, pickers) if asks_for_picker(pool) else None
        if wish is not None:
            yield wish


def _bodies(wish: Wish) -> list[tuple[Resource, KubeObject]]:
    """The Service first: a gateway looks for it as soon as it sees the pool."""
    found = [(SERVICES, wish.service), *((ENDPOINT_SLICES, one) for one in wish.slices)]
    if wish.pool is not None:
        found.append((INFERENCE_POOLS, wish.pool))
    return found


def _of(existing: Existing, resource: Resource) -> Mapping[str, KubeObject]:
    if resource is SERVICES:
        return existing.services
    return existing.slices if resource is ENDPOINT_SLICES else existing.pools


def _taken(wish: Wish, existing: Existing) -> str | None:
    for resource, body in _bodies(wish):
        found = _of(existing, resource).get(object_key(body))
        if found is not None and wish.uid not in owners_of(found):
            return (
                f"there is a {resource.kind} {object_key(body)} that memroute did not write for "
                "this one: remove it, or give it another name"
            )
    return None


def _missing(wish: Wish, existing: Existing) -> list[Change]:
    changes = []
    for resource, body in _bodies(wish):
        found = _of(existing, resource).get(object_key(body))
        if found is None:
            changes.append(Change(verb=Verb.CREATE, resource=resource, body=body))
        elif "deletionTimestamp" in found["metadata"]:
            continue  # somebody holds it: it is made anew when it has gone
        elif resource is SERVICES and _must_be_made_anew(found, body):
            changes.append(Change(verb=Verb.DELETE, resource=resource, body=found))
            changes.append(Change(verb=Verb.CREATE, resource=resource, body=body))
        elif not is_as_wanted(found, body):
            changes.append(Change(verb=Verb.APPLY, resource=resource, body=body))
    return changes


def _must_be_made_anew(found: KubeObject, wanted: KubeObject) -> bool:
    """Whether apply would leave what is not wanted: ports of others, and what a port spoke."""
    if ports_of(found) != ports_of(wanted):
        return True
    pairs = zip(app_protocols(found), app_protocols(wanted), strict=True)
    return any(had is not None and has is None for had, has in pairs)


def _strays(wish: Wish, existing: Existing) -> Iterable[Change]:
    """Slices that lead a Service without a selector to other pods than the picker's.

    Kubernetes writes them while somebody's selector is on the Service, with the Service's labels,
    and leaves them there when it goes. (``objects.NOT_MIRRORED`` keeps it from writing more.)
    """
    service = existing.services.get(object_key(wish.service))
    if service is None or "selector" in wish.service["spec"]:
        return
    for slice_ in existing.slices.values():
        if (
            service["metadata"]["uid"] in owners_of(slice_)
            and "deletionTimestamp" not in slice_["metadata"]
        ):
            yield Change(verb=Verb.DELETE, resource=ENDPOINT_SLICES, body=slice_)


def _unwanted(
    existing: Existing, wanted: set[tuple[str, str, str]], keys: Mapping[str, str]
) -> Iterable[tuple[Change, str]]:
    """What we wrote for an owner that does not ask for it (any more), with the owner's uid.

    The pool before its Service. An owner that is not there is Kubernetes' matter.
    """
    for resource in (INFERENCE_POOLS, ENDPOINT_SLICES, SERVICES):
        for key, obj in _of(existing, resource).items():
            owners = [uid for uid in owners_of(obj) if uid in keys]
            if not owners or any((resource.plural, key, uid) in wanted for uid in owners):
                continue
            if resource is INFERENCE_POOLS and not is_written_by_us(obj):
                continue
            if "deletionTimestamp" not in obj["metadata"]:
                yield Change(verb=Verb.DELETE, resource=resource, body=obj), owners[0]


def ports_of(service: KubeObject) -> list[int]:
    """The numbers of a Service's ports."""
    ports = map(mapping, listed(mapping(service.get("spec")).get("ports")))
    return [port["port"] for port in ports if "port" in port]


def owners_of(obj: KubeObject) -> list[str]:
    """The uids of an object's owners."""
    owners = map(mapping, listed(mapping(obj.get("metadata")).get("ownerReferences")))
    return [str(owner.get("uid")) for owner in owners]


def is_written_by_us(pool: KubeObject) -> bool:
    """Whether a pool is one of those that the operator writes for ModelDeployments."""
    labels = mapping(mapping(pool.get("metadata")).get("labels"))
    return MANAGED.items() <= labels.items() and deployment_of_pool(pool) is not None
