"""A request in flight: what is known and held of it, and how it ends.

``_end`` is the one way out. It ends the attempt, leaves the queue, settles what the tenant has used
and accounts for the request, whatever happened: a client that left, an engine that refused, broke
off, stalled or ended early, a router that shuts down. What the client gets in place of an answer,
or of the rest of one, is written here:

| ending | the client gets |
| --- | --- |
| ``_refuse`` | the router's own answer, which says why |
| ``_give_up`` | what the last engine has answered, if it has; else a refusal |
| ``_break_off`` | of a stream, an event that says why; else a body that breaks off |
| ``crashed`` | one of the two, by how far it had come; what it held is given back in any case |
| ``client_gone`` | nothing |

Nothing here knows how a request comes to its room or to its answer: ``seeking.py`` and
``lifecycle.py`` add that.
"""

import logging
from typing import Final

from memroute.traffic.lengths import PromptParts
from memroute.traffic.request import RequestProfile
from memroute_router.access.rules import may_explain
from memroute_router.http.deadlines import monotonic
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import EXPLAIN, REASON
from memroute_router.lifecycle.account import Account
from memroute_router.lifecycle.allowance import Allowance
from memroute_router.lifecycle.answers import given_id
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.failure import Failure
from memroute_router.lifecycle.intake import Intake
from memroute_router.lifecycle.isolation import Case
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.phases import Happening, Phase, after
from memroute_router.lifecycle.refusal import (
    CRASHED,
    SHUTTING_DOWN,
    Refusal,
    last_events,
    replicas_failed,
)
from memroute_router.lifecycle.reporting import end_trace, learn_prompt, report
from memroute_router.metrics.statistics import PoolStatistics
from memroute_router.replicas.pool import Pool
from memroute_router.services import Services
from memroute_router.surface import Route

# One logger for the life of a request, whichever of its modules speaks.
LOGGER = logging.getLogger("memroute_router.lifecycle.lifecycle")
# Looked up once, not for every request: a member of an enumeration costs 0.15 us.
_SERVED: Final = Outcome.SERVED
_NOTHING: Final = RequestProfile(
    num_prompt_tokens=0, min_prompt_tokens=0, max_output_tokens=0, assumed_output_tokens=0
)


class InFlightRequest:
    """What is known and held of one request, until its end."""

    __slots__ = (
        "_account", "_allowance", "_attempt", "_case", "_exchange", "_failed_on", "_failure",
        "_intake", "_parts", "_phase", "_pool", "_route", "_services", "_trace", "profile", "tried",
    )  # fmt: skip

    def __init__(self, services: Services, exchange: Exchange, route: Route, number: int) -> None:
        """``number``: of the request, for its id."""
        self._services = services
        self._exchange = exchange
        self._route = route
        request_id = given_id(exchange) or b"%b-%x" % (services.id_prefix, number)
        self._account = Account(request_id, exchange, route)
        self._phase: int = Phase.INTAKE
        gate = services.gate
        self._allowance = None if gate is None else Allowance(gate)
        """What its key allows it; None: keys are off."""
        self._intake: Intake | None = None
        """What was asked, and with it the document; only until it is sized."""
        self._parts: PromptParts | None = None
        """What its prompt was taken to hold; None where that was counted, or cut."""
        self._pool: Pool | None = None
        self.profile: RequestProfile = _NOTHING
        # Where it has been.
        self._failed_on: list[str] = []
        """Replicas on which it has failed, in order."""
        self.tried = self._failed_on
        """Replicas that it is not sent to: of a suspect also those where another one is."""
        self._case: Case | None = None
        """Where a replica has died with it, of late or now."""
        self._attempt: Attempt | None = None
        """The latest; also when it has ended, for the account."""
        self._failure: Failure | None = None
        """How the latest ended, if it failed."""
        tracer = services.tracer
        self._trace = None if tracer is None else tracer.begin(exchange.fields)

    # Ended by others

    def client_gone(self) -> None:
        """Nobody will read the answer: stop the engine's work."""
        self._end(Happening.CLIENT_GONE, Outcome.CLIENT_GONE)

    def shutting_down(self) -> None:
        """The router's time is up."""
        if self._phase == Phase.ANSWERING:
            self._break_off(
                Happening.SHUT_DOWN,
                Outcome.SHUTTING_DOWN,
                SHUTTING_DOWN.message + "; the answer is incomplete",
            )
        else:
            self._refuse(Happening.SHUT_DOWN, SHUTTING_DOWN)

    def crashed(self) -> None:
        """A bug of ours, in whatever was done for this request: it fails alone."""
        LOGGER.error(
            "request failed by a bug request=%s replica=%s",
            self._account.id_text(),
            self._replica() or "-",
        )
        try:
            if self._phase == Phase.ANSWERING:
                self._break_off(
                    Happening.CRASH,
                    Outcome.INTERNAL_ERROR,
                    "the router has failed; the answer is incomplete",
                )
            elif self._phase != Phase.OVER:
                self._refuse(Happening.CRASH, CRASHED)
        finally:
            self._close()

    # What the client gets

    def _refuse(self, happening: int, refusal: Refusal) -> None:
        self._account.refused(refusal)
        self._end(happening, refusal.outcome)
        self._exchange.respond(
            refusal.status,
            refusal.body(is_anthropic=self._route.is_anthropic),
            refusal.lines() + self._own_lines(),
        )

    def _give_up(self, failure: Failure) -> None:
        """All replicas that may be tried were tried. ``failure``: of the last."""
        if not failure.status:
            self._refuse(Happening.REFUSE, replicas_failed(self._failed_on, failure.cause.value))
            return
        # The engine's own words are the best answer; and a time to come back.
        outcome = self._account.refused_by_engines(failure, self._failed_on)
        self._end(Happening.REFUSE, outcome)
        retry_after = failure.retry_after or b"2"
        own = b"retry-after: %b\r\n%b: %b\r\n" % (retry_after, REASON, outcome.value.encode())
        self._exchange.respond(
            failure.status, failure.body, failure.lines + own + self._own_lines()
        )

    def _break_off(self, happening: int, outcome: Outcome, message: str) -> None:
        """An answer that has begun and cannot be completed: an error event, or a broken body."""
        exchange = self._exchange
        takes_events = self._attempt is not None and self._attempt.takes_events
        self._account.refusal = message
        self._end(happening, outcome)
        if takes_events:
            exchange.finish(last_events(outcome, message, is_anthropic=self._route.is_anthropic))
        else:
            exchange.abort()

    def _own_lines(self) -> bytes:
        """Our fields of every answer; with the reasons when the client asked for them."""
        account, allowance = self._account, self._allowance
        lines = b"x-request-id: %b\r\n" % account.request_id
        if allowance is not None:
            lines += allowance.limit_lines()
        if (
            EXPLAIN in self._exchange.fields
            and self._services.explains
            and may_explain(
                None if allowance is None else allowance.grant,
                self.profile,
                has_keys=allowance is not None,
            )
        ):
            lines += account.explanation(self._attempt, self.profile)
        return lines

    # The end

    def _end(self, happening: int, outcome: Outcome) -> None:
        """The one way out. Raises ``RuntimeError`` the second time: that is a bug."""
        is_queued = self._phase == Phase.QUEUED
        self._phase = after(self._phase, happening)
        self._exchange.sink = None
        pool, attempt = self._pool, self._attempt
        self._waits_no_more()
        try:
            if is_queued:
                self._leave_queue()
        finally:
            try:
                if attempt is not None:
                    attempt.abandon()
            finally:
                self._settle(outcome)
        self._close_case(is_answered=outcome is _SERVED)
        self._intake = None
        now = monotonic()
        record = self._account.record(
            outcome,
            now,
            profile=self.profile,
            tenant=self._tenant(),
            attempt=attempt,
            tokens_per_event=1.0 if pool is None else pool.dispatcher.events.ratio,
        )
        if outcome is _SERVED and record.prompt_tokens and pool is not None:
            parts = self._parts
            if parts is not None:
                learn_prompt(
                    pool, parts, self.profile, prompt_tokens=record.prompt_tokens, now_seconds=now
                )
        report(self._services, record, pool)
        if self._trace is not None:
            end_trace(
                self._services,
                self._trace,
                record,
                begun_at=self._exchange.received_at,
                first_byte_at=None if attempt is None else attempt.first_byte_at,
            )

    def _close(self) -> None:
        """Whatever has failed in the end itself: nothing is held, and the client is told."""
        if self._attempt is not None:
            self._attempt.abandon()
        self._close_case(is_answered=False)
        self._settle(Outcome.INTERNAL_ERROR)
        exchange = self._exchange
        if exchange.is_finished:
            return
        if exchange.has_started:
            exchange.abort()
        else:
            exchange.respond(
                CRASHED.status,
                CRASHED.body(is_anthropic=self._route.is_anthropic),
                CRASHED.lines(),
            )

    def _settle(self, outcome: Outcome) -> None:
        """What it has used counts for its tenant, instead of what was reserved; once."""
        allowance = self._allowance
        if allowance is not None:
            allowance.settle(
                self.profile,
                self._attempt,
                status=self._account.status,
                is_served=outcome is _SERVED,
            )

    def _leave_queue(self) -> None:
        """Its turn is no longer wanted. Called where it is queued, once."""
        raise NotImplementedError

    def _close_case(self, *, is_answered: bool) -> None:
        """It keeps no other suspect away any more. May be called again."""
        raise NotImplementedError

    def _waits_no_more(self) -> None:
        account = self._account
        queued_at = account.queued_at
        if queued_at is not None:
            now = monotonic()
            account.queue_seconds = now - queued_at
            if self._trace is not None:
                self._trace.waited(queued_at, now)
            account.queued_at = None

    # What is known of it

    def _replica(self) -> str:
        """The latest that it was sent to; empty if none."""
        return "" if self._attempt is None else self._attempt.replica

    def _tenant(self) -> str:
        grant = None if self._allowance is None else self._allowance.grant
        return self.profile.tenant if grant is None else grant.tenant.name

    def _statistics(self) -> PoolStatistics:
        return self._services.metrics.of(self._pool)
