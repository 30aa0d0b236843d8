"""One request and its answer, whatever connection they came over."""

from typing import Protocol

from memroute_router.http.budget import BodyBudget
from memroute_router.http.fields import JSON, status_line


class Sink(Protocol):
    """What the handler of a request hears of its client, until the exchange is finished."""

    def client_gone(self) -> None:
        """Nobody will read the answer."""
        ...

    def client_is_slow(self) -> None:
        """Send no more for now."""
        ...

    def client_is_ready(self) -> None:
        """Go on."""
        ...

    def shutting_down(self) -> None:
        """The router ends now: come to an end at once."""
        ...

    def crashed(self) -> None:
        """A bug of ours has shown itself: end the request, if it has not ended."""
        ...


class Connection(Protocol):
    """What an exchange needs of its client's connection."""

    @property
    def peer(self) -> bytes:
        """The client's address, without its port."""
        ...

    @property
    def scheme(self) -> bytes:
        """``http`` or ``https``."""
        ...

    def write(self, data: bytes) -> None:
        """Hand bytes to the client; nothing once it is gone."""
        ...

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer is complete."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


_NO_FIELDS: dict[bytes, bytes] = {}


class Exchange:
    """One request, received as a whole, and the means to answer it, once."""

    __slots__ = (
        "_chunked", "_connection", "_head", "_held_bytes", "body", "budget", "fields",
        "has_started", "hides_usage", "http_1_1", "is_finished", "keep_alive", "lines", "method",
        "received_at", "sees_answer", "sink", "target",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        *,
        method: bytes,
        target: bytes,
        lines: bytes,
        fields: dict[bytes, bytes],
        body: bytes,
        keep_alive: bool,
        http_1_1: bool,
        received_at: float,
        budget: BodyBudget,
        head_bytes: int = 0,
    ) -> None:
        """``budget``: has counted the body, and ``head_bytes`` of the head."""
        self._connection = connection
        self.method = method
        self.target = target
        self.lines = lines
        """The fields that travel on, as lines."""
        self.fields = fields
        """The fields that the router reads, by lower-case name."""
        self.body = body
        self.budget = budget
        self._held_bytes = len(body) + head_bytes
        self.keep_alive = keep_alive
        self.http_1_1 = http_1_1
        self.received_at = received_at
        """When it was whole, on the monotonic clock."""
        self.sink: Sink | None = None
        """Who is told of the client; whoever answers later sets it."""
        self.sees_answer = True
        """Whether the answer's body comes by here: else nothing of it can be read, or hidden."""
        self.hides_usage = False
        """Whether the engine was asked for a stream's usage, and the client has not asked."""
        self.has_started = False
        self.is_finished = False
        self._chunked = False
        self._head = b""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def peer(self) -> bytes:
        """The client's address."""
        return self._connection.peer

    @property
    def scheme(self) -> bytes:
        """``http`` or ``https``: how the client came."""
        return self._connection.scheme

    def drop_body(self) -> None:
        """No engine will get the request any more: neither its body nor its fields."""
        self.body = self.lines = b""
        self.fields = _NO_FIELDS
        held, self._held_bytes = self._held_bytes, 0
        if held:
            self.budget.give_back(held)

    def start(self, status: int, lines: bytes, *, length: int | None) -> None:
        """Begin an answer of ``length`` bytes, or (None) of a length that nobody knows yet.

        The head leaves with the first piece: one system call for both.
        """
        self.has_started = True
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.http_1_1:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False
            framing = b""
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        self._head = b"%b%b%b\r\n" % (status_line(status), lines, framing)

    def send(self, data: bytes) -> None:
        """Send a piece of the body, at least one byte."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._connection.write(data)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece; the next request of the connection has its turn."""
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if self._head:
            data = self._head + data
            self._head = b""
        if data:
            self._connection.write(data)
        self.is_finished = True
        self.sink = None
        self.drop_body()
        self._connection.exchange_done(keep_alive=self.keep_alive)

    def abort(self) -> None:
        """Break the connection off: the only honest end of a body that cannot be completed."""
        self.is_finished = True
        self.sink = None
        self.drop_body()
        self._connection.abort()

    def respond(self, status: int, body: bytes, lines: bytes = JSON) -> None:
        """Send a whole answer."""
        self.start(status, lines, length=len(body))
        self.finish(b"" if self.method == b"HEAD" else body)
