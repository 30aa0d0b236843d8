"""The listener: sockets, certificates, and the gateways' connections; how they are left."""

from memroute_picker.grpc.connection import GrpcConnection
from memroute_picker.grpc.side import HandlerFor, ServerSide
from memroute_router.http.budget import BodyBudget
from memroute_router.http.clients import Clients
from memroute_router.http.deadlines import Deadlines
from memroute_router.http.faults import OnFault
from memroute_router.http.listener import Listener, until
from memroute_router.http.outbox import Outbox
from memroute_router.http.tls import TLSFiles

# How long a gateway's TLS handshake may take. Unit: seconds. Source: the router's default.
HANDSHAKE_SECONDS = 10.0
# How long what was said last may take to leave. Unit: seconds. Source: chosen by hand.
LINGER_SECONDS = 2.0
# How long a gateway may take to hear that it is left, and what it began before then to come: its
# answer to a ping. Unit: seconds. Source: chosen by hand; a round trip in a cluster takes 1 ms.
GOODBYE_SECONDS = 1.0
# Connections that may wait to be accepted: gateways open a few each. Source: chosen by hand.
BACKLOG = 1024


class GrpcServer:
    """Listens and answers. Owns the listener and the connections."""

    def __init__(
        self,
        handler_for: HandlerFor,
        outbox: Outbox,
        *,
        max_connections: int,
        max_calls: int,
        max_message_bytes: int,
        max_bodies_bytes: int,
        tls: TLSFiles | None,
        on_fault: OnFault,
    ) -> None:
        """``max_calls``: of all connections at once. ``max_bodies_bytes``: of all bodies held."""
        self.budget = BodyBudget(max_bodies_bytes)
        self.clients = Clients()
        self.deadlines = Deadlines(on_fault)
        self._side = ServerSide(
            handler_for,
            outbox,
            on_fault,
            budget=self.budget,
            deadlines=self.deadlines,
            max_connections=max_connections,
            max_calls=max_calls,
            max_message_bytes=max_message_bytes,
        )
        self._listener = Listener(
            lambda: GrpcConnection(self._side),
            backlog=BACKLOG,
            tls=tls,
            handshake_seconds=HANDSHAKE_SECONDS,
        )

    @property
    def num_connections(self) -> int:
        """Connections of gateways that are open."""
        return len(self._side.connections)

    @property
    def num_calls(self) -> int:
        """Calls that are under way."""
        return self._side.num_calls

    @property
    def num_calmed(self) -> int:
        """Connections that were left because too many of their streams came to nothing."""
        return self._side.num_calmed

    @property
    def num_silent(self) -> int:
        """Connections that were closed because nothing was heard of their clients any more."""
        return self._side.num_silent

    @property
    def is_stopping(self) -> bool:
        """Whether no new calls are taken."""
        return self._side.is_stopping

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. ``host``: an address, a name, or ``*`` for every address."""
        return await self._listener.start(host, port)

    async def refresh_certificates(self) -> None:
        """Use the files' certificates for new connections, where they have changed."""
        await self._listener.refresh_certificates()

    async def stop(self, *, timeout_seconds: float) -> None:
        """Take no new calls, let those that there are end for so long, then end them."""
        self._side.is_stopping = True
        self._listener.close()
        connections = self._side.connections
        for connection in list(connections):
            connection.say_goodbye()
        await until(
            lambda: all(connection.is_left for connection in connections),
            min(GOODBYE_SECONDS, timeout_seconds),
        )
        for connection in list(connections):
            connection.leave()
        await until(lambda: not self.num_calls, timeout_seconds)
        for connection in list(connections):
            connection.shut_down()
        await until(lambda: not self.num_calls, LINGER_SECONDS)
        for connection in list(connections):
            connection.close()
        await until(lambda: not connections, LINGER_SECONDS)
        for connection in list(connections):
            connection.abort()
        self.deadlines.close()
