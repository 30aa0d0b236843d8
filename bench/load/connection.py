"""One HTTP/1.1 connection that carries one answer at a time, at the protocol level.

Owns the parser and the answer that is coming in.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from bench.load.answer import Answer

ENDED = b"data: [DONE]"
EVENT = b"data: "


class Connection(asyncio.Protocol):
    """Send with ``start``; ``on_idle`` is called when it may be used again."""

    def __init__(
        self,
        on_idle: Callable[["Connection"], None],
        on_closed: Callable[["Connection"], None],
    ) -> None:
        self.answer: Answer | None = None
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._tail = b""

    @property
    def is_open(self) -> bool:
        """Whether bytes can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def start(self, answer: Answer, request: bytes) -> None:
        """Send a request; its answer is filled in as it comes."""
        self.answer = answer
        self._tail = b""
        answer.sent_seconds = time.perf_counter()
        if self._transport is None:
            answer.fail("not connected", answer.sent_seconds)
            return
        self._transport.write(request)

    def close(self) -> None:
        """Give the connection up; an answer that is coming in is cut."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self.answer is not None:
                self.answer.fail(f"not HTTP: {error}", time.perf_counter())
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, with what was on it."""
        self._transport = None
        answer, self.answer = self.answer, None
        if answer is not None and not answer.is_over:
            answer.fail("connection lost", time.perf_counter())
        self._on_closed(self)

    # httptools.

    def on_message_begin(self) -> None:
        """A new answer."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if self.answer is not None and name.lower() == b"retry-after":
            self.answer.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The status is known."""
        if self.answer is not None:
            self.answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A piece of the body: count the events in it, each at this moment."""
        answer = self.answer
        if answer is None:
            return
        if not answer.is_stream or answer.status != 200:  # noqa: PLR2004
            answer.num_body_bytes += len(body)
            return
        # An event's head may be cut between two pieces.
        joined = self._tail + body
        count = joined.count(EVENT) - self._tail.count(EVENT)
        if ENDED in joined:
            count -= 1
            answer.has_end = True
        now = time.perf_counter()
        if count > 0:
            answer.on_events(now, count)
        elif count < 0:
            # The head of the end was cut off and taken for a token's.
            answer.drop_last_event()
        self._tail = joined[-len(ENDED) :] if not answer.has_end else b""

    def on_message_complete(self) -> None:
        """The answer is whole."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.finish(time.perf_counter())
        if self._parser.should_keep_alive() and self.is_open:
            self._on_idle(self)
        else:
            self.close()
