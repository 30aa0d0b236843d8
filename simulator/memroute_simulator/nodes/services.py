"""Services of emulated pods: addresses that outlive pods, as kube-proxy's do.

Each Service with a selector gets a loopback address, and its annotation
``simulator.memroute.dev/addresses`` says where its ports are: ``{"http": "127.7.255.1:8080"}``. A
connection goes to a ready pod, to each in turn, and stays there. Ports below 1024 are 8000 higher
here: only root may listen on those.
"""

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from memroute_kube import ApiError, KubeObject, KubernetesClient, Resource, watch_forever
from memroute_kube.resources import is_condition_true
from memroute_simulator.nodes.faults import PREFIX

LOGGER = logging.getLogger(__name__)
SERVICES = Resource(plural="services", kind="Service")
ANNOTATION_ADDRESSES: Final = f"{PREFIX}/addresses"
FIRST_FREE_PORT: Final = 1024
PORT_OFFSET: Final = 8000
MAX_SERVICES: Final = 254
COPIED_BYTES: Final = 65536
CONNECT_SECONDS: Final = 2.0
Key = tuple[str, str]


@dataclass(slots=True)
class _Service:
    address: str
    object: KubeObject
    servers: dict[int, asyncio.Server] = field(default_factory=dict)
    """Port of the Service → who listens for it."""


class ServiceProxy:
    """All Services of a cluster. ``pods``: the cluster's pods, as they are now."""

    def __init__(
        self, client: KubernetesClient, network: int, pods: Callable[[], Iterator[KubeObject]]
    ) -> None:
        self._client = client
        self._network = network
        self._pods = pods
        self._services: dict[Key, _Service] = {}
        self._free = [f"127.{network}.255.{host}" for host in range(MAX_SERVICES, 0, -1)]
        self._turns: Counter[tuple[Key, int]] = Counter()
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the Services until cancelled."""
        try:
            async for event in watch_forever(self._client, SERVICES):
                if event.object is None:
                    continue
                key = _key_of(event.object)
                try:
                    if event.type == "DELETE":
                        self._remove(key)
                    else:
                        await self._update(key, event.object)
                except (ApiError, OSError) as error:
                    LOGGER.warning("service not served service=%s/%s error=%s", *key, error)
        finally:
            for key in list(self._services):
                self._remove(key)
            for task in self._connections:
                task.cancel()

    async def _update(self, key: Key, obj: KubeObject) -> None:
        if not obj["spec"].get("selector"):
            self._remove(key)
            return
        service = self._services.get(key)
        if service is None:
            if not self._free:
                LOGGER.warning("no address is left for service=%s/%s", *key)
                return
            service = self._services[key] = _Service(self._free.pop(), obj)
        service.object = obj
        wanted = {int(port["port"]) for port in obj["spec"].get("ports") or ()}
        for port in set(service.servers) - wanted:
            service.servers.pop(port).close()
        for port in sorted(wanted - set(service.servers)):

            def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port
            ) -> None:
                task = asyncio.ensure_future(self._serve(key, port, reader, writer))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)

            service.servers[port] = await asyncio.start_server(
                accept, service.address, listening_port(port)
            )
        said = json.dumps(addresses_of(service.address, obj), sort_keys=True)
        if (obj["metadata"].get("annotations") or {}).get(ANNOTATION_ADDRESSES) != said:
            await self._client.patch(
                SERVICES, key[0], key[1],
                {"metadata": {"annotations": {ANNOTATION_ADDRESSES: said}}},
            )  # fmt: skip

    def _remove(self, key: Key) -> None:
        service = self._services.pop(key, None)
        if service is None:
            return
        for server in service.servers.values():
            server.close()
        self._free.append(service.address)

    async def _serve(
        self, key: Key, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection, to its end."""
        try:
            upstream = await self._connect(key, port)
            if upstream is not None:
                with contextlib.closing(upstream[1]):
                    await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
        except OSError as error:
            LOGGER.info("connection broken service=%s/%s error=%s", *key, error)
        finally:
            writer.close()

    async def _connect(
        self, key: Key, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to a ready pod; None when there is none."""
        service = self._services.get(key)
        if service is None:
            return None
        targets = targets_of(service.object, port, self._pods())
        turn = self._turns[key, port]
        self._turns[key, port] += 1
        for number in range(len(targets)):
            host, target = targets[(turn + number) % len(targets)]
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(host, target)
            except OSError:  # also what a timeout is
                continue
        return None


def listening_port(port: int) -> int:
    """Where a Service's port is listened for."""
    return port if port >= FIRST_FREE_PORT else port + PORT_OFFSET


def addresses_of(address: str, service: KubeObject) -> dict[str, str]:
    """Name of a port, or its number where it has none → where it is."""
    return {
        port.get("name") or str(port["port"]): f"{address}:{listening_port(int(port['port']))}"
        for port in service["spec"].get("ports") or ()
    }


def targets_of(service: KubeObject, port: int, pods: Iterator[KubeObject]) -> list[tuple[str, int]]:
    """Address and port of each pod that a connection to the Service's port may go to."""
    spec = service["spec"]
    entry = next((one for one in spec.get("ports") or () if one["port"] == port), None)
    if entry is None:
        return []
    target = entry.get("targetPort", port)
    found = []
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        address = (pod.get("status") or {}).get("podIP")
        if (
            not address
            or pod["metadata"]["namespace"] != service["metadata"]["namespace"]
            or "deletionTimestamp" in pod["metadata"]
            or any(labels.get(name) != value for name, value in spec["selector"].items())
            or not is_condition_true(pod, "Ready")
        ):
            continue
        number = target if isinstance(target, int) else _port_named(pod, target)
        if number is not None:
            found.append((pod["metadata"]["name"], str(address), number))
    return [(address, number) for _, address, number in sorted(found)]


def _port_named(pod: KubeObject, name: str) -> int | None:
    return next(
        (
            int(port["containerPort"])
            for container in pod["spec"]["containers"]
            for port in container.get("ports") or ()
            if port.get("name") == name
        ),
        None,
    )


def _key_of(obj: KubeObject) -> Key:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that one side says, to the other; then the end of it."""
    while data := await reader.read(COPIED_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
