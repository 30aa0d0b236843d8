"""One stream of the gateway: which message may come when, and what becomes of it.

```text
RECEIVING ── body whole ──► DECIDING ── admitted ──► ROUTED ── the answer's head ──► ANSWERING
    │                          │ refused: an immediate answer      │                    │
    ▼                          ▼                                   ▼                    ▼
   OVER ◄──────────────────── OVER            PASSING (nobody counts any more: all goes through)
```

Whatever ends the stream (the gateway, its client, an answer that is whole, a shutdown) ends the
request, once, and with it the lease. Nothing here awaits.
"""

from typing import Final

from memroute_picker.grpc.call import Call, Handler
from memroute_picker.grpc.frames import GrpcStatus
from memroute_picker.picking.asking import Asking, Declined
from memroute_picker.picking.attempt import PickedAttempt
from memroute_picker.picking.exchange import GatewayExchange
from memroute_picker.picking.fallbacks import endpoint_in, next_in_line
from memroute_picker.picking.heads import AnswerHead
from memroute_picker.picking.passing import passes_to
from memroute_picker.picking.request import PickedRequest
from memroute_picker.picking.served_here import are_named_by_pods
from memroute_picker.picking.side import PickerSide
from memroute_picker.picking.telling import Telling
from memroute_picker.protocol import answers
from memroute_picker.protocol.incoming import Incoming, Said
from memroute_picker.protocol.names import ATTRIBUTES, CODE_DETAILS
from memroute_picker.protocol.wire import MalformedError
from memroute_router.http.deadlines import NEVER, monotonic
from memroute_router.http.errors import ANTHROPIC_PATH, error_body
from memroute_router.http.faults import CLIENT
from memroute_router.http.fields import JSON
from memroute_router.replicas.replica import Replica
from memroute_router.surface import ROUTES

RECEIVING: Final = 0
DECIDING: Final = 1
ROUTED: Final = 2
ANSWERING: Final = 3
PASSING: Final = 4
OVER: Final = 5

_ANSWERING_STATES: Final = frozenset({ROUTED, ANSWERING, PASSING})
# Of a message that has no body: header fields, metadata, attributes. Unit: bytes. Source: chosen by
# hand; gateways take 60 KiB of fields.
_MAX_BESIDE_BYTES: Final = 256 * 1024
# Bodies from here on are screened before they come, as in ``http/reading.py``. Unit: bytes.
_SCREENED_BYTES: Final = 64 * 1024


class Process(Handler):
    """One stream. Owns what has come of the request, and how far its answer is."""

    __slots__ = (
        "_answer_status", "_attempt", "_exchange", "_is_slow", "_request", "_side", "_state",
        "asking", "call", "deadline_at", "telling",
    )  # fmt: skip

    def __init__(self, side: PickerSide, call: Call, called: bytes = b"") -> None:
        """``called``: by which name the gateway has called the picker."""
        self._side = side
        self._state = RECEIVING
        self.call = call
        self.asking = Asking(side, call.peer, called)
        self.telling = Telling(side, call)
        self._exchange: GatewayExchange | None = None
        self._request: PickedRequest | None = None
        self._attempt: PickedAttempt | None = None
        self._answer_status = 0
        self._is_slow = False
        """Whether the gateway does not take what it is sent."""
        self.deadline_at = NEVER

    @property
    def peer(self) -> bytes:
        """The client, as the gateway names it."""
        return self.asking.peer

    @property
    def scheme(self) -> bytes:
        """How the client came."""
        return self.asking.scheme

    @staticmethod
    def now_seconds() -> float:
        """The clock of leases and deadlines."""
        return monotonic()

    # Handler

    @property
    def is_answering(self) -> bool:
        """Whether the request has gone to an engine."""
        return self._state in _ANSWERING_STATES

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
        needs_us = self._state != ANSWERING or self.telling.shows_bodies
        if needs_us and exchange is not None and exchange.sink is not None:
            exchange.sink.shutting_down()
            return
        self._gone()
        if needs_us:
            self.call.end(GrpcStatus.UNAVAILABLE, b"the picker is shutting down")
        else:
            self.call.end()  # any error, and the gateway would break the answer off

    def no_room(self) -> None:
        """The picker holds as much of requests as it may: there is no room for this one."""
        if self._state == RECEIVING:
            self._decline(self.asking.no_room())

    def give_up(self) -> None:
        """Others need the room of a body whose rest does not come."""
        try:
            self.no_room()
        except Exception as error:  # noqa: BLE001 - whoever needs the room is another
            self._side.services.on_fault(CLIENT, error)
        self.asking.drop()

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

    # What comes of the request

    def _heard(self, message: Incoming) -> None:
        if self._state == OVER:
            return
        if not self.telling.knows_modes:
            self.telling.take_modes(message)
        said = message.said
        if said == Said.RESPONSE_BODY:
            self._answer_body(message)
        elif said == Said.REQUEST_BODY:
            self._request_body(message)
        elif message.num_bytes > _MAX_BESIDE_BYTES:
            msg = "too many header fields"
            raise MalformedError(msg)
        elif said == Said.REQUEST_HEADERS:
            self._request_head(message)
        elif said == Said.RESPONSE_HEADERS:
            self._answer_head(message)
        elif said == Said.REQUEST_TRAILERS:
            self._request_trailers()
        elif said == Said.RESPONSE_TRAILERS:
            self._answer_trailers()

    def _request_head(self, message: Incoming) -> None:
        asking, telling = self.asking, self.telling
        if asking.has_head or self._state != RECEIVING:
            msg = "a second head"
            raise MalformedError(msg)
        declined = asking.take_head(message)
        if not asking.is_bodiless and not telling.takes_bodies:
            self._side.counts.num_unsupported += 1
            self._state = OVER
            self.call.end(
                GrpcStatus.INVALID_ARGUMENT,
                b"request bodies must come BUFFERED or FULL_DUPLEX_STREAMED",
            )
        elif declined is not None:
            self._decline(declined)
        elif asking.is_bodiless:
            self._begin()
        elif not self._is_screened_out() and telling.is_buffered:
            self.call.send(answers.EMPTY_REQUEST_HEADERS)

    def _is_screened_out(self) -> bool:
        """Whether a large body need not come: its key is none of ours."""
        asking = self.asking
        if asking.length is not None and asking.length <= _SCREENED_BYTES:
            return False
        return self._is_locked_out(asking.fields)

    def _is_locked_out(self, fields: dict[bytes, bytes]) -> bool:
        """Whether a request is refused by its key, and has been."""
        gate, asking = self._side.gate, self.asking
        found = None if gate is None else gate.screen(asking.target, fields)
        if found is None:
            return False
        status, why, cause, lines, body = found
        self._side.on_refusal(asking.peer, asking.target, status, why, cause)
        self._immediate(status, body, lines)
        return True

    def _request_body(self, message: Incoming) -> None:
        if self._state != RECEIVING:
            return
        piece, is_last = message.body()
        declined = self.asking.take_piece(piece)
        if self._state != RECEIVING:
            return  # to make room for it, it was itself given up
        if declined is not None:
            self._decline(declined)
        elif is_last or self.telling.is_buffered:
            self._begin()
        else:
            self.asking.waits_for_more(self)

    def _request_trailers(self) -> None:
        if self._state == RECEIVING:
            self.asking.has_trailers = True
            self._begin()
        else:
            self.call.send(answers.EMPTY_REQUEST_TRAILERS)

    def _begin(self) -> None:
        """The request is whole: what becomes of it?"""
        side, asking = self._side, self.asking
        self._state = DECIDING
        fields, asking.fields = asking.fields, {}
        exchange = self._exchange = GatewayExchange(
            self,
            method=asking.method,
            target=asking.target,
            fields=fields,
            body=asking.take_body(),
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
        elif side.passes_other_paths or (side.gate is None and are_named_by_pods(exchange)):
            self._pass_to_any(exchange)
        else:
            side.otherwise(exchange)

    def _pass_to_any(self, exchange: GatewayExchange) -> None:
        """A request that is none of the API goes to a ready replica, and is not admitted."""
        side, asking = self._side, self.asking
        body, fields = exchange.body, exchange.fields
        exchange.drop_body()
        self._exchange = None
        if self._is_locked_out(fields):
            return
        found = passes_to(side, asking)
        if asking.has_trailers and not body and self.telling.is_buffered:
            # Its head has been answered, and nothing is left that may say where it goes.
            found = Declined(400, "trailers without a body, where bodies come BUFFERED")
        if isinstance(found, Declined):
            self._decline(found)
            return
        self._state = PASSING
        self._goes_to(found, body, side.removals_in_passing, may_be_changed=False)

    # For the attempt

    def pick(self, attempt: PickedAttempt, replica: Replica) -> None:
        """Tell the gateway where the request goes."""
        request, exchange = self._request, self._exchange
        if request is None or exchange is None:
            return
        self._attempt = attempt
        self._state = ROUTED
        replicas = [replica]
        pool = request.pool
        is_wish = self.asking.is_allowed_a_wish
        if pool is not None and (is_wish or self._side.max_endpoints > 1):
            count = len(pool.replicas) if is_wish else self._side.max_endpoints - 1
            replicas += next_in_line(
                pool, replica, request.profile, count=count, now_seconds=pool.now_seconds()
            )
        lines = request.header_lines(replica.upstream.endpoint.authority)
        self._goes_to(replicas, exchange.body, answers.set_headers(lines), may_be_changed=True)

    def _goes_to(
        self, replicas: list[Replica], body: bytes, more: bytes, *, may_be_changed: bool
    ) -> None:
        asking = self.asking
        self.telling.goes_to(
            replicas,
            None if asking.is_bodiless else body,
            more,
            has_trailers=asking.has_trailers,
            may_be_changed=may_be_changed,
        )

    # What comes of the answer

    def _answer_head(self, message: Incoming) -> None:
        head = AnswerHead(message)
        self._answer_status = head.status
        self.telling.has_body = not head.is_last
        served = self.telling.note_served(message)
        attempt = self._attempt
        if self._state != ROUTED or attempt is None:
            # Of what was not ours to answer, or the gateway's own word before it had ours.
            if self._state != PASSING:
                self._gone()
                self._state = PASSING
            self.telling.head(b"")
            return
        self._state = ANSWERING
        if served:
            self._note_served(attempt, served)
        noted = message.attributes(ATTRIBUTES)
        details = None if noted is None else noted.get(CODE_DETAILS)
        heard_at = monotonic()
        attempt.answered(
            head.status,
            head.fields,
            details if isinstance(details, bytes) and details else None,
            heard_at,
        )
        if head.is_last and self._state == ANSWERING:
            attempt.piece_came(b"", is_last=True, heard_at=heard_at)
        request = self._request
        if self._state == ANSWERING and not self.telling.streams_answers and request is not None:
            # One answer is due for each message: the head cannot wait for the body.
            self.telling.head(b"x-request-id: %b\r\n" % request.request_id)

    def _note_served(self, attempt: PickedAttempt, served: bytes) -> None:
        """Who has really got the request.

        An address of nobody is believed where it is the protocol's own word for an endpoint, and is
        one: the lease is released. Else it stays: an address that is seen on the way may be a
        proxy's, before the very replica that was chosen.
        """
        before = attempt.replica
        if not attempt.served_by(served):
            endpoint = endpoint_in(served)
            if endpoint is None or not attempt.served_by(endpoint):
                self._side.counts.num_strangers += 1
                if endpoint is not None and self.telling.is_served_named:
                    attempt.went_astray(endpoint)
                return
        if attempt.replica != before:
            self._side.counts.num_moved += 1

    def _answer_body(self, message: Incoming) -> None:
        data, is_last = message.body()
        attempt, telling = self._attempt, self.telling
        if self._state != ANSWERING or attempt is None:
            telling.passes(data, is_last=is_last)
            return
        attempt.piece_came(data, is_last=is_last, heard_at=monotonic())
        if not telling.streams_answers:
            telling.answer_piece(data)
            return
        exchange = self._exchange
        if not self._is_slow and self.call.is_backed_up and exchange is not None:
            self._is_slow = True
            if exchange.sink is not None:
                exchange.sink.client_is_slow()

    def _answer_trailers(self) -> None:
        if self._state == ANSWERING and self._attempt is not None:
            self.telling.has_trailers = True
            self._attempt.piece_came(b"", is_last=True, heard_at=monotonic())
        self.call.send(answers.EMPTY_RESPONSE_TRAILERS)

    # For the exchange

    def begin_answer(self, lines: bytes) -> None:
        """The answer's head may go on to the client, with more fields."""
        self.telling.head(lines)

    def send_piece(self, data: bytes) -> None:
        """So may a piece of its body."""
        self.telling.piece(data, is_last=False)

    def finish_answer(self, data: bytes) -> None:
        """And the rest of it: from here on nobody counts."""
        self._settled()
        self.telling.piece(data, is_last=True)

    def passes_whole(self, data: bytes) -> None:
        """The last piece leaves as it came, before the request is accounted for.

        Only where it may leave at once. The accounting is a tenth of the picker's work.
        """
        if self.telling.streams_answers and not self.telling.has_trailers:
            self.telling.piece(data, is_last=True)
            self.call.hasten()

    def respond(self, status: int, body: bytes, lines: bytes) -> None:
        """The client gets an answer of ours; or the engine's, if that is what it says."""
        if self.telling.head_is_told:
            self.break_off()
        elif self._state == ANSWERING and status == self._answer_status:
            self._settled()
            self.telling.head(lines)
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

    def _decline(self, declined: Declined) -> None:
        """Refuse what no ``PickedRequest`` tells of; it is accounted for all the same."""
        target, status = self.asking.target, declined.status
        self._side.on_refusal(self.asking.peer, target, status, declined.text, declined.cause)
        body = error_body(status, declined.text, is_anthropic=target.startswith(ANTHROPIC_PATH))
        self._immediate(status, body, JSON + declined.lines)

    def _immediate(self, status: int, body: bytes, lines: bytes) -> None:
        self._settled()
        self._state = OVER
        self.asking.drop()
        self.telling.immediate(status, body, lines)

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
        if attempt is not None and self._state == ANSWERING and not self.telling.shows_bodies:
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
        self.asking.drop()
