"""What became of the last requests: a ring to ask, and one canonical log line each.

Lines are written in batches: at ten thousand requests per second a system call for each would be a
tenth of a core.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from memroute.traffic.routing import Choice
from memroute_router.outcomes import Outcome

NUM_REMEMBERED: Final = 256
FLUSH_SECONDS: Final = 0.2
# Characters of a refusal that are kept: those that admission words have fewer than 300; what quotes
# a request can be as long as that. Chosen by hand.
MAX_REFUSAL_CHARACTERS: Final = 512


class AccessLog(StrEnum):
    """Which requests get a line."""

    ALL = "all"
    FAILED = "failed"
    OFF = "off"


# Members of enumerations, looked up once and not for every request: each look costs 0.15 us.
_FAILED: Final = AccessLog.FAILED
_OFF: Final = AccessLog.OFF
_SERVED: Final = Outcome.SERVED


class Record:
    """The end of one request; never changed. A plain class with slots: one for every request."""

    __slots__ = (
        "attempts", "cached_tokens", "choice", "ended_at", "expected_tokens",
        "first_byte_seconds", "model", "outcome", "output_tokens", "path", "prompt_tokens",
        "queue_seconds", "refusal", "replica", "request_id", "seconds", "status",
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
        choice: Choice | None,
        attempts: int,
        expected_tokens: int,
        prompt_tokens: int | None,
        cached_tokens: int | None,
        output_tokens: int | None,
        queue_seconds: float | None,
        first_byte_seconds: float | None,
        seconds: float,
    ) -> None:
        self.ended_at = ended_at
        """Seconds since the epoch."""
        self.request_id = request_id
        self.path = path
        self.model = model
        self.outcome = outcome
        self.status = status
        self.replica = replica
        self.refusal = refusal[:MAX_REFUSAL_CHARACTERS]
        """Why it was refused, or its answer incomplete; empty when it was served."""
        self.choice = choice
        """Why the replica, the last of them; None when none was chosen."""
        self.attempts = attempts
        self.expected_tokens = expected_tokens
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        """Of the prompt, those that the engine says it had cached."""
        self.output_tokens = output_tokens
        self.queue_seconds = queue_seconds
        self.first_byte_seconds = first_byte_seconds
        self.seconds = seconds

    def document(self) -> dict[str, object]:
        """For ``/debug/decisions``: what is known, and nothing else."""
        ended = datetime.fromtimestamp(self.ended_at, UTC)
        facts: dict[str, object] = {
            "ended_at": ended.isoformat(timespec="milliseconds"),
            "request_id": self.request_id.decode(),
            "path": self.path.decode(),
            "model": self.model,
            "outcome": self.outcome,
            "status": self.status,
            "replica": self.replica,
            "why": self.refusal or (self.choice.why if self.choice else ""),
            "attempts": self.attempts,
            "expected_tokens": self.expected_tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "queue_seconds": self.queue_seconds,
            "first_byte_seconds": self.first_byte_seconds,
            "seconds": self.seconds,
        }
        return {k: v for k, v in facts.items() if v is not None and v != ""}

    def line(self) -> str:
        """For the log; ``-`` where nothing is known. Never the prompt, never a key.

        The reason of a refusal comes last, in quotation marks.
        """
        line = (
            f"request id={self.request_id.decode()} path={self.path.decode()} "
            f"model={_one_word(self.model)} outcome={self.outcome.value} status={self.status} "
            f"replica={self.replica or '-'} attempts={self.attempts} "
            f"expected_tokens={self.expected_tokens} "
            f"prompt_tokens={_number(self.prompt_tokens)} "
            f"cached_tokens={_number(self.cached_tokens)} "
            f"output_tokens={_number(self.output_tokens)} "
            f"queue_seconds={_seconds(self.queue_seconds)} "
            f"first_byte_seconds={_seconds(self.first_byte_seconds)} "
            f"seconds={self.seconds:.3f}"
        )
        return f"{line} refusal={_quoted(self.refusal)}" if self.refusal else line


class Journal:
    """Owns the ring and the lines that are not written yet."""

    def __init__(
        self, access_log: AccessLog, *, write: Callable[[str], object] = sys.stderr.write
    ) -> None:
        self._access_log = access_log
        self._write = write
        self._lines: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self.recent: deque[Record] = deque(maxlen=NUM_REMEMBERED)

    def add(self, record: Record) -> None:
        """A request has ended."""
        self.recent.append(record)
        if self._access_log is _OFF:
            return
        if self._access_log is _FAILED and record.outcome is _SERVED:
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
            self._write("".join(_stamp(r.ended_at) + r.line() + "\n" for r in lines))


def _stamp(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when.isoformat(sep=' ', timespec='milliseconds')[:23].replace('.', ',')} INFO "


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _one_word(name: str) -> str:
    """A model's name, which the client chooses: quoted where it is more than one word."""
    if not name:
        return "-"
    return name if name.isprintable() and " " not in name and '"' not in name else _quoted(name)


def _quoted(text: str) -> str:
    """Text of any kind on one line: what is not printable becomes an escape."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return '"' + shown.replace('"', "'") + '"'
