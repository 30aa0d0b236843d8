"""One request that is traced: the ids that engines are told, and the times between its steps.

As little as can be is done here, on the requests' own time: a traced request costs 20 to 30
microseconds. The exporting process makes names, attributes and the other ids of it (``export.py``).
"""

import time
from collections.abc import Sequence
from typing import Any, Final

from memroute.traffic.routing import Choice
from memroute_router.http.deadlines import monotonic
from memroute_router.log.journal import Record
from memroute_router.tracing.context import Sampler, TraceContext, traceparent, without_field

# Attempts of one request that get a span; ``--max-attempts`` is 3 by default.
# Unit: spans. Source: a bound, chosen by hand.
MAX_ATTEMPTS: Final = 16
# Names are not written into the pipe with each request: they are two thirds of its bytes.
TRACE_FIELDS: Final = (
    "trace_id", "parent_id",
    # Of the monotonic clock's 0; the times that follow are on that clock.
    "epoch_seconds", "begun", "ended", "first_byte", "waits", "attempts",
    "request_id", "path", "model", "tenant", "client", "outcome", "status", "cause", "refusal",
    "expected_tokens", "expected_prompt_tokens", "prompt_tokens", "cached_tokens", "output_tokens",
)  # fmt: skip
ATTEMPT_FIELDS: Final = (
    "span_id", "begun", "ended", "failure", "authority", "replica", "policy", "num_candidates",
    "wait_seconds", "prefill_seconds", "cached_tokens", "projected_ratio",
)  # fmt: skip
Row = tuple[Any, ...]


class Attempted:
    """One attempt of a traced request."""

    __slots__ = ("authority", "begun", "choice", "ended", "failure", "span_id")

    def __init__(self, span_id: str, choice: Choice) -> None:
        self.span_id = span_id
        self.choice = choice
        self.begun = monotonic()
        self.ended: float | None = None
        self.failure: str | None = None
        self.authority = b""


class Trace:
    """The spans of one request. Times are on the monotonic clock."""

    __slots__ = ("_attempts", "_parent", "_sampler", "_trace_id", "_waits")

    def __init__(self, sampler: Sampler, trace_id: str, parent: TraceContext | None) -> None:
        self._sampler = sampler
        self._trace_id = trace_id
        self._parent = parent
        self._waits: list[tuple[float, float]] = []
        self._attempts: list[Attempted] = []

    def waited(self, from_seconds: float, to_seconds: float) -> None:
        """The request was held."""
        self._waits.append((from_seconds, to_seconds))

    def attempted(self, choice: Choice) -> None:
        """A replica was chosen, and the request goes there now."""
        if len(self._attempts) < MAX_ATTEMPTS:
            self._attempts.append(Attempted(self._sampler.new_span_id(), choice))

    def failed(self, cause: str) -> None:
        """The latest attempt has failed."""
        if self._attempts and self._attempts[-1].failure is None:
            latest = self._attempts[-1]
            latest.failure, latest.ended = cause, monotonic()

    def lines(self, lines: bytes, authority: bytes) -> bytes:
        """The header lines for the engine: its spans are children of the latest attempt."""
        if not self._attempts:
            return lines
        latest = self._attempts[-1]
        latest.authority = authority
        lines = without_field(lines, b"traceparent")
        if self._parent is None:
            # It belongs to a traceparent that was none.
            lines = without_field(lines, b"tracestate")
        return traceparent(self._trace_id, latest.span_id) + lines

    def row(self, record: Record, *, begun_at: float, first_byte_at: float | None) -> Row:
        """What the exporting process makes spans of: the values of ``TRACE_FIELDS``."""
        ended = monotonic()
        return (
            self._trace_id,
            None if self._parent is None else self._parent.span_id,
            time.time() - ended,
            begun_at,
            ended,
            first_byte_at,
            self._waits,
            [_attempt(each, ended) for each in self._attempts],
            record.request_id.decode(),
            record.path.decode(),
            record.model,
            record.tenant,
            record.client.decode(),
            record.outcome,
            record.status,
            record.cause,
            record.refusal,
            record.expected_tokens,
            record.expected_prompt_tokens,
            record.prompt_tokens,
            record.cached_tokens,
            record.output_tokens,
        )


def _attempt(attempt: Attempted, ended: float) -> Row:
    """The values of ``ATTEMPT_FIELDS``."""
    choice = attempt.choice
    return (
        attempt.span_id,
        attempt.begun,
        ended if attempt.ended is None else attempt.ended,
        attempt.failure,
        attempt.authority.decode(),
        choice.replica,
        choice.policy,
        choice.num_candidates,
        choice.wait_seconds,
        choice.own_seconds,
        choice.hit_tokens,
        choice.projected_ratio,
    )


def named(row: Sequence[Any]) -> dict[str, Any]:
    """A row by its names, on the other side of the pipe. Raises ``ValueError`` where it is none."""
    trace = dict(zip(TRACE_FIELDS, row, strict=True))
    trace["attempts"] = [dict(zip(ATTEMPT_FIELDS, each, strict=True)) for each in trace["attempts"]]
    return trace
