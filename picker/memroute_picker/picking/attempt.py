"""One lease, and what the gateway has made of it: it carries the request and the answer.

```text
begin ── the gateway is told where ── its fields ── first piece ── … ── last piece
                                        │   │
             served elsewhere: the lease moves   not by an engine: it failed
             by no replica: it is released
```

There is no other attempt: once it is told, a gateway asks no picker again.
"""

from typing import TYPE_CHECKING, Final

from memroute.traffic.dispatch import Lease
from memroute_picker.protocol.names import VIA_UPSTREAM
from memroute_router.http.deadlines import NEVER
from memroute_router.http.fields import RESPONSE_FIELDS, Head
from memroute_router.lifecycle.attempt import ELSEWHERE, Attempt, AttemptOwner
from memroute_router.lifecycle.failure import Failure, FailureCause
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica
from memroute_router.services import Services

if TYPE_CHECKING:
    from memroute_picker.picking.exchange import GatewayExchange

# What Envoy's details of a local answer say of the engine, by a part of them. The first that is in
# them counts; with none of them the engine is not to blame. Source: Envoy's response code details.
_BLAMES: Final[tuple[tuple[bytes, FailureCause], ...]] = (
    (b"overflow", FailureCause.EXHAUSTED),
    (b"connection_failure", FailureCause.NO_CONNECTION),
    (b"connection_timeout", FailureCause.NO_CONNECTION),
    (b"no_healthy_upstream", FailureCause.NO_CONNECTION),
    (b"response_timeout", FailureCause.TIMEOUT),
    (b"per_try_timeout", FailureCause.TIMEOUT),
    (b"protocol_error", FailureCause.MALFORMED),
    (b"upstream_reset_before_response_started", FailureCause.CONNECTION_LOST),
)
_UNREAD: Final = b"not shown"
"""In the place of a coding: the gateway shows no bodies."""


class PickedAttempt(Attempt):
    """One attempt, carried by the gateway."""

    __slots__ = ("_gateway", "_head", "_is_paused", "_pool", "_shows_bodies")

    def __init__(
        self,
        services: Services,
        owner: AttemptOwner,
        exchange: "GatewayExchange",
        lease: Lease[Replica],
        pool: Pool,
        shows_bodies: bool,
    ) -> None:
        """``shows_bodies``: whether the gateway shows the answer's body."""
        super().__init__(services, owner, exchange, lease)
        self._gateway = exchange.process
        self._pool = pool
        self._head: Head | None = None
        """Of an answer whose body has not begun."""
        self._is_paused = False
        self._shows_bodies = shows_bodies

    @property
    def takes_events(self) -> bool:
        """Never: what follows is the engine's, as long as the gateway reads it."""
        return False

    def begin(self) -> None:
        """Tell the gateway where."""
        lease = self._lease
        if lease is None:
            return
        self._sent_at = now = lease.reservation.sent_at_seconds
        self._gateway.expect_within(self._services.limits.first_byte_seconds, now_seconds=now)
        self._gateway.pick(self, lease.replica)

    def pause(self) -> None:
        """The gateway does not take the answer: its client is slow."""
        if self._owner is not None and not self._is_paused:
            self._is_paused = True
            self._gateway.deadline_at = NEVER
            if self._lease is not None:
                self._lease.paused()

    def resume(self) -> None:
        """It takes it again."""
        if self._owner is not None and self._is_paused:
            self._is_paused = False
            if self._lease is not None:
                self._lease.resumed()
            self._gateway.expect_within(
                self._services.limits.stalled_engine_seconds,
                now_seconds=self._gateway.now_seconds(),
            )

    # What the gateway says

    def served_by(self, address: bytes) -> bool:
        """The replica at this address has the request; False: the pool has none there.

        Where it is another than was chosen, the lease moves.
        """
        lease = self._lease
        if lease is None or lease.replica.upstream.endpoint.authority == address:
            return True
        for key, replica in self._pool.replicas.items():
            if replica.upstream.endpoint.authority == address:
                # Nothing of the answer is seen, though a whole one may be taken to have begun.
                if lease.move(key):
                    self.replica = replica.info.key
                    self.choice = lease.choice
                    self._upstream = replica.upstream
                return True
        return False

    def went_astray(self, endpoint: bytes) -> None:
        """The request is at an address of no replica: it holds nothing of the one that was chosen.

        What is heard of its answer from here on says nothing of that replica either.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            self.replica = endpoint.decode()
            lease.release()

    def answered(
        self, status: int, fields: dict[bytes, bytes], details: bytes | None, heard_at: float
    ) -> None:
        """The head of an answer is there. ``details``: whose it is, where the gateway says so."""
        if details is not None and not details.startswith(VIA_UPSTREAM):
            self._not_by_an_engine(status, details)
            return
        head = Head(RESPONSE_FIELDS)
        head.read = fields
        if status in ELSEWHERE:
            self._pushed_back(status, head, b"")
            return
        if self._gateway.telling.shows_progress:
            self._gateway.expect_within(
                self._services.limits.stalled_engine_seconds, now_seconds=heard_at
            )
        else:
            self._gateway.deadline_at = NEVER  # nothing is heard before the end
        self.status = status
        self._head = head
        if not self._shows_bodies:
            fields[b"content-encoding"] = _UNREAD
            self._begin(b"", is_complete=False, heard_at=heard_at)

    def piece_came(self, data: bytes, *, is_last: bool, heard_at: float) -> None:
        """A piece of the answer's body is there."""
        if self._head is not None:
            if not data and not is_last:
                return
            self._begin(data, is_complete=is_last, heard_at=heard_at)
        if is_last:
            self._completed(data)
            return
        if not self._is_paused:
            self._gateway.expect_within(
                self._services.limits.stalled_engine_seconds, now_seconds=heard_at
            )
        data = self._read(data, heard_at)
        if data:
            self._exchange.send(data)

    def _completed(self, data: bytes) -> None:
        if self._events is None:
            self._gateway.passes_whole(data)
            if self._owner is None:
                return  # it has ended of that: its gateway takes nothing
        super()._completed(data)

    def late(self) -> None:
        """Nothing has come in time.

        Of an answer that has begun its client may be the cause: while that takes nothing, a gateway
        reads no more of the engine, and shows nothing. So no replica is judged by it.
        """
        if self.is_answering:
            self._fail(Failure(FailureCause.BROKEN, detail="nothing arrived in time"))
        else:
            self._blame(FailureCause.TIMEOUT, "nothing arrived in time")

    def _begin(self, data: bytes, *, is_complete: bool, heard_at: float) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._begin_answer(self.status, head, data, is_complete=is_complete, heard_at=heard_at)

    def _not_by_an_engine(self, status: int, details: bytes) -> None:
        """The gateway has answered itself: of which the engine may be the cause."""
        told = details[:128].decode("ascii", "replace")
        for part, cause in _BLAMES:
            if part in details:
                if cause is FailureCause.EXHAUSTED:
                    break
                self._blame(cause, f"the gateway says {told}")
                return
        self._fail(
            Failure(FailureCause.BAD_GATEWAY, status=status, detail=f"the gateway says {told}")
        )

    def _leave(self) -> None:
        self._gateway.deadline_at = NEVER
