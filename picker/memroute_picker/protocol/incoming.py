"""What the gateway says: one message, read as far as it is needed."""

import struct
from typing import Final

from memroute_picker.protocol.wire import (
    BYTES,
    FIXED64,
    VARINT,
    MalformedError,
    number_at,
    skipped,
    span_at,
)

# Of structures within structures. Source: chosen by hand; metadata has three or four.
MAX_DEPTH: Final = 16
_KEY: Final = 1
_VALUE: Final = 2
_RAW_VALUE: Final = 3


class Said:
    """What a message is about: its field's number in ``ProcessingRequest``."""

    REQUEST_HEADERS: Final = 2
    RESPONSE_HEADERS: Final = 3
    REQUEST_BODY: Final = 4
    RESPONSE_BODY: Final = 5
    REQUEST_TRAILERS: Final = 6
    RESPONSE_TRAILERS: Final = 7


_METADATA: Final = 8
_ATTRIBUTES: Final = 9
_PROTOCOL: Final = 11


class BodyMode:
    """How bodies come, by Envoy's numbers."""

    NONE: Final = 0
    STREAMED: Final = 1
    BUFFERED: Final = 2
    BUFFERED_PARTIAL: Final = 3
    FULL_DUPLEX_STREAMED: Final = 4


class Incoming:
    """One message. Its parts are read when they are asked for. Raises ``MalformedError``."""

    __slots__ = (
        "_attributes", "_begin", "_data", "_end", "_metadata", "_protocol", "num_bytes", "said",
    )  # fmt: skip

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.num_bytes = len(data)
        self.said = 0
        self._begin = self._end = 0
        self._metadata: list[tuple[int, int]] = []
        self._attributes: list[tuple[int, int]] = []
        self._protocol: tuple[int, int] | None = None
        at, size = 0, len(data)
        while at < size:
            tag, at = number_at(data, at)
            wire = tag & 7
            if wire != BYTES:
                at = skipped(data, at, size, wire)
                continue
            begin, at = span_at(data, at, size)
            name = tag >> 3
            if Said.REQUEST_HEADERS <= name <= Said.RESPONSE_TRAILERS:
                self.said, self._begin, self._end = name, begin, at
            elif name == _METADATA:
                self._metadata.append((begin, at))
            elif name == _ATTRIBUTES:
                self._attributes.append((begin, at))
            elif name == _PROTOCOL:
                self._protocol = begin, at

    def modes(self) -> tuple[int, int] | None:
        """How bodies of requests and of answers come; None: the message does not say."""
        if self._protocol is None:
            return None
        at, end = self._protocol
        request = response = BodyMode.NONE
        while at < end:
            tag, at = number_at(self._data, at)
            if tag == 1 << 3:
                request, at = number_at(self._data, at)
            elif tag == 2 << 3:
                response, at = number_at(self._data, at)
            else:
                at = skipped(self._data, at, end, tag & 7)
        return request, response

    def headers(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Header fields, in order; and whether nothing follows them."""
        data, at, end = self._data, self._begin, self._end
        found: list[tuple[bytes, bytes]] = []
        is_last = 0
        while at < end:
            tag, at = number_at(data, at)
            if tag == (1 << 3 | BYTES):
                begin, at = span_at(data, at, end)
                self._header_map(begin, at, found)
            elif tag == (3 << 3 | VARINT):
                is_last, at = number_at(data, at)
            else:
                at = skipped(data, at, end, tag & 7)
        return found, bool(is_last)

    def body(self) -> tuple[bytes, bool]:
        """A piece of a body, and whether it is the last."""
        data, at, end = self._data, self._begin, self._end
        piece = b""
        is_last = 0
        while at < end:
            tag, at = number_at(data, at)
            if tag == (1 << 3 | BYTES):
                begin, at = span_at(data, at, end)
                piece = data[begin:at]
            elif tag == (2 << 3 | VARINT):
                is_last, at = number_at(data, at)
            else:
                at = skipped(data, at, end, tag & 7)
        return piece, bool(is_last)

    def metadata(self, namespace: bytes) -> dict[bytes, object] | None:
        """What the gateway has noted under a name; None: nothing."""
        for begin, end in self._metadata:
            at = begin
            while at < end:
                tag, at = number_at(self._data, at)
                if tag != (1 << 3 | BYTES):
                    at = skipped(self._data, at, end, tag & 7)
                    continue
                first, at = span_at(self._data, at, end)
                found = self._noted(first, at, namespace)
                if found is not None:
                    return found
        return None

    def attributes(self, namespace: bytes) -> dict[bytes, object] | None:
        """What the gateway was told to say beside; None: nothing."""
        for begin, end in self._attributes:
            found = self._noted(begin, end, namespace)
            if found is not None:
                return found
        return None

    def _header_map(self, at: int, end: int, found: list[tuple[bytes, bytes]]) -> None:
        data = self._data
        while at < end:
            tag, at = number_at(data, at)
            if tag != (1 << 3 | BYTES):
                at = skipped(data, at, end, tag & 7)
                continue
            begin, at = span_at(data, at, end)
            name = value = b""
            inner = begin
            while inner < at:
                tag, inner = number_at(data, inner)
                if tag & 7 != BYTES:
                    inner = skipped(data, inner, at, tag & 7)
                    continue
                first, inner = span_at(data, inner, at)
                which = tag >> 3
                if which == _KEY:
                    name = data[first:inner]
                elif which == _RAW_VALUE or (which == _VALUE and not value):
                    value = data[first:inner]
            found.append((name, value))

    def _noted(self, at: int, end: int, namespace: bytes) -> dict[bytes, object] | None:
        """The structure of an entry of a map, if its key is ``namespace``."""
        data = self._data
        name = b""
        begin = stop = -1
        while at < end:
            tag, at = number_at(data, at)
            if tag == (_KEY << 3 | BYTES):
                first, at = span_at(data, at, end)
                name = data[first:at]
            elif tag == (_VALUE << 3 | BYTES):
                begin, at = span_at(data, at, end)
                stop = at
            else:
                at = skipped(data, at, end, tag & 7)
        if name != namespace:
            return None
        return structure(data, begin, stop, 0) if begin >= 0 else {}


def structure(data: bytes, at: int, end: int, depth: int) -> dict[bytes, object]:
    """A ``google.protobuf.Struct``: texts as bytes. Raises ``MalformedError``."""
    if depth > MAX_DEPTH:
        msg = "structures within structures without an end"
        raise MalformedError(msg)
    found: dict[bytes, object] = {}
    while at < end:
        tag, at = number_at(data, at)
        if tag != (1 << 3 | BYTES):
            at = skipped(data, at, end, tag & 7)
            continue
        inner, stop = span_at(data, at, end)
        at = stop
        name = b""
        value: object = None
        while inner < stop:
            tag, inner = number_at(data, inner)
            if tag == (_KEY << 3 | BYTES):
                first, inner = span_at(data, inner, stop)
                name = data[first:inner]
            elif tag == (_VALUE << 3 | BYTES):
                first, inner = span_at(data, inner, stop)
                value = _value(data, first, inner, depth + 1)
            else:
                inner = skipped(data, inner, stop, tag & 7)
        found[name] = value
    return found


def _value(data: bytes, at: int, end: int, depth: int) -> object:
    """A ``google.protobuf.Value``."""
    found: object = None
    while at < end:
        tag, at = number_at(data, at)
        which, wire = tag >> 3, tag & 7
        if which == 2 and wire == FIXED64:  # noqa: PLR2004 - a number
            if at + 8 > end:
                msg = "a field has no end"
                raise MalformedError(msg)
            found = struct.unpack("<d", data[at : at + 8])[0]
            at += 8
        elif which == 4 and wire == VARINT:  # noqa: PLR2004 - a truth
            truth, at = number_at(data, at)
            found = bool(truth)
        elif wire == BYTES:
            begin, at = span_at(data, at, end)
            if which == 3:  # noqa: PLR2004 - a text
                found = data[begin:at]
            elif which == 5:  # noqa: PLR2004 - a structure
                found = structure(data, begin, at, depth)
            elif which == 6:  # noqa: PLR2004 - a list
                found = _list(data, begin, at, depth)
        else:
            at = skipped(data, at, end, wire)
    return found


def _list(data: bytes, at: int, end: int, depth: int) -> list[object]:
    if depth > MAX_DEPTH:
        msg = "structures within structures without an end"
        raise MalformedError(msg)
    found: list[object] = []
    while at < end:
        tag, at = number_at(data, at)
        if tag != (1 << 3 | BYTES):
            at = skipped(data, at, end, tag & 7)
            continue
        begin, at = span_at(data, at, end)
        found.append(_value(data, begin, at, depth + 1))
    return found
