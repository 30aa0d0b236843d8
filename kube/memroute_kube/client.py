"""Calls to the API server with raw objects.

Credentials, in this order: the ServiceAccount of the pod we run in; the kubeconfig named by
``KUBECONFIG``, else ``~/.kube/config``.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException

from memroute_kube.connection import no_answer, open_session
from memroute_kube.errors import (
    BAD_ANSWER,
    BAD_REQUEST,
    CONFLICT,
    GONE,
    MAX_ERROR_TEXT,
    NOT_FOUND,
    UNPROCESSABLE,
    ApiError,
    NotConfiguredError,
    error_from,
)
from memroute_kube.resources import EVENTS, KubeObject, Resource

# With the errors that callers of a client tell apart.
__all__ = [
    "APPLY_PATCH",
    "CONFLICT",
    "GONE",
    "JSON_PATCH",
    "MERGE_PATCH",
    "NOT_FOUND",
    "PAGE_SIZE",
    "UNPROCESSABLE",
    "ApiError",
    "KubernetesClient",
]

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
# The API server itself gives up after 34 s; admission webhooks have 10 s by default.
REQUEST_TIMEOUT_SECONDS = 30.0
# Objects of one page: half of what client-go's informers ask for. A pod has 10 kB, and reading a
# page as JSON holds the interpreter: 65 ms for 500, which delays the Lease and every watch.
PAGE_SIZE = 250
# Events of one object that are read: kubelet writes one for each kind of trouble and counts it.
MAX_EVENTS = 100
# Writes that the API server attributes to a field manager (server-side apply names its own).
MANAGED_METHODS = frozenset({"POST", "PATCH", "PUT"})

# What the official client raises for files that are no kubeconfig, or not a whole one.
UNUSABLE = (
    ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError,
)  # fmt: skip

Page = tuple[list[KubeObject], str]
"""Objects of one page of a list, and the list's resourceVersion."""


class KubernetesClient:
    """Raw objects in, raw objects out. Owns its HTTP session; close it when done."""

    def __init__(self, api: ApiClient, *, component: str = "memroute") -> None:
        """``component``: who writes, for the field manager and the audit log's user agent."""
        self._api = api
        self._component = component
        self.request_seconds = REQUEST_TIMEOUT_SECONDS
        """How long a call may take, watches apart."""
        self._user_agent = f"{component}/{_own_version()}"
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    async def from_environment(
        cls, *, kubeconfig: Path | None = None, component: str = "memroute"
    ) -> Self:
        """A client with the credentials of this process, or of a given kubeconfig.

        ``component``: who writes, for the field manager and the audit log's user agent.
        Raises ``NotConfiguredError``.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and SERVICE_ACCOUNT_TOKEN.exists():
                load_incluster_config(client_configuration=configuration)
            else:
                await load_kube_config(
                    config_file=str(kubeconfig) if kubeconfig else None,
                    client_configuration=configuration,
                )
        except UNUSABLE as error:
            raise NotConfiguredError(_what_is_wrong(error)) from error
        return cls(ApiClient(configuration), component=component)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()
        if self._session is not None:
            await self._session.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> KubeObject:
        """One object. Raises ``ApiError`` 404 when there is none."""
        return await self.request("GET", resource.path(namespace, name))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str | None = None
    ) -> tuple[list[KubeObject], str]:
        """All objects (across namespaces when None), and the resourceVersion to watch from."""
        items: list[KubeObject] = []
        version = ""
        async for page, version in self.list_pages(  # noqa: B007 - the last one counts
            resource, namespace, label_selector=label_selector
        ):
            items.extend(page)
        return items, version

    async def list_pages(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str | None = None
    ) -> AsyncIterator[Page]:
        """The same, a page at a time: a large list need never be held whole.

        Raises ``ApiError`` 410 when the list expired between two pages: begin anew.
        """
        query: dict[str, Any] = {"limit": PAGE_SIZE}
        if label_selector:
            query["labelSelector"] = label_selector
        while True:
            page = await self.request("GET", resource.path(namespace), query=query)
            try:
                items, version = list(page["items"] or ()), str(page["metadata"]["resourceVersion"])
                token = page["metadata"].get("continue")
            except (KeyError, TypeError, AttributeError) as error:
                raise ApiError(0, BAD_ANSWER, f"not a list: {error!r}") from error
            yield items, version
            if not token:
                return
            query["continue"] = token

    async def list_events_of(self, namespace: str, uid: str) -> Sequence[KubeObject]:
        """Events about the object of that uid, the first ``MAX_EVENTS`` of them."""
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(MAX_EVENTS)}
        answer = await self.request("GET", EVENTS.path(namespace), query=query)
        items = answer.get("items")
        return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        body: KubeObject,
        *,
        sub: str | None = None,
        is_strict: bool = False,
        is_dry_run: bool = False,
    ) -> KubeObject:
        """Create an object (or POST to a subresource of the object that ``body`` names).

        ``is_strict``: whether a field that the API server does not know is refused, not dropped.
        ``is_dry_run``: whether only to ask what would come of it.
        """
        name = body["metadata"]["name"] if sub else None
        query = {"fieldValidation": "Strict"} if is_strict else {}
        if is_dry_run:
            query["dryRun"] = "All"
        return await self.request(
            "POST", resource.path(namespace, name, sub), body=body, query=query or None
        )

    async def apply(
        self,
        resource: Resource,
        namespace: str | None,
        body: KubeObject,
        *,
        field_manager: str,
        sub: str | None = None,
    ) -> KubeObject:
        """Server-side apply: the fields in ``body`` are ours, all others stay."""
        return await self.request(
            "PATCH",
            resource.path(namespace, body["metadata"]["name"], sub),
            body={"apiVersion": resource.api_version, "kind": resource.kind} | body,
            query={"fieldManager": field_manager, "force": "true"},
            content_type=APPLY_PATCH,
        )

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: object,
        *,
        sub: str | None = None,
        content_type: str = MERGE_PATCH,
    ) -> KubeObject:
        """Merge-patch (or JSON-patch) an object or its subresource."""
        path = resource.path(namespace, name, sub)
        return await self.request("PATCH", path, body=body, content_type=content_type)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        grace_period_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> KubeObject | None:
        """Delete an object; with ``uid``, only if it is still that one.

        What the server answers: the object while it terminates, or a Status. None when it is
        gone already, which is fine. With ``resource_version``, only if it is still as it was seen:
        raises ``ApiError`` 409 otherwise.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        expected = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in expected.items() if value is not None}
        if preconditions:
            options["preconditions"] = preconditions
        try:
            return await self.request("DELETE", resource.path(namespace, name), body=options)
        except ApiError as error:
            # A conflict here means that the name belongs to another object by now.
            is_another = uid is not None and resource_version is None and error.status == CONFLICT
            if error.status != NOT_FOUND and not is_another:
                raise
            return None

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> KubeObject:
        """One call; the parsed answer. Raises ``ApiError`` for anything but success."""
        timeout = aiohttp.ClientTimeout(total=self.request_seconds)
        try:
            response = await self._send(method, path, body, query, content_type, timeout)
            async with response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
            raise no_answer(error) from error
        if response.status >= BAD_REQUEST:
            raise error_from(response.status, text, response.headers)
        try:
            parsed = json.loads(text) if text else {}
        except ValueError as error:  # a proxy's page, or an answer that was cut off
            raise ApiError(0, BAD_ANSWER, text[:MAX_ERROR_TEXT]) from error
        if not isinstance(parsed, dict):
            raise ApiError(0, BAD_ANSWER, text[:MAX_ERROR_TEXT])
        return parsed

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_seconds: int = 270,
        inactivity_seconds: float = 90.0,
    ) -> AsyncIterator[KubeObject]:
        """Raw watch events until the server ends the stream. Raises ``ApiError`` on failure.

        ``inactivity_seconds``: bookmarks come every minute; a stream silent for longer is dead.
        """
        query: dict[str, Any] = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": timeout_seconds,
        }
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        timeout = aiohttp.ClientTimeout(total=None, sock_read=inactivity_seconds)
        try:
            response = await self._send(
                "GET", resource.path(namespace), None, query, "application/json", timeout
            )
            async with response:
                if response.status >= BAD_REQUEST:
                    raise error_from(response.status, await response.text(), response.headers)
                async for line in response.content:
                    yield _watch_event(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError: a line longer than any object, or text that is no UTF-8.
            raise no_answer(error) from error

    async def _send(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, Any] | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        configuration = self._api.configuration
        headers: dict[str, str] = {
            "Accept": "application/json",
            "User-Agent": self._user_agent,
        }
        if body is not None:
            headers["Content-Type"] = content_type
        if method in MANAGED_METHODS:
            query = {"fieldManager": self._component} | dict(query or {})
        await self._api.update_params_for_auth(
            headers, None, ["BearerToken"], path, method, body, request_auth=None
        )
        url = configuration.host + path
        if query:
            url += "?" + urlencode(query)
        data = None if body is None else json.dumps(body)
        return await self._open_session().request(
            method, url, headers=headers, data=data, timeout=timeout
        )

    def _open_session(self) -> aiohttp.ClientSession:
        # Not the client's own session: it retries and wraps answers, and a watch must stream.
        if self._session is None:
            self._session = open_session(self._api.configuration)
        return self._session


def _own_version() -> str:
    try:
        return version("memroute")
    except PackageNotFoundError:  # run from a checkout
        return "dev"


def _watch_event(line: bytes) -> KubeObject:
    """One event of a watch. Raises ``ApiError`` for an error event and for half a line."""
    try:
        event: KubeObject = json.loads(line)
        is_error, obj = event["type"] == "ERROR", event["object"]
        if is_error:
            raise error_from(int(obj.get("code") or 0), json.dumps(obj), {})
        _ = obj["metadata"]["resourceVersion"]  # what every reader of a watch needs
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # The stream was cut off inside an event: what it said will be said again.
        text = line[:MAX_ERROR_TEXT].decode(errors="replace")
        raise ApiError(0, BAD_ANSWER, f"not a watch event: {text!r}") from error
    return event


def _what_is_wrong(error: Exception) -> str:
    """With what says where the cluster is."""
    if isinstance(error, ConfigException) and "current-context" in str(error):
        return "it names no current context (kubectl config use-context NAME)"
    if isinstance(error, ConfigException | OSError):
        return f"it cannot be used: {' '.join(str(error).split())}"
    return f"it is no kubeconfig ({type(error).__name__})"
