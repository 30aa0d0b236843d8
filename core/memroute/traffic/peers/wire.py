"""Reports as bytes, and back: the datagrams that routers send each other.

```text
header   "mr"  version u8  flags u8  incarnation u64  sequence u64     network byte order
records  kind u8, then the fields of the report; as many as fit
tag      16 bytes of HMAC-SHA256 over all before it, where routers share a key

flags    1 tagged   2 a welcome, without a number   4 the sender is a picker: gateways ask it
```

``incarnation`` is the sender's start in nanoseconds. ``sequence`` counts its datagrams: a receiver
takes each once, in order, and drops datagrams that come late or again. (A welcome has no number. It
carries keys and sessions only.) A datagram of another version is dropped: while routers are being
replaced by newer ones, they know less of each other, nothing worse.

Decoding never raises: a datagram that is cut off, unknown or out of range is ``Malformed``.
"""

import hmac
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from memroute.traffic.peers.reports import (
    AnsweredReport,
    EndedReport,
    MoreKeys,
    OpenReport,
    Report,
    SentReport,
    ServedReport,
)

# Version of the datagrams: routers of different versions do not understand each other.
# Unit: version. Source: a name.
VERSION: Final = 1
# Size of a datagram, which goes through the usual 1,500 bytes of a link and an overlay's headers
# in one piece.
# Unit: bytes. Source: Ethernet's MTU less an overlay's headers.
MAX_DATAGRAM_BYTES: Final = 1400
# Bytes of the MAC: 128 bits, half of the whole.
# Unit: bytes. Source: RFC 2104, section 5.
TAG_BYTES: Final = 16
# Keys of a prompt in one record: 1,016 bytes, 32k tokens at 256 a block.
# Unit: keys. Source: a datagram's size.
MAX_KEYS: Final = 127
# Open requests in one record: 1,024 bytes.
# Unit: requests. Source: a datagram's size.
MAX_OPEN: Final = 256
_MAGIC: Final = b"mr"
_HEADER: Final = struct.Struct(">2sBBQQ")
_SENT: Final = struct.Struct(">BQQIIIHBQHB")
_MORE: Final = struct.Struct(">BQHB")
_SERVED: Final = struct.Struct(">BQQI")
_ANSWERED: Final = struct.Struct(">BQB")
_ENDED: Final = struct.Struct(">BQIB")
_OPEN: Final = struct.Struct(">BQQHH")
_KIND_SENT: Final = 1
_KIND_MORE: Final = 2
_KIND_ANSWERED: Final = 3
_KIND_ENDED: Final = 4
_KIND_OPEN: Final = 5
_KIND_SERVED: Final = 6
_FLAG_TAGGED: Final = 1
_FLAG_UNNUMBERED: Final = 2
_FLAG_PICKER: Final = 4
_MAX_U16: Final = (1 << 16) - 1
_MAX_U32: Final = (1 << 32) - 1
_MASK: Final = (1 << 64) - 1
_SIGNED: Final = 0x80
# In the count of keys: they are numbers with a sign (of token ids), not without (of text).


class Malformed(StrEnum):
    """Why a datagram was not understood; the value is a metric label."""

    SHORT = "short"
    VERSION = "version"
    UNAUTHENTICATED = "unauthenticated"
    RECORD = "record"


class Datagram:
    """What was understood of one."""

    __slots__ = ("incarnation", "is_of_picker", "reports", "sequence")

    def __init__(
        self,
        incarnation: int,
        sequence: int | None,
        reports: list[Report],
        *,
        is_of_picker: bool = False,
    ) -> None:
        self.incarnation = incarnation
        self.sequence = sequence
        """None: of a welcome, which goes to one peer alone."""
        self.reports = reports
        self.is_of_picker = is_of_picker


def encode_report(report: Report) -> bytes:
    """One record; numbers that are too great for their fields are as great as those can be."""
    if isinstance(report, SentReport):
        return _SENT.pack(
            _KIND_SENT, report.request, report.replica, _u32(report.prompt_tokens),
            _u32(report.work_tokens), _u32(report.expected_output_tokens),
            min(_MAX_U16, max(1, report.num_sequences)), report.is_stream, report.session,
            min(_MAX_U16, report.tokens_per_block), _keys_head(report.prefix),
        ) + _keys(report.prefix)  # fmt: skip
    if isinstance(report, MoreKeys):
        return _MORE.pack(
            _KIND_MORE, report.replica, min(_MAX_U16, report.tokens_per_block),
            _keys_head(report.prefix),
        ) + _keys(report.prefix)  # fmt: skip
    if isinstance(report, ServedReport):
        return _SERVED.pack(_KIND_SERVED, report.session, report.replica, _u32(report.num_tokens))
    if isinstance(report, AnsweredReport):
        return _ANSWERED.pack(_KIND_ANSWERED, report.request, report.is_seen)
    if isinstance(report, EndedReport):
        return _ENDED.pack(
            _KIND_ENDED, report.request, _u32(report.held_tokens), report.is_complete
        )
    pending = report.pending[:MAX_OPEN]
    answered = report.answered[: MAX_OPEN - len(pending)]
    offsets = [_u32(request - report.first) for request in (*pending, *answered)]
    head = _OPEN.pack(_KIND_OPEN, report.first, report.last, len(pending), len(answered))
    return head + struct.pack(f">{len(offsets)}I", *offsets)


def encode_datagrams(
    records: Sequence[bytes],
    *,
    incarnation: int,
    first_sequence: int | None,
    secret: bytes | None,
    is_of_picker: bool = False,
) -> list[bytes]:
    """As few datagrams as hold the records, each complete in itself.

    ``first_sequence``: None for those of a welcome, which have no number.
    """
    flags = (_FLAG_TAGGED if secret else 0) | (_FLAG_PICKER if is_of_picker else 0)
    datagrams: list[bytes] = []
    room = MAX_DATAGRAM_BYTES - _HEADER.size - (TAG_BYTES if secret else 0)
    body: list[bytes] = []
    size = 0
    for record in records:
        if body and size + len(record) > room:
            sequence = None if first_sequence is None else first_sequence + len(datagrams)
            datagrams.append(_datagram(body, flags, incarnation, sequence, secret))
            body, size = [], 0
        body.append(record)
        size += len(record)
    if body:
        sequence = None if first_sequence is None else first_sequence + len(datagrams)
        datagrams.append(_datagram(body, flags, incarnation, sequence, secret))
    return datagrams


def decode_datagram(data: bytes, *, secret: bytes | None) -> Datagram | Malformed:
    """What a datagram says, or why it says nothing; never raises, whatever the bytes."""
    if len(data) < _HEADER.size:
        return Malformed.SHORT
    magic, version, flags, incarnation, sequence = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != VERSION:
        return Malformed.VERSION
    end = len(data)
    if flags & _FLAG_TAGGED:
        end -= TAG_BYTES
        if end < _HEADER.size:
            return Malformed.SHORT
    if secret:
        is_tagged = bool(flags & _FLAG_TAGGED)
        if not is_tagged or not hmac.compare_digest(_tag(data[:end], secret), data[end:]):
            return Malformed.UNAUTHENTICATED
    reports: list[Report] = []
    at = _HEADER.size
    while at < end:
        read = _read_report(data, at, end)
        if read is None:
            return Malformed.RECORD
        report, at = read
        reports.append(report)
    return Datagram(
        incarnation,
        None if flags & _FLAG_UNNUMBERED else sequence,
        reports,
        is_of_picker=bool(flags & _FLAG_PICKER),
    )


def _read_report(data: bytes, at: int, end: int) -> tuple[Report, int] | None:
    """The record at a place and where the next one begins; None where there is no whole one."""
    kind = data[at]
    if kind == _KIND_SENT:
        return _read_sent(data, at, end)
    if kind == _KIND_MORE:
        return _read_more(data, at, end)
    if kind == _KIND_SERVED and at + _SERVED.size <= end:
        _, session, replica, num_tokens = _SERVED.unpack_from(data, at)
        return ServedReport(session, replica, num_tokens=num_tokens), at + _SERVED.size
    if kind == _KIND_ANSWERED and at + _ANSWERED.size <= end:
        _, request, is_seen = _ANSWERED.unpack_from(data, at)
        return AnsweredReport(request, is_seen=bool(is_seen)), at + _ANSWERED.size
    if kind == _KIND_ENDED and at + _ENDED.size <= end:
        _, request, held, is_complete = _ENDED.unpack_from(data, at)
        ended = EndedReport(request, held_tokens=held, is_complete=bool(is_complete))
        return ended, at + _ENDED.size
    return _read_open(data, at, end) if kind == _KIND_OPEN else None


def _read_sent(data: bytes, at: int, end: int) -> tuple[Report, int] | None:
    if at + _SENT.size > end:
        return None
    fields = _SENT.unpack_from(data, at)
    keys = _read_keys(data, at + _SENT.size, end, fields[10])
    if keys is None:
        return None
    sent = SentReport(
        fields[1], fields[2], prompt_tokens=fields[3], work_tokens=fields[4],
        expected_output_tokens=fields[5], num_sequences=fields[6],
        is_stream=bool(fields[7]), session=fields[8], tokens_per_block=fields[9], prefix=keys,
    )  # fmt: skip
    return sent, at + _SENT.size + 8 * len(keys)


def _read_more(data: bytes, at: int, end: int) -> tuple[Report, int] | None:
    if at + _MORE.size > end:
        return None
    _, replica, size, count = _MORE.unpack_from(data, at)
    keys = _read_keys(data, at + _MORE.size, end, count)
    if keys is None:
        return None
    more = MoreKeys(replica, tokens_per_block=size, prefix=keys)
    return more, at + _MORE.size + 8 * len(keys)


def _read_open(data: bytes, at: int, end: int) -> tuple[Report, int] | None:
    if at + _OPEN.size > end:
        return None
    _, first, last, num_pending, num_answered = _OPEN.unpack_from(data, at)
    at += _OPEN.size
    count = num_pending + num_answered
    if at + 4 * count > end:
        return None
    numbers = tuple([first + n for n in struct.unpack_from(f">{count}I", data, at)])
    still = OpenReport(first, last, pending=numbers[:num_pending], answered=numbers[num_pending:])
    return still, at + 4 * count


def _read_keys(data: bytes, at: int, end: int, head: int) -> tuple[int, ...] | None:
    """``head``: how many, and whether they have a sign."""
    count = head & ~_SIGNED
    if at + 8 * count > end:
        return None
    kind = "q" if head & _SIGNED else "Q"
    keys: tuple[int, ...] = struct.unpack_from(f">{count}{kind}", data, at)
    return keys


def _keys_head(prefix: tuple[int, ...]) -> int:
    count = min(MAX_KEYS, len(prefix))
    return count | _SIGNED if count and min(prefix[:count]) < 0 else count


def _keys(prefix: tuple[int, ...]) -> bytes:
    keys = prefix[:MAX_KEYS]
    if _keys_head(prefix) & _SIGNED:
        return struct.pack(f">{len(keys)}q", *keys)
    return struct.pack(f">{len(keys)}Q", *[key & _MASK for key in keys])


def _datagram(
    body: list[bytes], flags: int, incarnation: int, sequence: int | None, secret: bytes | None
) -> bytes:
    if sequence is None:
        flags |= _FLAG_UNNUMBERED
    data = _HEADER.pack(_MAGIC, VERSION, flags, incarnation, sequence or 0) + b"".join(body)
    return data + _tag(data, secret) if secret else data


def _tag(data: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, data, "sha256")[:TAG_BYTES]


def _u32(value: int) -> int:
    return min(_MAX_U32, max(0, value))
