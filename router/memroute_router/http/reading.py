"""Reads requests from one connection: strictly, and within bounds.

What could be read in two ways is refused, and so is what is too large or too slow: the connection
says so and closes. A request that is whole is handed to the connection, which answers in order.
"""

from typing import TYPE_CHECKING, Final, NoReturn

import httptools

from memroute_router.http.budget import SMALL_BYTES
from memroute_router.http.deadlines import monotonic
from memroute_router.http.exchange import Exchange
from memroute_router.http.faults import CLIENT
from memroute_router.http.fields import Head
from memroute_router.http.framing import check_head, origin_form, without_offer
from memroute_router.http.server_state import ServerState

if TYPE_CHECKING:
    from memroute_router.http.connection import ClientConnection

# What chunk sizes, extensions and trailers may take beside the body: a chunk for every byte is six.
MAX_FRAMING_BYTES: Final = 64 * 1024
MAX_FRAMING_PER_BYTE: Final = 8
# A head that came at once, and is no larger, is not counted: it is what a connection costs anyway.
# Unit: bytes.
FREE_HEAD_BYTES: Final = 4 * 1024
# What a request that waits behind another one costs beside its bytes: its objects. Unit: bytes.
WAITING_BYTES: Final = 4 * 1024
# Bytes of a body from which on its head is screened before the body arrives: the usual request is
# whole with its first read, and is looked at once.
SCREENED_BYTES: Final = 64 * 1024


class RefusedError(Exception):
    """Nothing of the rest of a read is looked at: its parser would go on to the end of it."""


class RequestReader:
    """What has arrived of one connection's requests. Owns the parser and the body's pieces."""

    __slots__ = (
        "_body", "_body_bytes", "_connection", "_declined", "_has_come_further", "_has_ended_one",
        "_head", "_head_bytes", "_held_head_bytes", "_is_rest_left", "_parser", "_raw_bytes",
        "_reading_head", "_state", "_version", "is_arriving", "is_over", "is_receiving", "target",
    )  # fmt: skip
    # For mypyc.
    __deletable__ = ("_connection",)

    def __init__(self, state: ServerState, connection: "ClientConnection") -> None:
        self._state = state
        self._connection: ClientConnection = connection
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self.is_receiving: bool = False
        """Whether a request has begun, and is not whole."""
        self.is_over: bool = False
        """Whether nothing more is read: a refusal was the last word."""
        self._is_rest_left: bool = False
        """Whether the parser was told to stop within what was read."""
        self.is_arriving: bool = False
        """Whether a request has not come with one read: it may have to give up its place."""
        self.target = b""
        """As far as it was read."""
        self._version = ""
        """Of HTTP, as the request says."""
        self._head = state.no_head
        self._reading_head: bool = True
        """Whether its end has not come: what comes later are trailers."""
        self._has_come_further: bool = False
        """Whether its head has begun, or its body, since its deadline was set."""
        self._has_ended_one: bool = False
        """Whether a request has ended in what was read last: what follows is of another."""
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._raw_bytes = 0
        """Of the body that is arriving, its framing included."""
        self._declined = b""
        """The head of a request that offered another protocol, without the offer."""
        self._held_head_bytes: int = 0
        """That are counted, of a head that is not whole."""

    def feed(self, num_bytes: int) -> None:
        """So many bytes have come into the server's buffer."""
        data: bytes | memoryview = self._state.reads.view[:num_bytes]
        self._has_ended_one = False
        while data and not self.is_over and self._parser is not None:
            data = self._feed(self._parser, data)

    def close(self) -> None:
        """The connection is lost: nothing is called any more."""
        self.drop_body()
        # Both are cycles, and would wait for the collector of garbage.
        self._parser = None
        del self._connection

    def stop(self) -> None:
        """A refusal is the last word: of the rest of this read no field is kept."""
        self.is_over = True
        self._reading_head = False
        self._head = self._state.no_head
        self.drop_body()

    def drop_body(self) -> None:
        """What has arrived of a body that nobody will get."""
        pieces, self._body = self._body, []
        for piece in pieces:
            self._state.budget.give_back(len(piece))
        if self.is_arriving:
            self._arrived()

    def _arrived(self) -> None:
        """The request is whole, or dropped: nothing is counted for its not being so."""
        self.is_arriving = False
        budget = self._state.budget
        held, self._held_head_bytes = self._held_head_bytes, 0
        budget.give_back(held)
        self._connection.not_slow()

    def _holds_head(self) -> bool:
        """Count the head of a request that is whole, instead of what came of it; False: no room."""
        if self.is_arriving:
            self._arrived()
        return self._state.budget.take(self._head.num_bytes + WAITING_BYTES, SMALL_BYTES)

    def _leave_rest(self) -> NoReturn:
        """Nothing of the rest of a read is looked at. Raises ``RefusedError``, for the parser."""
        self._is_rest_left = True
        raise RefusedError

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.is_over:
            self._leave_rest()
        self.is_receiving = True
        self.target = b""
        self._head = Head(self._state.kinds)
        self._reading_head = True
        self._head_bytes = 0
        self._body = []
        self._body_bytes = self._raw_bytes = 0
        self._has_come_further = True

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.target += url
        if len(self.target) > self._state.limits.max_target_bytes:
            self._connection.refuse(414, "the target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; trailers come here too, and end here."""
        if not self._reading_head:
            if self.is_over:
                self._leave_rest()
            return
        head, limits = self._head, self._state.limits
        head.add(name, value)
        if head.num_fields > limits.max_headers:
            self._connection.refuse(431, f"more than {limits.max_headers} header fields")
        elif head.num_bytes > limits.max_header_bytes:
            self._connection.refuse(431, "the header fields are too large")

    def on_headers_complete(self) -> None:
        """The head is complete: refuse what is ambiguous or too large before its body arrives."""
        self._reading_head = False
        if self._parser is None or self.is_over:
            return
        head = self._head
        self._version = self._parser.get_http_version()
        refusal = (
            (400, f"more than one {head.twice.decode('latin-1')}")
            if head.twice is not None
            else check_head(head.read, self._version, self._state.limits.max_body_bytes)
        )
        if refusal is None and self._parser.should_upgrade():
            self._declined = without_offer(self._parser.get_method(), self.target, head)
            if self._declined:
                return
            refusal = 400, "upgrades and tunnels are not supported"
        if refusal is None and not self.target.startswith(b"/"):
            origin = origin_form(self.target)
            if origin is None:
                refusal = 400, "malformed target"
            else:
                head.read[b"host"], self.target = origin
        if refusal is not None:
            self._connection.refuse(*refusal)
            return
        screen = self._state.screen
        if screen is not None and _is_large(head.read):
            answer = screen(self.target, head.read)
            if answer is not None:
                self._connection.say_last(*answer)
                return
        if b"expect" in head.read and self._connection.is_next:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._has_come_further = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self._state.limits.max_body_bytes:
            self._connection.refuse(
                413, f"the body is larger than {self._state.limits.max_body_bytes} bytes"
            )
        elif self.is_over:
            return
        elif not self._state.budget.take(len(data), self._body_bytes):
            self._connection.refuse_full()
        elif not self.is_over:
            self._body.append(data)
        else:
            self._state.budget.give_back(len(data))  # its own place was given up meanwhile

    def on_message_complete(self) -> None:
        """The request is whole: answer it now, or after those before it."""
        if self.is_over or self._parser is None or self._declined:
            return
        head_bytes = 0
        if (
            self.is_arriving
            or self._head.num_bytes > FREE_HEAD_BYTES
            or not self._connection.is_next
        ):
            if not self._holds_head():
                self._connection.refuse_full()
                return
            head_bytes = self._head.num_bytes + WAITING_BYTES
        self.is_receiving = False
        self._has_ended_one = True
        body, self._body = self._body, []
        exchange = Exchange(
            self._connection,
            method=self._parser.get_method(),
            target=self.target,
            lines=self._head.lines(),
            fields=self._head.read,
            body=body[0] if len(body) == 1 else b"".join(body),
            keep_alive=self._parser.should_keep_alive() and not self._state.is_stopping,
            http_1_1=self._version == "1.1",
            received_at=monotonic(),
            budget=self._state.budget,
            head_bytes=head_bytes,
        )
        self._head = self._state.no_head  # an idle connection keeps nothing of its last request
        self._connection.received(exchange)

    def _goes_on(self, num_bytes: int) -> None:
        """A request is not whole after so many bytes more: is it in time, and not too large?

        The parser tells of most bytes, not of all. Where another request has ended among them,
        nobody knows how many are of this one: they are not held against it.
        """
        if self._has_come_further:
            # Here and not as it begins: most requests are whole at once, and need no deadline.
            self._has_come_further = False
            if not self._connection.is_answering_one:
                limits = self._state.limits
                self._connection.deadline_at = monotonic() + (
                    limits.header_seconds if self._reading_head else limits.body_seconds
                )
        budget = self._state.budget
        budget.slow(self._connection)
        self.is_arriving = True
        if self._reading_head:
            if not self._has_ended_one:
                self._head_bytes += num_bytes
            if self._head_bytes > self._state.limits.max_header_bytes:
                self._connection.refuse(431, "the header fields are too large")
            elif not budget.take(num_bytes, SMALL_BYTES):
                self._connection.refuse_full()
            elif self.is_arriving:
                self._held_head_bytes += num_bytes
            else:
                budget.give_back(num_bytes)  # as in on_body
            return
        if not self._has_ended_one:
            self._raw_bytes += num_bytes
        if self._raw_bytes > MAX_FRAMING_PER_BYTE * self._body_bytes + MAX_FRAMING_BYTES:
            self._connection.refuse(413, "the framing of the body is too large")

    def _feed(self, parser: httptools.HttpRequestParser, data: bytes | memoryview) -> bytes:
        """Let the parser have it; what is to be read anew, because an offer was declined."""
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return self._decline(bytes(data[offer.args[0] :]))
        except httptools.HttpParserCallbackError as error:
            if self._is_rest_left:
                return b""
            self._state.on_fault(CLIENT, error)
            self._connection.refuse(500, "internal error")
        except httptools.HttpParserError as error:
            self._connection.refuse(400, f"malformed request: {error}")
        else:
            if self.is_receiving and not self.is_over:
                self._goes_on(len(data))
        return b""

    def _decline(self, rest: bytes) -> bytes:
        """A request without its offer of HTTP/2, to be read as if that had not been made.

        The parser stops at an offer, and would not read the body that JDK clients send with it.
        """
        head, self._declined = self._declined, b""
        if not head:
            self.is_over = True  # it was refused
            return b""
        self._parser = httptools.HttpRequestParser(self)
        return head + rest


def _is_large(read: dict[bytes, bytes]) -> bool:
    """Whether the body is larger than what comes at once, or may be."""
    return b"transfer-encoding" in read or int(read.get(b"content-length", b"0")) > SCREENED_BYTES
