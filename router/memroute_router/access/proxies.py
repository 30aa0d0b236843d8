"""Whose word on a request's way, and on its urgency, is believed: the proxies before the router."""

import ipaddress
from collections.abc import Iterable
from typing import Final

# Peers whose verdict is kept: as many as have come in one moment, each a few hundred bytes.
_MAX_KEPT: Final = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas. Raises ``ValueError``."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(","))


class TrustedProxies:
    """Whether what a peer says of others is believed. Owns verdicts that are kept, bounded."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._kept: dict[bytes, bool] = {}

    def trust(self, peer: bytes) -> bool:
        """``peer``: the address that a connection came from."""
        found = self._kept.get(peer)
        if found is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            found = self._kept[peer] = self._look(peer)
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
