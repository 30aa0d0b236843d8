"""Connections to all engines: taken, opened, given back, and closed when they have been idle.

One request at a time on each. Which engine, and which of its connections, is the upstream's.
"""

import asyncio
import errno
import ssl
from collections.abc import Callable
from typing import Final

from memroute_router.http.client import EngineConnection, LossCause, Upstream
from memroute_router.http.deadlines import Deadlines, monotonic
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.http.outbox import Outbox
from memroute_router.http.resolver import Resolver

MAX_IDLE_PER_ENGINE: Final = 1024
# How long a connection may be idle before it is closed. Unit: seconds. Source: uvicorn, and so
# vLLM, closes idle connections after 5 s; one that is about to be closed is never used again.
MAX_IDLE_SECONDS: Final = 4.0
# Errors of this process, not of the engine.
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)


class EnginePool:
    """Opens connections and gives them out. Knows every upstream that has any."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        connect_timeout_seconds: float,
        on_fault: OnFault = log_fault,
        resolver: Resolver | None = None,
    ) -> None:
        self._outbox = outbox
        self._connect_timeout_seconds = connect_timeout_seconds
        self._on_fault = on_fault
        self._resolver = resolver or Resolver()
        self._deadlines = Deadlines(on_fault)
        self._upstreams: set[Upstream] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def num_connections(self) -> int:
        """Connections to engines that are open."""
        return sum(upstream.num_connections for upstream in self._upstreams)

    def take_idle(self, upstream: Upstream, *, now_seconds: float) -> EngineConnection | None:
        """A connection that is open and has nothing to do."""
        idle = upstream.idle
        if not idle:
            return None
        oldest = now_seconds - MAX_IDLE_SECONDS
        while idle:
            connection = idle.pop()  # the youngest: the older ones age out
            if connection.heard_at >= oldest and connection.is_open:
                upstream.busy.add(connection)
                return connection
            connection.close()
        return None

    def connect(
        self,
        upstream: Upstream,
        on_open: Callable[[EngineConnection], None],
        on_failure: Callable[[LossCause, str], None],
        on_crash: Callable[[], None],
    ) -> asyncio.Task[None]:
        """Open a new connection; one of the first two is called, unless the task is cancelled.

        ``on_failure`` hears why (``NOT_CONNECTED`` or ``EXHAUSTED``), and words for the log.
        ``on_crash``: one of the two has raised.
        """
        task = asyncio.create_task(
            self._connect(upstream, on_open, on_failure, on_crash), name="connect"
        )
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    def give_back(self, connection: EngineConnection) -> None:
        """The listener has done with it: kept if its answer was read to the end, else closed."""
        upstream = connection.upstream
        upstream.busy.discard(connection)
        if not connection.forget() or upstream.is_retired:
            connection.close()
            return
        idle = upstream.idle
        connection.was_reused = True
        connection.keep_no_head()
        idle.append(connection)
        if len(idle) > MAX_IDLE_PER_ENGINE:
            idle.popleft().close()

    def tick(self) -> None:
        """Time passes: close what has been idle for too long."""
        oldest = monotonic() - MAX_IDLE_SECONDS
        for upstream in list(self._upstreams):
            idle = upstream.idle
            # The one that was used longest ago is the first.
            while idle and (idle[0].heard_at < oldest or not idle[0].is_open):
                idle.popleft().close()
            if not idle and not upstream.busy:
                self._upstreams.discard(upstream)

    async def close(self) -> None:
        """Close every connection."""
        for task in list(self._connecting):
            task.cancel()
        for upstream in list(self._upstreams):
            upstream.abandon()
        self._deadlines.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    async def _connect(
        self,
        upstream: Upstream,
        on_open: Callable[[EngineConnection], None],
        on_failure: Callable[[LossCause, str], None],
        on_crash: Callable[[], None],
    ) -> None:
        connection: EngineConnection | None = None
        cause, detail = LossCause.NOT_CONNECTED, ""
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                connection = await self._opened(upstream)
        except (OSError, TimeoutError) as error:
            if getattr(error, "errno", None) in _OURS:
                cause = LossCause.EXHAUSTED
            detail = f"cannot connect: {error!r}"
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it was
            self._on_fault("connect", error)
            detail = f"cannot connect: {error!r}"
        try:
            if connection is None:
                on_failure(cause, detail)
            else:
                upstream.busy.add(connection)
                self._upstreams.add(upstream)
                on_open(connection)
        except Exception as error:  # noqa: BLE001 - a bug in one request
            self._on_fault("connect", error)
            if connection is not None:
                self.give_back(connection)
                connection.close()
            self._tell(on_crash)

    def _tell(self, on_crash: Callable[[], None]) -> None:
        try:
            on_crash()
        except Exception as error:  # noqa: BLE001 - nor is a second one the loop's
            self._on_fault("connect", error)

    async def _opened(self, upstream: Upstream) -> EngineConnection:
        """A connection to the first address that accepts one. Raises ``OSError``."""
        endpoint = upstream.endpoint
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | None = None
        name: str | None = None
        if endpoint.tls is not None:
            context = endpoint.tls.latest()
            name = endpoint.tls.server_name or endpoint.host
        last: OSError | None = None
        addresses = await self._resolver.addresses(endpoint.host)
        # Each has its part of the time: the first may be one that drops packets.
        part_seconds = self._connect_timeout_seconds / len(addresses)
        for address in addresses:
            try:
                async with asyncio.timeout(part_seconds):
                    _, connection = await loop.create_connection(
                        lambda: EngineConnection(
                            upstream, self._deadlines, self._outbox, self._on_fault
                        ),
                        address, endpoint.port, ssl=context, server_hostname=name,
                    )  # fmt: skip
            except OSError as error:
                last = error
            else:
                return connection
        raise last or OSError("no address")
