"""One stream of the gateway: which message may come when, and what answers it.

```text
RECEIVING ── body whole ──► DECIDING ── admitted ──► ROUTED ── the answer's head ──► ANSWERING
    │                          │ refused: an immediate answer      │                    │
    ▼                          ▼                                   ▼                    ▼
   OVER ◄──────────────────── OVER            PASSING (nobody counts any more: all goes through)
```

The stream is the lease's owner's owner: whatever ends it (the gateway, its client, an answer that
is whole, a shutdown) ends the request, once. Nothing here awaits.
"""

from typing import Final

from memroute_picker.grpc.call import Call, Handler
from memroute_picker.grpc.frames import GrpcStatus
from memroute_picker.picking.attempt import PickedAttempt
from memroute_picker.picking.claims import renamed
from memroute_picker.picking.exchange import GatewayExchange
from memroute_picker.picking.fallbacks import endpoints_of, named, next_in_line
from memroute_picker.picking.heads import AnswerHead, RequestHead
from memroute_picker.picking.request import PickedRequest
from memroute_picker.picking.side import PickerSide
from memroute_picker.protocol import answers
from memroute_picker.protocol.incoming import BodyMode, Incoming, Said
from memroute_picker.protocol.names import (
    ATTRIBUTES,
    CODE_DETAILS,
    LB,
    SERVED,
    SUBSET,
    SUBSET_NAMESPACE,
    TEST_SELECTION,
    TEST_SERVED,
    UPSTREAM_ADDRESS,
)
from memroute_picker.protocol.wire import MalformedError
from memroute_router.http.deadlines import NEVER, monotonic
from memroute_router.http.errors import ANTHROPIC_PATH, error_body
from memroute_router.http.fields import JSON
from memroute_router.replicas.pools import Pool, Replica
from memroute_router.surface import ROUTES

RECEIVING: Final = 0
DECIDING: Final = 1
ROUTED: Final = 2
ANSWERING: Final = 3
PASSING: Final = 4
OVER: Final = 5

SUPPORTED_OF_REQUESTS: Final = (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED)
DETAILS: Final = b"memroute"
"""Of our own answers, in the gateway's log."""
_RETRY_SOON: Final = b"retry-after: 1\r\n"
# Bodies from here on are screened before they come, as in ``http/reading.py``. Unit: bytes.
_SCREENED_BYTES: Final = 64 * 1024


class Process(Handler):
    """One stream. Owns what has come of the request, and how far its answer is."""

    __slots__ = (
        "_answer_status", "_attempt", "_body", "_body_bytes", "_exchange", "_fields",
        "_has_trailers", "_head_is_answered", "_held", "_is_bodiless", "_is_slow", "_method",
        "_mode_of_answers", "_mode_of_requests", "_request", "_served", "_side", "_state",
        "_target", "allowed", "call", "deadline_at", "is_allowed_a_wish", "peer", "scheme",
    )  # fmt: skip

    def __init__(self, side: PickerSide, call: Call) -> None:
        self._side = side
        self.call = call
        self._state = RECEIVING
        self._mode_of_requests = self._mode_of_answers = -1
        """As the first message says; -1: none has come."""
        self._method = self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_bodiless = False
        """Whether the request has no body at all: its head is all there is to answer."""
        self._has_trailers = False
        """Whether trailers end the body that is on its way: the request's, then the answer's."""
        self._exchange: GatewayExchange | None = None
        self._request: PickedRequest | None = None
        self._attempt: PickedAttempt | None = None
        self._answer_status = 0
        self._head_is_answered = False
        """Whether the gateway was told of the answer's head."""
        self._held: list[bytes] = []
        """Of an answer's body, where each message gets one answer."""
        self._is_slow = False
        self._served = b""
        self.allowed: list[bytes] | None = None
        """The endpoints that the request may go to; None: any."""
        self.is_allowed_a_wish = False
        """Whether they are a wish, and any other will do where none of them is there."""
        self.peer = call.peer
        """The client, as the gateway names it."""
        self.scheme = b"http"
        self.deadline_at = NEVER

    @property
    def shows_bodies(self) -> bool:
        """Whether the gateway shows the bodies of answers."""
        return self._mode_of_answers != BodyMode.NONE

    @staticmethod
    def now_seconds() -> float:
        """The clock of leases and deadlines."""
        return monotonic()

    # Handler

    def message(self, data: bytes) -> None:
        """A message of the gateway."""
        try:
            self._heard(Incoming(data))
        except MalformedError:
            self._side.counts.num_malformed += 1
            self._gone()
            self.call.end(GrpcStatus.INVALID_ARGUMENT, b"the message is malformed")

    def half_closed(self) -> None:
        """The gateway has said all: the answer is whole, or nobody wants it."""
        self._gone()
        self.call.end()

    def cancelled(self) -> None:
        """Likewise: a stream that is reset says no more than one that ends."""
        self._gone()

    def shut_down(self) -> None:
        """The picker's time is up."""
        exchange = self._exchange
        # Where bodies are not shown, the gateway brings an answer to its end without us.
        needs_us = self._state != ANSWERING or self.shows_bodies
        if needs_us and exchange is not None and exchange.sink is not None:
            exchange.sink.shutting_down()
        else:
            self._gone()
            self.call.end(GrpcStatus.UNAVAILABLE, b"the picker is shutting down")

    def caught_up(self) -> None:
        """The gateway takes what it is sent again."""
        exchange = self._exchange
        if self._is_slow and exchange is not None and exchange.sink is not None:
            exchange.sink.client_is_ready()
        self._is_slow = False

    def deadline_passed(self) -> None:
        """The engine took too long."""
        if self._attempt is not None:
            self._attempt.late()

    def expect_within(self, seconds: float, *, now_seconds: float) -> None:
        """Something must come in time."""
        self.deadline_at = now_seconds + seconds

    # What comes

    def _heard(self, message: Incoming) -> None:
        if self._state == OVER:
            return
        if self._mode_of_requests < 0:
            self._take_modes(message)
        said = message.said
        if said == Said.RESPONSE_BODY:
            self._answer_body(message)
        elif said == Said.REQUEST_BODY:
            self._request_body(message)
        elif said == Said.REQUEST_HEADERS:
            self._request_head(message)
        elif said == Said.RESPONSE_HEADERS:
            self._answer_head(message)
        elif said == Said.REQUEST_TRAILERS:
            self._request_trailers(message)
        elif said == Said.RESPONSE_TRAILERS:
            self._answer_trailers()

    def _take_modes(self, message: Incoming) -> None:
        """How bodies come. A gateway that does not say expects an answer to each message."""
        modes = message.modes() or (BodyMode.BUFFERED, BodyMode.STREAMED)
        self._mode_of_requests, self._mode_of_answers = modes

    def _request_head(self, message: Incoming) -> None:
        head = RequestHead(message)
        fields = self._fields = head.fields
        self._method = fields.get(b":method", b"")
        self._target = fields.get(b":path", b"")
        self.scheme = fields.get(b":scheme", b"http")
        self.peer = head.client() or self.call.peer
        self._hints(message, fields)
        if not head.is_last and self._mode_of_requests not in SUPPORTED_OF_REQUESTS:
            self._side.counts.num_unsupported += 1
            self._state = OVER
            self.call.end(
                GrpcStatus.INVALID_ARGUMENT,
                b"request bodies must come BUFFERED or FULL_DUPLEX_STREAMED",
            )
        elif head.twice:
            self._refuse(400, f"more than one {head.twice.decode('latin-1')}")
        elif head.length is not None and head.length > self._side.max_body_bytes:
            self._refuse(413, f"the body is larger than {self._side.max_body_bytes} bytes")
        else:
            renamed(fields, self._side.objectives)
            if head.is_last:
                self._is_bodiless = True
                self._begin()
            elif not self._is_screened_out(head.length) and (
                self._mode_of_requests != BodyMode.FULL_DUPLEX_STREAMED
            ):
                self.call.send(answers.EMPTY_REQUEST_HEADERS)

    def _is_screened_out(self, length: int | None) -> bool:
        """Whether a large body need not come: its key is none of ours."""
        gate = self._side.gate
        if gate is None or (length is not None and length <= _SCREENED_BYTES):
            return False
        found = gate.screen(self._target, self._fields)
        if found is None:
            return False
        status, why, cause, lines, body = found
        self._side.on_refusal(self.peer, self._target, status, why, cause)
        self._immediate(status, body, lines)
        return True

    def _hints(self, message: Incoming, fields: dict[bytes, bytes]) -> None:
        """Which endpoints the gateway allows, or the test of one asks for."""
        noted = message.metadata(SUBSET_NAMESPACE)
        if noted is not None and SUBSET in noted:
            self.allowed = endpoints_of(noted[SUBSET])
        if self._side.is_test and TEST_SELECTION in fields:
            self.allowed = endpoints_of(fields[TEST_SELECTION])
            self.is_allowed_a_wish = True

    def _request_body(self, message: Incoming) -> None:
        if self._state != RECEIVING:
            return
        piece, is_last = message.body()
        num_bytes = self._body_bytes + len(piece)
        if num_bytes > self._side.max_body_bytes:
            self._refuse(413, f"the body is larger than {self._side.max_body_bytes} bytes")
            return
        if piece:
            if not self._side.budget.take(len(piece), num_bytes):
                self._refuse(
                    503, "the picker holds as many bytes of requests as it may",
                    lines=_RETRY_SOON, cause="bodies",
                )  # fmt: skip
                return
            self._body.append(piece)
            self._body_bytes = num_bytes
        if is_last or self._mode_of_requests == BodyMode.BUFFERED:
            self._begin()

    def _request_trailers(self, message: Incoming) -> None:
        if self._state == RECEIVING:
            self._has_trailers = True
            self._begin()
        else:
            self.call.send(answers.EMPTY_REQUEST_TRAILERS)

    def _begin(self) -> None:
        """The request is whole: what becomes of it?"""
        side = self._side
        self._state = DECIDING
        pieces, self._body = self._body, []
        self._body_bytes = 0
        fields, self._fields = self._fields, {}
        exchange = self._exchange = GatewayExchange(
            self,
            method=self._method,
            target=self._target,
            fields=fields,
            body=pieces[0] if len(pieces) == 1 else b"".join(pieces),
            received_at=monotonic(),
            budget=side.budget,
        )
        route = ROUTES.get(exchange.target) or ROUTES.get(exchange.path)
        if route is not None and exchange.method == b"POST":
            side.num_requests += 1
            side.deadlines.watch(self)
            request = self._request = PickedRequest(
                side.services, exchange, route, side.num_requests
            )
            request.begin()
        elif side.passes_other_paths:
            self._pass_to_any(exchange)
        else:
            side.otherwise(exchange)

    def _pass_to_any(self, exchange: GatewayExchange) -> None:
        """A request that is none of the API goes to a ready replica, and is not admitted."""
        side = self._side
        ready = [
            replica
            for pool in side.pools.by_model.values()
            for replica in pool.replicas.values()
            if replica.backend.is_routable and not replica.health.is_out
        ]
        if self.allowed is not None:
            wanted = named(ready, self.allowed)
            ready = wanted or (ready if self.is_allowed_a_wish else [])
        if not ready:
            self._refuse(503, "no endpoint is ready", lines=_RETRY_SOON)
            return
        side.num_requests += 1
        first = 0 if self.is_allowed_a_wish else side.num_requests % len(ready)
        count = len(ready) if self.is_allowed_a_wish else 1
        body = exchange.body
        self._told(ready[first : first + count], body, b"", is_changed=False)
        exchange.drop_body()
        self._exchange = None
        self._state = PASSING

    # For the attempt

    def pick(self, attempt: PickedAttempt, replica: Replica) -> None:
        """Tell the gateway where the request goes."""
        request, exchange = self._request, self._exchange
        if request is None or exchange is None:
            return
        self._attempt = attempt
        self._state = ROUTED
        replicas = [replica]
        count = self._side.max_endpoints - 1
        pool = request.pool
        if pool is not None and (count > 0 or self.is_allowed_a_wish):
            replicas += self._others(pool, replica, request, count)
        lines = request.header_lines(replica.upstream.endpoint.authority)
        self._told(replicas, exchange.body, answers.set_headers(lines), is_changed=True)

    def _others(
        self, pool: Pool, replica: Replica, request: PickedRequest, count: int
    ) -> list[Replica]:
        if self.is_allowed_a_wish:
            count = len(pool.replicas)
        return next_in_line(
            pool, replica, request.profile, count=count, now_seconds=pool.now_seconds()
        )

    def _told(self, replicas: list[Replica], body: bytes, more: bytes, *, is_changed: bool) -> None:
        """The answers that let the request go there. ``is_changed``: whether the body may be."""
        side, call = self._side, self.call
        endpoints = b",".join([replica.upstream.endpoint.authority for replica in replicas])
        header, metadata = side.destination(endpoints)
        mutation = header + more + side.removals
        if not self._is_bodiless:
            mutation += answers.set_header(b"content-length", b"%d" % len(body))
        if self._is_bodiless or self._mode_of_requests == BodyMode.FULL_DUPLEX_STREAMED:
            call.send(answers.picked(mutation, metadata))
            if not self._is_bodiless:
                for piece in answers.request_pieces(body, is_last=not self._has_trailers):
                    call.send(piece)
        else:
            call.send(answers.picked_by_body(mutation, metadata, body if is_changed else None))
        if self._has_trailers:
            self._has_trailers = False
            call.send(answers.EMPTY_REQUEST_TRAILERS)

    # The answer comes

    def _answer_head(self, message: Incoming) -> None:
        head = AnswerHead(message)
        self._answer_status = head.status
        self._note_served(message)
        attempt = self._attempt
        if self._state != ROUTED or attempt is None:
            # Of a request that was not ours to answer, or the gateway's own word before we had one.
            if self._state != PASSING:
                self._gone()
                self._state = PASSING
            self._answer_head_with(b"")
            return
        self._state = ANSWERING
        details: bytes | None = None
        noted = message.attributes(ATTRIBUTES)
        if noted is not None:
            said = noted.get(CODE_DETAILS)
            if isinstance(said, bytes) and said:
                details = said
        heard_at = monotonic()
        attempt.answered(head.status, head.fields, details, heard_at)
        if head.is_last and self._state == ANSWERING:
            attempt.piece_came(b"", is_last=True, heard_at=heard_at)
        if (
            self._state == ANSWERING
            and not self._head_is_answered
            and self._mode_of_answers != BodyMode.FULL_DUPLEX_STREAMED
        ):
            # One answer is due for each message: its fields cannot wait for the body.
            self._head_is_answered = True
            self._answer_head_with(request_id_line(self._request))

    def _note_served(self, message: Incoming) -> None:
        """Who has really got the request."""
        noted = message.metadata(LB)
        served = noted.get(SERVED) if noted is not None else None
        if not isinstance(served, bytes) or not served:
            beside = message.attributes(ATTRIBUTES)
            served = beside.get(UPSTREAM_ADDRESS) if beside is not None else None
        if not isinstance(served, bytes) or not served:
            return
        self._served = served
        attempt = self._attempt
        if attempt is None:
            return
        before = attempt.replica
        if not attempt.served_by(served):
            self._side.counts.num_strangers += 1
        elif attempt.replica != before:
            self._side.counts.num_moved += 1

    def _answer_body(self, message: Incoming) -> None:
        data, is_last = message.body()
        if self._mode_of_answers == BodyMode.FULL_DUPLEX_STREAMED:
            if self._state == ANSWERING and self._attempt is not None:
                self._attempt.piece_came(data, is_last=is_last, heard_at=monotonic())
                self._look_whether_slow()
            else:
                for piece in answers.response_pieces(data, is_last=is_last):
                    self.call.send(piece)
            return
        passed = data
        if self._state == ANSWERING and self._attempt is not None:
            self._attempt.piece_came(data, is_last=is_last, heard_at=monotonic())
            held, self._held = self._held, []
            passed = b"".join(held)
        if passed == data:
            self.call.send(answers.EMPTY_RESPONSE_BODY)
        else:
            self.call.send(answers.response_body(passed))

    def _answer_trailers(self) -> None:
        if self._state == ANSWERING and self._attempt is not None:
            self._has_trailers = True
            self._attempt.piece_came(b"", is_last=True, heard_at=monotonic())
        self.call.send(answers.EMPTY_RESPONSE_TRAILERS)

    def _look_whether_slow(self) -> None:
        exchange = self._exchange
        if not self._is_slow and self.call.is_backed_up and exchange is not None:
            self._is_slow = True
            if exchange.sink is not None:
                exchange.sink.client_is_slow()

    # For the exchange

    def begin_answer(self, lines: bytes) -> None:
        """The answer's head may go on to the client, with more fields."""
        if not self._head_is_answered:
            self._head_is_answered = True
            self._answer_head_with(lines)

    def send_piece(self, data: bytes) -> None:
        """So may a piece of its body."""
        if self._mode_of_answers == BodyMode.FULL_DUPLEX_STREAMED:
            for piece in answers.response_pieces(data, is_last=False):
                self.call.send(piece)
        elif self._mode_of_answers != BodyMode.NONE:
            self._held.append(data)

    def finish_answer(self, data: bytes) -> None:
        """And the rest of it: from here on nobody counts."""
        self._settled()
        if self._mode_of_answers == BodyMode.FULL_DUPLEX_STREAMED:
            if data or not self._has_trailers:
                for piece in answers.response_pieces(data, is_last=not self._has_trailers):
                    self.call.send(piece)
        elif data and self._mode_of_answers != BodyMode.NONE:
            self._held.append(data)

    def respond(self, status: int, body: bytes, lines: bytes) -> None:
        """The client gets an answer of ours; or the engine's, if that is what it says."""
        if self._state == ANSWERING and not self._head_is_answered and (
            status == self._answer_status
        ):  # fmt: skip
            self._head_is_answered = True
            self._settled()
            self._answer_head_with(lines)
        elif self._head_is_answered:
            self.break_off()
        else:
            self._immediate(status, body, lines)

    def break_off(self) -> None:
        """The answer cannot be completed: the gateway closes its client's connection."""
        self._immediate(502, b"", b"")

    def write(self, data: bytes) -> None:
        """Nothing is written past the messages."""

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The gateway keeps its connections itself."""

    def abort(self) -> None:
        """Break the stream off."""
        self.break_off()

    # It ends

    def _refuse(self, status: int, text: str, *, lines: bytes = b"", cause: str = "") -> None:
        """Refuse what no ``PickedRequest`` tells of; it is accounted for all the same."""
        self._side.on_refusal(self.peer, self._target, status, text, cause)
        body = error_body(status, text, is_anthropic=self._target.startswith(ANTHROPIC_PATH))
        self._immediate(status, body, JSON + lines)

    def _immediate(self, status: int, body: bytes, lines: bytes) -> None:
        self.call.send(answers.immediate(status, answers.set_headers(lines), body, DETAILS))
        self._settled()
        self._state = OVER
        self._drop_body()
        self.call.end()

    def _answer_head_with(self, lines: bytes) -> None:
        mutation = answers.set_headers(lines) if lines else b""
        if self._side.is_test:
            mutation += answers.set_header(TEST_SERVED, self._served)
        self.call.send(answers.answered(mutation) if mutation else answers.EMPTY_RESPONSE_HEADERS)

    def _settled(self) -> None:
        """The request is accounted for: what still comes of its answer goes through."""
        if self._request is not None:
            self._side.deadlines.forget(self)
            self._request = None
        self._attempt = None
        self._exchange = None
        self.deadline_at = NEVER
        if self._state != OVER:
            self._state = PASSING

    def _gone(self) -> None:
        """The stream is over: so is the request, if it was not."""
        attempt, exchange = self._attempt, self._exchange
        if attempt is not None and self._state == ANSWERING and not self.shows_bodies:
            # Bodies are not shown: that the stream ends is all there is to hear of the end.
            attempt.piece_came(b"", is_last=True, heard_at=monotonic())
        elif exchange is not None and exchange.sink is not None:
            exchange.is_finished = True
            sink, exchange.sink = exchange.sink, None
            sink.client_gone()
        if exchange is not None:
            exchange.drop_body()
        self._settled()
        self._state = OVER
        self._drop_body()

    def _drop_body(self) -> None:
        """What has come of a body that nobody will get."""
        pieces, self._body = self._body, []
        for piece in pieces:
            self._side.budget.give_back(len(piece))


def request_id_line(request: PickedRequest | None) -> bytes:
    """The field that names the request to its client; empty: it is over."""
    return b"" if request is None else b"x-request-id: %b\r\n" % request.request_id
