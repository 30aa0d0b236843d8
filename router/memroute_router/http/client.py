"""The engines' side: pooled connections, one request at a time on each.

``EngineConnection`` tells its ``Listener`` once per read what has arrived, not once per field or
chunk. It never buffers: a listener that cannot pass on pauses it, and so the engine.
"""

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol, cast

import httptools

from memroute_router.http.deadlines import NEVER, Deadlines, monotonic
from memroute_router.http.fields import RESPONSE_FIELDS, Head
from memroute_router.http.outbox import Outbox

MAX_IDLE_PER_ENDPOINT: Final = 1024
MAX_IDLE_SECONDS: Final = 4.0
# uvicorn, and so vLLM, closes idle connections after 5 s: never reuse one about to be closed.
MAX_COPIED_BYTES: Final = 8192
# Head and body leave as one piece up to here: a copy costs less than a second buffer.
MAX_HEADERS: Final = 200
MAX_HEADER_BYTES: Final = 128 * 1024

_NOTHING: list[bytes] = []
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)


class LossCause(StrEnum):
    """Why there is no answer, or no more of it."""

    NOT_CONNECTED = "not-connected"
    """No connection could be opened; nothing was sent."""
    EXHAUSTED = "exhausted"
    """As before, because this process lacks something (files, ports, memory): no engine's fault."""
    IDLE_CLOSED = "idle-closed"
    """A connection that was kept ended before any of the answer came. Engines close idle
    connections when they like: nobody's fault, and worth another connection."""
    TIMEOUT = "timeout"
    """Nothing arrived in time."""
    RESET = "reset"
    """The connection broke."""
    CLOSED = "closed"
    """The engine closed the connection before the answer was complete."""
    MALFORMED = "malformed"
    """What arrived is no HTTP, or answers something that was not asked."""
    REPLICA_GONE = "replica-gone"
    """The engine has left the fleet while it answered."""


class Endpoint:
    """Where an engine listens; never changed.

    A plain class with slots that knows its hash: every request looks four times for it.
    """

    __slots__ = ("_hash", "authority", "host", "port", "tls")

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        named = f"[{host}]" if ":" in host else host
        self.authority = f"{named}:{port}".encode()
        """``host:port``, as the Host field has it."""
        self._hash = hash((host, port, tls))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Endpoint)
            and self.authority == other.authority
            and self.tls == other.tls
        )

    def __hash__(self) -> int:
        return self._hash


class Listener(Protocol):
    """Who awaits an answer."""

    def answer_progressed(self, connection: "EngineConnection") -> None:
        """The head, or some of the body, or the end has arrived."""
        ...

    def answer_lost(self, connection: "EngineConnection", cause: LossCause, detail: str) -> None:
        """It will never be complete; the connection is closed. ``detail``: for the log."""
        ...


class EngineConnection(asyncio.Protocol):
    """One connection to an engine, and the answer that arrives on it."""

    __slots__ = (
        "__weakref__", "_deadlines", "_ends_by_close", "_keep_alive", "_listener", "_outbox",
        "_parser", "_pieces", "_transport", "_unsent", "_upgrades", "deadline_at", "endpoint",
        "has_head", "head", "heard_at", "is_complete", "status", "was_reused",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, deadlines: Deadlines, outbox: Outbox) -> None:
        self.endpoint = endpoint
        self._deadlines = deadlines
        self._outbox = outbox
        self._unsent: list[bytes] = _NOTHING
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._listener: Listener | None = None
        self.deadline_at = NEVER
        self.heard_at = 0.0
        """When something arrived last, on the monotonic clock."""
        self.was_reused = False
        self.status = 0
        self.head = Head(RESPONSE_FIELDS)
        self.has_head = False
        self.is_complete = False
        self._keep_alive = False
        self._ends_by_close = False
        self._upgrades = False
        self._pieces: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether the engine has not closed it."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, listener: Listener, request: bytes, body: bytes) -> None:
        """Send a request; ``listener`` hears of its answer until ``forget`` is called."""
        self._listener = listener
        self.status = 0
        self.head = Head(RESPONSE_FIELDS)
        self.has_head = self.is_complete = False
        self._ends_by_close = False
        self._pieces = []
        self._unsent = [request + body] if len(body) < MAX_COPIED_BYTES else [request, body]
        self._outbox.add(self)

    def flush(self) -> None:
        """Hand the request to the transport: the turn of the loop is over."""
        pieces, self._unsent = self._unsent, _NOTHING
        if self._transport is None or self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    def take_body(self) -> bytes:
        """What of the body has arrived since the last call."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def expect_within(self, seconds: float, *, now_seconds: float) -> None:
        """The listener is told that the answer is lost unless something arrives in time."""
        self.deadline_at = now_seconds + seconds

    def pause(self) -> None:
        """Read no more for now: the engine has to wait, and owes us nothing meanwhile."""
        self.deadline_at = NEVER
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def forget(self) -> bool:
        """The listener hears no more. True if another request may go over the connection."""
        self._listener = None
        self.deadline_at = NEVER
        return self.is_complete and self._keep_alive and self.is_open

    def close(self) -> None:
        """Close at once; the engine cancels what it was computing."""
        self._listener = None
        self.deadline_at = NEVER
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # Not isinstance: uvloop's transports quack, they do not inherit.
        self._transport = cast("asyncio.Transport", transport)
        self._deadlines.watch(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self._transport = None
        self._parser = None  # it holds our callbacks: a cycle
        self._deadlines.forget(self)
        listener = self._listener
        if listener is None:
            return
        if self._ends_by_close and not self.is_complete and error is None:
            self.is_complete = True
            listener.answer_progressed(self)
        elif not self.is_complete:
            cause = LossCause.CLOSED if error is None else LossCause.RESET
            self._lose(cause, f"connection lost: {error or 'closed by the engine'}")

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._parser is None:
            return
        if self._listener is None or self.is_complete:
            # Bytes that nobody asked for: nothing that follows could be trusted.
            self.close()
            return
        self.heard_at = monotonic()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._lose(LossCause.MALFORMED, f"malformed answer: {error}")
            return
        if self._upgrades:
            self._lose(
                LossCause.MALFORMED,
                "malformed answer: it switches protocols, or goes on after its end",
            )
        elif self.has_head:
            self._listener.answer_progressed(self)

    def deadline_passed(self) -> None:
        """The engine took too long."""
        self._lose(LossCause.TIMEOUT, "nothing arrived in time")

    def abandon(self) -> None:
        """The engine is gone for good: a node that died sends no reset."""
        self._lose(LossCause.REPLICA_GONE, "the replica is gone")

    # httptools callbacks

    def on_message_begin(self) -> None:
        """An answer begins; a second one to one request is a lie."""
        if self.is_complete:
            self._upgrades = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; trailers end here."""
        if self.has_head:
            return
        self.head.add(name, value)
        if self.head.num_fields > MAX_HEADERS or self.head.num_bytes > MAX_HEADER_BYTES:
            msg = "the header fields are too large"
            raise ValueError(msg)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._parser is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # noqa: PLR2004 - an interim answer: the real one follows
            self._upgrades = status == 101  # noqa: PLR2004 - we asked for no other protocol
            self.head = Head(RESPONSE_FIELDS)
            return
        self.status = status
        self.has_head = True
        read = self.head.read
        self._ends_by_close = b"content-length" not in read and b"transfer-encoding" not in read

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self.has_head and self._parser is not None:
            self.is_complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _lose(self, cause: LossCause, detail: str) -> None:
        listener = self._listener
        if self.was_reused and not self.has_head and cause in _OF_IDLE_CONNECTIONS:
            cause = LossCause.IDLE_CLOSED
        self.close()
        if listener is not None:
            listener.answer_lost(self, cause, detail)


# Ends of a kept connection that say nothing of the engine; bytes left over from before count too.
_OF_IDLE_CONNECTIONS = frozenset({LossCause.RESET, LossCause.CLOSED, LossCause.MALFORMED})


class EnginePool:
    """Connections to all engines. Owns the idle ones, and knows those in use."""

    def __init__(self, outbox: Outbox, *, connect_timeout_seconds: float) -> None:
        self._outbox = outbox
        self._connect_timeout_seconds = connect_timeout_seconds
        self._deadlines = Deadlines()
        self._idle: dict[Endpoint, deque[EngineConnection]] = {}
        self._busy: dict[Endpoint, set[EngineConnection]] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    def take_idle(self, endpoint: Endpoint, *, now_seconds: float) -> EngineConnection | None:
        """A connection that is open and has nothing to do."""
        idle = self._idle.get(endpoint)
        if not idle:
            return None
        oldest = now_seconds - MAX_IDLE_SECONDS
        while idle:
            connection = idle.pop()  # the youngest: the older ones age out
            if connection.heard_at >= oldest and connection.is_open:
                self._busy[endpoint].add(connection)
                return connection
            connection.close()
        return None

    def connect(
        self,
        endpoint: Endpoint,
        on_open: Callable[[EngineConnection], None],
        on_failure: Callable[[LossCause, str], None],
    ) -> asyncio.Task[None]:
        """Open a new connection; exactly one of the two is called, unless the task is cancelled.

        ``on_failure`` hears why (``NOT_CONNECTED`` or ``EXHAUSTED``), and words for the log.
        """
        task = asyncio.create_task(self._connect(endpoint, on_open, on_failure), name="connect")
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    def give_back(self, connection: EngineConnection) -> None:
        """The listener has done with it: kept if its answer was read to the end, else closed."""
        endpoint = connection.endpoint
        busy = self._busy.get(endpoint)
        if busy is not None:
            busy.discard(connection)
        if not connection.forget() or busy is None:
            connection.close()
            return
        idle = self._idle.get(endpoint)
        if idle is None:
            idle = self._idle[endpoint] = deque()
        connection.was_reused = True
        idle.append(connection)
        if len(idle) > MAX_IDLE_PER_ENDPOINT:
            idle.popleft().close()

    def abandon(self, endpoint: Endpoint) -> None:
        """The engine is gone for good: whoever waits for it is told."""
        for connection in self._idle.pop(endpoint, deque()):
            connection.close()
        for connection in self._busy.pop(endpoint, set()):
            connection.abandon()

    async def close(self) -> None:
        """Close every connection."""
        for task in list(self._connecting):
            task.cancel()
        for endpoint in [*self._idle, *self._busy]:
            self.abandon(endpoint)
        self._deadlines.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    async def _connect(
        self,
        endpoint: Endpoint,
        on_open: Callable[[EngineConnection], None],
        on_failure: Callable[[LossCause, str], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                _, connection = await loop.create_connection(
                    lambda: EngineConnection(endpoint, self._deadlines, self._outbox),
                    endpoint.host, endpoint.port, ssl=endpoint.tls,
                )  # fmt: skip
        except (OSError, TimeoutError, ssl.SSLError, UnicodeError) as error:
            # UnicodeError: a host's name that no resolver can be asked for.
            is_ours = getattr(error, "errno", None) in _OURS
            cause = LossCause.EXHAUSTED if is_ours else LossCause.NOT_CONNECTED
            on_failure(cause, f"cannot connect: {error!r}")
            return
        self._busy.setdefault(endpoint, set()).add(connection)
        on_open(connection)
