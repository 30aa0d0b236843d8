"""The listener: sockets, certificates, and the clients' connections (``connection.py``)."""

import asyncio
import socket
from typing import Any

from memroute_router.http.budget import BodyBudget
from memroute_router.http.clients import Clients
from memroute_router.http.connection import LINGER_SECONDS, ClientConnection
from memroute_router.http.deadlines import Deadlines, monotonic
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.http.fields import REQUEST_FIELDS
from memroute_router.http.outbox import Outbox
from memroute_router.http.server_state import (
    Handler,
    OnRefusal,
    Screen,
    ServerLimits,
    ServerState,
    tell_nobody,
)
from memroute_router.http.sockets import listening_sockets, stop_accepting
from memroute_router.http.tls import TLSFiles

__all__ = ["Server", "ServerLimits"]


class Server:
    """Listens and answers. Owns the listening socket and the connections."""

    def __init__(
        self,
        handler: Handler,
        outbox: Outbox,
        *,
        limits: ServerLimits,
        tls: TLSFiles | None = None,
        on_fault: OnFault = log_fault,
        on_refusal: OnRefusal = tell_nobody,
        kinds: dict[bytes, int] | None = None,
        screen: Screen | None = None,
        clients: Clients | None = None,
    ) -> None:
        """``kinds``: what becomes of each field of a request; None: ``REQUEST_FIELDS``.

        ``screen``: looks at requests with large bodies before those arrive; None: nobody does.
        ``clients``: who has what of it; None: no proxy is believed.
        """
        self._deadlines = Deadlines(on_fault)
        self.budget = BodyBudget(limits.max_bodies_bytes)
        self.clients = Clients() if clients is None else clients
        self._state = ServerState(
            handler,
            limits,
            self._deadlines,
            outbox,
            on_fault,
            self.budget,
            REQUEST_FIELDS if kinds is None else kinds,
            on_refusal,
            screen,
            self.clients,
        )
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    @property
    def num_connections(self) -> int:
        """Client connections that are open."""
        return len(self._state.connections)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. ``host``: an address, a name, or ``*`` for every address."""
        self._sockets = listening_sockets(host, port)
        await self._accept()
        bound: int = self._sockets[0].getsockname()[1]
        return bound

    async def refresh_certificates(self) -> None:
        """Use the files' certificates for new connections, where they have changed."""
        if self._tls is not None and self._tls.refresh() and not self._state.is_stopping:
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
        handshake_seconds = None if context is None else self._state.limits.header_seconds or None
        for each in self._sockets:
            server: Any = await loop.create_server(
                lambda: ClientConnection(self._state),
                sock=each.dup(),
                backlog=4096,
                ssl=context,
                ssl_handshake_timeout=handshake_seconds,
            )
            self._servers.append(server)
        for server in before:
            stop_accepting(server)

    async def stop(self, *, timeout_seconds: float) -> None:
        """Take no new requests, let answers finish for so long, then end everything."""
        self._state.is_stopping = True
        for server in self._servers:
            server.close()
        for each in self._sockets:
            each.close()
        deadline = monotonic() + timeout_seconds
        for connection in list(self._state.connections):
            if not connection.is_busy:
                connection.close()
        while self._state.connections and monotonic() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self._state.connections):
            connection.shut_down()
        last = monotonic() + LINGER_SECONDS
        while self._state.connections and monotonic() < last:
            await asyncio.sleep(0.02)
        for connection in list(self._state.connections):
            connection.abort()
        self._deadlines.close()
