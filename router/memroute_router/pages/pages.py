"""Pages about the router that are long: made in short steps, between which requests go on.

A page of 400 replicas takes some milliseconds. Made at once, it would delay every token of every
stream by as much, whenever somebody asks. Here it is made in steps of half a millisecond, once for
everybody who has asked by then, and once a second at the most. A page is never older than the
question: who asks within that second waits, and is not given the last page again. The operator
relies on that when it counts the requests that a draining replica still has.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import orjson

from memroute_router.http.errors import error_body
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import JSON

# Time between the beginnings of two renderings of one page.
# Unit: seconds. Source: chosen by hand; scrapers ask every 5 to 30 s.
MIN_INTERVAL_SECONDS: Final = 1.0
# Work on a page before requests have their turn.
# Unit: seconds. Source: chosen by hand; a tenth of an engine's shortest step.
STEP_SECONDS: Final = 0.0005
# Questions that wait for one page; more are refused. Each is a connection of the operations
# listener, which has 128. Unit: requests. Source: a bound, chosen by hand.
MAX_WAITING: Final = 64


class SteppedPage:
    """One page. Owns the questions that wait for it."""

    def __init__(
        self,
        pieces: Callable[[], Iterator[bytes]],
        lines: bytes,
        *,
        on_error: Callable[[Exception], None],
        max_waiting: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pieces``: makes the page anew; an empty piece is a place to pause.

        ``lines``: the header fields. ``on_error``: logs and counts a bug; that page is 500.
        ``max_waiting``: questions that may wait for it.
        """
        self._max_waiting = max_waiting
        self._make = pieces
        self._lines = lines
        self._on_error = on_error
        self._clock = clock
        self._waiting: list[Exchange] = []
        self._served: list[Exchange] = []
        self._pieces: Iterator[bytes] | None = None
        self._done: list[bytes] = []
        self._is_due = False
        self._begun_at_seconds = -MIN_INTERVAL_SECONDS
        self.num_rendered = 0
        self.longest_step_seconds = 0.0
        """The longest that requests had to wait for one step."""

    def answer(self, exchange: Exchange) -> None:
        """Answer with a page that is made from now on."""
        if len(self._waiting) >= self._max_waiting:
            exchange.respond(
                503, error_body(503, "too many ask for this page"), JSON + b"retry-after: 1\r\n"
            )
            return
        self._waiting.append(exchange)
        self._begin_when_due()

    def _begin_when_due(self) -> None:
        if self._is_due or self._pieces is not None or not self._waiting:
            return
        self._is_due = True
        wait = self._begun_at_seconds + MIN_INTERVAL_SECONDS - self._clock()
        loop = asyncio.get_running_loop()
        if wait > 0:
            loop.call_later(wait, self._begin)
        else:
            loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._is_due = False
        self._begun_at_seconds = self._clock()
        self.num_rendered += 1
        self._served, self._waiting = self._waiting, []
        self._done = []
        self._pieces = self._make()
        self._step()

    def _step(self) -> None:
        pieces = self._pieces
        if pieces is None:
            return
        begun = self._clock()
        is_complete = False
        try:
            while True:
                piece = next(pieces, None)
                if piece is None:
                    is_complete = True
                    break
                if piece:
                    self._done.append(piece)
                if self._clock() - begun >= STEP_SECONDS:
                    break
        except Exception as error:  # noqa: BLE001 - a page that fails fails alone
            self._on_error(error)
            self._end(500, error_body(500, "internal error"), JSON)
            return
        self.longest_step_seconds = max(self.longest_step_seconds, self._clock() - begun)
        if is_complete:
            self._end(200, b"".join(self._done), self._lines)
        else:
            asyncio.get_running_loop().call_soon(self._step)

    def _end(self, status: int, body: bytes, lines: bytes) -> None:
        self._pieces, self._done = None, []
        served, self._served = self._served, []
        for exchange in served:
            exchange.respond(status, body, lines)
        self._begin_when_due()


def json_list(documents: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The pieces of a list: one for each document, which is made when its turn comes."""
    before = b"["
    for document in documents:
        yield before + orjson.dumps(document)
        before = b",\n"
    yield b"[]" if before == b"[" else b"]"
