"""The clients' side: one protocol per connection, one exchange per request.

Requests of one connection are answered in order. A client that leaves cancels the handler of
its request, which gives back its lease and closes the engine's connection.
"""

import asyncio
import http
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import httptools

from memroute_router.http.flow import FlowControl

LOGGER = logging.getLogger(__name__)
MAX_PIPELINED = 16
IDLE_TIMEOUT_SECONDS = 75.0
# Above the 60 s that load balancers keep idle connections: they close first, not we.
REQUEST_TIMEOUT_SECONDS = 60.0
# For a whole request to arrive: slow senders must not hold memory for ever.
MAX_HEADERS = 100
_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""


@dataclass(slots=True, kw_only=True)
class Request:
    """One request, received as a whole."""

    method: str
    target: bytes
    headers: Headers
    body: bytes
    keep_alive: bool
    http_1_1: bool

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split(b"?", 1)[0].decode("latin-1")

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


class Exchange:
    """One request and the means to answer it, once."""

    def __init__(self, connection: "ClientConnection", request: Request) -> None:
        self._connection = connection
        self.request = request
        self._chunked = False
        self.has_started = False
        self.is_finished = False
        self._closes = not request.keep_alive

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the head. Without a content-length the body goes out in chunks."""
        self.has_started = True
        sent = list(headers)
        lines = [b"HTTP/1.1 %d %s" % (status, _PHRASES.get(status, b"Unknown"))]
        lines += [b"%s: %s" % pair for pair in sent]
        if not any(name == b"content-length" for name, _ in sent):
            if self.request.http_1_1:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:
                self._closes = True
        if self._closes:
            lines.append(b"connection: close")
        self._connection.write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client does not take it."""
        if not data:
            return
        self._connection.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)
        await self._connection.flow.drain()

    def finish(self) -> None:
        """The body is complete."""
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        self.is_finished = True
        if self._closes:
            self._connection.close()

    def abort(self) -> None:
        """Break the connection off: the only honest end of a body that cannot be completed."""
        self.is_finished = True
        self._connection.abort()

    async def respond(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send a whole answer."""
        length = (b"content-length", str(len(body)).encode())
        self.start(status, [*headers, length])
        if body:
            self._connection.write(body)
        self.finish()
        await self._connection.flow.drain()


Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class ServerState:
    """What the connections of one server share. Owns the set of open ones."""

    handler: Handler
    max_body_bytes: int
    is_stopping: bool = False
    connections: set["ClientConnection"] = field(default_factory=set)


class ClientConnection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self.flow = FlowControl()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered or received."""
        return self._task is not None or bool(self._waiting)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # Not isinstance: uvloop's transports quack, they do not inherit.
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)
        self._set_timer(IDLE_TIMEOUT_SECONDS)

    def connection_lost(self, _error: Exception | None) -> None:  # noqa: D102
        self._state.connections.discard(self)
        self._clear_timer()
        self.flow.resume()
        self._transport = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:  # noqa: D102
        self.flow.pause()

    def resume_writing(self) -> None:  # noqa: D102
        self.flow.resume()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, b"upgrades are not supported")
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed request: {error}".encode())

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target = b""
        self._headers = []
        self._body = []
        self._body_bytes = 0
        self._set_timer(REQUEST_TIMEOUT_SECONDS)

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.lower(), value))
        if len(self._headers) > MAX_HEADERS:
            self._refuse(431, b"too many headers")

    def on_headers_complete(self) -> None:
        """The head is complete: refuse what is too large before its body arrives."""
        headers = dict(self._headers)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._state.max_body_bytes:
            self._refuse_body()
        elif headers.get(b"expect", b"").lower() == b"100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self._state.max_body_bytes:
            self._refuse_body()
        elif not self._refused:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """The request is whole: answer it now, or after those before it."""
        if self._refused:
            return
        self._clear_timer()
        self._waiting.append(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                target=self._target,
                headers=self._headers,
                body=b"".join(self._body),
                keep_alive=self._parser.should_keep_alive() and not self._state.is_stopping,
                http_1_1=self._parser.get_http_version() == "1.1",
            )
        )
        self._body = []
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()
        if self._task is None:
            self._start_next()

    # Writing

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; nothing once the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _start_next(self) -> None:
        exchange = Exchange(self, self._waiting.popleft())
        self._task = asyncio.create_task(self._run(exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._state.handler(exchange)
        except asyncio.CancelledError:
            if self._transport is not None:
                raise
        except Exception:
            LOGGER.exception("handler failed path=%s", exchange.request.path)
            if not exchange.has_started:
                await exchange.respond(500, b'{"error":{"message":"internal error","code":500}}')
        finally:
            if not exchange.is_finished:
                self.abort()
            self._task = None
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
                if self._waiting:
                    self._start_next()
                elif self._state.is_stopping:
                    self.close()
                else:
                    self._set_timer(IDLE_TIMEOUT_SECONDS)

    def _refuse_body(self) -> None:
        limit = self._state.max_body_bytes
        self._refuse(413, f"the body is larger than {limit} bytes".encode())

    def _refuse(self, status: int, text: bytes) -> None:
        """Answer before the request is whole, and close: what follows cannot be understood."""
        if self._refused:
            return
        self._refused = True
        body = b'{"error":{"message":"%s","type":"BadRequestError","code":%d}}' % (
            text.replace(b'"', b"'"),
            status,
        )
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\n" % (
            status,
            _PHRASES[status],
        )
        self.write(head + b"content-length: %d\r\n\r\n%s" % (len(body), body))
        self.close()

    def _set_timer(self, seconds: float) -> None:
        self._clear_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server:
    """Listens and answers. Owns the listening socket and the connections."""

    def __init__(self, handler: Handler, *, max_body_bytes: int) -> None:
        self._state = ServerState(handler, max_body_bytes)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self._state), host, port, backlog=2048, reuse_address=True
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self, *, timeout_seconds: float) -> None:
        """Take no new requests, let answers finish for so long, then close everything."""
        self._state.is_stopping = True
        if self._server is not None:
            self._server.close()
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        for connection in list(self._state.connections):
            if not connection.is_busy:
                connection.close()
        while self._state.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self._state.connections):
            connection.abort()
