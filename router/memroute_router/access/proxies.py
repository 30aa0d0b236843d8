"""Whose word on a request's way, and on its urgency, is believed: the proxies before the router."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

# Peers whose verdict is kept: as many as have come in one moment, each a few hundred bytes.
_MAX_KEPT: Final = 4096
# Addresses of one request's way that are looked at, from its end: more proxies stand in no row.
# Unit: addresses. Source: a bound of the work, chosen by hand.
_MAX_HOPS: Final = 16
# Bytes of the longest address with a port, ``[ffff:…:255.255.255.255%interface]:65535``, and more.
_MAX_ADDRESS_BYTES: Final = 80
# Bytes of a field whose verdict is kept.
_MAX_KEPT_BYTES: Final = 128
_FORWARDED_FOR: Final = b"x-forwarded-for"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas. Raises ``ValueError``."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(","))


class TrustedProxies:
    """Whether what a peer says of others is believed. Owns verdicts that are kept, bounded."""

    def __init__(self, networks: Iterable[Network], *, trusts_all: bool = False) -> None:
        """``trusts_all``: whoever connects is such a proxy (``--trust-headers``)."""
        self._networks = tuple(networks)
        self._trusts_all = trusts_all
        self._kept: dict[bytes, bool] = {}
        self._told: dict[bytes, bytes | None] = {}
        """Whom a field of a request's way has named last; None: nobody."""

    def is_proxy(self, peer: bytes) -> bool:
        """Whether what comes from the address is what others have asked."""
        return self._trusts_all or self.trust(peer)

    def client_of(self, peer: bytes, fields: Mapping[bytes, bytes]) -> bytes:
        """The address that the proxy at ``peer`` had the request from; its own if it tells none.

        Proxies add to ``X-Forwarded-For``: its last address is the word of the peer. Where that is
        a proxy that is believed, too, the one before it is its word, and so on. What stands before
        those was written by who knows whom.
        """
        given = fields.get(_FORWARDED_FOR)
        if given is None:
            return peer
        if len(given) > _MAX_KEPT_BYTES:
            return self._named(given) or peer
        if given not in self._told:
            if len(self._told) >= _MAX_KEPT:
                self._told.clear()
            self._told[given] = self._named(given)
        return self._told[given] or peer

    def trust(self, peer: bytes) -> bool:
        """``peer``: the address that a connection came from."""
        found = self._kept.get(peer)
        if found is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            found = self._kept[peer] = self._look(peer)
        return found

    def _named(self, given: bytes) -> bytes | None:
        found: bytes | None = None
        for hop in reversed(given.rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]):
            address = plain_address(hop)
            if address is None:
                return found
            found = address
            if not self.trust(address):
                return found
        return found

    def _look(self, peer: bytes) -> bool:
        try:
            address = ipaddress.ip_address(peer.decode("ascii", "replace").partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
        return any(address in network for network in self._networks)


def plain_address(text: bytes) -> bytes | None:
    """An address of ``X-Forwarded-For`` as connections have it; None: it is none.

    Some proxies write a port behind it, or brackets around it.
    """
    word = text.strip()
    if len(word) > _MAX_ADDRESS_BYTES:
        return None
    if word.startswith(b"["):
        word = word[1:].partition(b"]")[0]
    elif word.count(b":") == 1:
        word = word.partition(b":")[0]
    try:
        address = ipaddress.ip_address(word.decode("ascii", "replace").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped).encode()
