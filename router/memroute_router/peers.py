"""The other routers and pickers: who they are, and the datagrams between them.

```text
--peer, the file's peers ── resolved again and again ─┐
pods by label ── watched at the API server ───────────┴─► addresses ─► PeerGroup
reports ── collected for some milliseconds ── UDP ─► every address
datagrams ── from an address that is none of theirs: dropped and counted ─► PeerGroup
```

What is said is in ``memroute.traffic.peers``; here are the socket, the clock and the names. Nothing
that arrives can raise: a datagram that is not understood is dropped and counted by its reason.
Owns the socket and the sources of addresses.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from memroute.traffic.peers import Dropped, PeerGroup, encode_datagrams
from memroute_kube import PODS, KubeObject, KubernetesClient, watch_forever
from memroute_kube.resources import object_key
from memroute_kube.shapes import OddObjectError, is_terminal, mapping
from memroute_router.discovery.kube_objects import pod_address
from memroute_router.peer_addresses import Address

LOGGER = logging.getLogger(__name__)
# How long reports are collected: a tenth of a step of most engines; ten a datagram at 2,000
# requests per second.
FLUSH_SECONDS: Final = 0.005
# How often names are resolved again: routers that are replaced have new addresses.
RESOLVE_SECONDS: Final = 5.0
# Before a port that is taken is tried again.
RETRY_SECONDS: Final = 5.0
MIN_SECRET_BYTES: Final = 16


class PeerSecretError(Exception):
    """The secret cannot be used; the message says why."""


def read_secret(path: str) -> bytes:
    """The shared key of a file, surrounding white space left out. Raises ``PeerSecretError``."""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        msg = f"cannot read it: {error}"
        raise PeerSecretError(msg) from error
    if len(secret) < MIN_SECRET_BYTES:
        msg = f"it has {len(secret)} bytes; {MIN_SECRET_BYTES} or more are needed"
        raise PeerSecretError(msg)
    return secret


class PeerLink(asyncio.DatagramProtocol):
    """The socket through which this router and its peers hear each other."""

    def __init__(self, group: PeerGroup, *, secret: bytes | None = None) -> None:
        self.group = group
        self.port = 0
        self.num_datagrams_sent = 0
        self.num_bytes_sent = 0
        self.num_send_errors = 0
        self._secret = secret
        self._incarnation = group.incarnation = time.time_ns()
        self._sequence = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._will_flush = False
        self._by_source: dict[str, set[Address]] = {}
        self._own: set[Address] = set()
        self._addresses: list[Address] = []

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises ``OSError``."""
        loop = self._loop = asyncio.get_running_loop()
        if host == "*":
            host = "0.0.0.0"  # noqa: S104 - a pod's own address; IPv6 where --host names one
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self._transport = transport
        own = transport.get_extra_info("sockname")
        self.port = int(own[1])
        self._own.add((str(own[0]), self.port))
        self.group.outbox.on_records = self._flush_later
        self._apply()
        return self.port

    async def start_when_it_can(self, host: str, port: int) -> None:
        """Listen, however long the port is somebody else's: the router serves alone meanwhile."""
        is_said = False
        while self._transport is None:
            try:
                await self.start(host, port)
            except OSError as error:
                if not is_said:
                    LOGGER.warning("peers cannot be heard port=%d error=%s", port, error)
                    is_said = True
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def close(self) -> None:
        """Say and hear nothing more."""
        if self._transport is not None:
            self._flush()
            self._transport.close()
            self._transport = None

    def set_addresses(self, source: str, addresses: Iterable[Address]) -> None:
        """What one source of addresses says now; the union of all counts."""
        self._by_source[source] = set(addresses)
        self._apply()

    def tick(self) -> None:
        """Time passes: list what is under way, leave those that are silent."""
        if self._transport is None:
            return
        now = time.monotonic()
        self.group.tick(now_seconds=now)
        self.group.outbox.list_open()

    # What arrives.

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take it, if it is from one of the peers and new."""
        name = _name(addr[0], addr[1])
        dropped = self.group.receive(name, data, secret=self._secret, now_seconds=time.monotonic())
        if dropped is Dropped.OWN and (addr[0], addr[1]) not in self._own:
            # One of the addresses that were given is this router's own.
            self._own.add((addr[0], addr[1]))
            self._apply()

    def error_received(self, exc: Exception) -> None:
        """A peer's machine says that nobody listens there: it may be starting."""
        self.num_send_errors += 1
        LOGGER.debug("peer not reached error=%s", exc)

    # What is sent.

    def _apply(self) -> None:
        found = set().union(*self._by_source.values()) - self._own
        if found != set(self._addresses):
            LOGGER.info("peers addresses=%s", ",".join(sorted(_name(*a) for a in found)) or "-")
        self._addresses = sorted(found)
        names = {_name(*address) for address in found}
        self.group.set_peers(names, now_seconds=time.monotonic())

    def _flush_later(self) -> None:
        if not self._will_flush and self._loop is not None:
            self._will_flush = True
            self._loop.call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        transport, outbox = self._transport, self.group.outbox
        if transport is None or transport.is_closing():
            return
        records = outbox.take(now_seconds=time.monotonic())
        datagrams = encode_datagrams(
            records,
            incarnation=self._incarnation,
            first_sequence=self._sequence,
            secret=self._secret,
            is_of_picker=self.group.is_picker,
        )
        self._sequence += len(datagrams)
        for data in datagrams:
            for address in self._addresses:
                self._send(transport, data, address)
        was_welcomed = self._welcome(transport)
        if outbox.has_records or was_welcomed:
            self._flush_later()

    def _welcome(self, transport: asyncio.DatagramTransport) -> bool:
        """Tell a router that has come some more of the past; False when nobody has."""
        taken = self.group.take_welcome(FLUSH_SECONDS * self.group.outbox.max_bytes_per_second)
        if taken is None:
            return False
        name, records = taken
        datagrams = encode_datagrams(
            records,
            incarnation=self._incarnation,
            first_sequence=None,
            secret=self._secret,
            is_of_picker=self.group.is_picker,
        )
        for address in self._addresses:
            if _name(*address) == name:
                for data in datagrams:
                    self._send(transport, data, address)
        return True

    def _send(self, transport: asyncio.DatagramTransport, data: bytes, address: Address) -> None:
        try:
            transport.sendto(data, address)
        except OSError as error:
            self.error_received(error)
        else:
            self.num_datagrams_sent += 1
            self.num_bytes_sent += len(data)


class PeerNames:
    """Peers by their names: those of the command line, and those of the file as it is now."""

    def __init__(self, link: PeerLink, given: Iterable[Address] = ()) -> None:
        self._link = link
        self._given = list(given)
        self._in_file: list[Address] = []
        self._resolved: dict[Address, set[Address]] = {}
        self._changed = asyncio.Event()
        if self._given:
            self._changed.set()

    def in_file(self, peers: Iterable[Address]) -> None:
        """These are in the file."""
        peers = list(peers)
        if peers != self._in_file:
            self._in_file = peers
            self._changed.set()

    async def wait(self) -> None:
        """Until there is one."""
        await self._changed.wait()

    async def follow(self) -> None:
        """Resolve the names again and again, for ever: who is replaced has a new address."""
        while True:
            self._changed.clear()
            await self._resolve()
            try:
                async with asyncio.timeout(RESOLVE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _resolve(self) -> None:
        names = {*self._given, *self._in_file}
        for host, port in sorted(names):
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, port, type=socket.SOCK_DGRAM
                )
            except OSError as error:
                # What it was keeps: a name server that fails takes no peer away.
                LOGGER.warning("peer not resolved host=%s error=%s", host, error)
            else:
                self._resolved[host, port] = {(str(info[4][0]), port) for info in found}
        self._resolved = {name: found for name, found in self._resolved.items() if name in names}
        self._link.set_addresses("names", set().union(*self._resolved.values()))


async def follow_pods(
    link: PeerLink, client: KubernetesClient, *, namespace: str | None, selector: str, port: int
) -> None:
    """Follow the routers' own pods, for ever."""
    addresses: dict[str, Address] = {}
    async for event in watch_forever(client, PODS, namespace, label_selector=selector):
        if event.object is not None:
            address = _address_of(event.object) if event.type == "UPSERT" else None
            if address is not None:
                addresses[event.key] = (address, port)
            else:
                addresses.pop(event.key, None)
        if not event.is_listed:  # of a list once, when it is there: who is not in it yet stays
            link.set_addresses("pods", addresses.values())


def _address_of(pod: KubeObject) -> str | None:
    """Where a pod's router hears; None: it has no address yet, or has ended.

    What has ended stays an object, with the address that somebody else may have by now (pods that
    were evicted, for weeks). It would count as a router that is not heard: for its part of what
    tenants may take.
    """
    if is_terminal(pod):
        return None
    try:
        return pod_address(mapping(pod.get("status")).get("podIP"))
    except OddObjectError as error:
        LOGGER.warning("peer left out pod=%s reason=%s", object_key(pod), error)
        return None


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
