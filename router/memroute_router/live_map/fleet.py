"""Nodes, devices and models that wait: the operator's map, read only while somebody looks.

What the operator sees of devices is in one ConfigMap (``memroute_kube.fleet_map``). A router asks
the API server for it when a page asks the router, every few seconds at most, however many look.
Owns what it has read last.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Final

from memroute_kube import CONFIG_MAPS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import NOT_FOUND
from memroute_kube.fleet_map import MAP_NAME, UnreadableMapError, read_map
from memroute_kube.shapes import mapping

LOGGER = logging.getLogger(__name__)
pause = asyncio.sleep
# Between two readings of the ConfigMap while somebody looks. Unit: seconds. Source: chosen by hand;
# the operator writes it every 15 s at the most.
REFRESH_SECONDS: Final = 5.0
BEGINNING: Final = "the operator's map is being read"
NO_KUBERNETES: Final = (
    "this router reads its replicas from a file, and knows of no devices: there is no operator"
)


class FleetReader:
    """Reads the map when it is wanted."""

    def __init__(self, namespace: str) -> None:
        """``namespace``: of the operator."""
        self._namespace = namespace
        self._wanted = asyncio.Event()
        self.text = b"null"
        """The map as JSON; null while there is none."""
        self.version: str | None = None
        """Changes with the map; None while there is none."""
        self.why_unknown: str | None = BEGINNING
        """Why there is none, or why the last reading failed, in a sentence; None: all is well."""

    def want(self) -> None:
        """Somebody looks."""
        self._wanted.set()

    def document(self) -> dict[str, object]:
        """Whether there is a map, for the page's second document."""
        return {
            "version": self.version,
            "why": self.why_unknown,
            "isBeingRead": self.why_unknown == BEGINNING,
        }

    async def follow(self, client: KubernetesClient | None) -> None:
        """Read it whenever it is wanted, for ever. ``client``: None where no API server is."""
        if client is None:
            self.why_unknown = NO_KUBERNETES
            await asyncio.Event().wait()
            return
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._read(client)
            await pause(REFRESH_SECONDS)

    async def _read(self, client: KubernetesClient) -> None:
        """What is not read stays as it was, and is told."""
        try:
            obj = await client.get(CONFIG_MAPS, self._namespace, MAP_NAME)
            version = _version(obj)
            if version != self.version:
                # In a thread: to unpack and check the map of 2,000 devices takes 10 ms.
                self.text = await asyncio.to_thread(read_map, obj)
                self.version = version
            self.why_unknown = None
        except ApiError as error:
            self._failed(_sentence(error, self._namespace))
        except UnreadableMapError as error:
            self._failed(f"ConfigMap {self._namespace}/{MAP_NAME}: {error}")

    def _failed(self, why: str) -> None:
        if why != self.why_unknown:
            LOGGER.warning("fleet map not read why=%s retry_seconds=%.0f", why, REFRESH_SECONDS)
        self.why_unknown = why


def _version(obj: KubeObject) -> str:
    return str(mapping(obj.get("metadata")).get("resourceVersion"))


def _sentence(error: ApiError, namespace: str) -> str:
    name = f"ConfigMap {namespace}/{MAP_NAME}"
    if error.status == NOT_FOUND:
        return (
            f"the operator has not written {name} (does it run there? --map-namespace says where)"
        )
    if error.status == HTTPStatus.FORBIDDEN:
        return f"this router's service account may not get {name} (its Role of that namespace)"
    return f"{name} cannot be read: {error.message}"
