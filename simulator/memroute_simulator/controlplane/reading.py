"""Objects of the API server, read in this process.

kubectl takes a tenth of a second of a core to start, and whoever waits for something asks ten times
a second: on two cores that is most of what there is.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import yaml

from memroute_kube import KubeObject

# A server that a test has paused answers when it goes on. Source: chosen by hand.
TIMEOUT_SECONDS = 60.0
# All resources of all groups in two answers; served since Kubernetes 1.30.
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# Flag of ``kubectl get`` → its name in a query.
SELECTORS = {"-l": "labelSelector", "--field-selector": "fieldSelector"}


class ReadError(RuntimeError):
    """The API server did not give what was asked for; the message has its own words."""


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


class ApiReader:
    """Reads as an administrator. Owns what it knows of the resources that there are."""

    def __init__(self, kubeconfig: Path, pki: Path) -> None:
        """``kubeconfig``: says where the server is. ``pki``: the control plane's certificates."""
        self._kubeconfig, self._pki = kubeconfig, pki
        self._served: dict[str, Served] = {}

    def objects(self, resource: str, *arguments: str) -> list[KubeObject] | None:
        """What ``kubectl get`` lists with these arguments; None where only kubectl can tell.

        ``arguments``: ``-n``, ``-l`` and ``--field-selector`` with their values. Without ``-n``:
        of all namespaces. Raises ``ReadError``.
        """
        flags = dict(zip(arguments[::2], arguments[1::2], strict=False))
        if len(flags) * 2 != len(arguments) or not flags.keys() <= {"-n", *SELECTORS}:
            return None
        served = self._find(resource)
        if served is None:
            return None
        namespace = flags.pop("-n", None)
        query = urlencode({SELECTORS[flag]: value for flag, value in flags.items()})
        answer = self._read(f"{served.path(namespace)}?{query}")
        # The API server leaves out of a list's items what the list itself says.
        identity = {"apiVersion": served.api_version, "kind": served.kind}
        return [identity | one for one in answer["items"] or ()]

    def one(self, resource: str, namespace: str, name: str) -> KubeObject | None:
        """One object; None where only kubectl can tell. Raises ``ReadError``."""
        served = self._find(resource)
        return served and self._read(f"{served.path(namespace)}/{quote(name)}")

    def _find(self, name: str) -> Served | None:
        """By the names that kubectl takes, without a group; the first group wins, as there."""
        if name not in self._served:  # or it has been installed since
            known: dict[str, Served] = {}
            for served in self._discover():
                for each in served.names:
                    known.setdefault(each, served)
            self._served = known
        return self._served.get(name)

    def _discover(self) -> Iterator[Served]:
        for path in ("/api", "/apis"):
            for group in self._read(path, DISCOVERY)["items"]:
                (preferred, *_) = group["versions"]
                words = (group["metadata"].get("name"), preferred["version"])
                for one in preferred["resources"]:
                    yield Served(
                        api_version="/".join(filter(None, words)),
                        kind=one["responseKind"]["kind"],
                        plural=one["resource"],
                        names=frozenset(
                            [one["resource"], one["singularResource"], *one.get("shortNames", ())]
                        ),
                        is_namespaced=one["scope"] == "Namespaced",
                    )

    def _read(self, path: str, accept: str = "application/json") -> KubeObject:
        host, port = self._server
        connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_SECONDS, context=self._context
        )
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            msg = f"{path}: {error!r}"
            raise ReadError(msg) from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            msg = f"{path}: {answer.status} {text.decode(errors='replace')}"
            raise ReadError(msg)
        document: KubeObject = json.loads(text)
        return document

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
