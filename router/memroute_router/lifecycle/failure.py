"""How an attempt can fail: by cause, never by words.

| | causes |
| --- | --- |
| not delivered | ``NO_CONNECTION``, ``EXHAUSTED`` |
| died with it | ``CONNECTION_LOST`` |
| refused by an engine that lives | ``PUSH_BACK``, ``BAD_GATEWAY`` |
| had it, and said nothing of use | ``TIMEOUT``, ``STUCK``, ``MALFORMED``, ``REPLICA_GONE`` |
| broken off in the middle | ``BROKEN`` |

An error that an engine says, as a status or inside its stream, is an answer and no failure.
"""

from enum import StrEnum
from typing import Final

from memroute_router.http.client import LossCause


class FailureCause(StrEnum):
    """Why an attempt failed; those before the first byte are labels of retries."""

    BROKEN = "broken"
    """Some of the answer has gone to the client, and the rest will not come."""
    PUSH_BACK = "push-back"
    """The engine is full, and said so: no fault."""
    BAD_GATEWAY = "bad-gateway"
    """A proxy before the engine says that it is not there."""
    NO_CONNECTION = "no-connection"
    """It was not delivered: no connection could be opened."""
    EXHAUSTED = "exhausted"
    """It was not delivered: this process has no file, port or memory left. No replica would do
    better."""
    TIMEOUT = "timeout"
    CONNECTION_LOST = "connection-lost"
    """The engine had the request, and went before the first byte of its answer: it may have died
    of it."""
    MALFORMED = "malformed"
    REPLICA_GONE = "replica-gone"
    STUCK = "stuck"
    """Nothing has come back for far longer than it should take."""


# What the end of a connection says of an attempt that had no byte of its answer.
BEFORE_FIRST_BYTE: Final = {
    LossCause.NOT_CONNECTED: FailureCause.NO_CONNECTION,
    LossCause.EXHAUSTED: FailureCause.EXHAUSTED,
    LossCause.IDLE_CLOSED: FailureCause.CONNECTION_LOST,
    LossCause.TIMEOUT: FailureCause.TIMEOUT,
    LossCause.RESET: FailureCause.CONNECTION_LOST,
    LossCause.CLOSED: FailureCause.CONNECTION_LOST,
    LossCause.MALFORMED: FailureCause.MALFORMED,
    LossCause.REPLICA_GONE: FailureCause.REPLICA_GONE,
}


class Failure:
    """How an attempt failed; never changed."""

    __slots__ = ("body", "cause", "detail", "lines", "lived_seconds", "retry_after", "status")

    def __init__(
        self,
        cause: FailureCause,
        *,
        detail: str = "",
        status: int = 0,
        lines: bytes = b"",
        body: bytes = b"",
        retry_after: bytes | None = None,
        lived_seconds: float = 0.0,
    ) -> None:
        self.cause = cause
        self.detail = detail
        """For the log."""
        self.status = status
        """What the engine, or a proxy before it, said instead of an answer; 0: nothing."""
        self.lines = lines
        self.body = body
        self.retry_after = retry_after
        self.lived_seconds = lived_seconds
        """Since the request was sent there."""
