"""What became of the last requests: rings to ask, and one canonical log line each.

Lines are written in batches, after the last byte of the answer: at ten thousand requests per second
a system call for each would be a tenth of a core.

There is a ring for each kind of ending, so that a flood of one kind does not push out the last of
another: requests that were served, those that the client got wrong or left, those that were refused
for lack of room, and those that failed. What clients send is cut before it is kept.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Final

from memroute.traffic.routing import Choice
from memroute_router.lifecycle.events import FIRST_ERROR_STATUS
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.log.log_lines import (
    LogFormat,
    json_line,
    json_stamp,
    number,
    one_word,
    quoted,
    seconds_of,
    text_stamp,
)

LOGGER = logging.getLogger(__name__)
# Of each ring. With everything as long as it may be, all rings together are 5 MB.
NUM_REMEMBERED: Final = 256
FLUSH_SECONDS: Final = 0.2
# Characters of a refusal that are kept: those that admission words have fewer than 300; what quotes
# a request can be as long as that. Chosen by hand.
MAX_REFUSAL_CHARACTERS: Final = 512
# Bytes of a path that are kept: those that are served have fewer than 32. Chosen by hand.
MAX_PATH_BYTES: Final = 128


class AccessLog(StrEnum):
    """Which requests get a line."""

    ALL = "all"
    FAILED = "failed"
    OFF = "off"


REFUSED: Final = frozenset(
    {
        Outcome.NEVER_FITS,
        Outcome.SATURATED,
        Outcome.QUEUE_TIMEOUT,
        Outcome.NO_READY_REPLICA,
        Outcome.MODEL_ASLEEP,
        Outcome.ENGINE_PUSH_BACK,
    }
)
"""The client asked for nothing wrong, and was refused."""
FAILED_ENDS: Final = frozenset(
    {
        Outcome.ENGINE_ERROR,
        Outcome.REPLICAS_FAILED,
        Outcome.STREAM_BROKEN,
        Outcome.INTERNAL_ERROR,
        Outcome.ROUTER_EXHAUSTED,
        Outcome.SHUTTING_DOWN,
    }
)
"""An engine, or the router, failed, as with each status of 500 and above.

What is in neither set and not served is the client's."""


# Members of enumerations, looked up once and not for every request: each look costs 0.15 us.
_ALL: Final = AccessLog.ALL
_OFF: Final = AccessLog.OFF
_SERVED: Final = Outcome.SERVED


class Record:
    """The end of one request; never changed. A plain class with slots: one for every request."""

    __slots__ = (
        "attempts", "cached_tokens", "cause", "choice", "client", "ended_at",
        "expected_prompt_tokens", "expected_tokens", "first_byte_seconds", "model", "outcome",
        "output_tokens", "path", "prompt_tokens", "queue_seconds", "refusal", "replica",
        "request_id", "seconds", "status", "streamed_tokens", "tenant", "ttft_seconds",
    )  # fmt: skip

    def __init__(
        self,
        *,
        ended_at: float,
        request_id: bytes,
        path: bytes,
        model: str,
        outcome: Outcome,
        status: int,
        replica: str,
        refusal: str,
        cause: str = "",
        tenant: str = "",
        client: bytes = b"-",
        choice: Choice | None,
        attempts: int,
        expected_tokens: int,
        expected_prompt_tokens: int = 0,
        prompt_tokens: int | None,
        cached_tokens: int | None,
        output_tokens: int | None,
        queue_seconds: float | None,
        first_byte_seconds: float | None,
        seconds: float,
        ttft_seconds: float | None = None,
        streamed_tokens: int = 0,
    ) -> None:
        self.ended_at = ended_at
        """Seconds since the epoch."""
        self.request_id = request_id
        """Printable ASCII without spaces, as the path and the client's address are."""
        self.path = path
        self.model = model
        self.outcome = outcome
        self.status = status
        self.replica = replica
        self.refusal = refusal[:MAX_REFUSAL_CHARACTERS]
        """Why it was refused, or its answer incomplete; empty when it was served."""
        self.cause = cause
        """The same in one word, where ``outcome`` has several causes; else empty."""
        self.tenant = tenant
        """Whose it is, where tenants are told apart: a name or a hash, never a key."""
        self.client = client
        """The address that it came from, without its port."""
        self.choice = choice
        """Why the replica, the last of them; None when none was chosen."""
        self.attempts = attempts
        self.expected_tokens = expected_tokens
        """Of prompt and answer together, as they were reserved."""
        self.expected_prompt_tokens = expected_prompt_tokens
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        """Of the prompt, those that the engine says it had cached."""
        self.output_tokens = output_tokens
        self.queue_seconds = queue_seconds
        self.first_byte_seconds = first_byte_seconds
        self.seconds = seconds
        self.ttft_seconds = ttft_seconds
        """To the first event with text of a stream; None for whole answers, and without any."""
        self.streamed_tokens = streamed_tokens
        """Tokens of a stream as its events were counted; 0 for whole answers."""

    def document(self) -> dict[str, object]:
        """For ``/debug/decisions`` and lines of JSON: what is known, and nothing else."""
        ended = datetime.fromtimestamp(self.ended_at, UTC)
        choice = self.choice
        facts: dict[str, object] = {
            "ended_at": ended.isoformat(timespec="milliseconds"),
            "request_id": self.request_id.decode(),
            "path": self.path.decode(),
            "model": self.model,
            "tenant": self.tenant,
            "client": "" if self.client == b"-" else self.client.decode(),
            "outcome": self.outcome.value,
            "status": self.status,
            "cause": self.cause,
            "replica": self.replica,
            "why": self.refusal or (choice.why if choice else ""),
            "attempts": self.attempts,
            "expected_tokens": self.expected_tokens,
            "expected_prompt_tokens": self.expected_prompt_tokens,
            "expected_cached_tokens": choice.hit_tokens if choice else None,
            "expected_first_byte_seconds": (
                None if choice is None else round(choice.wait_seconds + choice.own_seconds, 3)
            ),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "queue_seconds": _rounded(self.queue_seconds),
            "first_byte_seconds": _rounded(self.first_byte_seconds),
            "seconds": round(self.seconds, 3),
        }
        return {k: v for k, v in facts.items() if v is not None and v != ""}

    def json(self) -> str:
        """A line of JSON for the log, with what ``line`` has."""
        facts = self.document()
        del facts["ended_at"]
        return json_line(
            {"time": json_stamp(self.ended_at), "level": "info", "event": "request", **facts}
        )

    def line(self) -> str:
        """For the log; ``-`` where nothing is known. Never the prompt, never a key.

        The reason comes last, in quotation marks: of a refusal, or of the choice of the replica.
        """
        choice = self.choice
        line = (
            f"request id={self.request_id.decode()} path={self.path.decode()} "
            f"model={one_word(self.model)} outcome={self.outcome.value} status={self.status} "
            f"cause={self.cause or '-'} tenant={one_word(self.tenant) if self.tenant else '-'} "
            f"client={self.client.decode()} "
            f"replica={self.replica or '-'} attempts={self.attempts} "
            f"expected_tokens={self.expected_tokens} "
            f"expected_prompt_tokens={self.expected_prompt_tokens} "
            f"{_predicted(choice)} "
            f"prompt_tokens={number(self.prompt_tokens)} "
            f"cached_tokens={number(self.cached_tokens)} "
            f"output_tokens={number(self.output_tokens)} "
            f"queue_seconds={seconds_of(self.queue_seconds)} "
            f"first_byte_seconds={seconds_of(self.first_byte_seconds)} "
            f"seconds={self.seconds:.3f}"
        )
        if self.refusal:
            return f"{line} refusal={quoted(self.refusal)}"
        return f"{line} why={quoted(choice.why)}" if choice is not None else line


class Journal:
    """Owns the ring and the lines that are not written yet."""

    def __init__(
        self,
        access_log: AccessLog,
        *,
        log_format: LogFormat = LogFormat.TEXT,
        write: Callable[[str], object] = sys.stderr.write,
    ) -> None:
        self._access_log = access_log
        self._is_json = log_format is LogFormat.JSON
        self._write = write
        self._lines: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self._served: deque[Record] = deque(maxlen=NUM_REMEMBERED)
        self._mistaken: deque[Record] = deque(maxlen=NUM_REMEMBERED)
        self._refused: deque[Record] = deque(maxlen=NUM_REMEMBERED)
        self._failed: deque[Record] = deque(maxlen=NUM_REMEMBERED)

    @property
    def recent(self) -> list[Record]:
        """The last requests of every kind, in the order in which they ended."""
        rings = (self._served, self._mistaken, self._refused, self._failed)
        return list(merge(*rings, key=_ended_at))

    def latest(self, number: int) -> list[tuple[str, Record]]:
        """The last ``number`` requests of each kind, with the kind; the latest of a kind first."""
        rings = (
            ("served", self._served), ("mistaken", self._mistaken), ("refused", self._refused),
            ("failed", self._failed),
        )  # fmt: skip
        return [(kind, one) for kind, ring in rings for one in islice(reversed(ring), number)]

    def add(self, record: Record) -> None:
        """A request has ended."""
        outcome = record.outcome
        if outcome is _SERVED:
            self._served.append(record)
            if self._access_log is not _ALL:
                return
        elif outcome in REFUSED:
            self._refused.append(record)
        elif outcome in FAILED_ENDS or record.status >= FIRST_ERROR_STATUS:
            self._failed.append(record)
        else:
            self._mistaken.append(record)
        if self._access_log is _OFF:
            return
        self._lines.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            self._write("".join([self._line(record) for record in lines]))

    def _line(self, record: Record) -> str:
        try:
            if self._is_json:
                return record.json() + "\n"
            return text_stamp(record.ended_at) + record.line() + "\n"
        except Exception:
            # A bug in one line; the others of the batch are written.
            LOGGER.exception("line lost request=%s", record.request_id)
            return ""


def _predicted(choice: Choice | None) -> str:
    if choice is None:
        return "expected_cached_tokens=- expected_first_byte_seconds=-"
    return (
        f"expected_cached_tokens={choice.hit_tokens} "
        f"expected_first_byte_seconds={choice.wait_seconds + choice.own_seconds:.3f}"
    )


def safe_word(given: bytes) -> bytes:
    """A word of a client's for the log: bounded, ASCII, and one word; ``-`` if there is none."""
    return one_word(given[:MAX_PATH_BYTES].decode("ascii", "backslashreplace")).encode()


def _ended_at(record: Record) -> float:
    return record.ended_at


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
