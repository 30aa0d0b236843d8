"""What the picker says to the gateway: ``ProcessingResponse``, as bytes."""

from collections.abc import Sequence
from typing import Final

from memroute_picker.protocol.names import DESTINATION, LB
from memroute_picker.protocol.wire import field, number

# Of one piece of a body. Unit: bytes. Source: llm-d's; Envoy's API recommends no more than 64 KB.
PIECE_BYTES: Final = 62_000
_TEXT: Final = b"\x0a"
"""Field 1, with a length."""

# Nothing is changed: field 2 to 7 of the answer, each an empty message.
EMPTY_REQUEST_HEADERS: Final = b"\x0a\x00"
EMPTY_RESPONSE_HEADERS: Final = b"\x12\x00"
EMPTY_REQUEST_BODY: Final = b"\x1a\x00"
EMPTY_RESPONSE_BODY: Final = b"\x22\x00"
EMPTY_REQUEST_TRAILERS: Final = b"\x2a\x00"
EMPTY_RESPONSE_TRAILERS: Final = b"\x32\x00"

_REQUEST_HEADERS: Final = b"\x0a"
_RESPONSE_HEADERS: Final = b"\x12"
_REQUEST_BODY: Final = b"\x1a"
_RESPONSE_BODY: Final = b"\x22"
_IMMEDIATE: Final = b"\x3a"
_DYNAMIC_METADATA: Final = b"\x42"
# Of CommonResponse.
_HEADER_MUTATION: Final = b"\x12"
_BODY_MUTATION: Final = b"\x1a"
_CLEAR_ROUTE_CACHE: Final = b"\x28\x01"
# Of BodyMutation.
_WHOLE_BODY: Final = b"\x0a"
_CLEAR_BODY: Final = b"\x10\x01"
_STREAMED: Final = b"\x1a"
_OVERWRITE_OR_ADD: Final = b"\x18\x02"
"""Of HeaderValueOption: what there was of the name goes."""


def set_header(name: bytes, value: bytes) -> bytes:
    """Part of a mutation: a field gets this value, whatever it had."""
    header = field(b"\x0a", name) + field(b"\x1a", value)
    return field(_TEXT, field(_TEXT, header) + _OVERWRITE_OR_ADD)


def set_headers(lines: bytes) -> bytes:
    """Part of a mutation: fields given as lines of HTTP/1.1, each ended."""
    found = b""
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b": ")
        if colon:
            found += set_header(name.lower(), value)
    return found


def remove_headers(names: Sequence[bytes]) -> bytes:
    """Part of a mutation: fields that end here."""
    return b"".join([field(b"\x12", name) for name in names])


def destination_metadata(endpoints: bytes) -> bytes:
    """Part of an answer: where the request goes, as metadata."""
    value = field(b"\x12", field(b"\x1a", endpoints))
    inner = field(_TEXT, field(_TEXT, DESTINATION) + value)
    outer = field(_TEXT, field(_TEXT, LB) + field(b"\x12", field(b"\x2a", inner)))
    return field(_DYNAMIC_METADATA, outer)


def destination_header(endpoints: bytes) -> bytes:
    """Part of a mutation: the same, as a header field."""
    return set_header(DESTINATION, endpoints)


def picked(mutation: bytes, metadata: bytes) -> bytes:
    """The answer to a request's header fields: it goes there, by another route if need be."""
    common = field(_HEADER_MUTATION, mutation) + _CLEAR_ROUTE_CACHE
    return field(_REQUEST_HEADERS, field(_TEXT, common)) + metadata


def picked_by_body(mutation: bytes, metadata: bytes, body: bytes | None) -> bytes:
    """The same as the answer to a body that has come whole; ``body``: another one, if not None."""
    common = field(_HEADER_MUTATION, mutation)
    if body is not None:
        common += field(_BODY_MUTATION, field(_WHOLE_BODY, body) if body else _CLEAR_BODY)
    return field(_REQUEST_BODY, field(_TEXT, common + _CLEAR_ROUTE_CACHE)) + metadata


def request_pieces(body: bytes, *, is_last: bool) -> list[bytes]:
    """A request's body on its way."""
    return _pieces(_REQUEST_BODY, body, is_last=is_last)


def response_pieces(data: bytes, *, is_last: bool) -> list[bytes]:
    """A piece of an answer's body on its way."""
    return _pieces(_RESPONSE_BODY, data, is_last=is_last)


def response_body(data: bytes) -> bytes:
    """Another body than what has come of an answer, where one answer is due for each message."""
    mutation = field(_WHOLE_BODY, data) if data else _CLEAR_BODY
    return field(_RESPONSE_BODY, field(_TEXT, field(_BODY_MUTATION, mutation)))


def answered(mutation: bytes) -> bytes:
    """The answer to an answer's header fields, with more of them."""
    return field(_RESPONSE_HEADERS, field(_TEXT, field(_HEADER_MUTATION, mutation)))


def immediate(status: int, mutation: bytes, body: bytes, details: bytes) -> bytes:
    """The client gets this, and no engine the request. ``details``: for the gateway's log."""
    code = field(_TEXT, b"\x08" + number(status))
    message = code + field(b"\x12", mutation) + field(b"\x1a", body) + field(b"\x2a", details)
    return field(_IMMEDIATE, message)


def _pieces(tag: bytes, data: bytes, *, is_last: bool) -> list[bytes]:
    size = len(data)
    if size <= PIECE_BYTES:
        return [_piece(tag, data, is_last=is_last)]
    return [
        _piece(tag, data[at : at + PIECE_BYTES], is_last=is_last and at + PIECE_BYTES >= size)
        for at in range(0, size, PIECE_BYTES)
    ]


def _piece(tag: bytes, data: bytes, *, is_last: bool) -> bytes:
    streamed = field(_TEXT, data) if data else b""
    if is_last:
        streamed += b"\x10\x01"
    return field(tag, field(_TEXT, field(_BODY_MUTATION, field(_STREAMED, streamed))))
