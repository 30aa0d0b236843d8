"""Calls to the API server from this process, as its administrator.

kubectl takes a tenth of a second of a core to start, and three to apply an object; whoever waits
for something asks ten times a second. On two cores that is much of what there is.
"""

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import yaml

from memroute_kube import KubeObject

# A server that a test has paused answers when it goes on. Source: chosen by hand.
TIMEOUT_SECONDS = 60.0
# How often a call is made that the server puts off with a Retry-After, as client-go does it.
MAX_TRIES = 10
# All resources of all groups in two answers; served since Kubernetes 1.30.
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# Flag of ``kubectl get`` → its name in a query.
SELECTORS = {"-l": "labelSelector", "--field-selector": "fieldSelector"}
# Whose the fields of applied objects are: what kubectl changes of them is the same person's.
FIELD_MANAGER = "kubectl"


class CallError(RuntimeError):
    """The API server refuses a call, or gives no answer; the message has its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A resource as the API server serves it, in the version that it prefers."""

    api_version: str
    kind: str
    plural: str
    names: frozenset[str]
    """The plural, the singular and the short ones."""
    is_namespaced: bool

    def path(self, namespace: str | None) -> str:
        """Of its list; across namespaces when None."""
        root = "/apis" if "/" in self.api_version else "/api"
        scope = f"/namespaces/{quote(namespace)}" if namespace and self.is_namespaced else ""
        return f"{root}/{self.api_version}{scope}/{self.plural}"


class ApiCaller:
    """Calls one API server. Owns what it knows of the resources that there are."""

    def __init__(self, kubeconfig: Path, pki: Path) -> None:
        """``kubeconfig``: says where the server is. ``pki``: the control plane's certificates."""
        self._kubeconfig, self._pki = kubeconfig, pki
        self._served: dict[object, Served] = {}

    def objects(self, resource: str, *arguments: str) -> list[KubeObject] | None:
        """What ``kubectl get`` lists with these arguments; None where only kubectl can tell.

        ``arguments``: ``-n``, ``-l`` and ``--field-selector`` with their values. Without ``-n``:
        of all namespaces. Raises ``CallError``.
        """
        flags = dict(zip(arguments[::2], arguments[1::2], strict=False))
        if len(flags) * 2 != len(arguments) or not flags.keys() <= {"-n", *SELECTORS}:
            return None
        served = self._find(resource)
        if served is None:
            return None
        namespace = flags.pop("-n", None)
        query = {SELECTORS[flag]: value for flag, value in flags.items()}
        answer = self._call("GET", served.path(namespace), query)
        # The API server leaves out of a list's items what the list itself says.
        identity = {"apiVersion": served.api_version, "kind": served.kind}
        return [identity | one for one in answer["items"] or ()]

    def one(self, resource: str, namespace: str, name: str) -> KubeObject | None:
        """One object; None where only kubectl can tell. Raises ``CallError``."""
        served = self._find(resource)
        if served is None:
            return None
        return self._call("GET", f"{served.path(namespace)}/{quote(name)}")

    def create(self, obj: KubeObject) -> KubeObject:
        """The object as it is stored. No field may be unknown. Raises ``CallError``."""
        path = self._of(obj).path(obj["metadata"].get("namespace"))
        return self._call("POST", path, {"fieldValidation": "Strict"}, obj)

    def apply(self, obj: KubeObject) -> KubeObject:
        """Server-side apply: the fields of the object are ours, and those no more that it lacks.

        No field may be unknown. Raises ``CallError``.
        """
        metadata = obj["metadata"]
        path = f"{self._of(obj).path(metadata.get('namespace'))}/{quote(metadata['name'])}"
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return self._call("PATCH", path, query, obj)

    def delete_all(self, resource: str, namespace: str) -> None:
        """All of one namespace begin to go. Raises ``CallError``."""
        served = self._find(resource)
        if served is not None:
            self._call("DELETE", served.path(namespace))

    def _find(self, key: object) -> Served | None:
        """By the names that kubectl takes, without a group; the first group wins, as there.

        Or by (apiVersion, kind).
        """
        if key not in self._served:  # or it has been installed since
            known: dict[object, Served] = {}
            for served in self._discover():
                for each in (*served.names, (served.api_version, served.kind)):
                    known.setdefault(each, served)
            self._served = known
        return self._served.get(key)

    def _of(self, obj: KubeObject) -> Served:
        served = self._find((obj["apiVersion"], obj["kind"]))
        if served is None:
            msg = f"no resource of kind {obj['kind']} in {obj['apiVersion']}"
            raise CallError(msg)
        return served

    def _discover(self) -> Iterator[Served]:
        for path in ("/api", "/apis"):
            for group in self._call("GET", path, accept=DISCOVERY)["items"]:
                (preferred, *_) = group["versions"]
                words = (group["metadata"].get("name"), preferred["version"])
                for one in preferred["resources"]:
                    names = [one["resource"], one["singularResource"], *one.get("shortNames", ())]
                    yield Served(
                        api_version="/".join(filter(None, words)),
                        kind=one["responseKind"]["kind"],
                        plural=one["resource"],
                        names=frozenset(names),
                        is_namespaced=one["scope"] == "Namespaced",
                    )

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: KubeObject | None = None,
        *,
        accept: str = "application/json",
    ) -> KubeObject:
        content = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        headers = {"Accept": accept} | ({"Content-Type": content} if body is not None else {})
        target = f"{path}?{urlencode(query)}" if query else path
        text = None if body is None else json.dumps(body)
        for _ in range(MAX_TRIES):
            status, wait_seconds, told = self._send(method, target, text, headers)
            if status < http.client.BAD_REQUEST:
                document: KubeObject = json.loads(told)
                return document
            if wait_seconds is None:
                break
            time.sleep(float(wait_seconds))
        raise CallError(_words(told))

    def _send(
        self, method: str, target: str, text: str | None, headers: Mapping[str, str]
    ) -> tuple[int, str | None, bytes]:
        """Status, Retry-After in seconds, and body. Raises ``CallError`` without an answer."""
        host, port = self._server
        connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_SECONDS, context=self._context
        )
        try:
            connection.request(method, target, text, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheader("Retry-After"), answer.read()
        except (OSError, http.client.HTTPException) as error:
            msg = f"{target}: {error!r}"
            raise CallError(msg) from error
        finally:
            connection.close()

    @cached_property
    def _server(self) -> tuple[str, int]:
        document = yaml.safe_load(self._kubeconfig.read_text())
        url = urlsplit(document["clusters"][0]["cluster"]["server"])
        return str(url.hostname), int(url.port or http.client.HTTPS_PORT)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._pki / "ca.crt")
        pair = self._pki / "kubelet-client"
        context.load_cert_chain(pair.with_suffix(".crt"), pair.with_suffix(".key"))
        return context


def _words(text: bytes) -> str:
    """A refusal as kubectl tells it: the fields that are wrong, a line each."""
    try:
        status: dict[str, Any] = json.loads(text)
        details = status.get("details") or {}
        causes = [f"{one['field']}: {one['message']}" for one in details.get("causes") or ()]
        message = str(status["message"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return text.decode(errors="replace")
    if status.get("reason") != "Invalid" or not causes:
        return message
    told = f'The {details.get("kind")} "{details.get("name")}" is invalid: '
    return told + (causes[0] if len(causes) == 1 else "".join(f"\n* {one}" for one in causes))
