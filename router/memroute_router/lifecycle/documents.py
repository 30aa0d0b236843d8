"""What bodies take as objects while they are read: estimated before that, and bounded.

A body of JSON is many times larger as objects: ``[[],[]]`` 30 times, and one emoji makes each
letter of its text four bytes. One is read at a time, and let go once it is sized, but where prompts
are tokenized, in threads, several are kept for a while.
"""

from typing import Final

# Bodies up to here are not looked at. Unit: bytes. Source: chosen by hand; of the worst kind it is
# 2 MB as objects.
SMALL_BODY_BYTES: Final = 64 * 1024
# Bytes of objects for each of these characters, wherever it stands. Source: measured on CPython
# 3.11 (an empty list, a number with its place in a list, a key with its place); in text they are
# counted in vain.
_BYTES_PER_COMMA: Final = 96
_BYTES_PER_OPENING: Final = 80
_BYTES_PER_COLON: Final = 128
# Bytes of objects for each byte of text: its string, what is joined of it, and that in UTF-8, where
# the widest character takes one byte, two, or four. Source: measured, rounded up.
_BYTES_PER_NARROW: Final = 4
_BYTES_PER_WIDE: Final = 8
_BYTES_PER_WIDEST: Final = 16
# How characters beyond the first 65,536 begin, in UTF-8 and escaped.
_WIDEST: Final[tuple[bytes, ...]] = (
    b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4", b"\\ud", b"\\uD",
)  # fmt: skip


def document_bytes(body: bytes) -> int:
    """What a body of JSON takes at the most while it is read, beside itself."""
    objects = (
        _BYTES_PER_COMMA * body.count(b",")
        + _BYTES_PER_OPENING * (body.count(b"[") + body.count(b"{"))
        + _BYTES_PER_COLON * body.count(b":")
    )
    per_byte = _BYTES_PER_NARROW
    if not body.isascii() or b"\\u" in body:
        per_byte = _BYTES_PER_WIDE
        for start in _WIDEST:
            if start in body:
                per_byte = _BYTES_PER_WIDEST
                break
    return objects + per_byte * len(body)


class DocumentRoom:
    """Owns the count of bytes that documents hold."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, num_bytes: int) -> bool:
        """Count so many more; False: there is no room now."""
        if self.held_bytes + num_bytes > self.max_bytes:
            return False
        self.held_bytes += num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        """Nobody needs so many bytes any more."""
        self.held_bytes -= num_bytes
