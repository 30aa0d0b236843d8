"""A picture of the cluster, by a kubeconfig alone: objects, and what the operator has told."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from memroute_cli.cluster.commands import OPERATOR_NAMESPACE
from memroute_cli.terminal.errors import UserError
from memroute_kube import (
    CONFIG_MAPS,
    MODEL_DEPLOYMENTS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    ApiError,
    KubeObject,
    KubernetesClient,
    NotConfiguredError,
    Resource,
)
from memroute_kube.client import NOT_FOUND, SERVICE_ACCOUNT_TOKEN
from memroute_kube.errors import FORBIDDEN
from memroute_kube.resources import LABEL_DEPLOYMENT, is_condition_true, object_key
from memroute_kube.shapes import mapping
from memroute_operator.explaining import Picture
from memroute_operator.failures.happenings import Happening, read_events
from memroute_operator.nodes.resource_slices import kept_slices
from memroute_operator.readings.calibration_book import BOOK_NAME, read_book
from memroute_operator.readings.fleet_view import VIEW_NAME, FleetView, read_view

T = TypeVar("T")
# Pods of one model whose Events are read, one call each: chosen by hand.
MAX_EVENTS_OF = 10
UNAUTHORIZED = 401
NOT_INSTALLED = (
    "the cluster has no ModelDeployments: memroute is not installed in it (the CRD "
    "modeldeployments.memroute.dev is missing)"
)


class LookError(UserError):
    """Why nothing can be shown, as a sentence with what helps."""


class NotInstalledError(LookError):
    """The cluster does not know the kind ModelDeployment."""


class Glance:
    """A picture, and what of it could not be had."""

    def __init__(self, picture: Picture, notes: Sequence[str]) -> None:
        self.picture = picture
        self.notes = tuple(notes)
        """What is missing and why, a sentence each."""


def look(
    *,
    kubeconfig: Path | None = None,
    operator_namespace: str = OPERATOR_NAMESPACE,
    events_of: str | None = None,
    needs_memroute: bool = True,
) -> Glance:
    """The cluster as it is now. Raises ``LookError``.

    ``events_of``: the name of a model of whose pods Events are read too.
    ``needs_memroute``: whether a cluster without its CRD is an error; else that is a note.
    """
    return asyncio.run(with_client(kubeconfig, lambda client: glance(
        client, operator_namespace=operator_namespace, events_of=events_of,
        needs_memroute=needs_memroute,
    )))  # fmt: skip


async def with_client(
    kubeconfig: Path | None, ask: Callable[[KubernetesClient], Coroutine[Any, Any, T]]
) -> T:
    """What a cluster answers. Raises ``LookError`` where none is configured."""
    if not SERVICE_ACCOUNT_TOKEN.exists() and not any(map(Path.is_file, _files(kubeconfig))):
        raise LookError(_not_configured(kubeconfig, "there is no such file"))
    try:
        client = await KubernetesClient.from_environment(
            kubeconfig=kubeconfig, component="memroute-cli"
        )
    except NotConfiguredError as error:
        raise LookError(_not_configured(kubeconfig, str(error))) from error
    async with client:
        return await ask(client)


def _files(kubeconfig: Path | None) -> list[Path]:
    """Where the kubeconfig may be, as kubectl looks for it."""
    named = [str(kubeconfig)] if kubeconfig else os.environ.get("KUBECONFIG", "").split(os.pathsep)
    return [Path(name) for name in named if name] or [Path.home() / ".kube" / "config"]


def _not_configured(kubeconfig: Path | None, what: str) -> str:
    """Which file was meant, and what is wrong with it."""
    files = ", ".join(map(str, _files(kubeconfig)))
    return f"no cluster is configured: {files}: {what}; --kubeconfig FILE names another"


async def glance(
    client: KubernetesClient,
    *,
    operator_namespace: str = OPERATOR_NAMESPACE,
    events_of: str | None = None,
    needs_memroute: bool = True,
) -> Glance:
    """The cluster that this client speaks to. Raises ``LookError``."""
    notes: list[str] = []
    try:
        deployments = await _all(client, MODEL_DEPLOYMENTS)
    except NotInstalledError as error:
        if needs_memroute:
            raise
        notes.append(str(error))
        deployments = []
    nodes = await _all(client, NODES)
    pods = await _all(client, PODS)
    at = datetime.now(UTC)
    view = await _view(client, operator_namespace, notes)
    book = await _maybe(client.get(CONFIG_MAPS, operator_namespace, BOOK_NAME))
    slices = await _maybe(client.list(RESOURCE_SLICES))
    claims = await _maybe(client.list(RESOURCE_CLAIMS))
    known = {} if slices is None or claims is None else kept_slices(slices[0], claims[0])
    picture = Picture(
        model_deployments=tuple(deployments),
        pods=tuple(pods),
        nodes=tuple(nodes),
        view=view,
        resource_slices=known,
        calibrations={} if book is None else read_book(book),
        stories={} if events_of is None else await _stories(client, pods, events_of),
        at=at,
    )
    return Glance(picture, notes)


async def _all(client: KubernetesClient, resource: Resource) -> list[KubeObject]:
    try:
        return (await client.list(resource))[0]
    except ApiError as error:
        if error.status == NOT_FOUND and resource is MODEL_DEPLOYMENTS:
            raise NotInstalledError(NOT_INSTALLED) from error
        raise LookError(_sentence(error, resource)) from error


def _sentence(error: ApiError, resource: Resource) -> str:
    if error.status == 0:
        return f"the cluster does not answer: {error.message}"
    if error.status == UNAUTHORIZED:
        return f"the cluster does not know these credentials: {error.message}"
    if error.status == FORBIDDEN:
        return (
            f"you may not list {resource.plural}: `memroute top` and `memroute explain` need list "
            "on nodes, pods and modeldeployments of the whole cluster (the ClusterRole "
            f"memroute-look has it): {error.message}"
        )
    return f"the cluster refuses: {error}"


async def _view(client: KubernetesClient, namespace: str, notes: list[str]) -> FleetView | None:
    name = f"{namespace}/{VIEW_NAME}"
    try:
        found = read_view(await client.get(CONFIG_MAPS, namespace, VIEW_NAME))
    except ApiError as error:
        why = {
            NOT_FOUND: f"the operator has not written ConfigMap {name} (does it run there? "
            "--operator-namespace says where)",
            FORBIDDEN: f"you may not get ConfigMap {name} (the ClusterRole memroute-look has it)",
        }.get(error.status, str(error))
        notes.append(f"nothing is observed: {why}")
        return None
    if found is None:
        notes.append(f"nothing is observed: ConfigMap {name} is of another release of memroute")
    return found


async def _maybe(call: Awaitable[T]) -> T | None:
    """What may be missing without harm: the answer, or None."""
    try:
        return await call
    except ApiError:
        return None


async def _stories(
    client: KubernetesClient, pods: Sequence[KubeObject], model: str
) -> dict[str, tuple[Happening, ...]]:
    """Events of the model's pods that are not ready; empty where they may not be read."""
    found: dict[str, tuple[Happening, ...]] = {}
    names = {model, model.partition("/")[2]}
    own = [
        pod for pod in pods
        if mapping(pod["metadata"].get("labels")).get(LABEL_DEPLOYMENT) in names
        and not is_condition_true(pod, "Ready")
    ]  # fmt: skip
    for pod in sorted(own, key=object_key)[:MAX_EVENTS_OF]:
        uid, namespace = pod["metadata"]["uid"], pod["metadata"]["namespace"]
        events = await _maybe(client.list_events_of(namespace, uid))
        if events is None:
            break
        found[uid] = read_events(events, uid)
    return found
