"""One small page of an engine, asked for once."""

import asyncio

from memroute_router.http.client import EngineConnection, LossCause
from memroute_router.http.deadlines import monotonic
from memroute_router.http.engine_pool import EnginePool
from memroute_router.replicas.replica import Replica

OK = 200
# Until something of it has come. Unit: seconds. Source: chosen by hand.
TIMEOUT_SECONDS = 5.0


class _Fetch:
    """One small page of an engine. A ``Listener``."""

    def __init__(self, engines: EnginePool) -> None:
        self._engines = engines
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []

    def answer_progressed(self, connection: EngineConnection) -> None:
        self._pieces.append(connection.take_body())
        if connection.is_complete and not self.done.done():
            status = connection.status
            self._engines.give_back(connection)
            if status == OK:
                self.done.set_result(b"".join(self._pieces))
            else:
                self.done.set_exception(LookupError(f"status {status}"))

    def answer_lost(self, connection: EngineConnection, _cause: LossCause, detail: str) -> None:
        self._engines.give_back(connection)
        self._fail(ConnectionError(detail))

    def answer_crashed(self, _connection: EngineConnection) -> None:
        self._fail(ConnectionError("internal error"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def fetch(engines: EnginePool, replica: Replica, target: bytes) -> bytes:
    """A page of an engine. Raises ``OSError`` or ``LookupError`` (not there)."""
    fetching = _Fetch(engines)
    opened: asyncio.Future[EngineConnection] = asyncio.get_running_loop().create_future()
    endpoint, upstream = replica.info.endpoint, replica.upstream
    connection = engines.take_idle(upstream, now_seconds=monotonic())
    if connection is None:
        connecting = engines.connect(
            upstream,
            opened.set_result,
            lambda _, detail: opened.set_exception(ConnectionError(detail)),
            lambda: opened.set_exception(ConnectionError("internal error")),
        )
        try:
            connection = await opened
        finally:
            connecting.cancel()
    connection.expect_within(TIMEOUT_SECONDS, now_seconds=monotonic())
    head = b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (target, endpoint.authority)
    connection.send(fetching, head, b"")
    try:
        return await fetching.done
    finally:
        if connection in upstream.busy:
            engines.give_back(connection)
