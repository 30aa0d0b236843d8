"""The listener: sockets, certificates, and the clients' connections (``connection.py``)."""

from memroute_router.http.budget import BodyBudget
from memroute_router.http.clients import Clients
from memroute_router.http.connection import LINGER_SECONDS, ClientConnection
from memroute_router.http.deadlines import Deadlines
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.http.fields import REQUEST_FIELDS
from memroute_router.http.listener import Listener, until
from memroute_router.http.outbox import Outbox
from memroute_router.http.server_state import (
    Handler,
    OnRefusal,
    Screen,
    ServerLimits,
    ServerState,
    tell_nobody,
)
from memroute_router.http.tls import TLSFiles

__all__ = ["Server", "ServerLimits"]

# Connections that may wait to be accepted. Source: chosen by hand, as large as Linux's default.
BACKLOG = 4096


class Server:
    """Listens and answers. Owns the listener and the connections."""

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
        self._listener = Listener(
            lambda: ClientConnection(self._state),
            backlog=BACKLOG,
            tls=tls,
            handshake_seconds=limits.header_seconds or None,
        )

    @property
    def num_connections(self) -> int:
        """Client connections that are open."""
        return len(self._state.connections)

    @property
    def port(self) -> int | None:
        """What it listens on; None before it does."""
        return self._listener.port

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. ``host``: an address, a name, or ``*`` for every address."""
        return await self._listener.start(host, port)

    async def refresh_certificates(self) -> None:
        """Use the files' certificates for new connections, where they have changed."""
        await self._listener.refresh_certificates()

    async def stop(self, *, timeout_seconds: float) -> None:
        """Take no new requests, let answers finish for so long, then end everything."""
        self._state.is_stopping = True
        self._listener.close()
        connections = self._state.connections
        for connection in list(connections):
            if not connection.is_busy:
                connection.close()
        await until(lambda: not connections, timeout_seconds)
        for connection in list(connections):
            connection.shut_down()
        await until(lambda: not connections, LINGER_SECONDS)
        for connection in list(connections):
            connection.abort()
        self._deadlines.close()
