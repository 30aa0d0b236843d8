"""The life of a request: the page to read first.

```text
begin ── intake ── admit ─┬─ refused ───────────────────────────────► end
                          ├─ held ── its turn / too late / gone ──►
                          └─ attempt ── first byte ── … ── last byte ──► end
                                ▲  │
                                └──┘  elsewhere (before the first byte only)
```

| what | where | lives |
| --- | --- | --- |
| parsed, tokenized, sized | ``intake.py`` | until it is sized |
| one lease, one answer | ``attempt.py`` | until it ends; a retry is another |
| the connection that carries both | ``forwarded.py`` | likewise |
| requests with which a replica has died | ``isolation.py`` | for ten minutes |
| the client, what to do with an ending | here | until the request ends |
| which phase allows what | ``phases.py`` | |
| why not, and how that is written | ``refusal.py`` | |
| what is told of it: its record, fields of its answer | ``account.py`` | until it ends |

``_end`` is the one way out. It ends the attempt, leaves the queue and accounts for the request,
whatever happened: a client that left, an engine that refused, broke off, stalled or ended early, a
router that shuts down. Nothing here awaits: each step runs to its end when something has happened.
Whoever calls one of these steps catches what it raises, and calls ``crashed``: the request fails
alone, and what it held is given back.
"""

import logging
from collections.abc import Callable
from typing import Final

from memroute.traffic.admission import Reject
from memroute.traffic.dispatch import Lease
from memroute.traffic.lengths import PromptParts
from memroute.traffic.request import RequestProfile
from memroute_router.access.quotas import Permit
from memroute_router.access.rules import Grant, may_explain
from memroute_router.access.usage_asked import edit
from memroute_router.http.deadlines import monotonic
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import EXPLAIN, REASON
from memroute_router.lifecycle.account import Account
from memroute_router.lifecycle.answers import given_id
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.failure import Failure, FailureCause
from memroute_router.lifecycle.forwarded import ForwardedAttempt
from memroute_router.lifecycle.forwarding import forwarded_head
from memroute_router.lifecycle.intake import MAX_MODEL_CHARACTERS, Intake
from memroute_router.lifecycle.isolation import Case
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.phases import Happening, Phase, after
from memroute_router.lifecycle.refusal import (
    CRASHED,
    EXHAUSTED,
    SHUTTING_DOWN,
    TOO_MANY_APART,
    Refusal,
    last_events,
    rejected,
    replicas_failed,
)
from memroute_router.log.journal import Record
from memroute_router.metrics.statistics import PoolStatistics
from memroute_router.replicas.pools import Pool, Replica
from memroute_router.services import Services
from memroute_router.surface import Route
from memroute_router.tracing.trace import Trace

LOGGER = logging.getLogger(__name__)
# Looked up once, not for every request: a member of an enumeration costs 0.15 us.
_SERVED: Final = Outcome.SERVED
_ENGINE_ERROR: Final = Outcome.ENGINE_ERROR
_NOTHING: Final = RequestProfile(
    num_prompt_tokens=0, min_prompt_tokens=0, max_output_tokens=0, assumed_output_tokens=0
)


class Lifecycle:
    """One request, from its arrival to its end.

    A ``Waiter``, a ``Sink``, an ``AttemptOwner``; where a replica has died with it, ``Isolated``.
    """

    __slots__ = (
        "_account", "_attempt", "_case", "_exchange", "_failed_on", "_failure", "_grant", "_intake",
        "_parts", "_permit", "_phase", "_pool", "_route", "_services", "_trace", "profile", "tried",
    )  # fmt: skip

    def __init__(self, services: Services, exchange: Exchange, route: Route, number: int) -> None:
        """``number``: of the request, for its id."""
        self._services = services
        self._exchange = exchange
        self._route = route
        request_id = given_id(exchange) or b"%b-%x" % (services.id_prefix, number)
        self._account = Account(request_id, exchange, route)
        self._phase: int = Phase.INTAKE
        self._grant: Grant | None = None
        """What its key may do; None: keys are off."""
        self._permit: Permit | None = None
        """What it has taken of its tenant's quotas, until it ends."""
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

    # It arrives

    def begin(self) -> None:
        """Ask whose it is, parse, tokenize where that can be done, and ask for room."""
        services, exchange = self._services, self._exchange
        exchange.sink = self
        gate = services.gate
        grant: Grant | None = None
        if gate is not None:
            found = gate.identify(exchange.fields)
            if isinstance(found, Refusal):
                self._refuse(Happening.REFUSE, found)
                return
            grant = self._grant = found
        intake = self._intake = Intake(
            services.intake,
            exchange.fields,
            received_at_seconds=exchange.received_at,
            trusts_headers=services.trusts_headers or self._is_from_proxy(),
            grant=grant,
            find_pool=self._find_pool(),
        )
        refusal = intake.read(self._route, exchange.body)
        if intake.parsed is not None:
            self._account.model = intake.parsed.model[:MAX_MODEL_CHARACTERS]
        self._pool = intake.pool
        if refusal is not None:
            if gate is not None and refusal.outcome is Outcome.FORBIDDEN:
                gate.count_forbidden(refusal)
            self._refuse(Happening.REFUSE, refusal)
            return
        if intake.tokenize(self._tokenized):
            self._phase = after(self._phase, Happening.TOKENIZE)
        else:
            self._sized()

    def _find_pool(self) -> Callable[[str], Pool | None] | None:
        """Which pool serves a model, for this request; None: as the pools say."""
        return None

    def _tokenized(self) -> None:
        """A thread has counted the prompt's tokens, or could not."""
        try:
            self._sized()
        except Exception as error:  # noqa: BLE001 - a bug in one request
            self._services.on_fault("request", error)
            self.crashed()

    def _sized(self) -> None:
        """Its prompt's tokens are known now, or will not be."""
        self._phase = after(self._phase, Happening.SIZED)
        intake = self._intake
        if self._phase == Phase.OVER or intake is None:
            return
        self.profile = intake.profile()
        if intake.parsed is not None:
            self._parts = intake.parsed.parts
        if self._grant is not None and not self._is_within_quotas(self._grant):
            return
        # As engines get it: what a key adds to it is the same when it is sent again.
        self._case = self._services.isolation.recognize(self._exchange.target, self._exchange.body)
        # The document is many times the size of the body: it does not wait with the request.
        self._intake = None
        self._seek_room()

    def _is_within_quotas(self, grant: Grant) -> bool:
        """Take what it needs of its tenant's quotas; False when it was refused for want of it."""
        gate, pool, intake = self._services.gate, self._pool, self._intake
        if gate is None or pool is None or intake is None:
            return True
        found = gate.reserve(grant, self.profile, pool)
        if isinstance(found, Refusal):
            self._refuse(Happening.REFUSE, found)
            return False
        self._permit = found
        parsed = intake.parsed
        edited = edit(
            self._exchange.body,
            self._route.path,
            asks_usage=grant.has_token_limit and parsed is not None and parsed.is_stream,
            cache_salt=grant.tenant.cache_salt,
        )
        self._exchange.body = edited.body
        self._exchange.hides_usage = edited.hides_usage
        return True

    def _seek_room(self) -> None:
        pool = self._pool
        if pool is None:
            return
        permit, gate = self._permit, self._services.gate
        if permit is not None and permit.lacks_share and gate is not None:
            self._held()
            gate.wait_for_share(self, permit, self.profile, pool)
            return
        case = self._case
        if case is not None:
            refusal = case.refusal()
            if refusal is not None:
                self._refuse(Happening.REFUSE, refusal)
                return
            if not self._is_apart(case, pool):
                self._wait_apart(pool)
                return
        verdict = pool.submit(self)
        if verdict is None:
            self._held()
        elif isinstance(verdict, Reject):
            self.refused(verdict)
        else:
            self._admit(verdict)

    def _admit(self, lease: Lease[Replica]) -> None:
        try:
            self.admitted(lease)
        except Exception:
            if self._attempt is None or not self._attempt.holds(lease):
                lease.release()
            raise

    # Waiter

    def admitted(self, lease: Lease[Replica]) -> None:
        """Room is reserved: forward."""
        self._phase = after(self._phase, Happening.ADMIT)
        self._waits_no_more()
        self._account.num_attempts += 1
        if self._case is not None:
            self._case.sent(self, lease.replica.info.key)
        if self._trace is not None:
            self._trace.attempted(lease.choice)
        attempt = self._attempt = self._attempt_at(lease)
        attempt.begin()

    def refused(self, reject: Reject) -> None:
        """No replica may take it."""
        self._waits_no_more()
        if self._failure is not None:
            self._give_up(self._failure)
            return
        self._statistics().shed(reject.reason.value, self.profile.expected_tokens)
        self._refuse(Happening.REFUSE, rejected(reject, unready=self._unready()))

    def is_stuck(self) -> None:
        """Its replica hangs, and others do not: before its first byte it can go there."""
        self._phase = after(self._phase, Happening.STUCK)
        if self._attempt is not None:
            self._attempt.stuck()

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

    # How it gets there: whoever carries the bytes another way overrides these

    def _attempt_at(self, lease: Lease[Replica]) -> Attempt:
        """An attempt at the replica of a lease, which is the attempt's from now on."""
        return ForwardedAttempt(self._services, self, self._exchange, lease)

    def _may_retry(self, pool: Pool) -> bool:
        """Whether it may be sent to another replica; if so, that is paid for."""
        return pool.may_retry(self)

    # AttemptOwner

    def request_head(self, authority: bytes) -> bytes:
        """The head of the request, for an engine."""
        exchange = self._exchange
        lines = exchange.lines
        engine_key = self._services.engine_key
        if engine_key is not None:
            lines += engine_key.line
        if self._trace is not None:
            lines = self._trace.lines(lines, authority)
        is_believed = self._services.trusts_headers or self._is_from_proxy()
        return forwarded_head(exchange, authority, self._account.request_id, lines, is_believed)

    def answer_begins(self, status: int, lines: bytes, length: int | None) -> None:
        """The first byte is there: from here on there is no other replica."""
        self._phase = after(self._phase, Happening.FIRST_BYTE)
        self._account.status = status
        exchange = self._exchange
        attempt, case = self._attempt, self._case
        if attempt is not None and attempt.begins_with_error:
            # Perhaps its last word: a replica that dies now has died of one of these.
            (case or self._open_case()).errored(attempt.replica)
        if case is not None:
            case.left(self)
        own_lines = self._own_lines()
        # No other replica will get it: a stream may last for minutes.
        exchange.drop_body()
        exchange.start(status, lines + own_lines, length=length)

    def answer_ends(self, rest: bytes) -> None:
        """The whole answer is there."""
        self._end(Happening.LAST_BYTE, self._account.answered(self._attempt))
        self._exchange.finish(rest)

    def attempt_failed(self, failure: Failure) -> None:
        """The answer broke off; or there is none, and another replica may be asked."""
        if self._trace is not None:
            self._trace.failed(failure.cause.value)
        if failure.cause is FailureCause.BROKEN:
            LOGGER.warning(
                "answer broken off request=%s replica=%s error=%s",
                self._account.id_text(),
                self._replica(),
                failure.detail,
            )
            self._break_off(
                Happening.BREAK,
                Outcome.STREAM_BROKEN,
                "the replica was lost while it answered; the answer is incomplete",
            )
        elif failure.cause is FailureCause.EXHAUSTED:
            LOGGER.error(
                "out of resources request=%s error=%s",
                self._account.id_text(),
                failure.detail,
            )
            self._refuse(Happening.REFUSE, EXHAUSTED)
        else:
            self._try_elsewhere(failure)

    # Sink

    def client_gone(self) -> None:
        """Nobody will read the answer: stop the engine's work."""
        self._end(Happening.CLIENT_GONE, Outcome.CLIENT_GONE)

    def client_is_slow(self) -> None:
        """Read no more from the engine until the client has caught up."""
        self._phase = after(self._phase, Happening.CLIENT_SLOW)
        if self._attempt is not None:
            self._attempt.pause()

    def client_is_ready(self) -> None:
        """Read on."""
        self._phase = after(self._phase, Happening.CLIENT_READY)
        if self._attempt is not None:
            self._attempt.resume()

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

    # What comes of it

    def _try_elsewhere(self, failure: Failure) -> None:
        if failure.detail:
            LOGGER.warning(
                "replica failed request=%s replica=%s error=%s",
                self._account.id_text(),
                self._replica(),
                failure.detail,
            )
        self._failure = failure
        if failure.cause is FailureCause.CONNECTION_LOST:
            refusal = self._was_killed(failure)
            if refusal is not None:
                self._refuse(Happening.REFUSE, refusal)
                return
        elif failure.cause is FailureCause.NO_CONNECTION:
            self._services.isolation.unreachable(self._replica())
        if self._case is not None:
            self._case.left(self)
        if self._attempt is not None:
            self._failed_on.append(self._attempt.tried)
        self.tried = self._failed_on
        if self._pool is not None and self._may_retry(self._pool):
            self._statistics().retried(failure.cause.value)
            self._phase = after(self._phase, Happening.RETRY)
            self._seek_room()
        else:
            self._give_up(failure)

    def _give_up(self, failure: Failure) -> None:
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

    def _refuse(self, happening: int, refusal: Refusal) -> None:
        self._account.refused(refusal)
        self._end(happening, refusal.outcome)
        self._exchange.respond(
            refusal.status,
            refusal.body(is_anthropic=self._route.is_anthropic),
            refusal.lines() + self._own_lines(),
        )

    def _held(self) -> None:
        """It waits: for its turn, or for a replica without another suspect."""
        self._phase = after(self._phase, Happening.HOLD)
        if self._account.queued_at is None:
            self._account.queued_at = monotonic()

    def _waits_no_more(self) -> None:
        account = self._account
        queued_at = account.queued_at
        if queued_at is not None:
            now = monotonic()
            account.queue_seconds = now - queued_at
            if self._trace is not None:
                self._trace.waited(queued_at, now)
            account.queued_at = None

    def _end(self, happening: int, outcome: Outcome) -> None:
        """The one way out. Raises ``RuntimeError`` the second time: that is a bug."""
        is_queued = self._phase == Phase.QUEUED
        self._phase = after(self._phase, happening)
        self._exchange.sink = None
        pool, attempt = self._pool, self._attempt
        self._waits_no_more()
        try:
            if is_queued and pool is not None:
                pool.withdraw(self)
        finally:
            try:
                if attempt is not None:
                    attempt.abandon()
            finally:
                self._settle(outcome)
        if self._case is not None:
            self._case.ends(self, is_answered=outcome is _SERVED)
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
                pool.prompts.observe(parts, actual_tokens=record.prompt_tokens, asked=self.profile)
                pool.dispatcher.predictions.prompt(
                    expected=self.profile.num_prompt_tokens,
                    actual=record.prompt_tokens,
                    now_seconds=now,
                )
        self._statistics().ended(record, None if pool is None else pool.dispatcher.settings.limits)
        self._services.journal.add(record)
        if self._trace is not None:
            self._trace_ended(self._trace, record)

    def _trace_ended(self, trace: Trace, record: Record) -> None:
        tracer, attempt = self._services.tracer, self._attempt
        if tracer is None:
            return
        try:
            tracer.ended(
                trace,
                record,
                begun_at=self._exchange.received_at,
                first_byte_at=None if attempt is None else attempt.first_byte_at,
            )
        except Exception as error:  # noqa: BLE001 - the request is answered and accounted for
            self._services.on_fault("trace", error)

    def _close(self) -> None:
        """Whatever has failed in the end itself: nothing is held, and the client is told."""
        if self._attempt is not None:
            self._attempt.abandon()
        if self._case is not None:
            self._case.ends(self, is_answered=False)
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

    def waited_in_vain(self) -> None:
        """Its tenant has had no KV tokens free of its share, for as long as it may wait."""
        gate, permit, pool = self._services.gate, self._permit, self._pool
        if gate is not None and permit is not None and pool is not None:
            self._refuse(Happening.REFUSE, gate.share_refusal(permit, pool))

    # A suspect, kept apart from others

    def try_again(self) -> None:
        """A replica may be free of other suspects now; or its tenant's share has room for it."""
        if self._phase != Phase.QUEUED:
            return
        self._phase = after(self._phase, Happening.SEEK)
        self._seek_room()

    def _is_apart(self, case: Case, pool: Pool) -> bool:
        """Whether it may be sent now; then ``tried`` has the replicas to be left alone."""
        waited = 0.0 if self._account.queued_at is None else monotonic() - self._account.queued_at
        avoided = case.avoided(pool, self._failed_on, waited_seconds=waited)
        if avoided is None:
            return False
        self.tried = avoided
        return True

    def _wait_apart(self, pool: Pool) -> None:
        """Wait for a replica without another suspect, if as many do not wait already."""
        isolation = self._services.isolation
        if self._account.queued_at is not None or isolation.may_wait(pool):
            self._held()
            isolation.wait(self, pool)
        elif self._failure is not None:
            self._give_up(self._failure)
        else:
            self._statistics().shed(TOO_MANY_APART.outcome.value, self.profile.expected_tokens)
            self._refuse(Happening.REFUSE, TOO_MANY_APART)

    def _was_killed(self, failure: Failure) -> Refusal | None:
        """A replica died with it; the refusal if it is to blame."""
        case = self._case
        if case is None:
            case = self._case = self._open_case()
        return case.died(self._replica(), failure, self._account.id_text())

    def _open_case(self) -> Case:
        exchange = self._exchange
        return self._services.isolation.open_case(exchange.target, exchange.body)

    def _settle(self, outcome: Outcome) -> None:
        """What it has used counts for its tenant, instead of what was reserved; once."""
        attempt, gate, permit = self._attempt, self._services.gate, self._permit
        if gate is not None and permit is not None and not permit.is_settled:
            gate.settle(
                permit,
                self.profile,
                usage=None if attempt is None else attempt.usage,
                num_events=0 if attempt is None else attempt.num_events,
                status=self._account.status,
                is_served=outcome is _SERVED,
            )

    # The account

    def waits(self, now_seconds: float) -> dict[str, object]:
        """Who waits, and since when: for a page about the queue."""
        return self._account.waits(now_seconds)

    def _replica(self) -> str:
        """The latest that it was sent to; empty if none."""
        return "" if self._attempt is None else self._attempt.replica

    def _tenant(self) -> str:
        return self.profile.tenant if self._grant is None else self._grant.tenant.name

    def _own_lines(self) -> bytes:
        """Our fields of every answer; with the reasons when the client asked for them."""
        account = self._account
        lines = b"x-request-id: %b\r\n" % account.request_id
        permit, gate = self._permit, self._services.gate
        if permit is not None and gate is not None:
            lines += gate.limit_lines(permit)
        if (
            EXPLAIN in self._exchange.fields
            and self._services.explains
            and may_explain(self._grant, self.profile, has_keys=gate is not None)
        ):
            lines += account.explanation(self._attempt, self.profile)
        return lines

    def _is_from_proxy(self) -> bool:
        """Whether it came from a proxy whose word is believed."""
        proxies = self._services.proxies
        return proxies is not None and proxies.trust(self._exchange.peer)

    def _unready(self) -> str:
        """Why nothing serves the model, as its ModelDeployment's condition says; empty if unknown.

        For refusals where no replica is ready.
        """
        settings = None if self._pool is None else self._pool.settings
        if settings is None or settings.unready_reason is None:
            return ""
        return f"{settings.deployment}: {settings.unready_reason}"

    def _statistics(self) -> PoolStatistics:
        return self._services.metrics.of(self._pool)
