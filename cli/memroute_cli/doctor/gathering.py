"""Asks the API server for everything that checks decide on. What it refuses becomes ``Unread``."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from memroute import __version__
from memroute_cli.cluster.looking import with_client
from memroute_cli.doctor.checks.rights import operator_rights, own_rights
from memroute_cli.doctor.facts import (
    OPERATOR,
    ROUTER,
    Facts,
    Objects,
    Operator,
    RequestOutcome,
    Right,
    Rights,
    Unread,
    arguments_of,
    is_program,
    spec_of,
)
from memroute_kube import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    LEASES,
    MODEL_DEPLOYMENTS,
    NODES,
    PODS,
    SERVICES,
    ApiError,
    KubeObject,
    KubernetesClient,
    Resource,
)
from memroute_kube.client import NOT_FOUND
from memroute_kube.errors import FORBIDDEN
from memroute_kube.gateway import INFERENCE_OBJECTIVES, INFERENCE_POOLS
from memroute_kube.resources import DAEMON_SETS, DEPLOYMENTS, NAMESPACES, RUNTIME_CLASSES
from memroute_kube.shapes import mapping
from memroute_operator.readings.fleet_view import VIEW_NAME, FleetView, read_view

QUOTAS = Resource(plural="resourcequotas", kind="ResourceQuota")
WEBHOOKS = tuple(
    Resource(
        group="admissionregistration.k8s.io", plural=plural, kind=kind, namespaced=False
    )
    for plural, kind in (
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    )
)  # fmt: skip
CRDS = Resource(
    group="apiextensions.k8s.io", plural="customresourcedefinitions",
    kind="CustomResourceDefinition", namespaced=False,
)  # fmt: skip
CRD_NAME = "modeldeployments.memroute.dev"
REVIEWS = "/apis/authorization.k8s.io/v1"
# Where a cluster's DNS is.
DNS_NAMESPACE = "kube-system"


def gather(kubeconfig: Path | None, namespace: str, request: RequestOutcome | None = None) -> Facts:
    """One look at the cluster. Raises ``LookError`` where none is configured."""
    return asyncio.run(with_client(kubeconfig, lambda client: look_at(client, namespace, request)))


async def look_at(
    client: KubernetesClient, namespace: str, request: RequestOutcome | None = None
) -> Facts:
    """What this client may see. ``namespace``: of the operator, where no Deployment says it."""
    version = await _version(client)
    if isinstance(version, Unread):
        return _nothing(version, namespace, request)
    deployments = await _all(client, DEPLOYMENTS)
    operators = () if isinstance(deployments, Unread) else [
        one for one in deployments if is_program(one, OPERATOR)
    ]  # fmt: skip
    routers = () if isinstance(deployments, Unread) else [
        str(one["metadata"]["namespace"]) for one in deployments if is_program(one, ROUTER)
    ]  # fmt: skip
    # What is installed says where it is: of several releases the one that was named comes first.
    places = {str(one["metadata"]["namespace"]): one for one in operators}
    pools = await _if_known(client, INFERENCE_POOLS)
    order = sorted(places, key=lambda name: name != namespace) or [namespace]
    namespace = order[0]
    asked = [await _operator(client, name, places.get(name), deployments) for name in order]
    return Facts(
        now=datetime.now(UTC),
        program_version=__version__,
        namespace=namespace,
        server_version=version,
        crd=await _crd(client),
        crd_fields=own_fields(),
        deployments=deployments,
        daemon_sets=await _all(client, DAEMON_SETS),
        pods=await _all(client, PODS),
        nodes=await _all(client, NODES),
        leases=await _all(client, LEASES, order),
        services=await _all(client, SERVICES, {*order, *routers, DNS_NAMESPACE}),
        endpoint_slices=await _all(client, ENDPOINT_SLICES),
        runtime_classes=await _all(client, RUNTIME_CLASSES),
        namespaces=await _all(client, NAMESPACES),
        quotas=await _all(client, QUOTAS),
        webhooks=await _webhooks(client),
        model_deployments=await _models(client),
        pools=pools,
        objectives=await _objectives(client),
        pool_services=await _all(client, SERVICES, _namespaces_of(pools)),
        view=asked[0].view,
        own_rights=await _rights(client, own_rights(namespace), None),
        operator_rights=asked[0].rights,
        others=tuple(asked[1:]),
        request=request,
    )


async def _operator(
    client: KubernetesClient, namespace: str, program: KubeObject | None, deployments: Objects
) -> Operator:
    """What is asked of one operator. ``program``: its Deployment; None where none was found."""
    template = mapping(mapping(spec_of(program or {}).get("template")).get("spec"))
    account = str(template.get("serviceAccountName") or "default")
    scopes = [] if program is None else arguments_of(program, "--watch-namespace")
    rights: Rights = {}
    if program is not None or isinstance(deployments, Unread):
        # Where Deployments may not be read, it is taken to be as the chart has it.
        account = account if program is not None else "memroute-operator"
        rights = await _rights(
            client,
            operator_rights(
                namespace,
                scopes,
                leads_gateways=program is not None
                and bool(arguments_of(program, "--picker-selector")),
            ),
            f"system:serviceaccount:{namespace}:{account}",
        )
    return Operator(namespace=namespace, rights=rights, view=await _view(client, namespace))


def own_fields() -> frozenset[str]:
    """Paths of the CRD that this program was released with."""
    text = files("memroute_cli.doctor").joinpath("crd_fields.txt").read_text()
    return frozenset(text.split())


def _nothing(why: Unread, namespace: str, request: RequestOutcome | None) -> Facts:
    """Where nothing answers: one reason is enough."""
    return Facts(
        now=datetime.now(UTC), program_version=__version__, namespace=namespace,
        server_version=why, crd=why, deployments=why, daemon_sets=why, pods=why, nodes=why,
        leases=why, services=why, endpoint_slices=why, runtime_classes=why, namespaces=why,
        quotas=why, webhooks=why, model_deployments=why, pools=why, objectives=why,
        pool_services=why, view=why, own_rights=why, operator_rights=why, request=request,
    )  # fmt: skip


async def _version(client: KubernetesClient) -> str | Unread:
    try:
        answer = await client.request("GET", "/version")
    except ApiError as error:
        if error.status == FORBIDDEN:
            return "(version not told)"
        return Unread(
            f"the API server does not answer: {error.message}"
            if error.status == 0
            else f"the API server refuses: {error.message}",
            "kubectl cluster-info; kubectl config current-context",
        )
    return str(answer.get("gitVersion") or "(version not told)")


async def _all(
    client: KubernetesClient, resource: Resource, namespaces: Iterable[str | None] = (None,)
) -> Objects:
    found: list[KubeObject] = []
    try:
        for namespace in namespaces:
            found += (await client.list(resource, namespace))[0]
    except ApiError as error:
        return _unread(error, f"list {resource.plural}")
    return tuple(found)


def _unread(error: ApiError, what: str) -> Unread:
    if error.status == FORBIDDEN:
        return Unread(f"you may not {what}")
    said = " ".join(error.message.split())
    return Unread(f"{what}: {said}", "try again; the API server did not answer this")


async def _crd(client: KubernetesClient) -> KubeObject | Unread | None:
    try:
        return await client.get(CRDS, None, CRD_NAME)
    except ApiError as error:
        return None if error.status == NOT_FOUND else _unread(error, "get the CRD")


async def _models(client: KubernetesClient) -> Objects:
    """None at all where the kind is not known: the check of the CRD says that."""
    try:
        return tuple((await client.list(MODEL_DEPLOYMENTS))[0])
    except ApiError as error:
        return () if error.status == NOT_FOUND else _unread(error, "list modeldeployments")


async def _if_known(client: KubernetesClient, resource: Resource) -> Objects | None:
    """None where the kind is not installed."""
    try:
        return tuple((await client.list(resource))[0])
    except ApiError as error:
        return None if error.status == NOT_FOUND else _unread(error, f"list {resource.plural}")


async def _objectives(client: KubernetesClient) -> Objects:
    found: list[KubeObject] = []
    for resource in INFERENCE_OBJECTIVES:
        some = await _if_known(client, resource)
        if isinstance(some, Unread):
            return some
        found += some or ()
    return tuple(found)


def _namespaces_of(pools: Objects | None) -> list[str]:
    known = () if pools is None or isinstance(pools, Unread) else pools
    return sorted({str(one["metadata"]["namespace"]) for one in known})


async def _webhooks(client: KubernetesClient) -> Objects:
    found: list[KubeObject] = []
    for resource in WEBHOOKS:
        some = await _all(client, resource)
        if isinstance(some, Unread):
            return some
        found += some
    return tuple(found)


async def _view(client: KubernetesClient, namespace: str) -> FleetView | Unread | None:
    try:
        found = read_view(await client.get(CONFIG_MAPS, namespace, VIEW_NAME))
    except ApiError as error:
        if error.status == NOT_FOUND:
            return None
        return _unread(error, f"get ConfigMap {namespace}/{VIEW_NAME}")
    if found is None:
        return Unread(
            f"ConfigMap {namespace}/{VIEW_NAME} is of another release of memroute",
            "use the command line of the release that is installed",
        )
    return found


async def _rights(client: KubernetesClient, rights: Iterable[Right], account: str | None) -> Rights:
    """Whether each is granted: to this person, or to an account where one may ask for it."""
    kind = "SelfSubjectAccessReview" if account is None else "SubjectAccessReview"
    found = {}
    for right in rights:
        spec: dict[str, Any] = {
            "resourceAttributes": {
                "verb": right.verb, "group": right.group,
                "resource": right.resource.partition("/")[0],
                "subresource": right.resource.partition("/")[2],
                "namespace": right.namespace or "", "name": right.name or "",
            }
        } | ({} if account is None else {"user": account, "groups": _groups(account)})  # fmt: skip
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        try:
            answer = await client.request("POST", f"{REVIEWS}/{kind.lower()}s", body=body)
        except ApiError as error:
            return _unread(error, f"create {kind.lower()}s")
        found[right] = mapping(answer.get("status")).get("allowed") is True
    return found


def _groups(account: str) -> list[str]:
    """Those that the API server puts a service account into."""
    namespace = account.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
