"""Protocol buffers on the wire: numbers, and fields with a length."""

from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_MAX_SHIFT: Final = 63


class MalformedError(ValueError):
    """The bytes are no such message."""


def number_at(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ``MalformedError``."""
    size = len(data)
    if at >= size:
        msg = "a number has no end"
        raise MalformedError(msg)
    byte = data[at]
    at += 1
    if byte < 0x80:  # noqa: PLR2004 - its highest bit says whether more follow
        return byte, at
    value, shift = byte & 0x7F, 7
    while at < size:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - as above
            return value, at
        shift += 7
        if shift > _MAX_SHIFT:
            break
    msg = "a number has no end"
    raise MalformedError(msg)


def span_at(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the field that begins with its length begins and ends. Raises ``MalformedError``."""
    length, begin = number_at(data, at)
    stop = begin + length
    if stop > end:
        msg = "a field has no end"
        raise MalformedError(msg)
    return begin, stop


def skipped(data: bytes, at: int, end: int, wire: int) -> int:
    """Where a field ends that nobody reads. Raises ``MalformedError``."""
    if wire == VARINT:
        _, at = number_at(data, at)
    elif wire == BYTES:
        _, at = span_at(data, at, end)
    elif wire == FIXED64:
        at += 8
    elif wire == FIXED32:
        at += 4
    else:
        msg = f"there is no wire type {wire}"
        raise MalformedError(msg)
    if at > end:
        msg = "a field has no end"
        raise MalformedError(msg)
    return at


def number(value: int) -> bytes:
    """A number."""
    if value < 0x80:  # noqa: PLR2004 - as above
        return value.to_bytes(1, "big")
    found = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - as above
        found.append((value & 0x7F) | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def field(tag: bytes, payload: bytes) -> bytes:
    """A field with its length; ``tag``: its number and wire type, as one byte."""
    return tag + number(len(payload)) + payload
