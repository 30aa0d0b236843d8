"""A small GET over the engines' connections, for a task that waits: the metrics page."""

import asyncio

from memroute_router.http.client import Endpoint, EngineConnection, EnginePool

MAX_PAGE_BYTES = 16 * 1024**2
OK = 200


class FetchError(Exception):
    """The engine could not be reached, broke off, or took too long."""


class _Page:
    """Collects one answer. A ``Listener``."""

    def __init__(self, done: "asyncio.Future[tuple[int, bytes]]") -> None:
        self._done = done
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def answer_progressed(self, connection: EngineConnection) -> None:
        """More has arrived."""
        piece = connection.take_body()
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self._done.done():
            return
        if self._num_bytes > MAX_PAGE_BYTES:
            self._done.set_exception(FetchError("the page is too large"))
        elif connection.is_complete:
            self._done.set_result((connection.status, b"".join(self._pieces)))

    def answer_lost(self, connection: EngineConnection, cause: str) -> None:
        """It will not be complete."""
        if not self._done.done():
            self._done.set_exception(FetchError(cause))


async def fetch(
    engines: EnginePool, endpoint: Endpoint, target: bytes, *, timeout_seconds: float
) -> bytes:
    """The body that ``GET target`` brings. Raises ``FetchError``, also for any status but 200."""
    loop = asyncio.get_running_loop()
    connection = engines.take_idle(endpoint)
    if connection is None:
        opened: asyncio.Future[EngineConnection] = loop.create_future()
        engines.connect(
            endpoint,
            lambda made: _opened(engines, opened, made),
            lambda cause, _: None if opened.done() else opened.set_exception(FetchError(cause)),
        )
        connection = await opened
    done: asyncio.Future[tuple[int, bytes]] = loop.create_future()
    head = b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (target, endpoint.authority)
    connection.expect_within(timeout_seconds)
    connection.send(_Page(done), head, b"")
    try:
        status, page = await done
    finally:
        engines.give_back(connection)
    if status != OK:
        msg = f"status {status}"
        raise FetchError(msg)
    return page


def _opened(
    engines: EnginePool, opened: "asyncio.Future[EngineConnection]", connection: EngineConnection
) -> None:
    if opened.done():  # nobody waits any more
        engines.give_back(connection)
    else:
        opened.set_result(connection)
