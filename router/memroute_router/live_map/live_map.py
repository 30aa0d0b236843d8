"""The map's routes. Owns its two documents, and what bounds how many look."""

from collections.abc import Callable, Iterator
from typing import Final

from memroute_router.http.exchange import Exchange
from memroute_router.live_map.files import JSON_LINES, PageFile, page_files
from memroute_router.live_map.live import LiveFacts, live_pieces
from memroute_router.pages.pages import SteppedPage

MAP: Final = b"/map"
LIVE: Final = b"/map/live.json"
FLEET: Final = b"/map/fleet.json"
# Pages that wait for the same second. Each is a copy of the document to send, some 60 KB at 400
# replicas, in the process that serves requests. Unit: requests. Source: a bound, chosen by hand.
MAX_LOOKING: Final = 16


class LiveMap:
    """Answers for ``/map`` and below."""

    def __init__(self, facts: LiveFacts, *, on_error: Callable[[Exception], None]) -> None:
        self._facts = facts
        self._files: dict[bytes, PageFile] = page_files()
        self._live = SteppedPage(
            self._pieces, JSON_LINES, on_error=on_error, max_waiting=MAX_LOOKING
        )

    def routes(self) -> dict[bytes, Callable[[Exchange], None]]:
        """Its documents and the way to it, by path."""
        return {MAP: self._to_the_page, LIVE: self._live.answer, FLEET: self._fleet}

    def file(self, path: bytes) -> Callable[[Exchange], None] | None:
        """What answers for a file of the page; None where there is no such file."""
        file = self._files.get(path)
        if file is None:
            return None
        return lambda exchange: exchange.respond(200, file.body, file.lines)

    def _to_the_page(self, exchange: Exchange) -> None:
        """Relative, so that a proxy may have the router below a path of its own."""
        exchange.respond(308, b"", b"location: map/\r\ncache-control: no-store\r\n")

    def _pieces(self) -> Iterator[bytes]:
        self._facts.fleet.want()
        return live_pieces(self._facts)

    def _fleet(self, exchange: Exchange) -> None:
        self._facts.fleet.want()
        exchange.respond(200, self._facts.fleet.text, JSON_LINES)
