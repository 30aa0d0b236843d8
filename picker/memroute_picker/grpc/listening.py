"""The listener: sockets, certificates, and the gateways' connections; how they are left."""

import asyncio
import socket
from collections.abc import Callable

from memroute_picker.grpc.connection import GrpcConnection, HandlerFor, ServerSide
from memroute_router.http.budget import BodyBudget
from memroute_router.http.clients import Clients
from memroute_router.http.deadlines import Deadlines, monotonic
from memroute_router.http.faults import OnFault
from memroute_router.http.outbox import Outbox
from memroute_router.http.sockets import listening_sockets, stop_accepting
from memroute_router.http.tls import TLSFiles

HANDSHAKE_SECONDS = 10.0
# How long what was said last may take to leave. Unit: seconds. Source: chosen by hand.
LINGER_SECONDS = 2.0


class GrpcServer:
    """Listens and answers. Owns the listening sockets and the connections."""

    def __init__(
        self,
        handler_for: HandlerFor,
        outbox: Outbox,
        *,
        max_calls: int,
        max_message_bytes: int,
        max_bodies_bytes: int,
        tls: TLSFiles | None,
        on_fault: OnFault,
    ) -> None:
        """``max_calls``: of one connection at once. ``max_bodies_bytes``: of all bodies held."""
        self.budget = BodyBudget(max_bodies_bytes)
        self.clients = Clients()
        self.deadlines = Deadlines(on_fault)
        self._side = ServerSide(
            handler_for,
            outbox,
            on_fault,
            max_calls=max_calls,
            max_message_bytes=max_message_bytes,
        )
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    @property
    def num_connections(self) -> int:
        """Connections of gateways that are open."""
        return len(self._side.connections)

    @property
    def num_calls(self) -> int:
        """Calls that are under way."""
        return sum(len(connection.calls) for connection in self._side.connections)

    @property
    def is_stopping(self) -> bool:
        """Whether no new calls are taken."""
        return self._side.is_stopping

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. ``host``: an address, a name, or ``*`` for every address."""
        self._sockets = listening_sockets(host, port)
        await self._accept()
        bound: int = self._sockets[0].getsockname()[1]
        return bound

    async def refresh_certificates(self) -> None:
        """Use the files' certificates for new connections, where they have changed."""
        if self._tls is not None and self._tls.refresh() and not self._side.is_stopping:
            await self._accept()

    async def _accept(self) -> None:
        """Accept with the present certificates. No connection is refused in between."""
        loop = asyncio.get_running_loop()
        before, self._servers = self._servers, []
        context = None if self._tls is None else self._tls.context
        for each in self._sockets:
            server = await loop.create_server(
                lambda: GrpcConnection(self._side),
                sock=each.dup(),
                backlog=1024,
                ssl=context,
                ssl_handshake_timeout=None if context is None else HANDSHAKE_SECONDS,
            )
            self._servers.append(server)
        for server in before:
            stop_accepting(server)

    async def stop(self, *, timeout_seconds: float) -> None:
        """Take no new calls, let those that there are end for so long, then end them."""
        self._side.is_stopping = True
        for server in self._servers:
            server.close()
        for each in self._sockets:
            each.close()
        connections = self._side.connections
        for connection in list(connections):
            connection.say_goodbye()
        await self._until(lambda: not self.num_calls, timeout_seconds)
        for connection in list(connections):
            connection.shut_down()
        await self._until(lambda: not self.num_calls, LINGER_SECONDS)
        for connection in list(connections):
            connection.close()
        await self._until(lambda: not connections, LINGER_SECONDS)
        for connection in list(connections):
            connection.abort()
        self.deadlines.close()

    @staticmethod
    async def _until(is_over: Callable[[], bool], seconds: float) -> None:
        deadline = monotonic() + seconds
        while not is_over() and monotonic() < deadline:
            await asyncio.sleep(0.02)
