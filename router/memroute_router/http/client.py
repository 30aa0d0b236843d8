"""One connection to an engine, and the engine as the client knows it.

``EngineConnection`` tells its ``Listener`` once per read what has arrived, not once per field or
chunk. It never buffers: a listener that cannot pass on pauses it, and so the engine.

Connections belong to an ``Upstream``, and an upstream belongs to a replica. Two replicas at one
address, or one address under two names, share nothing. ``engine_pool.py`` opens connections.
"""

import asyncio
from collections import deque
from enum import StrEnum
from typing import Final, Protocol, cast

import httptools

from memroute_router.http.deadlines import NEVER, Deadlines, monotonic
from memroute_router.http.faults import OnFault
from memroute_router.http.fields import RESPONSE_FIELDS, Head
from memroute_router.http.outbox import Outbox
from memroute_router.http.tls import EngineTLS

MAX_COPIED_BYTES: Final = 8192
# Head and body leave as one piece up to here: a copy costs less than a second buffer.
MAX_HEADERS: Final = 200
# Of an answer, and of whatever else comes without any of its body: interim answers, trailers,
# framing. The parser keeps a field until it has ended. Unit: bytes. Source: chosen by hand.
MAX_HEADER_BYTES: Final = 128 * 1024
# Interim answers (100 to 199) before the real one. Source: chosen by hand; engines send one.
MAX_INTERIM: Final = 16

# Of the last answer's fields, what an idle connection may keep. Unit: bytes. Chosen by hand.
MAX_KEPT_HEAD_BYTES: Final = 2 * 1024

_NOTHING: list[bytes] = []


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
    """Where an engine listens; never changed. A value: equal where all of it is equal."""

    __slots__ = ("authority", "host", "port", "tls")

    def __init__(self, host: str, port: int, tls: EngineTLS | None = None) -> None:
        """``tls``: how it is spoken to and known; None: in the clear."""
        self.host = host
        self.port = port
        self.tls = tls
        named = f"[{host}]" if ":" in host else host
        self.authority = f"{named}:{port}".encode()
        """``host:port``, as the Host field has it."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Endpoint)
            and self.authority == other.authority
            and self.tls == other.tls
        )

    def __hash__(self) -> int:
        return hash((self.authority, self.tls))


class Upstream:
    """One engine: where it listens, and the connections to it. Owned by its replica.

    Once it is retired, what is under way goes on to its end, and nothing is kept for later.
    """

    __slots__ = ("__weakref__", "busy", "endpoint", "idle", "is_retired")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.idle: deque[EngineConnection] = deque()
        """Open, with nothing to do; the one used last is the last."""
        self.busy: set[EngineConnection] = set()
        self.is_retired = False

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self.idle) + len(self.busy)

    def retire(self) -> None:
        """Nothing more is sent here: idle connections are closed now, others when they end."""
        self.is_retired = True
        idle, self.idle = self.idle, deque()
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """The engine is gone for good: whoever waits for it is told."""
        self.retire()
        busy, self.busy = self.busy, set()
        for connection in busy:
            connection.abandon()


class Listener(Protocol):
    """Who awaits an answer."""

    def answer_progressed(self, connection: "EngineConnection") -> None:
        """The head, or some of the body, or the end has arrived."""
        ...

    def answer_lost(self, connection: "EngineConnection", cause: LossCause, detail: str) -> None:
        """It will never be complete; the connection is closed. ``detail``: for the log."""
        ...

    def answer_crashed(self, connection: "EngineConnection") -> None:
        """One of the two above has raised, a bug of ours; the connection is closed."""
        ...


class EngineConnection(asyncio.Protocol):
    """One connection to an engine, and the answer that arrives on it."""

    __slots__ = (
        "__weakref__",
        "_deadlines",
        "_ends_by_close",
        "_keep_alive",
        "_listener",
        "_num_interim",
        "_on_fault",
        "_outbox",
        "_parser",
        "_pieces",
        "_transport",
        "_unsent",
        "_upgrades",
        "_vain_bytes",
        "deadline_at",
        "has_head",
        "head",
        "heard_at",
        "is_complete",
        "status",
        "upstream",
        "was_reused",
    )  # fmt: skip

    def __init__(
        self, upstream: Upstream, deadlines: Deadlines, outbox: Outbox, on_fault: OnFault
    ) -> None:
        self.upstream = upstream
        self._deadlines = deadlines
        self._outbox = outbox
        self._on_fault = on_fault
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
        self._num_interim: int = 0
        self._vain_bytes: int = 0
        """That have come since a read that had some of the body."""
        self._pieces: list[bytes] = []

    @property
    def endpoint(self) -> Endpoint:
        """Where the engine listens."""
        return self.upstream.endpoint

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
        self._num_interim = self._vain_bytes = 0
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

    def has_more_than(self, num_bytes: int) -> bool:
        """Whether more than so much of the body has arrived since it was taken last."""
        return sum([len(piece) for piece in self._pieces]) > num_bytes

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

    def keep_no_head(self) -> None:
        """Nobody reads the answer's fields any more, and it may be long until the next ones."""
        if self.head.num_bytes > MAX_KEPT_HEAD_BYTES:
            self.head = Head(RESPONSE_FIELDS)

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
            try:
                listener.answer_progressed(self)
            except Exception as failure:  # noqa: BLE001 - as below
                self._crashed(listener, failure)
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
        self._vain_bytes += len(data)
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
        elif self._vain_bytes > MAX_HEADER_BYTES:
            self._lose(LossCause.MALFORMED, "malformed answer: fields or framing without an end")
        elif self.has_head:
            listener = self._listener
            try:
                listener.answer_progressed(self)
            except Exception as error:  # noqa: BLE001 - a bug in one request is not the loop's
                self._crashed(listener, error)

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
            self._num_interim += 1
            if self._num_interim > MAX_INTERIM:
                msg = "interim answers without an end"
                raise ValueError(msg)
            return
        self.status = status
        self.has_head = True
        read = self.head.read
        self._ends_by_close = b"content-length" not in read and b"transfer-encoding" not in read

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(data)
        self._vain_bytes = 0

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
            try:
                listener.answer_lost(self, cause, detail)
            except Exception as error:  # noqa: BLE001 - a bug in one request is not the loop's
                self._crashed(listener, error)

    def _crashed(self, listener: Listener, error: Exception) -> None:
        """The listener has raised: its request fails, alone."""
        self._on_fault("answer", error)
        self.close()
        try:
            listener.answer_crashed(self)
        except Exception as another:  # noqa: BLE001 - as above
            self._on_fault("answer", another)


# Ends of a kept connection that say nothing of the engine; bytes left over from before count too.
_OF_IDLE_CONNECTIONS = frozenset({LossCause.RESET, LossCause.CLOSED, LossCause.MALFORMED})
