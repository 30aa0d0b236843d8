"""The account of a request: what became of it, for its line in the journal and for its client."""

import logging
import time
from typing import Final

from memroute.traffic.request import RequestProfile
from memroute_router.http.exchange import Exchange
from memroute_router.lifecycle.answers import explained
from memroute_router.lifecycle.attempt import PUSH_BACK, Attempt
from memroute_router.lifecycle.events import FIRST_ERROR_STATUS, FIRST_REFUSED_STATUS
from memroute_router.lifecycle.failure import Failure
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.refusal import ENGINE_ANSWER, ERROR_IN_STREAM, Refusal
from memroute_router.log.journal import Record
from memroute_router.surface import Route

LOGGER = logging.getLogger(__name__)
# Looked up once, not for every request: a member of an enumeration costs 0.15 us.
_SERVED: Final = Outcome.SERVED


class Account:
    """Written to by the request's ``Lifecycle`` alone."""

    __slots__ = (
        "_exchange", "_route", "cause", "model", "num_attempts", "queue_seconds", "queued_at",
        "refusal", "request_id", "status",
    )  # fmt: skip

    def __init__(self, request_id: bytes, exchange: Exchange, route: Route) -> None:
        self._exchange = exchange
        self._route = route
        self.request_id = request_id
        self.model = ""
        self.num_attempts = 0
        self.queued_at: float | None = None
        """Since when it waits; None: it does not."""
        self.queue_seconds: float | None = None
        """How long it has waited in the end; None: not at all."""
        self.status = 0
        self.refusal = ""
        """Why it has no answer, or one that says so; empty: it has one."""
        self.cause = ""

    def id_text(self) -> str:
        """The request's id, for a line of the log."""
        return self.request_id.decode()

    # How it ends

    def refused(self, refusal: Refusal) -> None:
        """The router's own answer says why."""
        self.status = refusal.status
        detail = refusal.log_detail
        self.refusal = f"{refusal.message}: {detail}" if detail else refusal.message
        self.cause = refusal.cause

    def refused_by_engines(self, failure: Failure, failed_on: list[str]) -> Outcome:
        """The last of the engines' answers is passed on."""
        self.status = failure.status
        self.refusal = f"{len(failed_on)} replica(s) answered {failure.status}: " + ", ".join(
            failed_on
        )
        self.cause = failure.cause.value
        is_push_back = failure.status in PUSH_BACK
        return Outcome.ENGINE_PUSH_BACK if is_push_back else Outcome.ENGINE_ERROR

    def answered(self, attempt: Attempt | None) -> Outcome:
        """An answer that came to its end: served, or an error that the engine said."""
        error_status = 0 if attempt is None else attempt.error_status
        if error_status >= FIRST_ERROR_STATUS:
            self.refusal = f"the engine ended its stream with an error ({error_status})"
            self.cause = ERROR_IN_STREAM
            LOGGER.warning(
                "engine error in a stream request=%s replica=%s status=%d",
                self.id_text(),
                _replica_of(attempt),
                error_status,
            )
            return Outcome.ENGINE_ERROR
        if self.status < FIRST_REFUSED_STATUS:
            return _SERVED
        self.refusal = f"the engine answered {self.status}; its answer was passed on"
        self.cause = ENGINE_ANSWER
        return _SERVED if self.status < FIRST_ERROR_STATUS else Outcome.ENGINE_ERROR

    # What is told of it

    def waits(self, now_seconds: float) -> dict[str, object]:
        """Who waits, and since when: for a page about the queue."""
        queued_at = self.queued_at
        return {
            "request_id": self.id_text(),
            "model": self.model,
            "client": self._exchange.peer.decode(),
            "path": self._route.path.decode(),
            "waited_seconds": None if queued_at is None else round(now_seconds - queued_at, 3),
        }

    def explanation(self, attempt: Attempt | None, profile: RequestProfile) -> bytes:
        """Header fields of the answer: where it went, and why, or why nowhere."""
        why = self.refusal
        if not why and attempt is not None:
            why = attempt.choice.why
        return explained(
            replica=_replica_of(attempt),
            why=why,
            queue_seconds=self.queue_seconds or 0.0,
            reserved_tokens=profile.expected_tokens,
        )

    def record(
        self,
        outcome: Outcome,
        now_seconds: float,
        *,
        profile: RequestProfile,
        tenant: str,
        attempt: Attempt | None,
        tokens_per_event: float,
    ) -> Record:
        """The whole of it.

        ``attempt``: the latest, also when it has ended. ``tokens_per_event``: of its stream.
        """
        exchange = self._exchange
        received_at = exchange.received_at
        first_byte = ttft = prompt_tokens = output_tokens = cached_tokens = choice = None
        if attempt is not None:
            usage = attempt.usage
            prompt_tokens, output_tokens = usage.prompt_tokens, usage.output_tokens
            cached_tokens = usage.cached_tokens
            choice = attempt.choice
            if attempt.first_byte_at is not None:
                first_byte = attempt.first_byte_at - received_at
            if attempt.first_text_at is not None:
                ttft = attempt.first_text_at - received_at
        return Record(
            ended_at=time.time(),
            request_id=self.request_id,
            path=self._route.path,
            model=self.model,
            outcome=outcome,
            status=self.status,
            replica=_replica_of(attempt),
            refusal=self.refusal,
            cause=self.cause,
            tenant=tenant,
            client=exchange.peer,
            choice=choice,
            attempts=self.num_attempts,
            expected_tokens=profile.expected_tokens,
            expected_prompt_tokens=profile.num_prompt_tokens,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            queue_seconds=self.queue_seconds,
            first_byte_seconds=first_byte,
            seconds=now_seconds - received_at,
            ttft_seconds=ttft,
            streamed_tokens=_streamed_tokens(attempt, profile, tokens_per_event),
        )


def _streamed_tokens(
    attempt: Attempt | None, profile: RequestProfile, tokens_per_event: float
) -> int:
    """Tokens that its stream has carried, by what its pool has learned of events."""
    if attempt is None or attempt.first_text_at is None:
        return 0
    num_events = attempt.num_events
    num_first = min(num_events, profile.num_choices)
    return num_first + int((num_events - num_first) * tokens_per_event)


def _replica_of(attempt: Attempt | None) -> str:
    """The latest that it was sent to; empty if none."""
    return "" if attempt is None else attempt.replica
