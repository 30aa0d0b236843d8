"""One attempt to have a request answered: one lease, one answer, whoever carries the bytes.

```text
begin ── sent ── first byte ── … ── last byte
   │       │         │                  │
   └───────┘         │                  │
 ``attempt_failed``  ``attempt_failed`` (BROKEN)   ``answer_ends``
```

It ends once: its owner is told by one of those, or abandons it. Either way the lease is released.
A retry is another attempt, not this one anew. Nothing here awaits. What a kind of attempt adds is
the way there: a connection of the router's own is ``forwarded.py``'s; of a request that a gateway
carries, its picker's.

How it failed is a ``FailureCause`` (``failure.py``), never words. An error that an engine says
inside its stream is an answer: ``error_status`` has it.
"""

from typing import Final, Protocol

from memroute.traffic.dispatch import Lease
from memroute_router.http.deadlines import monotonic
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import Head
from memroute_router.lifecycle.events import FIRST_ERROR_STATUS, FIRST_REFUSED_STATUS, EventStream
from memroute_router.lifecycle.failure import Failure, FailureCause
from memroute_router.lifecycle.usage import MAX_TAIL_BYTES, Usage, tail_of
from memroute_router.replicas.replica import Replica
from memroute_router.services import Services

# The engine's own queue is full, or it is shutting down: another replica may take the request.
PUSH_BACK: Final = frozenset({429, 503})
# And answers of a proxy that stands before an engine which is not there.
ELSEWHERE: Final = PUSH_BACK | {502, 504}
# Of the answer of an engine that pushed back, for the client if nobody else takes the request.
# Chosen by hand; errors of engines have fewer than 1,000 bytes.
MAX_HELD_ANSWER_BYTES: Final = 64 * 1024
# How a stream begins that is an error and nothing else. (Of unknown length: compiled, other tuples
# are made anew at each look.)
_ERROR_EVENTS: Final[tuple[bytes, ...]] = (b'data: {"error"', b"event: error")


class AttemptOwner(Protocol):
    """Who makes attempts."""

    def request_head(self, authority: bytes) -> bytes:
        """The head of the request, for an engine at ``authority``."""
        ...

    def answer_begins(self, status: int, lines: bytes, length: int | None) -> None:
        """The first byte is there; ``length`` of the whole body, None where nobody knows."""
        ...

    def answer_ends(self, rest: bytes) -> None:
        """The whole answer is there; ``rest`` has not been passed on. The attempt is over."""
        ...

    def attempt_failed(self, failure: Failure) -> None:
        """There is no answer, or no more of it. The attempt is over."""
        ...

    def crashed(self) -> None:
        """A bug of ours has shown itself in the attempt: end the request, if it has not ended."""
        ...


class Attempt:
    """One attempt. Owns its lease, and what it reads of the answer.

    The pieces of an answer go straight to the exchange; its head and its end go by the owner.
    """

    __slots__ = (
        "_events", "_exchange", "_has_vouched", "_lease", "_owner", "_sent_at", "_services",
        "_tail", "_upstream", "_usage", "begins_with_error", "choice", "first_byte_at",
        "first_text_at", "num_events", "replica", "status",
    )  # fmt: skip

    def __init__(
        self, services: Services, owner: AttemptOwner, exchange: Exchange, lease: Lease[Replica]
    ) -> None:
        self._services = services
        self._owner: AttemptOwner | None = owner
        self._exchange = exchange
        self._lease: Lease[Replica] | None = lease
        self.replica = lease.replica.info.key
        self._upstream = lease.replica.upstream
        self.choice = lease.choice
        """Why this replica."""
        self._sent_at = 0.0
        self._has_vouched = False
        """Whether the answer has shown that the replica works."""
        self.status = 0
        """Of the answer; 0 before its first byte."""
        self.begins_with_error = False
        """Whether the engine answered by an error of its own, as a status or as first event."""
        self.first_byte_at: float | None = None
        """On the monotonic clock."""
        self.first_text_at: float | None = None
        """Likewise: when the first event with generated text came; None for whole answers."""
        self._events: EventStream | None = None
        self._tail = b""
        """The end of an answer that is no event stream, as far as it has come."""
        self.num_events = 0
        """Events with generated text that have come; 0 for whole answers."""
        self._usage: Usage | None = None

    @property
    def is_answering(self) -> bool:
        """Whether some of the answer has gone to the client."""
        return self.first_byte_at is not None

    @property
    def tried(self) -> str:
        """The replica, so that it is not asked again; a later one of its name may be."""
        return f"{self.replica} (before)" if self._upstream.is_retired else self.replica

    @property
    def takes_events(self) -> bool:
        """Whether the client can be told of an error by one more event."""
        return self._events is not None and not self._events.is_inside

    @property
    def error_status(self) -> int:
        """What the engine said in an error event, 400 to 599; 0: there was none."""
        return 0 if self._events is None else self._events.error_status

    @property
    def usage(self) -> Usage:
        """What the engine said of the request's tokens, as far as it has."""
        usage = self._usage
        if usage is None:
            if self._events is not None:
                usage = self._events.usage()
            else:
                usage = Usage()
                usage.read(self._tail)
            self._usage = usage
        return usage

    def holds(self, lease: Lease[Replica]) -> bool:
        """Whether it is this attempt that gives the lease back."""
        return self._lease is lease

    def begin(self) -> None:
        """Have the request sent to the replica."""
        raise NotImplementedError

    def pause(self) -> None:
        """The client is slow: more of the answer is not wanted for now."""
        raise NotImplementedError

    def resume(self) -> None:
        """The client has caught up."""
        raise NotImplementedError

    def stuck(self) -> None:
        """The replica hangs, and others do not: before the first byte the request can go there."""
        if self._lease is not None and not self.is_answering:
            self._blame(
                FailureCause.STUCK, "nothing has come back for far longer than it should take"
            )

    def abandon(self) -> None:
        """Nobody waits for the answer any more: the engine's work is cancelled."""
        self._let_go(is_complete=False)

    # The answer

    def _begin_answer(
        self, status: int, head: Head, data: bytes, *, is_complete: bool, heard_at: float
    ) -> None:
        """The first byte: from here on there is no other replica.

        ``data``: of the body, all of it where it ``is_complete``.
        """
        now = self.first_byte_at = heard_at
        self.status = status
        given = head.read.get(b"content-length")
        length = int(given) if given is not None else None
        is_stream = length is None and head.read.get(b"content-type", b"").lower().startswith(
            b"text/event-stream"
        )
        lease = self._lease
        if is_stream and head.read.get(b"content-encoding", b"identity").lower() != b"identity":
            # Nothing can be read of it: passed on at once, untouched, and not counted.
            is_stream = False
            if lease is not None:
                lease.unseen()
        elif is_stream and lease is not None:
            self._events = EventStream(
                lease.reservation.profile.num_choices,
                hides_usage=self._exchange.hides_usage,
                budget=self._exchange.budget,
            )
        elif length is None and is_complete:
            length = len(data)
        if status >= FIRST_ERROR_STATUS:
            if lease is not None:
                lease.replica.health.error(now_seconds=now)
        elif not is_stream:
            self._vouch()
        self.begins_with_error = status >= FIRST_ERROR_STATUS or (
            is_stream and data.startswith(_ERROR_EVENTS)
        )
        if self._owner is not None:
            self._owner.answer_begins(status, head.lines(), length)

    def _read(self, data: bytes, heard_at: float) -> bytes:
        """What is passed on of a piece that is not the last."""
        events = self._events
        if events is None:
            self._keep_tail(data)
        else:
            data = events.pass_on(data)
            if events.num_data_events != self.num_events:
                self._events_came(events.num_data_events, heard_at)
        return data

    def _events_came(self, num_events: int, heard_at: float) -> None:
        """So many events with generated text have come so far."""
        if not self.num_events:
            self.first_text_at = heard_at
        self.num_events = num_events
        if not self._has_vouched and self.status < FIRST_ERROR_STATUS:
            self._vouch()
        if self._lease is not None:
            self._lease.progress(num_events)

    def _vouch(self) -> None:
        """The replica answers: one that was out is in again."""
        self._has_vouched = True
        if self._lease is not None and self._lease.replica.health.is_out:
            self._lease.replica.health.answered()

    def _keep_tail(self, data: bytes) -> None:
        if len(data) >= MAX_TAIL_BYTES or not self._tail:
            self._tail = tail_of(data)
        elif data:
            self._tail = tail_of(self._tail + data)

    def _completed(self, data: bytes) -> None:
        """The last piece."""
        events = self._events
        if events is None:
            self._keep_tail(data)
        else:
            data = events.rest(data)
            if not self.num_events and events.num_data_events:
                self.first_text_at = self.first_byte_at
            self.num_events = events.num_data_events
        lease = self._lease
        error_status = max(self.status, self.error_status)
        if lease is not None:
            health = lease.replica.health
            if error_status < FIRST_ERROR_STATUS:
                # Errors in a row are forgotten when an answer ends well, not when it begins. An
                # answer that began before a fault does not bring its replica back.
                if not health.is_out or not self._has_vouched:
                    health.answered()
            elif self.status < FIRST_ERROR_STATUS:
                health.error(now_seconds=monotonic())
        owner = self._owner
        try:
            self._let_go(is_complete=error_status < FIRST_REFUSED_STATUS)
            if owner is not None:
                owner.answer_ends(data)
        except Exception:
            self._owner = owner  # who is told that it crashed
            raise

    # It ends

    def _pushed_back(self, status: int, head: Head, body: bytes) -> None:
        """An engine that is full, or a proxy before it: not for this client yet."""
        is_push_back = status in PUSH_BACK
        if self._lease is not None:
            health = self._lease.replica.health
            if not is_push_back:
                health.error(now_seconds=monotonic())
            elif health.is_out:
                # Push-back is an answer: the trial has been passed.
                health.answered()
        self._fail(
            Failure(
                FailureCause.PUSH_BACK if is_push_back else FailureCause.BAD_GATEWAY,
                status=status,
                lines=head.lines(),
                body=body[:MAX_HELD_ANSWER_BYTES],
                retry_after=head.read.get(b"retry-after"),
            )
        )

    def _blame(self, cause: FailureCause, detail: str) -> None:
        """It failed before its first byte, and the replica is to blame."""
        now = monotonic()
        if self._lease is not None:
            self._lease.replica.health.fault(now_seconds=now)
        self._fail(Failure(cause, detail=detail, lived_seconds=now - self._sent_at))

    def _fail(self, failure: Failure) -> None:
        owner = self._owner
        try:
            self._let_go(is_complete=False)
            if owner is not None:
                owner.attempt_failed(failure)
        except Exception:
            self._owner = owner  # as above
            raise

    def _let_go(self, *, is_complete: bool) -> None:
        """Give back the lease and the way there, and forget the owner, who may keep this."""
        self._owner = None
        self._leave()
        if self._events is not None:
            self._events.end()
        lease, self._lease = self._lease, None
        if lease is None:
            return
        generated_tokens: int | None = None
        try:
            generated_tokens = self.usage.output_tokens
        finally:
            lease.release(
                is_complete=is_complete,
                generated_tokens=generated_tokens,
                num_events=self.num_events,
            )

    def _leave(self) -> None:
        """The way there is needed no more."""
        raise NotImplementedError
