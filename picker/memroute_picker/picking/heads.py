"""Heads of requests and answers as the gateway tells them, read once."""

from typing import Final

from memroute_picker.protocol.incoming import Incoming
from memroute_router.http.fields import REQUEST_FIELDS

# Of an answer's fields, those that are read.
_READ_OF_ANSWERS: Final = frozenset(
    {b"content-length", b"content-type", b"content-encoding", b"retry-after"}
)
_LISTS: Final = frozenset({b"connection", b"traceparent", b"upgrade", b"x-forwarded-for"})
"""Fields of which there may be several; others that are read leave no safe reading then."""
_MAX_ADDRESS_BYTES: Final = 45
_IN_ADDRESSES: Final = b"0123456789abcdefABCDEF.:"
_MAX_LENGTH_DIGITS: Final = 15
_STATUS_DIGITS: Final = 3


class RequestHead:
    """A request's header fields, by lower-case name, and what they say of its body."""

    __slots__ = ("fields", "is_last", "length", "twice")

    def __init__(self, message: Incoming) -> None:
        received, self.is_last = message.headers()
        fields: dict[bytes, bytes] = {}
        self.twice = b""
        """A field that is read and came twice; empty: none did."""
        for name, value in received:
            if name not in fields:
                fields[name] = value
            elif name in _LISTS:
                fields[name] += b", " + value
            elif REQUEST_FIELDS.get(name):
                self.twice = name
        if b"host" not in fields and b":authority" in fields:
            fields[b"host"] = fields[b":authority"]
        self.fields = fields
        given = fields.get(b"content-length", b"")
        self.length: int | None = None
        """Of the body in bytes; None: its client does not say."""
        if given.isdigit() and len(given) <= _MAX_LENGTH_DIGITS:
            self.length = int(given)

    def client(self) -> bytes | None:
        """Whose request it is by the gateway's word: the last address; None: it says none."""
        given = self.fields.get(b"x-forwarded-for")
        if given is None:
            return None
        last = given[max(0, len(given) - _MAX_ADDRESS_BYTES - 2) :].rpartition(b",")[2].strip()
        if not last or len(last) > _MAX_ADDRESS_BYTES or last.translate(None, _IN_ADDRESSES):
            return None
        return last


class AnswerHead:
    """What is read of an answer's head."""

    __slots__ = ("fields", "is_last", "status")

    def __init__(self, message: Incoming) -> None:
        received, self.is_last = message.headers()
        self.status = 0
        fields: dict[bytes, bytes] = {}
        for name, value in received:
            if name in _READ_OF_ANSWERS:
                fields[name] = value
            elif name == b":status" and value.isdigit() and len(value) == _STATUS_DIGITS:
                self.status = int(value)
        self.fields = fields
