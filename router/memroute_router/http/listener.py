"""Who accepts connections: the sockets, and the certificates that are renewed under them."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from memroute_router.http.deadlines import monotonic
from memroute_router.http.sockets import listening_sockets, stop_accepting
from memroute_router.http.tls import TLSFiles

# How often it is looked whether connections have ended. Unit: seconds. Source: chosen by hand.
LOOK_SECONDS = 0.02


class Listener:
    """Listens on an address, and makes a protocol of each connection. Owns the sockets."""

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        *,
        backlog: int,
        tls: TLSFiles | None,
        handshake_seconds: float | None,
    ) -> None:
        """``handshake_seconds``: how long a handshake may take; None: asyncio's default."""
        self._protocol = protocol
        self._backlog = backlog
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._sockets: list[socket.socket] = []
        self._servers: list[Any] = []
        self._is_closed = False
        self.port: int | None = None
        """What it listens on; None before it does."""

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. ``host``: an address, a name, or ``*`` for every address."""
        self._sockets = listening_sockets(host, port)
        await self._accept()
        self.port = bound = int(self._sockets[0].getsockname()[1])
        return bound

    async def refresh_certificates(self) -> None:
        """Use the files' certificates for new connections, where they have changed."""
        if self._tls is not None and self._tls.refresh() and not self._is_closed:
            await self._accept()

    async def _accept(self) -> None:
        """Accept with the present certificates. No connection is refused in between.

        The sockets stay; only who accepts from them changes. So a session that was begun under an
        older certificate authority cannot be resumed.
        """
        loop = asyncio.get_running_loop()
        before, self._servers = self._servers, []
        context = None if self._tls is None else self._tls.context
        # A handshake is a head that has to come: no connection is counted before it has ended.
        seconds = None if context is None else self._handshake_seconds
        for each in self._sockets:
            server = await loop.create_server(
                self._protocol,
                sock=each.dup(),
                backlog=self._backlog,
                ssl=context,
                ssl_handshake_timeout=seconds,
            )
            self._servers.append(server)
        for server in before:
            stop_accepting(server)

    def close(self) -> None:
        """Accept no more; what was accepted goes on."""
        self._is_closed = True
        for server in self._servers:
            server.close()
        for each in self._sockets:
            each.close()


async def until(is_over: Callable[[], bool], seconds: float) -> None:
    """Wait for something to be over, for so long at the most."""
    deadline = monotonic() + seconds
    while not is_over() and monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
