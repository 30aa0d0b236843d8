"""The clients' side: one protocol per connection, one exchange per request, answered in order.

Parsing is strict: what could be read in two ways is 400 and the end of the connection. What one
connection may cost is bounded: fields, bytes, pipelined requests, and time in every state.

```text
idle ── first byte ──► head ── blank line ──► body ── complete ──► answering ──► idle
75 s                   10 s                   60 s                 (the handler's limits)
```
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import httptools

from memroute_router.http.budget import SMALL_BYTES, BodyBudget, UnsentAnswers
from memroute_router.http.clients import Client, Clients, LimitKind
from memroute_router.http.deadlines import NEVER, Deadlines, monotonic
from memroute_router.http.errors import ANTHROPIC_PATH, error_body
from memroute_router.http.exchange import Exchange, Sink
from memroute_router.http.faults import CLIENT, OnFault
from memroute_router.http.fields import JSON, REASON, Head, status_line
from memroute_router.http.framing import check_head, origin_form, without_offer
from memroute_router.http.outbox import Outbox
from memroute_router.http.sockets import client_address, untaken_bytes

MAX_PIPELINED: Final = 16
MAX_FRAMING_BYTES: Final = 64 * 1024
MAX_FRAMING_PER_BYTE: Final = 8
# What chunk sizes, extensions and trailers may take beside the body: a chunk for every byte is six.
LINGER_SECONDS: Final = 2.0
# After a refusal, what the client still sends is thrown away for so long: closing at once would
# reset the connection, and with it the refusal before it was read.
READ_BUFFER_BYTES: Final = 256 * 1024
# What one read takes at most: as much as uvloop reads at once by itself.
WRITE_HIGH_WATER_BYTES: Final = 16 * 1024
# What may wait for a slow client before its engine is no longer read, and it counts.
FREE_HEAD_BYTES: Final = 4 * 1024
# A head that came at once, and is no larger, is not counted: it is what a connection costs anyway.
WAITING_BYTES: Final = 4 * 1024
# What a request that waits behind another one costs beside its bytes: its objects.
NOT_PAUSED: Final = -1
# Instead of a number of bytes: the client takes what there is.


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one client connection may cost."""

    max_connections: int = 10_000
    """More get 503 at once: each may need a second file descriptor, for its engine."""
    makes_room: bool = False
    """Whether one more closes the one that would be closed next, instead of getting 503: where
    probes ask, nobody may keep them out by opening connections. It looks at all of them."""
    max_client_connections: int = 0
    """Of one client, a proxy that is believed excepted; 0: as many as there are while others need
    none (``clients.py``)."""
    max_client_requests: int = 0
    """Of one client, being answered; 0: as many as there are."""
    max_body_bytes: int = 32 * 1024**2
    # A context of a million tokens is about 4 MB of text; images and audio take the rest.
    max_bodies_bytes: int = 1024**3
    """Of the bodies of all connections together; more get 503."""
    max_target_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    idle_seconds: float = 75.0
    # Above the 60 s that load balancers keep idle connections: they close first, not we.
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    stalled_client_seconds: float = 120.0
    """How long a client may take nothing at all of its answer."""


# Bytes of a body from which on its head is screened before the body arrives: the usual request is
# whole with its first read, and is looked at once.
SCREENED_BYTES: Final = 64 * 1024
# Why 503 is said of a request: what is held of all requests is as much as it may be.
BODIES: Final = "bodies"
_NO_ROOM: Final = "the router holds as many bytes of requests as it may"
_RETRY_SOON: Final = b"retry-after: 1\r\n"
# Looked up once, not for every connection.
_CLIENT_CONNECTIONS: Final = LimitKind.CLIENT_CONNECTIONS
_CLIENT_REQUESTS: Final = LimitKind.CLIENT_REQUESTS

Handler = Callable[[Exchange], None]
Screen = Callable[[bytes, dict[bytes, bytes]], tuple[int, str, str, bytes, bytes] | None]
"""Why a request with this target and these fields need not send its body: status, why in words and
in one word, header lines and body of the answer; None: it may."""
OnRefusal = Callable[[bytes, bytes, int, str, str], None]
"""Hears of requests that no handler has seen or ended: the client's address, the target as far as
it was read, the status, why, and the same in one word (empty: the status says it)."""


def tell_nobody(_peer: bytes, _target: bytes, _status: int, _why: str, _cause: str) -> None:
    """Nobody wants to hear of refusals."""


class RefusedError(Exception):
    """Nothing of the rest of a read is looked at: its parser would go on to the end of it."""


class ReadBuffer:
    """What was read last, from whichever connection: filled and parsed in one step of the loop.

    Of a body one copy is made, the one that goes on, out of memory that is in the cache.
    """

    __slots__ = ("view",)

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BUFFER_BYTES))


@dataclass(slots=True)
class ServerState:
    """What the connections of one server share. Owns the set of open ones."""

    handler: Handler
    limits: ServerLimits
    deadlines: Deadlines
    outbox: Outbox
    on_fault: OnFault
    budget: BodyBudget
    kinds: dict[bytes, int]
    """What becomes of each field of a request."""
    on_refusal: OnRefusal = tell_nobody
    screen: Screen | None = None
    """Who looks at requests with large bodies before those arrive; None: nobody."""
    clients: Clients = field(default_factory=Clients)
    reads: ReadBuffer = field(default_factory=ReadBuffer)
    no_head: Head = field(default_factory=lambda: Head({}))
    """Of connections that have no request."""
    is_stopping: bool = False
    connections: set["ClientConnection"] = field(default_factory=set)
    unsent: UnsentAnswers = field(init=False)

    def __post_init__(self) -> None:
        self.unsent = UnsentAnswers(self.budget)


class ClientConnection(asyncio.BufferedProtocol):
    """One client connection."""

    __slots__ = (
        "__weakref__",
        "_asking",
        "_body",
        "_body_bytes",
        "_client",
        "_declined",
        "_exchange",
        "_has_come_further",
        "_has_ended_one",
        "_head",
        "_head_bytes",
        "_held_head_bytes",
        "_is_arriving",
        "_is_deaf",
        "_last_words",
        "_parser",
        "_raw_bytes",
        "_reading_head",
        "_receiving",
        "_state",
        "_target",
        "_transport",
        "_unsent",
        "_untaken_bytes",
        "_version",
        "_waiting",
        "deadline_at",
        "peer",
        "scheme",
    )  # fmt: skip

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] | None = None
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._waiting: deque[Exchange] | None = None
        self._client: Client | None = None
        """Who has the connection."""
        self._asking: Client | None = None
        """Whose request is being answered: the client's, or of whom a proxy has it."""
        self._receiving: bool = False
        self._is_deaf = False
        """Whether what still comes is thrown away: a refusal was the last word."""
        self._last_words: bytes | None = None
        self.peer = b"unknown"
        """The client's address, without its port."""
        self.scheme = b"http"
        self._target = b""
        self._version = ""
        """Of HTTP, as the request says."""
        self._head = state.no_head
        self._reading_head = True
        """Whether its end has not come: what comes later are trailers."""
        self._has_come_further = False
        """Whether its head has begun, or its body, since its deadline was set."""
        self._has_ended_one = False
        """Whether a request has ended in what was read last: what follows is of another."""
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._raw_bytes = 0
        """Of the body that is arriving, its framing included."""
        self._declined = b""
        """The head of a request that offered another protocol, without the offer."""
        self.deadline_at = NEVER
        self._untaken_bytes: int = NOT_PAUSED
        """Of the answer, what a client that is slow had not taken at the last look."""
        self._is_arriving = False
        """Whether a request has not come with one read: it may have to give up its place."""
        self._held_head_bytes: int = 0
        """That are counted, of a head that is not whole."""

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, has its turn next, or is being received."""
        return self._exchange is not None or self._receiving or bool(self._waiting)

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered, or has its turn next."""
        return self._exchange is not None or bool(self._waiting)

    @property
    def _is_next(self) -> bool:
        """Whether what arrives now is answered next: none is being answered, and none waits.

        Between two answers none is being answered, and one that has waited has its turn.
        """
        return self._exchange is None and not self._waiting

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # Not isinstance: uvloop's transports quack, they do not inherit.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = client_address(str(name[0]))
        if transport.get_extra_info("sslcontext"):
            self.scheme = b"https"
        state, limits = self._state, self._state.limits
        client = self._client = state.clients.connected(self.peer, self)
        state.connections.add(self)
        state.deadlines.watch(self)
        self.deadline_at = monotonic() + limits.idle_seconds
        if len(state.connections) > limits.max_connections:
            if limits.makes_room:
                self._make_room()
            elif not self._displaces(client):
                state.clients.refused[LimitKind.CONNECTIONS] += 1
                self._refuse(503, "too many connections", _RETRY_SOON)
        elif (
            limits.max_client_connections
            and len(client.connections) > limits.max_client_connections
            and not client.is_proxy
        ):
            state.clients.refused[_CLIENT_CONNECTIONS] += 1
            self._refuse(
                429,
                f"too many connections from your address: at most {limits.max_client_connections}",
                b"%b%b: %b\r\n" % (_RETRY_SOON, REASON, _CLIENT_CONNECTIONS.value.encode()),
                _CLIENT_CONNECTIONS.value,
            )

    def connection_lost(self, _error: Exception | None) -> None:  # noqa: D102
        self._forget()
        self._state.deadlines.forget(self)
        self._transport = None
        self._parser = None  # it holds our callbacks: a cycle
        waiting, self._waiting = self._waiting, None
        for each in waiting or ():
            each.drop_body()
        self._drop_body()
        self._state.budget.not_slow(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.drop_body()
        if exchange is not None and exchange.sink is not None:
            exchange.is_finished = True
            sink, exchange.sink = exchange.sink, None
            try:
                sink.client_gone()
            except Exception as error:  # noqa: BLE001 - a bug in one request
                self._crashed(sink, error)

    def pause_writing(self) -> None:  # noqa: D102
        if self._is_too_slow():
            return
        self._untaken_bytes = untaken_bytes(self._transport)
        self.deadline_at = monotonic() + self._state.limits.stalled_client_seconds
        sink = None if self._exchange is None else self._exchange.sink
        if sink is not None:
            try:
                sink.client_is_slow()
            except Exception as error:  # noqa: BLE001 - as above
                self._crashed(sink, error)

    def resume_writing(self) -> None:  # noqa: D102
        self._state.unsent.taken(self)
        self.deadline_at = NEVER
        self._untaken_bytes = NOT_PAUSED
        sink = None if self._exchange is None else self._exchange.sink
        if sink is not None:
            try:
                sink.client_is_ready()
            except Exception as error:  # noqa: BLE001 - as above
                self._crashed(sink, error)
        elif self._exchange is None and not self._is_deaf:
            self.deadline_at = monotonic() + self._state.limits.idle_seconds

    def get_buffer(self, _sizehint: int) -> memoryview:  # noqa: D102
        return self._state.reads.view

    def buffer_updated(self, num_bytes: int) -> None:  # noqa: D102
        data: bytes | memoryview = self._state.reads.view[:num_bytes]
        self._has_ended_one = False
        while data and self._last_words is None and not self._is_deaf and self._parser is not None:
            data = self._feed(self._parser, data)

    def deadline_passed(self) -> None:
        """The client took too long."""
        if self._untaken_bytes != NOT_PAUSED and self._has_taken_more():
            return
        if self._exchange is not None or self._is_deaf:
            self.abort()
        elif not self._receiving:
            self.close()
        else:
            self._refuse(408, "the request did not arrive in time")

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._last_words is not None:
            raise RefusedError
        self._receiving = True
        self._target = b""
        self._head = Head(self._state.kinds)
        self._reading_head = True
        self._head_bytes = 0
        self._body = []
        self._body_bytes = self._raw_bytes = 0
        self._has_come_further = True

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._target += url
        if len(self._target) > self._state.limits.max_target_bytes:
            self._refuse(414, "the target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; trailers come here too, and end here."""
        if not self._reading_head:
            if self._last_words is not None:
                raise RefusedError
            return
        head, limits = self._head, self._state.limits
        head.add(name, value)
        if head.num_fields > limits.max_headers:
            self._refuse(431, f"more than {limits.max_headers} header fields")
        elif head.num_bytes > limits.max_header_bytes:
            self._refuse(431, "the header fields are too large")

    def on_headers_complete(self) -> None:
        """The head is complete: refuse what is ambiguous or too large before its body arrives."""
        self._reading_head = False
        if self._parser is None or self._is_deaf or self._last_words is not None:
            return
        head = self._head
        self._version = self._parser.get_http_version()
        refusal = (
            (400, f"more than one {head.twice.decode('latin-1')}")
            if head.twice is not None
            else check_head(head.read, self._version, self._state.limits.max_body_bytes)
        )
        if refusal is None and self._parser.should_upgrade():
            self._declined = without_offer(self._parser.get_method(), self._target, head)
            if self._declined:
                return
            refusal = 400, "upgrades and tunnels are not supported"
        if refusal is None and not self._target.startswith(b"/"):
            origin = origin_form(self._target)
            if origin is None:
                refusal = 400, "malformed target"
            else:
                head.read[b"host"], self._target = origin
        if refusal is not None:
            self._refuse(*refusal)
            return
        screen = self._state.screen
        if screen is not None and _is_large(head.read):
            answer = screen(self._target, head.read)
            if answer is not None:
                self._say_last(*answer)
                return
        if b"expect" in head.read and self._is_next:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._has_come_further = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self._state.limits.max_body_bytes:
            self._refuse(413, f"the body is larger than {self._state.limits.max_body_bytes} bytes")
        elif self._last_words is not None or self._is_deaf:
            return
        elif not self._state.budget.take(len(data), self._body_bytes):
            self._refuse_full()
        elif self._last_words is None:
            self._body.append(data)
        else:
            self._state.budget.give_back(len(data))  # its own place was given up meanwhile

    def on_message_complete(self) -> None:
        """The request is whole: answer it now, or after those before it."""
        if self._is_deaf or self._last_words is not None or self._parser is None or self._declined:
            return
        head_bytes = 0
        if self._is_arriving or self._head.num_bytes > FREE_HEAD_BYTES or not self._is_next:
            if not self._holds_head():
                self._refuse_full()
                return
            head_bytes = self._head.num_bytes + WAITING_BYTES
        self._receiving = False
        self._has_ended_one = True
        body, self._body = self._body, []
        exchange = Exchange(
            self,
            method=self._parser.get_method(),
            target=self._target,
            lines=self._head.lines(),
            fields=self._head.read,
            body=body[0] if len(body) == 1 else b"".join(body),
            keep_alive=self._parser.should_keep_alive() and not self._state.is_stopping,
            http_1_1=self._version == "1.1",
            received_at=monotonic(),
            budget=self._state.budget,
            head_bytes=head_bytes,
        )
        self._head = self._state.no_head  # an idle connection keeps nothing of its last request
        if self._is_next:
            self._answer(exchange)
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(exchange)
        self._state.budget.slow(self)
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    # For the exchange

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; nothing once the client is gone."""
        if self._unsent is None:
            self._unsent = [data]
            self._state.outbox.add(self)
        else:
            self._unsent.append(data)

    def flush(self) -> None:
        """Hand to the transport what was written in this turn of the loop."""
        pieces, self._unsent = self._unsent, None
        if pieces is None or self._transport is None or self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer is complete."""
        self._exchange = None
        asking, self._asking = self._asking, None
        if asking is not None:
            self._state.clients.left(asking)
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not keep_alive:
            self._linger() if self._receiving else self.close()
        elif self._waiting:
            # Not from here: a thousand pipelined requests would be a thousand frames deep.
            asyncio.get_running_loop().call_soon(self._answer_next)
        elif self._last_words is not None:
            self.write(self._last_words)
            self._linger()
        elif self._state.is_stopping:
            self.close()
        elif self._receiving:
            self.deadline_at = monotonic() + self._state.limits.header_seconds
        else:
            # A quarter of a second early: that of the last sweep will do.
            self.deadline_at = self._state.deadlines.now_seconds + self._state.limits.idle_seconds

    def close(self) -> None:
        """Close once everything has been sent."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def shut_down(self) -> None:
        """The router ends: so does this."""
        exchange = self._exchange
        if exchange is not None and exchange.sink is not None:
            exchange.keep_alive = False
            sink = exchange.sink
            try:
                sink.shutting_down()
            except Exception as error:  # noqa: BLE001 - the others end as they should
                self._crashed(sink, error)
        elif exchange is None:
            self.close()

    def _make_room(self) -> None:
        """Close the connection whose deadline comes first; one that is being answered has none."""
        others = [each for each in self._state.connections if each is not self]
        if others:
            first = min(others, key=_deadline_of)
            first.displaced()

    def _displaces(self, client: Client) -> bool:
        """Whether another client's connection has made room for this one."""
        other = self._state.clients.place_for(client)
        if other is None:
            return False
        self._state.clients.refused[LimitKind.DISPLACED] += 1
        cast("ClientConnection", other).displaced()
        return True

    def displaced(self) -> None:
        """Make room for another, at once: the end is told later, and more may come before."""
        self._forget()
        self.abort()

    def _forget(self) -> None:
        """It is none of the open connections any more."""
        state = self._state
        state.connections.discard(self)
        state.unsent.taken(self)
        asking, self._asking = self._asking, None
        if asking is not None:
            state.clients.left(asking)
        if self._client is not None:
            state.clients.disconnected(self._client, self)

    def _answer_next(self) -> None:
        if self._exchange is None and self._waiting:
            if self._transport is not None:
                self._transport.resume_reading()
            first = self._waiting.popleft()
            self._not_slow()
            self._answer(first)

    def _answer(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.deadline_at = NEVER
        client = self._client
        if client is not None:
            if client.is_proxy:
                client = self._state.clients.told(client, self.peer, exchange.fields)
            client.num_requests += 1
            self._asking = client
            most = self._state.limits.max_client_requests
            if most and client.num_requests > most and exchange.method == b"POST":
                self._refuse_busy(exchange, most)
                return
        try:
            self._state.handler(exchange)
        except Exception as error:  # noqa: BLE001 - a bug in one request
            self._state.on_fault(CLIENT, error)
            self._failed(exchange)

    def _refuse_busy(self, exchange: Exchange, most: int) -> None:
        """Its client has as many requests being answered as it may. What only reads is answered."""
        self._state.clients.refused[_CLIENT_REQUESTS] += 1
        reason = _CLIENT_REQUESTS.value
        message = (
            f"Rate limit reached for your address on requests at once: Limit {most}. "
            "Please try again when one has ended."
        )
        self._state.on_refusal(self.peer, exchange.target, 429, message, reason)
        body = error_body(
            429,
            message,
            reason="rate_limit_exceeded",
            kind="requests",
            is_anthropic=exchange.target.startswith(ANTHROPIC_PATH),
        )
        own = b"%b%b: %b\r\n" % (_RETRY_SOON, REASON, reason.encode())
        exchange.respond(429, body, JSON + own)

    def _failed(self, exchange: Exchange) -> None:
        """A bug of ours, while the request was begun: it ends, and so does what was begun."""
        if exchange.sink is not None:
            try:
                exchange.sink.crashed()
            except Exception as error:  # noqa: BLE001 - as above
                self._state.on_fault(CLIENT, error)
        if exchange.is_finished:
            return
        if exchange.has_started:
            exchange.abort()
        else:
            exchange.respond(500, error_body(500, "internal error"))
        self._state.on_refusal(self.peer, exchange.target, 500, "internal error", "")

    def _crashed(self, sink: Sink, error: Exception) -> None:
        """What was to hear of its client has raised: its request fails, alone."""
        self._state.on_fault(CLIENT, error)
        try:
            sink.crashed()
        except Exception as another:  # noqa: BLE001 - as above
            self._state.on_fault(CLIENT, another)

    def _is_too_slow(self) -> bool:
        """Count what waits for its client; whether it was broken off, for it is too much in all."""
        unsent, transport = self._state.unsent, self._transport
        if transport is None or self in unsent.waiting:
            return False
        num_broken = unsent.wait(self, transport.get_write_buffer_size())
        if num_broken:
            self._state.clients.refused[LimitKind.SLOW] += num_broken
        return self not in unsent.waiting

    def _has_taken_more(self) -> bool:
        """Whether a slow client has taken anything since the last look; then it has more time.

        Nothing is written meanwhile: its engine is not read.
        """
        untaken = untaken_bytes(self._transport)
        if untaken >= self._untaken_bytes:
            return False
        self._untaken_bytes = untaken
        self.deadline_at = monotonic() + self._state.limits.stalled_client_seconds
        return True

    def _goes_on(self, num_bytes: int) -> None:
        """A request is not whole after so many bytes more: is it in time, and not too large?

        The parser tells of most bytes, not of all. Where another request has ended among them,
        nobody knows how many are of this one: they are not held against it.
        """
        if self._has_come_further:
            # Here and not as it begins: most requests are whole at once, and need no deadline.
            self._has_come_further = False
            if self._exchange is None:
                limits = self._state.limits
                self.deadline_at = monotonic() + (
                    limits.header_seconds if self._reading_head else limits.body_seconds
                )
        budget = self._state.budget
        budget.slow(self)
        self._is_arriving = True
        if self._reading_head:
            if not self._has_ended_one:
                self._head_bytes += num_bytes
            if self._head_bytes > self._state.limits.max_header_bytes:
                self._refuse(431, "the header fields are too large")
            elif not budget.take(num_bytes, SMALL_BYTES):
                self._refuse_full()
            elif self._is_arriving:
                self._held_head_bytes += num_bytes
            else:
                budget.give_back(num_bytes)  # as in on_body
            return
        if not self._has_ended_one:
            self._raw_bytes += num_bytes
        if self._raw_bytes > MAX_FRAMING_PER_BYTE * self._body_bytes + MAX_FRAMING_BYTES:
            self._refuse(413, "the framing of the body is too large")

    def _feed(self, parser: httptools.HttpRequestParser, data: bytes | memoryview) -> bytes:
        """Let the parser have it; what is to be read anew, because an offer was declined."""
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return self._decline(bytes(data[offer.args[0] :]))
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, RefusedError):
                return b""
            self._state.on_fault(CLIENT, error)
            self._refuse(500, "internal error")
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed request: {error}")
        else:
            if self._receiving and not self._is_deaf:
                self._goes_on(len(data))
        return b""

    def _decline(self, rest: bytes) -> bytes:
        """A request without its offer of HTTP/2, to be read as if that had not been made.

        The parser stops at an offer, and would not read the body that JDK clients send with it.
        """
        head, self._declined = self._declined, b""
        if not head:
            self._is_deaf = True  # it was refused
            return b""
        self._parser = httptools.HttpRequestParser(self)
        return head + rest

    # What is held for it

    def give_up(self) -> None:
        """Others need the room: requests that wait are dropped, and one that is not whole.

        What is being answered is answered to its end.
        """
        waiting, self._waiting = self._waiting, None
        for each in waiting or ():
            each.drop_body()
        try:
            self._refuse_full()
        except Exception as error:  # noqa: BLE001 - whoever needs the room is another
            self._state.on_fault(CLIENT, error)
        self._drop_body()

    def _arrived(self) -> None:
        """The request is whole, or dropped: nothing is counted for its not being so."""
        self._is_arriving = False
        budget = self._state.budget
        held, self._held_head_bytes = self._held_head_bytes, 0
        budget.give_back(held)
        self._not_slow()

    def _not_slow(self) -> None:
        """One of the causes for which it was has ended."""
        if not self._waiting and not self._is_arriving:
            self._state.budget.not_slow(self)

    def _holds_head(self) -> bool:
        """Count the head of a request that is whole, instead of what came of it; False: no room."""
        if self._is_arriving:
            self._arrived()
        return self._state.budget.take(self._head.num_bytes + WAITING_BYTES, SMALL_BYTES)

    def _refuse_full(self) -> None:
        self._refuse(503, _NO_ROOM, b"%b%b: router-exhausted\r\n" % (_RETRY_SOON, REASON), BODIES)

    def _refuse(self, status: int, text: str, lines: bytes = b"", cause: str = "") -> None:
        """Answer before the request is whole, and close: what follows cannot be understood."""
        if self._last_words is not None or self._is_deaf:
            return
        self._say_last(status, text, cause, JSON + lines, error_body(status, text))

    def _say_last(self, status: int, why: str, cause: str, lines: bytes, body: bytes) -> None:
        """Answer with a whole answer, and close; ``why`` and ``cause`` are for the log."""
        self._state.on_refusal(self.peer, self._target, status, why, cause)
        self._last_words = b"%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
            status_line(status), lines, len(body), body,
        )  # fmt: skip
        self._reading_head = False  # of the rest of this read no field is kept
        self._head = self._state.no_head
        self._drop_body()
        if self._is_next:
            self.write(self._last_words)
            self._linger()

    def _drop_body(self) -> None:
        """What has arrived of a body that nobody will get."""
        pieces, self._body = self._body, []
        for piece in pieces:
            self._state.budget.give_back(len(piece))
        if self._is_arriving:
            self._arrived()

    def _linger(self) -> None:
        """Say no more, hear no more, and close when the client has, or soon."""
        self._is_deaf = True
        self._receiving = False
        self.flush()
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            self.deadline_at = monotonic() + LINGER_SECONDS
            try:
                transport.write_eof()
            except OSError:  # the client has gone
                transport.abort()
        else:
            transport.close()


def _deadline_of(connection: ClientConnection) -> float:
    return connection.deadline_at


def _is_large(read: dict[bytes, bytes]) -> bool:
    """Whether the body is larger than what comes at once, or may be."""
    return b"transfer-encoding" in read or int(read.get(b"content-length", b"0")) > SCREENED_BYTES
