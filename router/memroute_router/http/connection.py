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
from typing import Final, cast

from memroute_router.http.clients import Client, LimitKind
from memroute_router.http.deadlines import NEVER, monotonic
from memroute_router.http.errors import ANTHROPIC_PATH, error_body
from memroute_router.http.exchange import Exchange, Sink
from memroute_router.http.faults import CLIENT
from memroute_router.http.fields import JSON, REASON, status_line
from memroute_router.http.reading import RequestReader
from memroute_router.http.server_state import ServerState
from memroute_router.http.sockets import client_address, untaken_bytes

# Requests that may wait behind one another on a connection.
MAX_PIPELINED: Final = 16
# After a refusal, what the client still sends is thrown away for so long: closing at once would
# reset the connection, and with it the refusal before it was read. Unit: seconds.
LINGER_SECONDS: Final = 2.0
# What may wait for a slow client before its engine is no longer read, and it counts. Unit: bytes.
WRITE_HIGH_WATER_BYTES: Final = 16 * 1024
# Instead of a number of bytes: the client takes what there is.
NOT_PAUSED: Final = -1
# Why 503 is said of a request: what is held of all requests is as much as it may be.
BODIES: Final = "bodies"
_NO_ROOM: Final = "the router holds as many bytes of requests as it may"
_RETRY_SOON: Final = b"retry-after: 1\r\n"
# Looked up once, not for every connection.
_CLIENT_CONNECTIONS: Final = LimitKind.CLIENT_CONNECTIONS
_CLIENT_REQUESTS: Final = LimitKind.CLIENT_REQUESTS


class ClientConnection(asyncio.BufferedProtocol):
    """One client connection."""

    __slots__ = (
        "__weakref__",
        "_asking",
        "_client",
        "_exchange",
        "_is_deaf",
        "_last_words",
        "_reader",
        "_state",
        "_transport",
        "_unsent",
        "_untaken_bytes",
        "_waiting",
        "deadline_at",
        "peer",
        "scheme",
    )  # fmt: skip

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] | None = None
        self._reader: RequestReader = RequestReader(state, self)
        self._exchange: Exchange | None = None
        self._waiting: deque[Exchange] | None = None
        self._client: Client | None = None
        """Who has the connection."""
        self._asking: Client | None = None
        """Whose request is being answered: the client's, or of whom a proxy has it."""
        self._is_deaf = False
        """Whether what still comes is thrown away: a refusal was the last word."""
        self._last_words: bytes | None = None
        self.peer = b"unknown"
        """The client's address, without its port."""
        self.scheme = b"http"
        self.deadline_at = NEVER
        self._untaken_bytes: int = NOT_PAUSED
        """Of the answer, what a client that is slow had not taken at the last look."""

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, has its turn next, or is being received."""
        return self._exchange is not None or self._reader.is_receiving or bool(self._waiting)

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered, or has its turn next."""
        return self._exchange is not None or bool(self._waiting)

    @property
    def is_answering_one(self) -> bool:
        """Whether a request is being answered now."""
        return self._exchange is not None

    @property
    def is_next(self) -> bool:
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
                self.refuse(503, "too many connections", _RETRY_SOON)
        elif (
            limits.max_client_connections
            and len(client.connections) > limits.max_client_connections
            and not client.is_proxy
        ):
            state.clients.refused[_CLIENT_CONNECTIONS] += 1
            self.refuse(
                429,
                f"too many connections from your address: at most {limits.max_client_connections}",
                b"%b%b: %b\r\n" % (_RETRY_SOON, REASON, _CLIENT_CONNECTIONS.value.encode()),
                _CLIENT_CONNECTIONS.value,
            )

    def connection_lost(self, _error: Exception | None) -> None:  # noqa: D102
        self._forget()
        self._state.deadlines.forget(self)
        self._transport = None
        waiting, self._waiting = self._waiting, None
        for each in waiting or ():
            each.drop_body()
        self._reader.close()
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
        self._reader.feed(num_bytes)

    def deadline_passed(self) -> None:
        """The client took too long."""
        if self._untaken_bytes != NOT_PAUSED and self._has_taken_more():
            return
        if self._exchange is not None or self._is_deaf:
            self.abort()
        elif not self._reader.is_receiving:
            self.close()
        else:
            self.refuse(408, "the request did not arrive in time")

    # For the reader

    def received(self, exchange: Exchange) -> None:
        """A request is whole: answer it now, or after those before it."""
        if self.is_next:
            self._answer(exchange)
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(exchange)
        self._state.budget.slow(self)
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def not_slow(self) -> None:
        """One of the causes for which it was has ended."""
        if not self._waiting and not self._reader.is_arriving:
            self._state.budget.not_slow(self)

    def refuse_full(self) -> None:
        """The router holds as much of requests as it may."""
        self.refuse(503, _NO_ROOM, b"%b%b: router-exhausted\r\n" % (_RETRY_SOON, REASON), BODIES)

    def refuse(self, status: int, text: str, lines: bytes = b"", cause: str = "") -> None:
        """Answer before the request is whole, and close: what follows cannot be understood."""
        if self._last_words is not None or self._is_deaf:
            return
        self.say_last(status, text, cause, JSON + lines, error_body(status, text))

    def say_last(self, status: int, why: str, cause: str, lines: bytes, body: bytes) -> None:
        """Answer with a whole answer, and close; ``why`` and ``cause`` are for the log."""
        self._state.on_refusal(self.peer, self._reader.target, status, why, cause)
        self._last_words = b"%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
            status_line(status), lines, len(body), body,
        )  # fmt: skip
        self._reader.stop()
        if self.is_next:
            self.write(self._last_words)
            self._linger()

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
            self._linger() if self._reader.is_receiving else self.close()
        elif self._waiting:
            # Not from here: a thousand pipelined requests would be a thousand frames deep.
            asyncio.get_running_loop().call_soon(self._answer_next)
        elif self._last_words is not None:
            self.write(self._last_words)
            self._linger()
        elif self._state.is_stopping:
            self.close()
        elif self._reader.is_receiving:
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
            self.not_slow()
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

    def give_up(self) -> None:
        """Others need the room: requests that wait are dropped, and one that is not whole.

        What is being answered is answered to its end.
        """
        waiting, self._waiting = self._waiting, None
        for each in waiting or ():
            each.drop_body()
        try:
            self.refuse_full()
        except Exception as error:  # noqa: BLE001 - whoever needs the room is another
            self._state.on_fault(CLIENT, error)
        self._reader.drop_body()

    def _linger(self) -> None:
        """Say no more, hear no more, and close when the client has, or soon."""
        self._is_deaf = self._reader.is_over = True
        self._reader.is_receiving = False
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
