"""The engines' side: pooled connections, one request at a time on each.

The reader pulls: when it is slow, the engine's socket is paused, so that a slow client slows
its engine and nothing piles up here.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import cast

import httptools

from memroute_router.http.flow import FlowControl
from memroute_router.http.server import Headers

MAX_BUFFERED_BYTES = 256 * 1024
MAX_IDLE_PER_ENDPOINT = 64
MAX_IDLE_SECONDS = 4.0
# uvicorn, and so vLLM, closes idle connections after 5 s: never reuse one about to be closed.

Endpoint = tuple[str, int]


class UpstreamError(Exception):
    """The engine could not be reached, or broke off."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an engine."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self.flow = FlowControl()
        self.idle_since = 0.0
        self.was_reused = False
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: Headers = []
        self._pieces: list[bytes] = []
        self._buffered_bytes = 0
        self._head_complete = False
        self._complete = False
        self._keep_alive = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether another request may go over this connection."""
        closing = self._transport is None or self._transport.is_closing()
        return self._complete and self._keep_alive and not closing

    @property
    def is_open(self) -> bool:
        """Whether the engine has not closed it."""
        return self._transport is not None and not self._transport.is_closing()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # Not isinstance: uvloop's transports quack, they do not inherit.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self._transport = None
        self.flow.resume()
        if self._head_complete and not self._complete and error is None and self._ends_by_close():
            self._complete = True
        if not self._complete and self._error is None:
            self._error = UpstreamError(f"connection lost: {error or 'closed by the engine'}")
        self._wake()

    def pause_writing(self) -> None:  # noqa: D102
        self.flow.pause()

    def resume_writing(self) -> None:  # noqa: D102
        self.flow.resume()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._error = UpstreamError(f"malformed answer: {error}")
            self.close()
        self._wake()

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # noqa: PLR2004 - an interim answer: the real one follows
            self.headers = []
            return
        self.status = status
        self._head_complete = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > MAX_BUFFERED_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._head_complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    # For the proxy

    async def send(self, head: bytes, body: bytes) -> None:
        """Send a request. Raises ``UpstreamError``."""
        if self._complete or self._head_complete:
            self._reset()
        if self._transport is None:
            msg = "connection lost before the request"
            raise UpstreamError(msg)
        self._transport.write(head + body if len(body) < MAX_BUFFERED_BYTES else head)
        if len(body) >= MAX_BUFFERED_BYTES:
            self._transport.write(body)
        await self.flow.drain()

    async def read_head(self, *, timeout_seconds: float) -> tuple[int, Headers]:
        """Status and headers of the answer. Raises ``UpstreamError``."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self._head_complete:
                    await self._more()
        except TimeoutError as error:
            msg = f"no answer within {timeout_seconds:.0f} s"
            raise UpstreamError(msg) from error
        return self.status, self.headers

    async def read_body(self) -> bytes | None:
        """The next piece of the body; None at its end. Raises ``UpstreamError``."""
        while not self._pieces:
            if self._complete:
                return None
            await self._more()
        data = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces = []
        if self._buffered_bytes > MAX_BUFFERED_BYTES and self._transport is not None:
            self._transport.resume_reading()
        self._buffered_bytes = 0
        return data

    async def read_whole_body(self) -> bytes:
        """All that is left of the body. Raises ``UpstreamError``."""
        pieces = []
        while (piece := await self.read_body()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close at once; the engine cancels what it was computing."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ends_by_close(self) -> bool:
        names = {name for name, _ in self.headers}
        return b"content-length" not in names and b"transfer-encoding" not in names


class UpstreamPool:
    """Connections to all engines. Owns the idle ones, and knows those in use."""

    def __init__(self, *, connect_timeout_seconds: float) -> None:
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle: dict[Endpoint, deque[UpstreamConnection]] = {}
        self._busy: dict[Endpoint, set[UpstreamConnection]] = {}

    async def acquire(self, endpoint: Endpoint, *, fresh: bool = False) -> UpstreamConnection:
        """A connection to the engine: an idle one, or (always if ``fresh``) a new one.

        Raises ``UpstreamError`` when the engine cannot be reached.
        """
        connection = None if fresh else self._take_idle(endpoint)
        if connection is None:
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(self._connect_timeout_seconds):
                    _, connection = await loop.create_connection(UpstreamConnection, *endpoint)
            except (OSError, TimeoutError) as error:
                msg = f"cannot connect: {error!r}"
                raise UpstreamError(msg) from error
        self._busy.setdefault(endpoint, set()).add(connection)
        return connection

    def release(self, endpoint: Endpoint, connection: UpstreamConnection) -> None:
        """Give a connection back: kept if its answer was read to the end, else closed."""
        self._busy.get(endpoint, set()).discard(connection)
        idle = self._idle.setdefault(endpoint, deque())
        if connection.is_reusable and len(idle) < MAX_IDLE_PER_ENDPOINT:
            connection.idle_since = time.monotonic()
            connection.was_reused = True
            idle.append(connection)
        else:
            connection.close()

    def abort(self, endpoint: Endpoint) -> None:
        """The engine is gone for good: break off everything that waits for it."""
        for connection in self._idle.pop(endpoint, deque()):
            connection.close()
        for connection in self._busy.pop(endpoint, set()):
            connection.close()

    def close(self) -> None:
        """Close every connection."""
        for endpoint in [*self._idle, *self._busy]:
            self.abort(endpoint)

    def _take_idle(self, endpoint: Endpoint) -> UpstreamConnection | None:
        idle = self._idle.get(endpoint, deque())
        with contextlib.suppress(IndexError):
            while True:
                connection = idle.pop()  # the youngest: the older ones age out
                if time.monotonic() - connection.idle_since < MAX_IDLE_SECONDS:
                    if connection.is_open:
                        return connection
                else:
                    connection.close()
        return None
