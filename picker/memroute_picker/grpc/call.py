"""One call: whole messages come in, and go out as far as the client's windows let them.

What is sent while one read is dealt with leaves together, as few frames. A client that does not
take what it is sent is not let send more: its window stays as it is until the call has caught up.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from memroute_picker.grpc.frames import (
    Code,
    GrpcStatus,
    Kind,
    begin_call,
    end_call,
    frame,
    window_update,
)
from memroute_picker.grpc.frames import reset as reset_frame
from memroute_router.http.deadlines import monotonic

if TYPE_CHECKING:
    from memroute_picker.grpc.connection import GrpcConnection

# What a client may send of one call before it hears that more is welcome. Unit: bytes.
# Source: chosen by hand; two of the largest pieces that Envoy sends with its defaults would fit.
CALL_WINDOW_BYTES: Final = 2 * 1024**2
# It hears that when so much has come. Unit: bytes. Source: chosen by hand.
_CREDIT_BYTES: Final = CALL_WINDOW_BYTES // 4
# What may wait for the client before it is not let send more. Unit: bytes. Source: chosen by hand.
_BACKED_UP_BYTES: Final = 256 * 1024
# What waits for the client is counted from here on, as of the router's slow clients
# (``http/budget.py``). Unit: bytes. Source: the router's mark.
_COUNTED_BYTES: Final = 16 * 1024
# Before each message: whether it is compressed, and its length.
_PREFIX_BYTES: Final = 5


class Handler:
    """What a call is about. Nothing here awaits.

    Its subclasses are compiled with it (``hatch_build.py``): mypyc lets no others be.
    """

    @property
    def is_answering(self) -> bool:
        """Whether what comes now is an answer: it is under way, and cannot be turned away."""
        return False

    def message(self, data: bytes) -> None:
        """A message has come."""
        raise NotImplementedError

    def half_closed(self) -> None:
        """The client has said all."""
        raise NotImplementedError

    def cancelled(self) -> None:
        """The client wants no answer any more, or is gone. The call is over."""
        raise NotImplementedError

    def shut_down(self) -> None:
        """The server's time is up: end the call."""
        raise NotImplementedError

    def no_room(self) -> None:
        """There is no room for the rest of a message. The call ends, if this does not end it."""

    def caught_up(self) -> None:
        """What was sent has been taken, after it had not been for a while."""


class Call:
    """One call. Owns what has come of a message, and what has not left yet."""

    __slots__ = (
        "_answer_bytes", "_body_bytes", "_connection", "_end", "_partial", "_sender",
        "_sent_of_first", "_uncredited_bytes", "_unsent", "_waiting", "_waiting_bytes", "begun_at",
        "handler", "has_begun", "is_dirty", "is_half_closed", "is_over", "number", "send_credit",
    )  # fmt: skip

    def __init__(self, connection: "GrpcConnection", number: int) -> None:
        self._connection = connection
        self._sender = connection.sender
        self.number = number
        self.send_credit: int = 0
        """Bytes that the client takes now, of this call, more than of a new one."""
        self.handler: Handler | None = None
        self.is_half_closed = False
        self.is_over = False
        """Whether nothing of it is heard or told any more."""
        self.is_dirty = False
        """Whether the sender will flush it."""
        self.begun_at = monotonic()
        """On the monotonic clock."""
        self.has_begun = False
        """Whether something was said to the client."""
        self._partial = bytearray()
        """Of a message whose end has not come."""
        self._body_bytes: int = 0
        """Of those, what the budget has counted as a body."""
        self._answer_bytes: int = 0
        """And as an answer."""
        self._uncredited_bytes: int = 0
        self._unsent: list[bytes] = []
        """Messages of this turn of the loop."""
        self._waiting: deque[bytes] = deque()
        """What the client's windows, or its socket, have no room for."""
        self._sent_of_first: int = 0
        """Bytes of the first of those that have left."""
        self._waiting_bytes: int = 0
        self._end: tuple[int, bytes] | None = None
        """How it ends once all has left."""

    @property
    def peer(self) -> bytes:
        """Who calls: the address of the connection."""
        return self._connection.peer

    @property
    def is_backed_up(self) -> bool:
        """Whether the client does not take what it is sent."""
        return self._waiting_bytes > _BACKED_UP_BYTES

    def send(self, message: bytes) -> None:
        """Send a message, at the end of this turn of the loop."""
        if self._end is not None or self.is_over:
            return
        self._unsent.append(b"\x00" + len(message).to_bytes(4, "big"))
        self._unsent.append(message)
        self._sender.dirty(self)

    def hasten(self) -> None:
        """What was sent leaves now, where that makes no more writes. It may end the call."""
        self._sender.hasten()

    def end(self, status: int = GrpcStatus.OK, why: bytes = b"") -> None:
        """End the call once all that was sent has left."""
        if self._end is None and not self.is_over:
            self._end = status, why
            self._sender.dirty(self)

    def reset(self, code: int = Code.CANCEL) -> None:
        """End the call at once."""
        if not self.is_over:
            self._sender.write(reset_frame(self.number, code))
            self.forget()

    def forget(self) -> None:
        """Nothing of it is heard or told any more."""
        self.is_over = True
        self.handler = None
        self._drop_partial()
        self._unsent = []
        self._waiting.clear()
        self._waiting_bytes = 0
        self._connection.unsent.taken(self)
        self._connection.gone(self)

    def give_up(self) -> None:
        """Others need the room of a message whose rest does not come."""
        self._connection.guarded(self, self._has_no_room)

    def abort(self) -> None:
        """What waits for the client is needed for others: break the call off."""
        self._connection.guarded(self, self._cancel)
        self.reset()

    # For the connection

    def received(self, data: bytes, num_bytes: int) -> None:
        """Some of the client's messages, in ``num_bytes`` of its window: padding counts too."""
        self._uncredited_bytes += num_bytes
        if self._uncredited_bytes > CALL_WINDOW_BYTES:
            self._cancel()
            self.reset(Code.FLOW_CONTROL_ERROR)  # RFC 9113, 6.9.1
            return
        if self._uncredited_bytes >= _CREDIT_BYTES and not self.is_backed_up:
            self._credit()
        if self._end is not None or self.handler is None:
            return
        if self._partial:
            if not self._hold(data) or not self._is_whole():
                return
            data = bytes(self._partial)
            self._drop_partial()
        self._take(data)

    def _take(self, data: bytes) -> None:
        """The messages that are whole; the rest is held."""
        at, size = 0, len(data)
        while size - at >= _PREFIX_BYTES:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if data[at]:
                self.end(GrpcStatus.UNIMPLEMENTED, b"compressed messages are not read")
                self._cancel()
                return
            if length > self._connection.max_message_bytes:
                self.end(GrpcStatus.RESOURCE_EXHAUSTED, b"the message is too large")
                self._cancel()
                return
            begin = at + _PREFIX_BYTES
            if size - begin < length:
                break
            at = begin + length
            if self.handler is None or self._end is not None:
                return
            self.handler.message(data[begin:at])
        if at < size and self.handler is not None and self._end is None:
            self._hold(data[at:] if at else data)

    def half_close(self) -> None:
        """The client has said all."""
        self.is_half_closed = True
        handler = self.handler
        if self._end is not None or handler is None:
            return
        if self._partial:
            self.end(GrpcStatus.INVALID_ARGUMENT, b"half a message")
            self._cancel()
        else:
            handler.half_closed()

    def cancel(self) -> None:
        """The client wants no answer, or is gone."""
        self._cancel()
        self.forget()

    def flush(self) -> bytes:
        """The frames that may leave now."""
        self.is_dirty = False
        if self.is_over:
            return b""
        number = self.number
        out = b""
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent = []
            if not self.has_begun:
                self.has_begun = True
                out = begin_call(number)
            out += self._frames(data)
        elif self._waiting:
            out = self._frames(b"")
        if self.is_over:
            return out
        if self._end is not None and not self._waiting:
            status, why = self._end
            out += end_call(number, status, why, has_begun=self.has_begun)
            if not self.is_half_closed:
                out += reset_frame(number, Code.NO_ERROR)
            self.forget()
        return out

    def _frames(self, data: bytes) -> bytes:
        """As many of the bytes as there is room for, after those that wait; the rest waits."""
        connection, sender = self._connection, self._sender
        size = len(data)
        room = min(sender.call_window + self.send_credit, sender.send_window, sender.room)
        if not self._waiting and size <= room and size <= sender.max_frame_bytes:
            self._sent(size)
            return frame(Kind.DATA, 0, self.number, data)
        was_backed_up = self.is_backed_up
        if data:
            self._waiting.append(data)
            self._waiting_bytes += size
        frames: list[bytes] = []
        while self._waiting and room > 0:
            first, at = self._waiting[0], self._sent_of_first
            num_bytes = min(len(first) - at, room, sender.max_frame_bytes)
            frames.append(frame(Kind.DATA, 0, self.number, first[at : at + num_bytes]))
            room -= num_bytes
            self._waiting_bytes -= num_bytes
            self._sent(num_bytes)
            self._sent_of_first = at + num_bytes
            if self._sent_of_first == len(first):
                self._waiting.popleft()
                self._sent_of_first = 0
        if self._waiting:
            sender.blocked(self)
        if was_backed_up and not self.is_backed_up:
            if self._uncredited_bytes >= _CREDIT_BYTES:
                self._credit()
            if self.handler is not None:
                connection.guarded(self, self.handler.caught_up)
        if self._waiting_bytes > _COUNTED_BYTES:
            connection.unsent.wait(self, self._waiting_bytes)
        else:
            connection.unsent.taken(self)
        return b"".join(frames)

    def _sent(self, num_bytes: int) -> None:
        """So much leaves now."""
        self.send_credit -= num_bytes
        self._sender.sent(num_bytes)

    def _hold(self, data: bytes) -> bool:
        """Keep some of a message whose end has not come; False: there is no room for it."""
        size, handler, budget = len(data), self.handler, self._connection.budget
        is_answering = handler is not None and handler.is_answering
        if is_answering and not budget.is_unsent_over:
            budget.add_unsent(size)
            self._answer_bytes += size
        elif not budget.take(size, len(self._partial) + size):
            self._has_no_room()
            return False
        elif self.handler is None:
            budget.give_back(size)  # to make room for it, it was itself given up
            return False
        else:
            self._body_bytes += size
            if not is_answering:
                budget.slow(self)
        self._partial += data
        return True

    def _has_no_room(self) -> None:
        """Nothing more is taken of it."""
        if self.handler is not None:
            self.handler.no_room()
        self.end(GrpcStatus.RESOURCE_EXHAUSTED, b"there is no room for the message")
        self._cancel()

    def _drop_partial(self) -> None:
        """What has come of a message is held no more."""
        self._partial = bytearray()
        if self._body_bytes:
            self._connection.budget.not_slow(self)
            self._connection.budget.give_back(self._body_bytes)
        if self._answer_bytes:
            self._connection.budget.add_unsent(-self._answer_bytes)
        self._body_bytes = self._answer_bytes = 0

    def _is_whole(self) -> bool:
        """Whether a message's end has come."""
        size = len(self._partial)
        if size < _PREFIX_BYTES:
            return False
        length = int.from_bytes(self._partial[1:5], "big")
        if length > self._connection.max_message_bytes:
            return True  # it is refused
        return size >= _PREFIX_BYTES + length

    def _credit(self) -> None:
        """The client may send as much again as has come."""
        num_bytes, self._uncredited_bytes = self._uncredited_bytes, 0
        if not self.is_half_closed:
            self._sender.write(window_update(self.number, num_bytes))

    def _cancel(self) -> None:
        self._drop_partial()
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.cancelled()
