"""One request that is traced: the ids of its spans and the times between them."""

import time
from typing import Any, Final

from memroute.traffic.routing import Choice
from memroute_router.http.deadlines import monotonic
from memroute_router.journal import Record
from memroute_router.tracing.context import Sampler, TraceContext, traceparent, without_field

# Attempts of one request that get a span; ``--max-attempts`` is 3 by default.
# Unit: spans. Source: a bound, chosen by hand.
MAX_ATTEMPTS: Final = 16


class Trace:
    """The spans of one request. Times are on the monotonic clock until ``document``."""

    __slots__ = ("_attempts", "_parent", "_sampler", "_span_id", "_trace_id", "_waits")

    def __init__(self, sampler: Sampler, trace_id: str, parent: TraceContext | None) -> None:
        self._sampler = sampler
        self._trace_id = trace_id
        self._parent = parent
        self._span_id = sampler.new_span_id()
        self._waits: list[tuple[float, float]] = []
        self._attempts: list[dict[str, Any]] = []

    def waited(self, from_seconds: float, to_seconds: float) -> None:
        """The request was held."""
        self._waits.append((from_seconds, to_seconds))

    def attempted(self, choice: Choice) -> None:
        """A replica was chosen, and the request goes there now."""
        if len(self._attempts) >= MAX_ATTEMPTS:
            return
        self._attempts.append(
            {
                "span_id": self._sampler.new_span_id(),
                "choice_id": self._sampler.new_span_id(),
                "begun": monotonic(),
                "replica": choice.replica,
                "why": choice.why,
                "policy": choice.policy,
                "num_candidates": choice.num_candidates,
                "wait_seconds": choice.wait_seconds,
                "prefill_seconds": choice.own_seconds,
                "cached_tokens": choice.hit_tokens,
            }
        )

    def failed(self, cause: str) -> None:
        """The latest attempt has failed."""
        if self._attempts:
            self._attempts[-1].setdefault("failure", cause)
            self._attempts[-1].setdefault("ended", monotonic())

    def lines(self, lines: bytes, authority: bytes) -> bytes:
        """The header lines for the engine: its spans are children of the latest attempt."""
        if not self._attempts:
            return lines
        latest = self._attempts[-1]
        latest["authority"] = authority.decode()
        lines = without_field(lines, b"traceparent")
        if self._parent is None:
            # It belongs to a traceparent that was none.
            lines = without_field(lines, b"tracestate")
        return traceparent(self._trace_id, latest["span_id"]) + lines

    def document(self, record: Record, *, begun_at: float, first_byte_at: float | None) -> object:
        """What the exporting process makes spans of; times are seconds since the epoch."""
        ended = monotonic()
        to_epoch = time.time() - ended
        facts: dict[str, Any] = {
            "trace_id": self._trace_id,
            "span_id": self._span_id,
            "parent_id": None if self._parent is None else self._parent.span_id,
            "begun": begun_at + to_epoch,
            "ended": ended + to_epoch,
            "first_byte": None if first_byte_at is None else first_byte_at + to_epoch,
            "waits": [
                [self._sampler.new_span_id(), begun + to_epoch, end + to_epoch]
                for begun, end in self._waits
            ],
            "attempts": [
                attempt
                | {"begun": attempt["begun"] + to_epoch}
                | {"ended": attempt.get("ended", ended) + to_epoch}
                for attempt in self._attempts
            ],
        }
        return facts | {"request": record.document()}
