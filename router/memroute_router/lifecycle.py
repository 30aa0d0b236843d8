"""The life of a request: the page to read first.

```text
begin ── parse ── profile ── admit ─┬─ refused ──────────────────────────────► end
                                    ├─ held ── its turn / too late / gone ──►
                                    └─ reserved ── forward ── first byte ── … ── last byte ──► end
                                          ▲            │
                                          └─ elsewhere ┘  (before the first byte only)
```

``_end`` is the one way out. It releases the lease, gives back the engine's connection and accounts
for the request, whatever happened: a client that left, an engine that refused, broke off, stalled
or ended early, a router that shuts down. Nothing here awaits: each step runs to its end when
something has happened (``admitted``, ``answer_progressed``, ``answer_lost``, ``client_gone`` …).
"""

import asyncio
import logging
import re
import time
from dataclasses import dataclass

from memroute.traffic.admission import Reject, RejectReason
from memroute.traffic.dispatch import Lease
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing import Choice
from memroute_router.claims import TenantSource, read_claims
from memroute_router.events import EventStream
from memroute_router.http.client import EngineConnection, EnginePool
from memroute_router.http.errors import error_body
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import (
    EXPLAIN,
    JSON,
    REASON,
    REQUEST_ID,
    SESSION_ID,
)
from memroute_router.journal import Journal, Record
from memroute_router.metrics import PoolStatistics, RouterMetrics
from memroute_router.outcomes import Outcome
from memroute_router.pools import Pool, Pools, Replica
from memroute_router.prompts.tokenizer import Tokenizers
from memroute_router.requests import BadRequestError, ParsedRequest
from memroute_router.surface import Route

LOGGER = logging.getLogger(__name__)
PUSH_BACK = frozenset({429, 503})
# The engine's own queue is full, or it is shutting down: another replica may take the request.
ELSEWHERE = PUSH_BACK | {502, 504}
FIRST_ERROR_STATUS = 500
MAX_HELD_ANSWER_BYTES = 64 * 1024
# Of an engine that pushed back, for the client if nobody else takes the request.
MAX_REQUEST_ID_BYTES = 128
MAX_SESSION_BYTES = 128
_USAGE = re.compile(rb'"(?:(prompt|input)|completion|output)_tokens":\s*(\d+)')
_STATUS = {
    RejectReason.NEVER_FITS: 400,
    RejectReason.SATURATED: 429,
    RejectReason.QUEUE_TIMEOUT: 504,
    RejectReason.SHUTTING_DOWN: 503,
    RejectReason.NO_READY_REPLICA: 503,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleLimits:
    """How long."""

    first_byte_seconds: float
    stalled_engine_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all requests of a router share."""

    pools: Pools
    engines: EnginePool
    metrics: RouterMetrics
    journal: Journal
    tokenizers: Tokenizers
    limits: LifecycleLimits
    tenants: TenantSource
    trusts_headers: bool
    id_prefix: bytes
    """Of the ids of requests that bring none; different for each router process."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt ended before its first byte; with what the engine said, if it said it."""

    cause: str
    status: int = 0
    lines: bytes = b""
    body: bytes = b""
    retry_after: bytes | None = None


class Lifecycle:
    """One request, from its arrival to its end. A ``Waiter``, a ``Listener`` and a ``Sink``."""

    __slots__ = (
        "_answering", "_choice", "_connecting", "_connection", "_events", "_exchange", "_failure",
        "_first_byte_at", "_is_over", "_lease", "_num_attempts", "_output_tokens", "_pool",
        "_prompt_tokens", "_queue_seconds", "_queued_at", "_refusal", "_replica", "_request",
        "_request_id", "_route", "_services", "_status", "_used_fresh", "profile", "tried",
    )  # fmt: skip

    def __init__(self, services: Services, exchange: Exchange, route: Route, number: int) -> None:
        """``number``: of the request, for its id."""
        self._services = services
        self._exchange = exchange
        self._route = route
        self._request_id = _given_id(exchange) or b"%b-%x" % (services.id_prefix, number)
        self._request: ParsedRequest | None = None
        self._pool: Pool | None = None
        self.profile: RequestProfile = _NOTHING
        self.tried: list[str] = []
        self._is_over = False
        self._queued_at: float | None = None
        self._queue_seconds: float | None = None
        self._lease: Lease[Replica] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connection: EngineConnection | None = None
        self._used_fresh = False
        self._failure: _Failure | None = None
        self._num_attempts = 0
        self._replica = ""
        self._choice: Choice | None = None
        self._refusal = ""
        self._status = 0
        self._answering = False
        self._events: EventStream | None = None
        self._first_byte_at: float | None = None
        self._prompt_tokens: int | None = None
        self._output_tokens: int | None = None

    # It arrives

    def begin(self) -> None:
        """Parse, tokenize where that can be done, and ask for room."""
        exchange = self._exchange
        services = self._services
        coding = exchange.fields.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            self._refuse(Outcome.BAD_REQUEST, 415, "the body must not be compressed")
            return
        try:
            request = self._route.parse(exchange.body, exchange.fields.get(b"content-type", b""))
        except BadRequestError as error:
            self._refuse(Outcome.BAD_REQUEST, 400, error.message, parameter=error.parameter)
            return
        self._request = request
        pool = self._pool = services.pools.get(request.model)
        if pool is None:
            known = ", ".join(services.pools.names()) or "none"
            told = f"the model {request.model!r} does not exist; models: {known}"
            self._refuse(
                Outcome.UNKNOWN_MODEL, 404, told, parameter="model", reason="unknown-model"
            )
            return
        exchange.sink = self
        if request.token_ids is None and request.document is not None:
            tokenizer = services.tokenizers.of(pool.model, pool.tokenizer_folder)
            if tokenizer is not None and services.tokenizers.encode(
                tokenizer, request.document, self._tokenized
            ):
                return
        self._ask(request, pool)

    def _tokenized(self, token_ids: list[int] | None) -> None:
        """Its prompt's tokens are known now, or will not be."""
        request, pool = self._request, self._pool
        if self._is_over or request is None or pool is None:
            return
        if token_ids:
            request.tokenized(token_ids)
        self._ask(request, pool)

    def _ask(self, request: ParsedRequest, pool: Pool) -> None:
        """Ask for room."""
        exchange, services = self._exchange, self._services
        claims = read_claims(
            exchange.fields, tenants=services.tenants, trusts_headers=services.trusts_headers
        )
        session = _session(exchange, request)
        deadline = None
        if claims.ttft_seconds is not None:
            deadline = exchange.received_at + claims.ttft_seconds
        self.profile = request.profile(
            assumed_output_tokens=pool.assumed_output_tokens,
            prompts=pool.prompts,
            media=services.tokenizers.media(pool.model, pool.tokenizer_folder),
            tenant=claims.tenant,
            priority=claims.priority,
            deadline_seconds=deadline,
            session=session,
            adapter="" if request.model == pool.model else request.model,
            draw=pool.draw(session),
            block_tokens=pool.dispatcher.cached.blocks.block_tokens,
        )
        self._seek_room(pool)

    def _seek_room(self, pool: Pool) -> None:
        verdict = pool.submit(self)
        if verdict is None:
            self._queued_at = time.monotonic()
        elif isinstance(verdict, Reject):
            self.refused(verdict)
        else:
            self.admitted(verdict)

    # It is given room, or not

    def admitted(self, lease: Lease[Replica]) -> None:
        """Room is reserved: forward, over an idle connection if there is one."""
        if self._queued_at is not None:
            self._queue_seconds = time.monotonic() - self._queued_at
            self._queued_at = None
        self._lease = lease
        self._num_attempts += 1
        info = lease.replica.info
        self._replica = info.key
        self._choice = lease.choice
        self._used_fresh = False
        connection = self._services.engines.take_idle(info.endpoint)
        if connection is None:
            self._connect()
        else:
            self._forward(connection)

    def refused(self, reject: Reject) -> None:
        """No replica may take it."""
        if self._queued_at is not None:
            self._queue_seconds = time.monotonic() - self._queued_at
            self._queued_at = None
        if self._failure is not None:
            self._give_up(self._failure)
            return
        message = reject.message
        pool = self._pool
        if reject.reason is RejectReason.NO_READY_REPLICA and pool and pool.settings is not None:
            why = pool.settings.unready_reason
            message += f" ({pool.settings.deployment}: {why})" if why else ""
        self._statistics().shed(reject.reason.value, self.profile.expected_tokens)
        self._refuse(
            Outcome(reject.reason.value),
            _STATUS[reject.reason],
            message,
            reason=reject.reason.value,
            retry_after_seconds=reject.retry_after_seconds,
        )

    # It is forwarded

    def _connect(self) -> None:
        lease = self._lease
        if lease is None:
            return
        self._used_fresh = True
        self._connecting = self._services.engines.connect(
            lease.replica.info.endpoint, self._forward, self._not_connected
        )

    def _not_connected(self, cause: str, is_ours: bool) -> None:
        self._connecting = None
        if is_ours:
            LOGGER.error("out of resources request=%s error=%s", self._request_id.decode(), cause)
            self._refuse(
                Outcome.ROUTER_EXHAUSTED,
                503,
                "the router has no file descriptor, port or memory left for one more request",
                reason=Outcome.ROUTER_EXHAUSTED.value,
                retry_after_seconds=1,
            )
            return
        self._fault("no-connection", cause)

    def _forward(self, connection: EngineConnection) -> None:
        self._connecting = None
        self._connection = connection
        connection.expect_within(self._services.limits.first_byte_seconds)
        connection.send(self, self._request_head(connection), self._exchange.body)

    def answer_progressed(self, connection: EngineConnection) -> None:
        """More of the answer has arrived: pass it on."""
        if self._answering:
            data = connection.take_body()
            connection.expect_within(self._services.limits.stalled_engine_seconds)
        elif connection.status in ELSEWHERE:
            self._pushed_back(connection)
            return
        else:
            data = connection.take_body()
            if not data and not connection.is_complete:
                # Streaming engines send their head at once, long before the first token.
                return
            self._begin_answer(connection, data)
        if b'"usage"' in data:
            self._read_usage(data)
        events = self._events
        if connection.is_complete:
            answered = self._status < FIRST_ERROR_STATUS
            self._end(Outcome.SERVED if answered else Outcome.ENGINE_ERROR)
            self._exchange.finish(data if events is None else events.rest(data))
            return
        if events is not None:
            data = events.pass_on(data)
            if self._lease is not None:
                self._lease.progress(events.num_data_events)
        if data:
            self._exchange.send(data)

    def _begin_answer(self, connection: EngineConnection, data: bytes) -> None:
        """The first byte: from here on there is no other replica."""
        self._answering = True
        self._first_byte_at = time.monotonic()
        status = self._status = connection.status
        if self._lease is not None:
            health = self._lease.replica.health
            if status < FIRST_ERROR_STATUS:
                health.answered()
            else:
                health.error(now_seconds=self._first_byte_at)
        connection.expect_within(self._services.limits.stalled_engine_seconds)
        read = connection.head.read
        told = read.get(b"content-length")
        length = int(told) if told is not None else None
        if length is None and read.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._events = EventStream()
        if length is None and connection.is_complete and self._events is None:
            length = len(data)
        self._exchange.start(status, connection.head.lines() + self._own_lines(), length=length)

    def _read_usage(self, data: bytes) -> None:
        """Prompt and output tokens, as far as the engine says so in this piece."""
        for is_prompt, tokens in _USAGE.findall(data, data.rfind(b'"usage"')):
            if is_prompt:
                self._prompt_tokens = int(tokens)
            else:
                self._output_tokens = int(tokens)

    # Something goes wrong

    def _pushed_back(self, connection: EngineConnection) -> None:
        """An engine that is full, or a proxy before it: not a fault, and not for this client."""
        if not connection.is_complete:
            return
        lines = connection.head.lines()
        body = connection.take_body()[:MAX_HELD_ANSWER_BYTES]
        is_push_back = connection.status in PUSH_BACK
        failure = _Failure(
            cause="push-back" if is_push_back else "bad-gateway",
            status=connection.status,
            lines=lines,
            body=body,
            retry_after=connection.head.read.get(b"retry-after"),
        )
        if not is_push_back and self._lease is not None:
            self._lease.replica.health.error(now_seconds=time.monotonic())
        self._try_elsewhere(failure)

    def answer_lost(self, connection: EngineConnection, cause: str) -> None:
        """The connection broke, or the engine stalled."""
        was_idle = connection.was_reused and not connection.has_head and not self._used_fresh
        self._services.engines.give_back(connection)
        self._connection = None
        if was_idle and not self._answering and "in time" not in cause:
            # The engine may close an idle connection at any time: that is not a fault.
            self._connect()
        elif self._answering:
            if self._lease is not None:
                self._lease.replica.health.fault(now_seconds=time.monotonic())
            LOGGER.warning("answer broken off replica=%s error=%s", self._replica, cause)
            self._break_off(
                Outcome.STREAM_BROKEN,
                f"the replica {self._replica} was lost while it answered; the answer is incomplete",
            )
        else:
            self._fault("timeout" if "in time" in cause else "connection-lost", cause)

    def is_stuck(self) -> None:
        """Its replica hangs, and others do not: before its first byte it can go there."""
        if not self._answering and self._lease is not None:
            self._fault("stuck", "nothing has come back for far longer than it should take")

    def _fault(self, kind: str, cause: str) -> None:
        """The attempt failed before its first byte, and the replica is to blame."""
        if self._lease is not None:
            self._lease.replica.health.fault(now_seconds=time.monotonic())
        LOGGER.warning(
            "replica failed request=%s replica=%s error=%s",
            self._request_id.decode(),
            self._replica,
            cause,
        )
        self._try_elsewhere(_Failure(cause=kind))

    def _try_elsewhere(self, failure: _Failure) -> None:
        self._let_go()
        self._failure = failure
        self.tried.append(self._replica)
        pool = self._pool
        if pool is not None and pool.may_retry(self):
            self._statistics().retried(failure.cause)
            self._seek_room(pool)
            return
        self._give_up(failure)

    def _give_up(self, failure: _Failure) -> None:
        if failure.status:
            # Its own words are the best answer; and a time to come back.
            is_push_back = failure.status in PUSH_BACK
            outcome = Outcome.ENGINE_PUSH_BACK if is_push_back else Outcome.ENGINE_ERROR
            self._status = failure.status
            self._end(outcome)
            retry_after = failure.retry_after or b"2"
            own = b"retry-after: %b\r\n%b: %b\r\n" % (retry_after, REASON, outcome.value.encode())
            self._exchange.respond(
                failure.status, failure.body, failure.lines + own + self._own_lines()
            )
            return
        self._refuse(
            Outcome.REPLICAS_FAILED,
            502,
            f"{len(self.tried)} replica(s) failed before answering: {', '.join(self.tried)}",
            reason="replicas-failed",
            retry_after_seconds=2,
        )

    def client_gone(self) -> None:
        """Nobody will read the answer: stop the engine's work."""
        self._end(Outcome.CLIENT_GONE)

    def client_is_slow(self) -> None:
        """Read no more from the engine until the client has caught up."""
        if self._connection is not None:
            self._connection.pause()

    def client_is_ready(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()
            self._connection.expect_within(self._services.limits.stalled_engine_seconds)

    def shutting_down(self) -> None:
        """The router's time is up."""
        message = "the router is shutting down"
        if self._answering:
            self._break_off(Outcome.SHUTTING_DOWN, message + "; the answer is incomplete")
        else:
            self._refuse(
                Outcome.SHUTTING_DOWN, 503, message, reason="shutting-down", retry_after_seconds=1
            )

    # It ends

    def _break_off(self, outcome: Outcome, message: str) -> None:
        """An answer that has begun and cannot be completed: an error event, or a broken body."""
        exchange = self._exchange
        self._end(outcome)
        if self._events is None:
            exchange.abort()
            return
        is_anthropic = self._route.is_anthropic
        body = error_body(502, message, reason=outcome.value, is_anthropic=is_anthropic)
        if is_anthropic:
            exchange.finish(b"event: error\ndata: %b\n\n" % body)
        else:
            exchange.finish(b"data: %b\n\ndata: [DONE]\n\n" % body)

    def _refuse(
        self,
        outcome: Outcome,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        reason: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        self._status = status
        self._refusal = message
        self._end(outcome)
        lines = JSON + self._own_lines()
        if reason is not None:
            lines += b"%b: %b\r\n" % (REASON, reason.encode())
        if retry_after_seconds is not None:
            lines += b"retry-after: %d\r\n" % retry_after_seconds
        body = error_body(
            status,
            message,
            parameter=parameter,
            reason=reason,
            is_anthropic=self._route.is_anthropic,
        )
        self._exchange.respond(status, body, lines)

    def _let_go(self, *, is_complete: bool = False) -> None:
        """Give back what this attempt held: the engine's connection, and the lease."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._services.engines.give_back(connection)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        lease, self._lease = self._lease, None
        if is_complete and self._prompt_tokens and self._pool and self._request:
            self._request.teach(self._pool.prompts, self._prompt_tokens)
        if lease is not None:
            lease.release(is_complete=is_complete, generated_tokens=self._output_tokens)

    def _end(self, outcome: Outcome) -> None:
        """The one way out."""
        if self._is_over:
            msg = f"the request {self._request_id!r} has ended twice"
            raise RuntimeError(msg)
        self._is_over = True
        self._exchange.sink = None
        if self._queued_at is not None and self._pool is not None:
            self._queue_seconds = time.monotonic() - self._queued_at
            self._pool.withdraw(self)
        self._let_go(is_complete=outcome is Outcome.SERVED)
        exchange = self._exchange
        seconds = time.monotonic() - exchange.received_at
        first_byte = self._first_byte_at
        if first_byte is not None:
            first_byte -= exchange.received_at
        record = Record(
            ended_at=time.time(),
            request_id=self._request_id,
            path=self._route.path,
            model="" if self._request is None else self._request.model,
            outcome=outcome,
            status=self._status,
            replica=self._replica,
            refusal=self._refusal,
            choice=self._choice,
            attempts=self._num_attempts,
            expected_tokens=self.profile.expected_tokens,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            queue_seconds=self._queue_seconds,
            first_byte_seconds=first_byte,
            seconds=seconds,
        )
        self._statistics().ended(record)
        self._services.journal.add(record)

    # What is written on its behalf

    def _request_head(self, connection: EngineConnection) -> bytes:
        exchange = self._exchange
        fields = exchange.fields
        came_through = fields.get(b"x-forwarded-for")
        peer = exchange.peer
        return (
            b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n%b\r\n"
        ) % (
            exchange.target,
            connection.endpoint.authority,
            len(exchange.body),
            self._request_id,
            peer if came_through is None else came_through + b", " + peer,
            fields.get(b"x-forwarded-proto") or exchange.scheme,
            fields.get(b"x-forwarded-host") or fields.get(b"host", b""),
            exchange.lines,
        )

    def _own_lines(self) -> bytes:
        """Our fields of every answer; with the reasons when the client asked for them."""
        lines = b"x-request-id: %b\r\n" % self._request_id
        if EXPLAIN in self._exchange.fields:
            lines += (
                b"x-memroute-replica: %b\r\nx-memroute-decision: %b\r\n"
                b"x-memroute-queue-seconds: %.3f\r\nx-memroute-reserved-tokens: %d\r\n"
            ) % (
                self._replica.encode(),
                _printable(self._refusal or (self._choice.why if self._choice else "")),
                self._queue_seconds or 0.0,
                self.profile.expected_tokens,
            )
        return lines

    def _statistics(self) -> PoolStatistics:
        return self._services.metrics.of(self._pool)


_NOT_IN_IDS = bytes(c for c in range(128) if not chr(c).isprintable() or chr(c) in ' "')
_NOTHING = RequestProfile(
    num_prompt_tokens=0, min_prompt_tokens=0, max_output_tokens=0, assumed_output_tokens=0
)


def _given_id(exchange: Exchange) -> bytes | None:
    given = exchange.fields.get(REQUEST_ID)
    if not given or len(given) > MAX_REQUEST_ID_BYTES or not given.isascii():
        return None
    return given.translate(None, _NOT_IN_IDS) or None


def _session(exchange: Exchange, request: ParsedRequest) -> str:
    """What the client calls the conversation: a header's word goes before the body's."""
    given = exchange.fields.get(SESSION_ID)
    if given is None:
        return request.session
    return given[:MAX_SESSION_BYTES].decode("utf-8", "replace")


def _printable(text: str) -> bytes:
    """What a header field can carry: a model's name is the client's to choose."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text).encode()


class Proxy:
    """Answers the proxied paths: one ``Lifecycle`` for each request."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._num_requests = 0

    def handle(self, exchange: Exchange, route: Route) -> None:
        """Begin one request."""
        self._num_requests += 1
        Lifecycle(self._services, exchange, route, self._num_requests).begin()
