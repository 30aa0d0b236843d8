"""What the gateway is told of one request, in the form that its body modes ask for.

```text
request, answer     what answers what
duplex              each message by any number, in order: head, body, trailers
BUFFERED, STREAMED  each message by one
NONE                there are no messages
```
"""

from typing import Final

from memroute_picker.grpc.call import Call
from memroute_picker.picking.side import PickerSide
from memroute_picker.protocol import answers
from memroute_picker.protocol.incoming import BodyMode, Incoming
from memroute_picker.protocol.names import (
    ATTRIBUTES,
    LB,
    SERVED,
    TEST_SERVED,
    UPSTREAM_ADDRESS,
)
from memroute_router.replicas.replica import Replica

SUPPORTED_OF_REQUESTS: Final = (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED)
DETAILS: Final = b"memroute"
"""Of our own answers, in the gateway's log."""


class Telling:
    """The gateway's side of a stream. Owns how far its answer has been told."""

    __slots__ = (
        "_held", "_mode_of_answers", "_mode_of_requests", "_served", "_side", "call",
        "has_body", "has_trailers", "head_is_told", "is_served_named", "is_whole",
    )  # fmt: skip

    def __init__(self, side: PickerSide, call: Call) -> None:
        self._side = side
        self.call = call
        self._mode_of_requests = self._mode_of_answers = -1
        self._held: list[bytes] = []
        """Of an answer's body, where each message gets one answer."""
        self._served = b""
        self.is_served_named = False
        """Whether the protocol's own word says who has served, not an address seen on the way."""
        self.head_is_told = False
        """Whether the answer's head may go on to the client."""
        self.has_body = True
        """Whether the answer has one: else no message of it may be sent back."""
        self.has_trailers = False
        """Whether trailers end the answer's body."""
        self.is_whole = False
        """Whether the last piece of its body was told."""

    # How bodies come

    @property
    def knows_modes(self) -> bool:
        """Whether the first message has come."""
        return self._mode_of_requests >= 0

    def take_modes(self, message: Incoming) -> None:
        """How bodies come. A gateway that does not say expects an answer to each message."""
        modes = message.modes() or (BodyMode.BUFFERED, BodyMode.STREAMED)
        self._mode_of_requests, self._mode_of_answers = modes

    @property
    def takes_bodies(self) -> bool:
        """Whether requests' bodies come in a way that is supported."""
        return self._mode_of_requests in SUPPORTED_OF_REQUESTS

    @property
    def is_buffered(self) -> bool:
        """Whether a request's body comes whole, and each message gets one answer."""
        return self._mode_of_requests == BodyMode.BUFFERED

    @property
    def shows_bodies(self) -> bool:
        """Whether the bodies of answers are shown."""
        return self._mode_of_answers != BodyMode.NONE

    @property
    def shows_progress(self) -> bool:
        """Whether pieces of an answer are shown as they come."""
        return self._mode_of_answers in (BodyMode.STREAMED, BodyMode.FULL_DUPLEX_STREAMED)

    @property
    def streams_answers(self) -> bool:
        """Whether the bodies of answers may be sent back in any number of pieces."""
        return self._mode_of_answers == BodyMode.FULL_DUPLEX_STREAMED

    # The request

    def goes_to(
        self,
        replicas: list[Replica],
        body: bytes | None,
        more: bytes,
        *,
        has_trailers: bool,
        may_be_changed: bool,
    ) -> None:
        """The request may go to the first of them, and by the gateway's leave to the next.

        ``body``: None where it has none. ``more``: part of the mutation of its header fields.
        ``may_be_changed``: whether the body may be other than what came.
        """
        side, call = self._side, self.call
        endpoints = b",".join([replica.upstream.endpoint.authority for replica in replicas])
        header, metadata = side.destination(endpoints)
        mutation = header + more + side.removals
        if body is not None:
            mutation += answers.set_header(b"content-length", b"%d" % len(body))
        if body is None:
            call.send(answers.picked(mutation, metadata))
        elif self._mode_of_requests == BodyMode.FULL_DUPLEX_STREAMED:
            call.send(answers.picked(mutation, metadata))
            for piece in answers.request_pieces(body, is_last=not has_trailers):
                call.send(piece)
        else:
            another = body if may_be_changed else None
            call.send(answers.picked_by_body(mutation, metadata, another))
        if has_trailers:
            call.send(answers.EMPTY_REQUEST_TRAILERS)

    def immediate(self, status: int, body: bytes, lines: bytes) -> None:
        """The client gets this, and the stream ends."""
        self.call.send(answers.immediate(status, answers.set_headers(lines), body, DETAILS))
        self.call.end()

    # The answer

    def note_served(self, message: Incoming) -> bytes:
        """Who has really got the request, by the gateway's word; empty: it does not say."""
        noted = message.metadata(LB)
        served = None if noted is None else noted.get(SERVED)
        self.is_served_named = isinstance(served, bytes) and bool(served)
        if not self.is_served_named:
            beside = message.attributes(ATTRIBUTES)
            served = None if beside is None else beside.get(UPSTREAM_ADDRESS)
        self._served = served if isinstance(served, bytes) else b""
        return self._served

    def head(self, lines: bytes) -> None:
        """The answer's head may go on to the client, with more fields; once."""
        if self.head_is_told:
            return
        self.head_is_told = True
        mutation = answers.set_headers(lines) if lines else b""
        if self._side.is_test:
            mutation += answers.set_header(TEST_SERVED, self._served)
        self.call.send(answers.answered(mutation) if mutation else answers.EMPTY_RESPONSE_HEADERS)

    def piece(self, data: bytes, *, is_last: bool) -> None:
        """So may a piece of its body; nothing after the last one."""
        if not self.has_body or self.is_whole:
            return
        self.is_whole = is_last
        if self.streams_answers:
            # Where trailers follow, they are the end.
            is_end = is_last and not self.has_trailers
            if data or is_end:
                for each in answers.response_pieces(data, is_last=is_end):
                    self.call.send(each)
        elif data and self.shows_bodies:
            self._held.append(data)

    def passes(self, data: bytes, *, is_last: bool) -> None:
        """A piece goes through as it came."""
        if self.streams_answers:
            for each in answers.response_pieces(data, is_last=is_last):
                self.call.send(each)
        else:
            self.call.send(answers.EMPTY_RESPONSE_BODY)

    def answer_piece(self, data: bytes) -> None:
        """The one answer to a message: of what came, what was passed on since."""
        held, self._held = self._held, []
        passed = b"".join(held)
        if passed == data:
            self.call.send(answers.EMPTY_RESPONSE_BODY)
        else:
            self.call.send(answers.response_body(passed))
