"""What a ModelDeployment is told of its pool: what gateways say of it, and what is missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from memroute_kube import KubeObject
from memroute_kube.gateway import INFERENCE_POOLS, picker_service_name
from memroute_kube.shapes import listed, mapping
from memroute_operator.spec.deployment import Deployment

# Gateways that a status lists. Source: chosen by hand; a pool has up to 32, people have one or two.
MAX_PARENTS: Final = 8
# Of what others have written. Unit: characters. Source: chosen by hand.
_MAX_SAID: Final = 500

PICKER_NOT_INSTALLED: Final = "PickerNotInstalled"
POOLS_NOT_INSTALLED: Final = "InferencePoolsNotInstalled"
NOT_READ: Final = "GatewayObjectsNotRead"
NAME_TAKEN: Final = "PoolNameTaken"
REFUSED: Final = "PoolRefused"
NO_PICKER: Final = "NoPickerReady"
NO_GATEWAY: Final = "NoGateway"
NOT_ACCEPTED: Final = "PoolNotAccepted"
NOT_RESOLVED: Final = "PickerNotResolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayView:
    """What is told of a ModelDeployment's pool. Nothing where it asks for none."""

    part: dict[str, Any] | None = None
    """``status.gateway``."""
    condition: tuple[str, str, str] | None = None
    """``GatewayNotReady``; None: gateways send requests by it."""


NOTHING: Final = GatewayView()


def missing(reason: str, why: str) -> GatewayView:
    """That nothing can be written, or not all of it."""
    return GatewayView(condition=("True", reason, why))


def pool_view(deployment: Deployment, pool: KubeObject | None, num_pickers: int) -> GatewayView:
    """What gateways say of the pool that was written. ``num_pickers``: pods that are ready."""
    part: dict[str, Any] = {
        "pool": deployment.name,
        "service": picker_service_name(deployment.name),
    }
    if pool is None:
        why = "the InferencePool is being written"
        return GatewayView(part=part, condition=("True", NO_GATEWAY, why))
    generation = mapping(pool.get("metadata")).get("generation")
    parents = [told_parent(one, generation) for one in _parents(pool)]
    if parents:
        part["parents"] = parents[:MAX_PARENTS]
    if not num_pickers:
        why = "no pod of the endpoint picker is ready: gateways do as failureMode says"
        return GatewayView(part=part, condition=("True", NO_PICKER, why))
    return GatewayView(part=part, condition=_said(deployment, parents))


def told_parent(parent: KubeObject, generation: object = None) -> dict[str, Any]:
    """One gateway, and what it says: Unknown where it says nothing of this generation.

    ``generation``: of the pool; None where it is not known. Who does not say of which generation
    it speaks is believed.
    """
    reference = mapping(parent.get("parentRef"))
    namespace = reference.get("namespace")
    name = f"{namespace}/{reference.get('name')}" if namespace else str(reference.get("name"))
    conditions = {
        str(one.get("type")): one
        for one in map(mapping, listed(parent.get("conditions")))
        if not _is_older(one.get("observedGeneration"), generation)
    }
    accepted = conditions.get("Accepted", {})
    resolved = conditions.get("ResolvedRefs", {})
    bad = next((one for one in (accepted, resolved) if one.get("status") == "False"), {})
    told: dict[str, Any] = {
        "gateway": name[:_MAX_SAID],
        "accepted": _word(accepted),
        "resolvedRefs": _word(resolved),
    }
    if bad:
        told["message"] = f"{bad.get('reason')}: {bad.get('message')}"[:_MAX_SAID]
    return told


def _is_older(observed: object, generation: object) -> bool:
    if not isinstance(observed, int) or not isinstance(generation, int):
        return False
    return observed < generation


def _word(condition: Mapping[str, Any]) -> str:
    status = condition.get("status")
    return status if status in ("True", "False") else "Unknown"


def _parents(pool: KubeObject) -> Iterable[KubeObject]:
    """Those that gateways have written: some releases of the CRD have a default that is none."""
    for parent in listed(mapping(pool.get("status")).get("parents")):
        if mapping(mapping(parent).get("parentRef")).get("kind") != "Status":
            yield dict(mapping(parent))


def _said(deployment: Deployment, parents: list[dict[str, Any]]) -> tuple[str, str, str] | None:
    for field, reason in (("accepted", NOT_ACCEPTED), ("resolvedRefs", NOT_RESOLVED)):
        for one in parents:
            if one[field] == "False":
                return "True", reason, f"Gateway {one['gateway']} says {one['message']}"
    if any(one["accepted"] == "True" for one in parents):
        return None
    why = (
        "no gateway sends requests by it yet: it takes an HTTPRoute whose backend is "
        f"{INFERENCE_POOLS.kind} {deployment.name}, at a Gateway that takes routes of this "
        "namespace (allowedRoutes) and knows InferencePools"
    )
    return "True", NO_GATEWAY, why
