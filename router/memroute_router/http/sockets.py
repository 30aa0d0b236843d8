"""Sockets to listen on, of either family of addresses, and clients' addresses as they come."""

import asyncio
import fcntl
import socket
import sys
import termios
from typing import Final

# Every address of the machine, IPv6 and IPv4.
ANY_ADDRESS: Final = "*"
# How long asyncio may take to attach a connection to the server that has accepted it.
# Unit: seconds. Source: chosen by hand; it is done in the next steps of the loop.
ATTACH_SECONDS: Final = 2.0
_MAPPED: Final = "::ffff:"


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets that are bound and not yet listening. Raises ``OSError``.

    ``*`` and ``::`` are every address, IPv6 and IPv4, by one socket; where the machine has no IPv6,
    every IPv4 address. A name is bound at each of its addresses.
    """
    if host in {ANY_ADDRESS, "::", ""}:
        try:
            return [_bound(socket.AF_INET6, ("::", port), is_dual=True)]
        except OSError:
            if host == "::":
                raise
            return [_bound(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 - as asked
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            bound.append(_bound(family, address))
            if port == 0:
                break  # a port that is free on one address may be taken on the next
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def client_address(name: str) -> bytes:
    """A client's address as others know it: an IPv4 client of an IPv6 socket by its IPv4 one."""
    return name.removeprefix(_MAPPED).encode()


def stop_accepting(server: asyncio.Server) -> None:
    """Leave connections that come from now on to others who accept from the same sockets."""
    loop = server.get_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        server.close()  # uvloop
        return
    for each in server.sockets:
        loop.remove_reader(each.fileno())
    # asyncio attaches what it has accepted to its server a little later, which must be open then.
    loop.call_later(ATTACH_SECONDS, server.close)


def untaken_bytes(transport: asyncio.Transport | None) -> int:
    """What of all that was written the client's machine has not acknowledged."""
    if transport is None:
        return 0
    waiting = transport.get_write_buffer_size()
    made = transport.get_extra_info("socket")
    if made is None:
        return waiting
    size = bytearray(4)
    try:
        fcntl.ioctl(made.fileno(), termios.TIOCOUTQ, size)
    except OSError:
        return waiting
    return waiting + int.from_bytes(size, sys.byteorder)


def _bound(family: int, address: tuple[object, ...], *, is_dual: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_dual else 1)
        made.setblocking(False)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
