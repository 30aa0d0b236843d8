"""Addresses of engines that are named, not numbered.

Each name is looked up in a thread of its own, once at a time: a name server that does not answer
for one name delays no other. What a name was is used on while it is looked up anew, so that only
the first connection to a name waits; and kept while it cannot be looked up.
"""

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

LOGGER = logging.getLogger(__name__)
# How long an answer is used without asking again. Unit: seconds. Source: CoreDNS's time to live of
# a Service's records.
FRESH_SECONDS: Final = 5.0
# Names that are remembered. Unit: names. Source: a bound, chosen by hand.
MAX_NAMES: Final = 4096

Lookup = Callable[[str], list[str]]


def look_up(host: str) -> list[str]:
    """The addresses of a name, in the order in which they should be tried. Raises ``OSError``."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        # A name that no resolver can be asked for.
        msg = f"{error}"
        raise OSError(msg) from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class Resolver:
    """Owns what names were when they were looked up last."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._known: dict[str, tuple[float, list[str]]] = {}
        self._asking: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Where ``host`` is, one address or more. Raises ``OSError``."""
        if _is_address(host):
            return [host]
        known = self._known.get(host)
        if known is not None and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1]
        asking = self._asking.get(host) or self._ask(host)
        if known is not None:
            return known[1]
        return await asyncio.shield(asking)

    def _ask(self, host: str) -> "asyncio.Future[list[str]]":
        loop = asyncio.get_running_loop()
        asking: asyncio.Future[list[str]] = loop.create_future()
        asking.add_done_callback(_forgive)
        self._asking[host] = asking

        def ask() -> None:
            found: list[str] = []
            error: Exception | None = None
            try:
                found = self._lookup(host)
            except Exception as raised:  # noqa: BLE001 - told to whoever asked
                error = raised
            try:
                loop.call_soon_threadsafe(self._found, host, found, error)
            except RuntimeError:
                return  # the loop has ended meanwhile

        # Not from a pool of threads: a name server may take half a minute for each.
        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        return asking

    def _found(self, host: str, found: list[str], error: Exception | None) -> None:
        asking = self._asking.pop(host)
        before = self._known.pop(host, None)
        if error is None and not found:
            error = OSError(f"{host} has no address")
        if error is None:
            if len(found) > 1 and (before is None or before[1] != found):
                LOGGER.warning(
                    "a name with several addresses is one replica: list each of them "
                    "name=%s addresses=%s",
                    host, ",".join(found),
                )  # fmt: skip
            before = time.monotonic(), found
        elif before is not None:
            LOGGER.warning("name not resolved, its last address is used name=%s error=%s",
                           host, error)  # fmt: skip
            before = time.monotonic(), before[1]
        if before is not None:
            self._known[host] = before
            if len(self._known) > MAX_NAMES:
                del self._known[next(iter(self._known))]
        if asking.done():
            return
        if error is None:
            asking.set_result(found)
        elif isinstance(error, OSError):
            asking.set_exception(error)
        else:
            asking.set_exception(OSError(f"{host}: {error!r}"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _forgive(asking: "asyncio.Future[list[str]]") -> None:
    """Nobody may be waiting for it any more: its error is no news."""
    if not asking.cancelled():
        asking.exception()
