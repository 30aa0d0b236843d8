"""Frames as they come, in whatever pieces: which are whole, and which may not be (RFC 9113).

What may not be, or is larger than it may, ends the connection: nothing that follows could be
trusted. Nothing here knows what a frame does to a call: the connection is told.
"""

from typing import TYPE_CHECKING, Final

from memroute_picker.grpc.frames import HEAD_BYTES, PREFACE, Code, Flag, Kind, Setting
from memroute_picker.grpc.hpack import FieldReader, FieldsError

if TYPE_CHECKING:
    from memroute_picker.grpc.connection import GrpcConnection

# Of a frame that is sent to us. Unit: bytes. Source: chosen by hand; RFC 9113's least is 16 KiB.
MAX_FRAME_BYTES: Final = 64 * 1024
# Of a block of header fields, continued or not. Unit: bytes. Source: chosen by hand.
MAX_BLOCK_BYTES: Final = 32 * 1024
PING_BYTES: Final = 8
"""Of a ping (RFC 9113, 6.7)."""
MAX_WINDOW: Final = 2**31 - 1
"""The most that a window may be, and a stream's number (RFC 9113, 6.9.1 and 4.1)."""
# Of what a client may say of the frames that it takes. Unit: bytes. Source: RFC 9113, 6.5.2.
LEAST_FRAME_BYTES: Final = 16 * 1024
_MOST_FRAME_BYTES: Final = 2**24 - 1
_PRIORITY_BYTES: Final = 5
_SETTING_BYTES: Final = 6
_WINDOW_BYTES: Final = 4


class FrameError(Exception):
    """What has come may not be. ``code``: by which the client is told, with ``why``."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class FrameReader:
    """Reads what one client sends. Owns what has come of a frame, and the client's header table."""

    __slots__ = (
        "_block", "_block_bytes", "_block_ends_stream", "_block_of", "_connection", "_fields",
        "_has_greeted", "_rest",
    )  # fmt: skip

    def __init__(self, connection: "GrpcConnection") -> None:
        """``connection``: is told of each frame."""
        self._connection = connection
        self._rest = b""
        """Of a frame whose end has not come."""
        self._has_greeted: bool = False
        self._fields = FieldReader()
        self._block: list[bytes] = []
        self._block_bytes: int = 0
        self._block_of: int = 0
        """The stream whose header fields go on in the next frame; 0: none."""
        self._block_ends_stream: bool = False

    def read(self, data: bytes) -> None:
        """Tell of the frames that are whole; the rest waits. Raises ``FrameError``."""
        connection = self._connection
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._has_greeted:
            at = self._greeting(data)
            if not at:
                return
        size = len(data)
        while size - at >= HEAD_BYTES:
            length = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2]
            if length > MAX_FRAME_BYTES:
                raise FrameError(Code.FRAME_SIZE_ERROR, "a frame is too large")
            begin = at + HEAD_BYTES
            if size - begin < length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : begin], "big") & MAX_WINDOW
            at = begin + length
            connection.sender.is_end_of_read = at == size
            if self._block_of and (kind != Kind.CONTINUATION or stream != self._block_of):
                raise FrameError(Code.PROTOCOL_ERROR, "header fields have no end")
            if kind == Kind.DATA:
                self._data(flags, stream, data[begin:at], length)
            else:
                self._other(kind, flags, stream, data[begin:at])
            if connection.is_closing:
                return
        self._rest = data[at:] if at else data

    def _greeting(self, data: bytes) -> int:
        """Where frames begin; 0: not here."""
        if data.startswith(PREFACE):
            self._has_greeted = True
            self._connection.on_greeting()
            return len(PREFACE)
        if PREFACE.startswith(data):
            self._rest = data
        else:
            self._connection.abort()  # it speaks something else
        return 0

    def _data(self, flags: int, stream: int, payload: bytes, num_bytes: int) -> None:
        if flags & Flag.PADDED:
            padding = payload[0] if payload else 0
            if padding >= len(payload):
                raise FrameError(Code.PROTOCOL_ERROR, "more padding than payload")
            payload = payload[1 : len(payload) - padding]
        is_last = bool(flags & Flag.END_STREAM)
        self._connection.on_data(stream, payload, num_bytes, is_last=is_last)

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == Kind.HEADERS:
            self._headers(flags, stream, payload)
        elif kind == Kind.WINDOW_UPDATE:
            if len(payload) != _WINDOW_BYTES:
                raise FrameError(Code.FRAME_SIZE_ERROR, "a window has four bytes")
            self._connection.on_window(stream, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == Kind.RST_STREAM:
            self._connection.on_reset(stream)
        elif kind == Kind.CONTINUATION:
            self._continued(flags, payload)
        elif kind == Kind.SETTINGS:
            if not flags & Flag.ACK:
                self._settings(payload)
        else:
            self._rare(kind, flags, payload)

    def _rare(self, kind: int, flags: int, payload: bytes) -> None:
        """What is none of calls. Priorities, a goodbye, extensions say nothing that we need."""
        if kind == Kind.PUSH_PROMISE:
            raise FrameError(Code.PROTOCOL_ERROR, "clients push nothing")
        if kind == Kind.PING:
            if len(payload) != PING_BYTES:
                raise FrameError(Code.FRAME_SIZE_ERROR, "a ping has eight bytes")
            self._connection.on_ping(payload, is_answer=bool(flags & Flag.ACK))

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        begin, end = 0, len(payload)
        if flags & Flag.PADDED:
            if not payload:
                raise FrameError(Code.PROTOCOL_ERROR, "padding without a length")
            begin, end = 1, end - payload[0]
        if flags & Flag.PRIORITY:
            begin += _PRIORITY_BYTES
        if begin > end or stream % 2 == 0:
            raise FrameError(Code.PROTOCOL_ERROR, "malformed header fields")
        block = payload[begin:end]
        ends_stream = bool(flags & Flag.END_STREAM)
        if len(block) > MAX_BLOCK_BYTES:
            raise FrameError(Code.ENHANCE_YOUR_CALM, "the header fields are too large")
        if flags & Flag.END_HEADERS:
            self._whole_block(stream, block, ends_stream=ends_stream)
        else:
            self._block, self._block_bytes = [block], len(block)
            self._block_of, self._block_ends_stream = stream, ends_stream

    def _continued(self, flags: int, payload: bytes) -> None:
        if not self._block_of:
            raise FrameError(Code.PROTOCOL_ERROR, "nothing goes on")
        self._block.append(payload)
        # An empty piece counts too: there may be no end of them.
        self._block_bytes += len(payload) + HEAD_BYTES
        if self._block_bytes > MAX_BLOCK_BYTES:
            raise FrameError(Code.ENHANCE_YOUR_CALM, "the header fields are too large")
        if flags & Flag.END_HEADERS:
            stream, self._block_of = self._block_of, 0
            pieces, self._block = self._block, []
            self._whole_block(stream, b"".join(pieces), ends_stream=self._block_ends_stream)

    def _whole_block(self, stream: int, block: bytes, *, ends_stream: bool) -> None:
        """Read it whatever becomes of its stream: it may change the table."""
        try:
            fields = self._fields.read(block)
        except FieldsError as error:
            raise FrameError(Code.COMPRESSION_ERROR, str(error)) from error
        self._connection.on_headers(stream, fields, ends_stream=ends_stream)

    def _settings(self, payload: bytes) -> None:
        """Two of them are of use; of one that is said several times the last counts."""
        if len(payload) % _SETTING_BYTES:
            raise FrameError(Code.FRAME_SIZE_ERROR, "malformed settings")
        call_window: int | None = None
        frame_bytes: int | None = None
        for at in range(0, len(payload), _SETTING_BYTES):
            name = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + _SETTING_BYTES], "big")
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise FrameError(Code.FLOW_CONTROL_ERROR, "the window is too large")
                call_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                if not LEAST_FRAME_BYTES <= value <= _MOST_FRAME_BYTES:
                    raise FrameError(Code.PROTOCOL_ERROR, "no size of a frame")
                frame_bytes = value
        self._connection.on_settings(call_window, frame_bytes)
