"""Do gateways find the endpoint picker, by pools and Services, and what do they make of it?

Nothing is said where nobody has a picker, a pool that asks for it, or a ModelDeployment that does.
"""

from collections.abc import Iterator
from typing import Any

from memroute_cli.doctor.checks.network import ready_endpoints
from memroute_cli.doctor.facts import PICKER, Facts, Unread, name_of, spec_of, status_of
from memroute_cli.doctor.finding import Finding, failed, ok, unknown, warning
from memroute_kube import KubeObject
from memroute_kube.gateway import (
    INFERENCE_POOLS,
    asks_for_picker,
    deployment_of_pool,
    picker_service_of,
)
from memroute_kube.resources import object_key
from memroute_kube.shapes import listed, mapping
from memroute_operator.gateway.telling import NO_PICKER, PICKER_NOT_INSTALLED, POOLS_NOT_INSTALLED

# Of one sort, before they are only counted.
MAX_NAMED = 3
# ModelDeployments of which it is told one by one what gateways say. Chosen by hand.
MAX_MODELS = 5
_INSTALL = "install the chart with picker.enabled=true, or apply install-picker.yaml of a release"
# Reasons of GatewayNotReady that another finding tells, with its next step.
_TOLD = frozenset({NO_PICKER, PICKER_NOT_INSTALLED, POOLS_NOT_INSTALLED})


def check(facts: Facts) -> Iterator[Finding]:
    """What is asked for, then what is there."""
    pickers = facts.programs(PICKER)
    has_picker = not isinstance(pickers, Unread) and bool(pickers)
    asking = _asking(facts)
    if facts.pools is None:
        install = (
            f"install the CRD of {INFERENCE_POOLS.api_version} (Gateway API inference extension); "
            "memroute goes on by itself then"
        )
        if asking:
            yield failed(
                "gateways",
                f"{_named(asking)} ask(s) for an {INFERENCE_POOLS.kind}, a kind that the cluster "
                "does not know",
                install,
            )
        elif has_picker:
            yield warning(
                "gateways",
                f"the cluster does not know the kind {INFERENCE_POOLS.kind}: only a gateway that "
                "has the picker's address in its own configuration (a bare Envoy) asks it",
                install,
            )
        return
    if isinstance(facts.pools, Unread):
        if asking or has_picker:
            yield unknown("gateways", facts.pools.why, facts.pools.next_step)
        return
    ours = [one for one in facts.pools if asks_for_picker(one) or deployment_of_pool(one)]
    if (asking or ours) and not has_picker and not isinstance(pickers, Unread):
        names = asking or [object_key(one) for one in ours]
        yield failed("gateways", f"{_named(names)} ask(s) for a picker: there is none", _INSTALL)
    if has_picker and not asking and not ours:
        yield ok(
            "pools",
            "no gateway is led to the picker yet: a ModelDeployment asks by spec.routing.gateway, "
            "a pool of your own by the label memroute.dev/picker=serve",
        )
    yield from _pools(facts, ours)
    yield from _not_ready(facts)
    yield from _objectives(facts, facts.pools)


def _asking(facts: Facts) -> list[str]:
    return [object_key(one) for one in _asking_models(facts)]


def _asking_models(facts: Facts) -> list[KubeObject]:
    if isinstance(facts.model_deployments, Unread):
        return []
    return [
        one for one in facts.model_deployments if "gateway" in mapping(spec_of(one).get("routing"))
    ]


def _not_ready(facts: Facts) -> Iterator[Finding]:
    """What the operator has heard of gateways: no route, a refusal, a name that is taken."""
    said = [(one, condition) for one in _asking_models(facts) if (condition := _condition(one))]
    for one, condition in said[:MAX_MODELS]:
        namespace = one["metadata"].get("namespace")
        yield warning(
            "gateways",
            f"{object_key(one)}: {condition.get('reason')}: {condition.get('message')}",
            f"kubectl -n {namespace} get httproutes; kubectl -n {namespace} get "
            f"mdep/{name_of(one)} -o jsonpath='{{.status.gateway}}'",
        )
    if len(said) > MAX_MODELS:
        more = len(said) - MAX_MODELS
        yield warning(
            "gateways", f"no gateway sends requests to {more} more ModelDeployments",
            "kubectl describe mdep -A, conditions GatewayNotReady",
        )  # fmt: skip


def _condition(model: KubeObject) -> dict[str, Any] | None:
    """``GatewayNotReady``, where it is so and no other finding tells it."""
    for one in map(mapping, listed(status_of(model).get("conditions"))):
        if one.get("type") == "GatewayNotReady":
            is_told = one.get("status") != "True" or one.get("reason") in _TOLD
            return None if is_told else dict(one)
    return None


def _pools(facts: Facts, ours: list[KubeObject]) -> Iterator[Finding]:
    """Whether each leads to a picker."""
    if isinstance(facts.pool_services, Unread):
        if ours:
            yield unknown("pools", facts.pool_services.why, facts.pool_services.next_step)
        return
    services = {object_key(one): one for one in facts.pool_services}
    without, empty = [], []
    for pool in ours:
        named = picker_service_of(pool)
        service = None if named is None else services.get(f"{named.namespace}/{named.name}")
        if service is None:
            without.append(object_key(pool))
        elif ready_endpoints(facts, service) == 0:
            empty.append(object_key(pool))
    if without:
        yield failed(
            "pools",
            f"{_named(without)} name(s) a Service for the picker that is not there",
            "kubectl describe mdep says why the operator has not written it; pools of your own "
            "need endpointPickerRef, and the label memroute.dev/picker=serve",
        )
    if empty:
        yield failed(
            "pools",
            f"the Service that {_named(empty)} name(s) leads to no picker that is ready",
            "kubectl get pods -A -l app.kubernetes.io/component=picker; does the operator's "
            "--picker-selector name them?",
        )
    if ours and not without and not empty:
        yield ok("pools", f"{len(ours)} InferencePool(s) lead to a picker")


def _objectives(facts: Facts, pools: tuple[KubeObject, ...]) -> Iterator[Finding]:
    """Those of pools that are not there: no request gets their priority by mistake, or at all."""
    if isinstance(facts.objectives, Unread):
        return  # nobody has to have any
    keys = {object_key(one) for one in pools}
    lost = [
        object_key(one)
        for one in facts.objectives
        if f"{one['metadata'].get('namespace')}/{mapping(spec_of(one).get('poolRef')).get('name')}"
        not in keys
    ]
    if lost:
        yield warning(
            "objectives",
            f"InferenceObjective(s) {_named(lost)} name(s) a pool that is not there",
            f"kubectl get inferencepools -A; name one in the namespace of {lost[0]}",
        )


def _named(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
