"""What each client has of the listener: its connections, and its requests that are being answered.

A client is an address; of IPv6 it is the network of 64 bits that one customer gets. A proxy that is
believed is no client: each of its requests counts for the address that it tells.

Whoever is alone may have nearly all: a gateway before the router is one client. What is bounded is
what one client keeps from the others:

* When every connection is taken, a newcomer gets the place of a connection that is not being
  answered, of the client that has most, if that one has more than the newcomer.
* Requests that are being answered hold their connection: of those one client has nine tenths of
  ``--max-connections`` at the most.

Nothing is kept of a client without connections and requests: what is kept is bounded by what is
open, whatever addresses are told.
"""

import ipaddress
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Protocol

# Connections of one client that are looked at for one that is not being answered, the oldest
# first. Unit: connections. Source: a bound of the work, chosen by hand.
MAX_LOOKED_AT: Final = 64
# Clients that are asked for one, those with most first. Unit: clients. Source: as above.
MAX_CLIENTS: Final = 8
# Addresses whose client's name is kept: as many as come in one moment, some 200 bytes each.
_MAX_KEPT: Final = 4096
# Of an IPv6 address, what one customer of a network gets (RFC 6177, RIPE 690).
_IPV6_BITS: Final = 64


class LimitKind(StrEnum):
    """Which bound was met; the value is a metric label, and the ``cause`` in the log."""

    CONNECTIONS = "connections"
    """All of the listener's were open, and none could make room."""
    CLIENT_CONNECTIONS = "client-connections"
    CLIENT_REQUESTS = "client-requests"
    DISPLACED = "displaced"
    """A connection that was not being answered has made room for a client with fewer."""
    SLOW = "slow"
    """An answer was broken off: clients did not take theirs, and memory was short."""


class Occupant(Protocol):
    """A connection, as its client's account sees it."""

    @property
    def is_answering(self) -> bool:
        """Whether a request of it is being answered, or has its turn next."""
        ...


class Client:
    """What one client has. Owned by ``Clients``; connections count its requests."""

    __slots__ = ("connections", "is_proxy", "name", "num_requests")

    def __init__(self, name: bytes, *, is_proxy: bool) -> None:
        self.name = name
        self.is_proxy = is_proxy
        """Whether it is one that tells whose its requests are."""
        self.connections: dict[Occupant, None] = {}
        """Those that are open, the oldest first."""
        self.num_requests = 0
        """Being answered."""


def client_name(address: bytes) -> bytes:
    """Whom an address belongs to: itself; of IPv6, its network of 64 bits."""
    if b":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.decode("ascii", "replace").partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, _IPV6_BITS), strict=False)).encode()


class Clients:
    """Who has connections or requests now. Owns their accounts."""

    def __init__(
        self,
        *,
        is_proxy: Callable[[bytes], bool] | None = None,
        told_by: Callable[[bytes, Mapping[bytes, bytes]], bytes] | None = None,
    ) -> None:
        """``is_proxy``: whether an address is a proxy that is believed; None: there are none.

        ``told_by``: the address that such a proxy tells with these fields; its own where none.
        """
        self._is_proxy = is_proxy
        self._told_by = told_by
        self._by_name: dict[bytes, Client] = {}
        self._names: dict[bytes, bytes] = {}
        self._by_count: dict[int, dict[Client, None]] = {}
        """Clients by how many connections they have: who has most is known without looking at all.
        Proxies are not among them: their connections are many clients'."""
        self.refused: dict[LimitKind, int] = dict.fromkeys(LimitKind, 0)
        """How often which bound was met."""

    @property
    def num_clients(self) -> int:
        """Of which anything is kept."""
        return len(self._by_name)

    def connected(self, address: bytes, connection: Occupant) -> Client:
        """The account of the client at the address, with one connection more."""
        proxies = self._is_proxy
        client = self._find(address, is_proxy=proxies is not None and proxies(address))
        client.connections[connection] = None
        self._moved(client, -1)
        return client

    def disconnected(self, client: Client, connection: Occupant) -> None:
        """The client has it no more; nothing happens where that was known."""
        if connection in client.connections:
            del client.connections[connection]
            self._moved(client, 1)
            self._drop_if_idle(client)

    def told(self, proxy: Client, address: bytes, fields: Mapping[bytes, bytes]) -> Client:
        """Whose request it is that came from the proxy at the address."""
        if self._told_by is None:
            return proxy
        told = self._told_by(address, fields)
        return proxy if told == address else self._find(told, is_proxy=False)

    def left(self, client: Client) -> None:
        """One of its requests is over."""
        client.num_requests -= 1
        self._drop_if_idle(client)

    def place_for(self, newcomer: Client) -> Occupant | None:
        """The connection that makes room for the newest of the newcomer's; None: there is none."""
        least = 0 if newcomer.is_proxy else len(newcomer.connections)
        num_clients = 0
        # Of n connections there are at most 1.4 times the root of n such numbers.
        for count in sorted(self._by_count, reverse=True):
            if count <= least:
                return None
            for client in self._by_count[count]:
                found = _idle_of(client)
                num_clients += 1
                if found is not None or num_clients >= MAX_CLIENTS:
                    return found
        return None

    def _find(self, address: bytes, *, is_proxy: bool) -> Client:
        name = address
        if b":" in address:
            known = self._names.get(address)
            if known is None:
                if len(self._names) >= _MAX_KEPT:
                    self._names.clear()
                known = self._names[address] = client_name(address)
            name = known
        if is_proxy:
            name = b"proxy " + address
        client = self._by_name.get(name)
        if client is None:
            client = self._by_name[name] = Client(name, is_proxy=is_proxy)
        return client

    def _moved(self, client: Client, before: int) -> None:
        """The client has other connections than before: ``before`` is the difference to then."""
        if client.is_proxy:
            return
        now = len(client.connections)
        by_count = self._by_count
        then = now + before
        if then:
            others = by_count[then]
            del others[client]
            if not others:
                del by_count[then]
        if now:
            by_count.setdefault(now, {})[client] = None

    def _drop_if_idle(self, client: Client) -> None:
        if not client.num_requests and not client.connections:
            self._by_name.pop(client.name, None)


def _idle_of(client: Client) -> Occupant | None:
    """A connection of the client that is not being answered; None where none was found so soon."""
    connections = client.connections
    seen: list[Occupant] = []
    found: Occupant | None = None
    for connection in connections:
        if not connection.is_answering:
            found = connection
            break
        seen.append(connection)
        if len(seen) >= MAX_LOOKED_AT:
            break
    for connection in seen:
        # Behind the others: the next look gets further.
        del connections[connection]
        connections[connection] = None
    return found
