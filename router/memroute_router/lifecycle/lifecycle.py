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
| its key's grant, what it takes of quotas | ``allowance.py`` | until it ends |
| asks for room, waits, is admitted | ``seeking.py`` | |
| one lease, one answer | ``attempt.py`` | until it ends; a retry is another |
| the connection that carries both | ``forwarded.py`` | likewise |
| requests with which a replica has died | ``isolation.py`` | for ten minutes |
| its way from bytes to an answer, and elsewhere | here | until the request ends |
| what is held of it, the one way out | ``in_flight.py`` | until the request ends |
| which phase allows what | ``phases.py`` | |
| why not, and how that is written | ``refusal.py`` | |
| what is told of it: its record, fields of its answer | ``account.py`` | until it ends |
| who is told of its end | ``reporting.py`` | |

``Lifecycle`` is a ``SeekingRequest`` is an ``InFlightRequest``: each calls what is below it, none
what is above, but for the few methods that raise ``NotImplementedError`` there.

Nothing here awaits: each step runs to its end when something has happened. Whoever calls one of
these steps catches what it raises, and calls ``crashed``: the request fails alone, and what it held
is given back.
"""

import logging
from collections.abc import Callable

from memroute.traffic.dispatch import Lease
from memroute_router.access.rules import Grant
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.failure import Failure, FailureCause
from memroute_router.lifecycle.forwarded import ForwardedAttempt
from memroute_router.lifecycle.forwarding import forwarded_head
from memroute_router.lifecycle.intake import MAX_MODEL_CHARACTERS, Intake
from memroute_router.lifecycle.isolation import Case
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.phases import Happening, Phase, after
from memroute_router.lifecycle.refusal import EXHAUSTED, Refusal
from memroute_router.lifecycle.seeking import SeekingRequest
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica

LOGGER = logging.getLogger(__name__)


class Lifecycle(SeekingRequest):
    """One request, from its arrival to its end.

    A ``Sink``, an ``AttemptOwner``, and what a ``SeekingRequest`` is.
    """

    __slots__ = ()

    # It arrives

    def begin(self) -> None:
        """Ask whose it is, parse, tokenize where that can be done, and ask for room."""
        services, exchange, allowance = self._services, self._exchange, self._allowance
        exchange.sink = self
        grant: Grant | None = None
        if allowance is not None:
            unknown = allowance.identify(exchange.fields)
            if unknown is not None:
                self._refuse(Happening.REFUSE, unknown)
                return
            grant = allowance.grant
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
            if allowance is not None and refusal.outcome is Outcome.FORBIDDEN:
                allowance.forbidden(refusal)
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
        if not self._is_within_quotas(intake):
            return
        # As engines get it: what a key adds to it is the same when it is sent again.
        self._case = self._services.isolation.recognize(self._exchange.target, self._exchange.body)
        # The document is many times the size of the body: it does not wait with the request.
        self._intake = None
        self._seek_room()

    def _is_within_quotas(self, intake: Intake) -> bool:
        """Take what it needs of its tenant's quotas; False when it was refused for want of it."""
        allowance, pool = self._allowance, self._pool
        if allowance is None or pool is None:
            return True
        refusal = allowance.reserve(self.profile, pool)
        if refusal is not None:
            self._refuse(Happening.REFUSE, refusal)
            return False
        parsed = intake.parsed
        allowance.edit_body(
            self._exchange,
            self._route.path,
            is_stream=parsed is not None and parsed.is_stream,
        )
        return True

    def _is_from_proxy(self) -> bool:
        """Whether it came from a proxy whose word is believed."""
        proxies = self._services.proxies
        return proxies is not None and proxies.trust(self._exchange.peer)

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

    # Elsewhere

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

    def _was_killed(self, failure: Failure) -> Refusal | None:
        """A replica died with it; the refusal if it is to blame."""
        case = self._case
        if case is None:
            case = self._case = self._open_case()
        return case.died(self._replica(), failure, self._account.id_text())

    def _open_case(self) -> Case:
        exchange = self._exchange
        return self._services.isolation.open_case(exchange.target, exchange.body)
