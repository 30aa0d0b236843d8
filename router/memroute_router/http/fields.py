"""Which header fields travel on, which end here, and which must not be believed.

Hop-by-hop fields (RFC 9110, 7.6.1) speak of one connection and end with it, as do the fields that
``Connection`` names. Framing is ours to write: what a peer said of lengths is never repeated.
What proxies say of a request's way ends here, too: the router writes its own, and repeats theirs
where it was told to believe them (``--trust-headers``, ``--trusted-proxies``).
``Accept-Encoding`` ends here too: engines are asked for bytes that the router can read. Progress,
usage and errors of an answer stand in its body, and engines do not compress; a gateway before the
router does it better.
"""

import http
from typing import Final

REQUEST_ID: Final = b"x-request-id"
SESSION_ID: Final = b"x-session-id"
# What a client calls a conversation; engines may want to know it too.
EXPLAIN: Final = b"x-memroute-explain"
REASON: Final = b"x-memroute-reason"
TENANT: Final = b"x-memroute-tenant"
PRIORITY: Final = b"x-memroute-priority"
TTFT_MILLISECONDS: Final = b"x-memroute-ttft-ms"
# What a client claims of itself: believed only where something before the router has checked it.
JSON: Final = b"content-type: application/json\r\n"

# What becomes of a field. Numbers, not an enum: one is looked at for every field that passes.
_ENDS: Final = 0
_READ: Final = 1
"""Ends here too; the router reads it."""
_SEEN: Final = 2
"""Read, and passed on."""

_HOP_BY_HOP = (
    b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"http2-settings",
)  # fmt: skip

# What proxies say of a request's way, beside the three fields that the router writes itself:
# engines read none of it, and anybody can write it.
_FORWARDED = (
    b"forwarded", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip",
    b"x-cluster-client-ip", b"x-envoy-external-address", b"x-original-forwarded-for",
    b"x-original-host", b"x-original-uri", b"x-original-url", b"x-rewrite-url",
    *(b"x-forwarded-" + name for name in (
        b"access-token", b"by", b"client-cert", b"email", b"groups", b"method", b"path", b"port",
        b"preferred-username", b"prefix", b"scheme", b"server", b"ssl", b"tls-client-cert",
        b"tls-client-cert-info", b"uri", b"user",
    )),
)  # fmt: skip

REQUEST_FIELDS: Final[dict[bytes, int]] = (
    dict.fromkeys((*_HOP_BY_HOP, *_FORWARDED, b"accept-encoding"), _ENDS)
    | dict.fromkeys(
        (
            b"connection", b"content-encoding", b"content-length", b"expect", b"host",
            b"transfer-encoding", b"upgrade", b"x-forwarded-for", b"x-forwarded-host",
            b"x-forwarded-proto", EXPLAIN, PRIORITY, REQUEST_ID, TENANT, TTFT_MILLISECONDS,
        ),
        _READ,
    )
    | {
        b"authorization": _SEEN, b"content-type": _SEEN, b"traceparent": _SEEN,
        b"x-api-key": _SEEN, SESSION_ID: _SEEN,
    }
)  # fmt: skip
"""Requests; what is not named here is passed on as it came."""

KEYED_REQUEST_FIELDS: Final[dict[bytes, int]] = (
    REQUEST_FIELDS
    | dict.fromkeys((b"authorization", b"x-api-key"), _READ)
    | dict.fromkeys((b"api-key", b"cookie", b"x-goog-api-key"), _ENDS)
)
"""The same where engines get the router's own credential: a client's ends here."""

RESPONSE_FIELDS: Final[dict[bytes, int]] = (
    dict.fromkeys((*_HOP_BY_HOP, b"upgrade"), _ENDS)
    | dict.fromkeys(
        (b"connection", b"content-length", b"retry-after", b"transfer-encoding", REQUEST_ID),
        _READ,
    )
    | {b"content-encoding": _SEEN, b"content-type": _SEEN}
)
"""Answers of engines, likewise."""
_BLANK: Final = 0x20
_LISTS: Final = frozenset({b"connection", b"traceparent", b"upgrade", b"x-forwarded-for"})
"""Of the fields that are read, those of which there may be several.

Several of ``traceparent`` make none: what they are joined to cannot be read."""

STATUS_LINES: Final[dict[int, bytes]] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in http.HTTPStatus
}


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


class Head:
    """The fields of one request or answer, sorted as they arrive. Owns what it has collected."""

    __slots__ = ("_kinds", "_lines", "num_bytes", "num_fields", "read", "twice")

    def __init__(self, kinds: dict[bytes, int]) -> None:
        """``kinds``: ``REQUEST_FIELDS`` or ``RESPONSE_FIELDS``."""
        self._kinds = kinds
        self._lines: list[bytes] = []
        """The fields that travel on, each as it is sent."""
        self.read: dict[bytes, bytes] = {}
        """What the router reads, by lower-case name."""
        self.twice: bytes | None = None
        """A field that came twice and may not: two of them leave no safe reading."""
        self.num_fields = 0
        self.num_bytes = 0

    def add(self, name: bytes, value: bytes) -> None:
        """One more field."""
        self.num_fields += 1
        self.num_bytes += len(name) + len(value)
        name = name.lower()
        kind = self._kinds.get(name)
        if kind is None:
            self._lines.append(b"%b: %b\r\n" % (name, value))
            return
        if kind == _ENDS:
            return
        if kind == _SEEN:
            self._lines.append(b"%b: %b\r\n" % (name, value))
        if value and (value[0] <= _BLANK or value[-1] <= _BLANK):
            value = value.strip(b" \t")  # the parser leaves those behind a value
        if name not in self.read:
            self.read[name] = value
        elif name in _LISTS:
            self.read[name] += b", " + value
        else:
            self.twice = name

    def ended(self) -> list[tuple[bytes, bytes]]:
        """The fields that are read and do not travel on, by lower-case name."""
        return [field for field in self.read.items() if self._kinds.get(field[0]) == _READ]

    def lines(self) -> bytes:
        """What travels on: lines, each ended."""
        connection = self.read.get(b"connection")
        if connection is not None and connection.lower() not in {b"keep-alive", b"close"}:
            nominated = {token.strip().lower() for token in connection.split(b",")}
            self._lines = [line for line in self._lines if line.partition(b":")[0] not in nominated]
        return b"".join(self._lines)
