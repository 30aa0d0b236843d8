"""One request, from its bytes to its end: admit, forward, release.

Until a byte of the answer has been passed on, a failed replica is replaced by another. After
that nothing can be taken back: a stream ends with an error event that clients raise, another
body is broken off.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import orjson

from memroute.admission import Reject, RejectReason
from memroute_router.http.server import Exchange, Headers
from memroute_router.http.upstream import UpstreamConnection, UpstreamError, UpstreamPool
from memroute_router.metrics import RouterMetrics
from memroute_router.pools import Lease, Pool, Pools
from memroute_router.requests import BadRequestError, CompletionRequest, parse_request
from memroute_router.settings import RouterSettings

LOGGER = logging.getLogger(__name__)
REASON_HEADER = b"x-memroute-reason"
EXPLAIN_HEADER = b"x-memroute-explain"
REQUEST_ID_HEADER = b"x-request-id"
MAX_REQUEST_ID_BYTES = 128
JSON_TYPE = (b"content-type", b"application/json")
NUM_REMEMBERED_DECISIONS = 256
_HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
        EXPLAIN_HEADER, REQUEST_ID_HEADER,
    )
)  # fmt: skip
_STATUS = {
    RejectReason.NEVER_FITS: (400, "BadRequestError"),
    RejectReason.SATURATED: (429, "RateLimitError"),
    RejectReason.NO_READY_REPLICA: (503, "ServiceUnavailableError"),
}
PUSH_BACK = frozenset({429, 503})
# The engine's own queue is full, or it is shutting down: another replica may take the request.


class Outcome(StrEnum):
    """How a request ended; the value is a metric label."""

    SERVED = "served"
    BAD_REQUEST = "bad-request"
    UNKNOWN_MODEL = "unknown-model"
    NEVER_FITS = "never-fits"
    SATURATED = "saturated"
    NO_READY_REPLICA = "no-ready-replica"
    REPLICAS_FAILED = "replicas-failed"
    STREAM_BROKEN = "stream-broken"
    CLIENT_GONE = "client-gone"


@dataclass(slots=True)
class _Trace:
    """What the canonical log line says of one request."""

    request_id: str
    started_at: float
    model: str = ""
    replica: str = ""
    why: str = ""
    outcome: Outcome = Outcome.CLIENT_GONE
    attempts: int = 0
    status: int = 0
    expected_tokens: int = 0
    generated_chunks: int = 0
    first_byte_seconds: float | None = None


@dataclass(slots=True)
class _Failure:
    """Why an attempt ended before its first byte; with what the engine said, if it said it."""

    cause: str
    status: int = 0
    headers: Headers | None = None
    body: bytes = b""


class Proxy:
    """Answers completion requests. Owns the ring of recent decisions."""

    def __init__(
        self, pools: Pools, upstream: UpstreamPool, metrics: RouterMetrics, settings: RouterSettings
    ) -> None:
        self._pools = pools
        self._upstream = upstream
        self._metrics = metrics
        self._settings = settings
        self.decisions: deque[dict[str, object]] = deque(maxlen=NUM_REMEMBERED_DECISIONS)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        trace = _Trace(_request_id(exchange), time.monotonic())
        pool: Pool | None = None
        try:
            request = parse_request(exchange.request.path, exchange.request.body)
            trace.model = request.model
            pool = self._pools.get(request.model)
            if pool is None:
                trace.outcome = Outcome.UNKNOWN_MODEL
                await self._refuse_model(exchange, trace, request)
            else:
                await self._serve(exchange, trace, pool, request)
        except BadRequestError as error:
            trace.outcome = Outcome.BAD_REQUEST
            await _respond_error(
                exchange, trace, 400, error.message, "BadRequestError", parameter=error.parameter
            )
        finally:
            self._account(trace, pool)

    async def _serve(
        self, exchange: Exchange, trace: _Trace, pool: Pool, request: CompletionRequest
    ) -> None:
        profile = request.profile(assumed_output_tokens=pool.assumed_output_tokens)
        trace.expected_tokens = profile.expected_tokens
        tried: list[str] = []
        failure: _Failure | None = None
        while len(tried) < self._settings.max_attempts:
            verdict = pool.admit(profile, excluding=tried)
            if isinstance(verdict, Reject):
                if failure is None:
                    await self._reject(exchange, trace, pool, verdict)
                    return
                break
            lease = verdict
            trace.attempts += 1
            trace.replica, trace.why = lease.replica.info.key, lease.choice.why
            try:
                failure = await self._attempt(exchange, trace, lease, request)
            finally:
                lease.release()
            if failure is None:
                if trace.outcome is Outcome.SERVED:
                    self._metrics.admitted_tokens.labels(*self._metrics.pool_labels(pool)).inc(
                        profile.expected_tokens
                    )
                return
            tried.append(lease.replica.info.key)
            self._metrics.retries.labels(*self._metrics.pool_labels(pool), failure.cause).inc()
            LOGGER.warning(
                "attempt failed request=%s replica=%s cause=%s",
                trace.request_id, trace.replica, failure.cause,
            )  # fmt: skip
        await self._give_up(exchange, trace, tried, failure)

    async def _attempt(
        self, exchange: Exchange, trace: _Trace, lease: Lease, request: CompletionRequest
    ) -> _Failure | None:
        """Forward to one replica; None once the answer has begun, however it ended."""
        endpoint = lease.replica.info.endpoint
        connection: UpstreamConnection | None = None
        try:
            try:
                connection, status, headers = await self._send(exchange, trace, endpoint)
                if status in PUSH_BACK:
                    body = await connection.read_whole_body()
                    return _Failure("push-back", status, headers, body)
                first = await connection.read_body()
            except UpstreamError as error:
                lease.replica.suspect()
                LOGGER.warning("replica failed replica=%s error=%s", trace.replica, error)
                return _Failure("connection-lost")
            trace.first_byte_seconds = time.monotonic() - trace.started_at
            trace.status = status
            await self._pass_on(exchange, trace, lease, request, connection, first)
        finally:
            if connection is not None:
                self._upstream.release(endpoint, connection)
        return None

    async def _send(
        self, exchange: Exchange, trace: _Trace, endpoint: tuple[str, int]
    ) -> tuple[UpstreamConnection, int, Headers]:
        """Send the request and read the answer's head; once more, if an idle connection dies."""
        head = _request_head(exchange, trace, endpoint)
        fresh = False
        while True:
            connection = await self._upstream.acquire(endpoint, fresh=fresh)
            try:
                await connection.send(head, exchange.request.body)
                status, headers = await connection.read_head(
                    timeout_seconds=self._settings.first_byte_timeout_seconds
                )
            except UpstreamError:
                self._upstream.release(endpoint, connection)
                if fresh or not connection.was_reused:
                    raise
                # The engine may close an idle connection at any time: that is not a fault.
                fresh = True
            except asyncio.CancelledError:
                connection.close()
                self._upstream.release(endpoint, connection)
                raise
            else:
                return connection, status, headers

    async def _pass_on(
        self,
        exchange: Exchange,
        trace: _Trace,
        lease: Lease,
        request: CompletionRequest,
        connection: UpstreamConnection,
        first: bytes | None,
    ) -> None:
        exchange.start(connection.status, _answer_headers(exchange, trace, connection.headers))
        piece = first
        try:
            while piece is not None:
                if request.is_stream:
                    # One event is about one token: good enough for the ledger, free to count.
                    trace.generated_chunks += piece.count(b"data: {")
                    lease.progress(trace.generated_chunks)
                await exchange.write(piece)
                piece = await connection.read_body()
        except UpstreamError as error:
            lease.replica.suspect()
            trace.outcome = Outcome.STREAM_BROKEN
            LOGGER.warning("answer broken off replica=%s error=%s", trace.replica, error)
            if not request.is_stream:
                exchange.abort()
                return
            document = _error_document(
                f"the replica {trace.replica} was lost while it answered; the answer is incomplete",
                "ServiceUnavailableError",
                502,
            )
            await exchange.write(b"data: " + document + b"\n\ndata: [DONE]\n\n")
            exchange.finish()
            return
        trace.outcome = Outcome.SERVED
        exchange.finish()

    async def _reject(self, exchange: Exchange, trace: _Trace, pool: Pool, reject: Reject) -> None:
        trace.outcome = Outcome(reject.reason.value)
        message = reject.message
        if reject.reason is RejectReason.NO_READY_REPLICA and pool.settings is not None:
            why = pool.settings.unready_reason
            message += f" ({pool.settings.deployment}: {why})" if why else ""
        trace.why = message
        labels = self._metrics.pool_labels(pool)
        self._metrics.shed_tokens.labels(*labels, reject.reason.value).inc(trace.expected_tokens)
        status, kind = _STATUS[reject.reason]
        await _respond_error(
            exchange,
            trace,
            status,
            message,
            kind,
            reason=reject.reason.value,
            retry_after_seconds=reject.retry_after_seconds,
        )

    async def _refuse_model(
        self, exchange: Exchange, trace: _Trace, request: CompletionRequest
    ) -> None:
        known = ", ".join(sorted(self._pools.by_model)) or "none"
        await _respond_error(
            exchange,
            trace,
            404,
            f"the model {request.model!r} does not exist; models: {known}",
            "NotFoundError",
            parameter="model",
            reason="unknown-model",
        )

    async def _give_up(
        self, exchange: Exchange, trace: _Trace, tried: list[str], failure: _Failure | None
    ) -> None:
        if failure is not None and failure.status:
            # Every replica pushed back: its own words are the best answer, and a time to come back.
            trace.outcome, trace.status = Outcome.SATURATED, failure.status
            headers = _answer_headers(exchange, trace, failure.headers or [])
            headers = [h for h in headers if h[0] != b"retry-after"] + [(b"retry-after", b"2")]
            headers.append((REASON_HEADER, b"engine-push-back"))
            await exchange.respond(failure.status, failure.body, headers)
            return
        trace.outcome = Outcome.REPLICAS_FAILED
        await _respond_error(
            exchange,
            trace,
            502,
            f"{len(tried)} replica(s) failed before answering: {', '.join(tried)}",
            "ServiceUnavailableError",
            reason="replicas-failed",
            retry_after_seconds=2,
        )

    def _account(self, trace: _Trace, pool: Pool | None) -> None:
        labels = self._metrics.pool_labels(pool)
        seconds = time.monotonic() - trace.started_at
        self._metrics.requests.labels(*labels, trace.outcome.value).inc()
        if trace.outcome is Outcome.SERVED:
            self._metrics.request_seconds.labels(*labels).observe(seconds)
            if trace.first_byte_seconds is not None:
                self._metrics.first_byte_seconds.labels(*labels).observe(trace.first_byte_seconds)
        self.decisions.append(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request": trace.request_id,
                "model": trace.model,
                "outcome": trace.outcome.value,
                "replica": trace.replica,
                "why": trace.why,
                "attempts": trace.attempts,
                "expected_tokens": trace.expected_tokens,
                "seconds": round(seconds, 4),
            }
        )
        LOGGER.info(
            "request id=%s model=%s outcome=%s status=%d replica=%s attempts=%d "
            "expected_tokens=%d first_byte_seconds=%s seconds=%.3f",
            trace.request_id, trace.model, trace.outcome.value, trace.status, trace.replica or "-",
            trace.attempts, trace.expected_tokens,
            f"{trace.first_byte_seconds:.3f}" if trace.first_byte_seconds is not None else "-",
            seconds,
        )  # fmt: skip


def _request_id(exchange: Exchange) -> str:
    given = exchange.request.header(REQUEST_ID_HEADER)
    if given and len(given) <= MAX_REQUEST_ID_BYTES and given.isascii():
        return "".join(c for c in given.decode() if c.isprintable() and c not in ' "')
    return uuid.uuid4().hex


def _request_head(exchange: Exchange, trace: _Trace, endpoint: tuple[str, int]) -> bytes:
    request = exchange.request
    lines = [
        b"%s %s HTTP/1.1" % (request.method.encode(), request.target),
        b"host: %s:%d" % (endpoint[0].encode(), endpoint[1]),
        b"content-length: %d" % len(request.body),
        b"%s: %s" % (REQUEST_ID_HEADER, trace.request_id.encode()),
    ]
    lines += [b"%s: %s" % pair for pair in request.headers if pair[0] not in _HOP_BY_HOP]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _answer_headers(exchange: Exchange, trace: _Trace, headers: Headers) -> Headers:
    """The engine's headers, end to end; with ours when the client asked why."""
    kept = [h for h in headers if h[0] not in _HOP_BY_HOP or h[0] == b"content-length"]
    kept.append((REQUEST_ID_HEADER, trace.request_id.encode()))
    if exchange.request.header(EXPLAIN_HEADER):
        kept.append((b"x-memroute-replica", trace.replica.encode()))
        kept.append((b"x-memroute-decision", trace.why.encode("ascii", "replace")))
    return kept


def _error_document(
    message: str, kind: str, status: int, *, parameter: str | None = None, reason: str | None = None
) -> bytes:
    error = {"message": message, "type": kind, "param": parameter, "code": reason or status}
    return orjson.dumps({"error": error})


async def _respond_error(
    exchange: Exchange,
    trace: _Trace,
    status: int,
    message: str,
    kind: str,
    *,
    parameter: str | None = None,
    reason: str | None = None,
    retry_after_seconds: int | None = None,
) -> None:
    trace.status = status
    headers: Headers = [JSON_TYPE, (REQUEST_ID_HEADER, trace.request_id.encode())]
    if reason is not None:
        headers.append((REASON_HEADER, reason.encode()))
    if retry_after_seconds is not None:
        headers.append((b"retry-after", str(retry_after_seconds).encode()))
    document = _error_document(message, kind, status, parameter=parameter, reason=reason)
    await exchange.respond(status, document, headers)
