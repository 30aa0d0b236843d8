"""Frames of HTTP/2 (RFC 9113), as they are written, and what their numbers mean."""

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9


class Kind:
    """The types of frames."""

    DATA: Final = 0
    HEADERS: Final = 1
    PRIORITY: Final = 2
    RST_STREAM: Final = 3
    SETTINGS: Final = 4
    PUSH_PROMISE: Final = 5
    PING: Final = 6
    GOAWAY: Final = 7
    WINDOW_UPDATE: Final = 8
    CONTINUATION: Final = 9


class Flag:
    """Flags of frames; the first has two meanings."""

    END_STREAM: Final = 1
    ACK: Final = 1
    END_HEADERS: Final = 4
    PADDED: Final = 8
    PRIORITY: Final = 32


class Setting:
    """What an end says of itself."""

    HEADER_TABLE_SIZE: Final = 1
    MAX_CONCURRENT_STREAMS: Final = 3
    INITIAL_WINDOW_SIZE: Final = 4
    MAX_FRAME_SIZE: Final = 5
    MAX_HEADER_LIST_SIZE: Final = 6


class Code:
    """Why a stream or a connection ends."""

    NO_ERROR: Final = 0
    PROTOCOL_ERROR: Final = 1
    INTERNAL_ERROR: Final = 2
    FLOW_CONTROL_ERROR: Final = 3
    STREAM_CLOSED: Final = 5
    FRAME_SIZE_ERROR: Final = 6
    REFUSED_STREAM: Final = 7
    CANCEL: Final = 8
    COMPRESSION_ERROR: Final = 9
    ENHANCE_YOUR_CALM: Final = 11


class GrpcStatus:
    """How a call ends."""

    OK: Final = 0
    INVALID_ARGUMENT: Final = 3
    NOT_FOUND: Final = 5
    RESOURCE_EXHAUSTED: Final = 8
    UNIMPLEMENTED: Final = 12
    INTERNAL: Final = 13
    UNAVAILABLE: Final = 14


# ``:status`` 200 (an entry of the static table), and the content type, of which RFC 7541's table
# has the name.
_BEGIN_BLOCK: Final = b"\x88\x0f\x10\x10application/grpc"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    size = len(payload)
    head = ((size << 8) | kind).to_bytes(4, "big")
    return head + ((flags << 32) | stream).to_bytes(5, "big") + payload


def settings(values: list[tuple[int, int]]) -> bytes:
    """What we say of ourselves."""
    payload = b"".join(
        [name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values]
    )
    return frame(Kind.SETTINGS, 0, 0, payload)


SETTINGS_ACK: Final = frame(Kind.SETTINGS, Flag.ACK, 0, b"")


def window_update(stream: int, num_bytes: int) -> bytes:
    """So many bytes more may be sent to us; ``stream`` 0: on the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, num_bytes.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    """A stream ends at once."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def go_away(last_stream: int, code: int, why: bytes = b"") -> bytes:
    """No stream after ``last_stream`` is answered."""
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why
    return frame(Kind.GOAWAY, 0, 0, payload)


def begin_call(stream: int) -> bytes:
    """The head of a call's answer."""
    return frame(Kind.HEADERS, Flag.END_HEADERS, stream, _BEGIN_BLOCK)


def end_call(stream: int, status: int, why: bytes, *, has_begun: bool) -> bytes:
    """The end of a call's answer. ``why``: fewer than 127 bytes of printable ASCII."""
    block = b"" if has_begun else _BEGIN_BLOCK
    number = str(status).encode()
    block += b"\x00\x0bgrpc-status" + bytes([len(number)]) + number
    if why:
        block += b"\x00\x0cgrpc-message" + bytes([len(why)]) + why
    return frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, stream, block)
