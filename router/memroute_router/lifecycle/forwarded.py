"""An attempt over a connection of the router's own: an idle one, or a new one.

```text
begin ── an idle connection, or a new one ── sent ── first byte ── … ── last byte
```

When it ends the connection is given back: kept where the answer was read to its end, else closed.
"""

import asyncio

from memroute.traffic.dispatch import Lease
from memroute_router.http.client import EngineConnection, LossCause
from memroute_router.http.deadlines import monotonic
from memroute_router.http.exchange import Exchange
from memroute_router.lifecycle.attempt import (
    ELSEWHERE,
    MAX_HELD_ANSWER_BYTES,
    Attempt,
    AttemptOwner,
)
from memroute_router.lifecycle.failure import BEFORE_FIRST_BYTE, Failure, FailureCause
from memroute_router.replicas.replica import Replica
from memroute_router.services import Services


class ForwardedAttempt(Attempt):
    """One attempt. A ``Listener``. Owns its connection."""

    __slots__ = ("_connecting", "_connection", "_is_paused", "_was_delivered")

    def __init__(
        self, services: Services, owner: AttemptOwner, exchange: Exchange, lease: Lease[Replica]
    ) -> None:
        super().__init__(services, owner, exchange, lease)
        self._connecting: asyncio.Task[None] | None = None
        self._connection: EngineConnection | None = None
        self._is_paused = False
        self._was_delivered = False
        """Whether a connection was lost on which the request may have arrived."""

    def begin(self) -> None:
        """Forward the request, over an idle connection if there is one."""
        lease = self._lease
        if lease is None:
            return
        now = lease.reservation.sent_at_seconds
        connection = self._services.engines.take_idle(lease.replica.upstream, now_seconds=now)
        if connection is None:
            self._connect(lease)
        else:
            self._send(connection, now)

    def pause(self) -> None:
        """The client is slow: read no more from the engine, which then has to wait."""
        if self._connection is not None and self._lease is not None and not self._is_paused:
            self._is_paused = True
            self._connection.pause()
            self._lease.paused()

    def resume(self) -> None:
        """The client has caught up: read on."""
        if self._connection is not None and self._lease is not None and self._is_paused:
            self._is_paused = False
            self._lease.resumed()
            self._connection.resume()
            self._connection.expect_within(
                self._services.limits.stalled_engine_seconds, now_seconds=monotonic()
            )

    # Listener

    def answer_progressed(self, connection: EngineConnection) -> None:
        """More of the answer has arrived: pass it on."""
        is_first = self.first_byte_at is None
        if is_first and connection.status in ELSEWHERE:
            if connection.is_complete or connection.has_more_than(MAX_HELD_ANSWER_BYTES):
                self._pushed_back(connection.status, connection.head, connection.take_body())
            return
        data = connection.take_body()
        if is_first:
            if not data and not connection.is_complete:
                # Streaming engines send their head at once, long before the first token.
                return
            self._begin_answer(
                connection.status,
                connection.head,
                data,
                is_complete=connection.is_complete,
                heard_at=connection.heard_at,
            )
        if connection.is_complete:
            self._completed(data)
            return
        if not self._is_paused:
            connection.expect_within(
                self._services.limits.stalled_engine_seconds, now_seconds=connection.heard_at
            )
        data = self._read(data, connection.heard_at)
        if data:
            self._exchange.send(data)

    def answer_lost(self, connection: EngineConnection, cause: LossCause, detail: str) -> None:
        """The connection broke, or the engine stalled."""
        self._services.engines.give_back(connection)
        self._connection = None
        if cause is LossCause.IDLE_CLOSED and not self.is_answering:
            # Most likely the engine closed it before the request came. If it cannot be reached any
            # more, it had the request.
            self._was_delivered = True
            if self._lease is not None:
                self._connect(self._lease)
        elif self.is_answering:
            if self._lease is not None:
                self._lease.replica.health.fault(now_seconds=monotonic())
            self._fail(Failure(FailureCause.BROKEN, detail=detail))
        else:
            self._blame(BEFORE_FIRST_BYTE[cause], detail)

    def answer_crashed(self, connection: EngineConnection) -> None:
        """One of the two above has raised: the request ends, and no other."""
        self._services.engines.give_back(connection)
        self._connection = None
        self._crashed()

    # On the way there

    def _connect(self, lease: Lease[Replica]) -> None:
        self._connecting = self._services.engines.connect(
            lease.replica.upstream, self._connected, self._not_connected, self._crashed
        )

    def _not_connected(self, cause: LossCause, detail: str) -> None:
        self._connecting = None
        if cause is LossCause.EXHAUSTED:
            self._fail(Failure(FailureCause.EXHAUSTED, detail=detail))
        elif self._was_delivered:
            self._blame(FailureCause.CONNECTION_LOST, detail)
        else:
            self._blame(BEFORE_FIRST_BYTE[cause], detail)

    def _crashed(self) -> None:
        owner = self._owner
        if owner is None:
            self.abandon()
        else:
            owner.crashed()

    def _connected(self, connection: EngineConnection) -> None:
        self._connecting = None
        self._send(connection, monotonic())

    def _send(self, connection: EngineConnection, now_seconds: float) -> None:
        self._connection = connection
        self._sent_at = now_seconds
        connection.expect_within(self._services.limits.first_byte_seconds, now_seconds=now_seconds)
        if self._owner is not None:
            head = self._owner.request_head(connection.upstream.endpoint.authority)
            connection.send(self, head, self._exchange.body)

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._services.engines.give_back(connection)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
