"""Which header fields travel on, which end here, and which must not be believed.

Hop-by-hop fields (RFC 9110, 7.6.1) speak of one connection and end with it, as do the fields that
``Connection`` names. Framing is ours to write: what a peer said of lengths is never repeated.
"""

import http
from enum import Enum, auto

Fields = list[tuple[bytes, bytes]]
"""Names in lower case, in the order of their arrival."""

REQUEST_ID = b"x-request-id"
EXPLAIN = b"x-memroute-explain"
REASON = b"x-memroute-reason"
JSON = b"content-type: application/json\r\n"


class Kind(Enum):
    """What becomes of a field."""

    HOP_BY_HOP = auto()
    """Ends here, unread."""
    READ = auto()
    """Ends here too; the router reads it."""


_HOP_BY_HOP = (
    b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"upgrade", b"http2-settings",
)  # fmt: skip

REQUEST_FIELDS = dict.fromkeys(_HOP_BY_HOP, Kind.HOP_BY_HOP) | dict.fromkeys(
    (
        b"connection", b"content-encoding", b"content-length", b"expect", b"host",
        b"transfer-encoding", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
        EXPLAIN, REQUEST_ID,
    ),
    Kind.READ,
)  # fmt: skip
"""Requests; what is not named here is passed on as it came."""

RESPONSE_FIELDS = dict.fromkeys(_HOP_BY_HOP, Kind.HOP_BY_HOP) | dict.fromkeys(
    (
        b"connection", b"content-length", b"content-type", b"retry-after",
        b"transfer-encoding", REQUEST_ID,
    ),
    Kind.READ,
)  # fmt: skip
"""Answers of engines, likewise."""

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in http.HTTPStatus
}


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


def split_fields(
    fields: Fields, kinds: dict[bytes, Kind]
) -> tuple[bytes, dict[bytes, bytes], bytes | None]:
    """What travels on (lines, each ended), what the router reads, and a name that came twice.

    The name is one of those that the router reads: two of them leave no safe reading. Repeated
    ``x-forwarded-for`` and ``connection`` are lists and are joined.
    """
    lines = []
    read: dict[bytes, bytes] = {}
    twice: bytes | None = None
    for field in fields:
        kind = kinds.get(field[0])
        if kind is None:
            lines.append(b"%b: %b\r\n" % field)
        elif kind is Kind.READ:
            name = field[0]
            value = field[1].strip(b" \t")  # the parser leaves those behind a value
            if name not in read:
                read[name] = value
            elif name in {b"connection", b"x-forwarded-for"}:
                read[name] += b", " + value
            else:
                twice = name
    connection = read.get(b"connection")
    if connection is not None and connection.lower() not in {b"keep-alive", b"close"}:
        lines = _without_nominated(fields, kinds, connection)
    return b"".join(lines), read, twice


def _without_nominated(fields: Fields, kinds: dict[bytes, Kind], connection: bytes) -> list[bytes]:
    nominated = {token.strip().lower() for token in connection.split(b",")}
    return [
        b"%b: %b\r\n" % field
        for field in fields
        if field[0] not in kinds and field[0] not in nominated
    ]
