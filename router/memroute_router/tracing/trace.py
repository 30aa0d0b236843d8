"""One request that is traced: the ids that engines are told, and the times between its steps.

As little as can be is done here, on the requests' own time: a traced request costs some ten
microseconds. The exporting process makes names, attributes and the other ids of it (``export.py``).
"""

import time
from typing import Any, Final

from memroute.traffic.routing import Choice
from memroute_router.http.deadlines import monotonic
from memroute_router.journal import Record
from memroute_router.tracing.context import Sampler, TraceContext, traceparent, without_field

# Attempts of one request that get a span; ``--max-attempts`` is 3 by default.
# Unit: spans. Source: a bound, chosen by hand.
MAX_ATTEMPTS: Final = 16


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

    def document(
        self, record: Record, *, begun_at: float, first_byte_at: float | None
    ) -> dict[str, Any]:
        """What the exporting process makes spans of. ``epoch_seconds``: of monotonic time 0."""
        ended = monotonic()
        return {
            "trace_id": self._trace_id,
            "parent_id": None if self._parent is None else self._parent.span_id,
            "epoch_seconds": time.time() - ended,
            "begun": begun_at,
            "ended": ended,
            "first_byte": first_byte_at,
            "waits": self._waits,
            "attempts": [_attempt(each, ended) for each in self._attempts],
            "request_id": record.request_id.decode(),
            "path": record.path.decode(),
            "model": record.model,
            "tenant": record.tenant,
            "client": record.client.decode(),
            "outcome": record.outcome.value,
            "status": record.status,
            "cause": record.cause,
            "refusal": record.refusal,
            "expected_tokens": record.expected_tokens,
            "expected_prompt_tokens": record.expected_prompt_tokens,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "output_tokens": record.output_tokens,
        }


def _attempt(attempt: Attempted, ended: float) -> dict[str, Any]:
    choice = attempt.choice
    return {
        "span_id": attempt.span_id,
        "begun": attempt.begun,
        "ended": ended if attempt.ended is None else attempt.ended,
        "failure": attempt.failure,
        "authority": attempt.authority.decode(),
        "replica": choice.replica,
        "policy": choice.policy,
        "num_candidates": choice.num_candidates,
        "wait_seconds": choice.wait_seconds,
        "prefill_seconds": choice.own_seconds,
        "cached_tokens": choice.hit_tokens,
        "projected_ratio": choice.projected_ratio,
    }
