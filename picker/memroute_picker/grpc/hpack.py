"""Header fields of HTTP/2 (RFC 7541), read; what is written of them is constant (``frames.py``).

A client's gRPC calls begin alike: most blocks are a few bytes that name entries of its table, and
the same bytes mean the same while nothing is added to the table. They are read once.
"""

from collections import deque
from typing import Final

from memroute_picker.grpc.huffman import HuffmanError, decode

Field = tuple[bytes, bytes]
# Of the table that a client may fill. Unit: bytes. Source: RFC 7541, the default.
TABLE_BYTES: Final = 4096
_ENTRY_BYTES: Final = 32
"""What an entry counts for beside its bytes (RFC 7541, 4.1)."""
# Blocks that are remembered at most. Source: chosen by hand; a client sends one or two kinds.
_MAX_KNOWN: Final = 64
# Of a block that is remembered. Unit: bytes. Source: chosen by hand.
_MAX_KNOWN_BYTES: Final = 1024
# Of a block's fields once they are read. Unit: bytes. Source: chosen by hand; entries of the table
# can be named many times.
MAX_FIELDS_BYTES: Final = 64 * 1024

STATIC: Final[list[Field]] = [
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"),
    (b":path", b"/index.html"), (b":scheme", b"http"), (b":scheme", b"https"),
    (b":status", b"200"), (b":status", b"204"), (b":status", b"206"), (b":status", b"304"),
    (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""),
    (b"accept", b""), (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""),
    (b"authorization", b""), (b"cache-control", b""), (b"content-disposition", b""),
    (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""),
    (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""),
    (b"if-range", b""), (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""),
    (b"location", b""), (b"max-forwards", b""), (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""),
    (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""),
    (b"strict-transport-security", b""), (b"transfer-encoding", b""), (b"user-agent", b""),
    (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
]  # fmt: skip
"""RFC 7541, appendix A."""
_NUM_STATIC: Final = 61


class FieldsError(ValueError):
    """The bytes are no block of header fields: nothing that follows on the connection can be."""


class FieldReader:
    """Reads the blocks of one connection. Owns the client's table."""

    __slots__ = ("_added", "_added_bytes", "_at", "_data", "_known", "_max_bytes", "_was_changed")

    def __init__(self) -> None:
        self._added: deque[Field] = deque()
        """The latest first."""
        self._added_bytes = 0
        self._max_bytes = TABLE_BYTES
        self._known: dict[bytes, list[Field]] = {}
        """What blocks mean while the table stays as it is."""
        self._data = b""
        self._at = 0
        self._was_changed = False

    def read(self, block: bytes) -> list[Field]:
        """The fields of a block. Raises ``FieldsError``."""
        found = self._known.get(block)
        if found is not None:
            return found
        self._data, self._at, self._was_changed = block, 0, False
        try:
            fields = self._fields()
        except (IndexError, HuffmanError) as error:
            msg = f"malformed header fields: {error}"
            raise FieldsError(msg) from error
        finally:
            self._data = b""
        if self._was_changed:
            self._known.clear()
        elif len(block) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[block] = fields
        return fields

    def _fields(self) -> list[Field]:
        data = self._data
        fields: list[Field] = []
        num_bytes = 0
        while self._at < len(data):
            first = data[self._at]
            if first & 0x80:
                field = self._entry(self._number(7))
            elif first & 0x40:
                field = self._literal(6)
                self._add(field)
            elif first & 0x20:
                self._resize(self._number(5))
                continue
            else:
                field = self._literal(4)
            num_bytes += len(field[0]) + len(field[1])
            if num_bytes > MAX_FIELDS_BYTES:
                msg = "the header fields are too large"
                raise FieldsError(msg)
            fields.append(field)
        return fields

    def _number(self, num_bits: int) -> int:
        """An integer whose first bits are the lowest of the byte that is next (RFC 7541, 5.1)."""
        data = self._data
        most = (1 << num_bits) - 1
        value = data[self._at] & most
        self._at += 1
        if value < most:
            return value
        shift = 0
        while True:
            byte = data[self._at]
            self._at += 1
            value += (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - its highest bit says whether more follow
                return value
            if shift > 28:  # noqa: PLR2004 - no length has so many bits
                msg = "a number is too large"
                raise FieldsError(msg)

    def _text(self) -> bytes:
        is_coded = self._data[self._at] & 0x80
        length = self._number(7)
        begin, end = self._at, self._at + length
        if end > len(self._data):
            msg = "a text has no end"
            raise FieldsError(msg)
        self._at = end
        text = self._data[begin:end]
        return decode(text) if is_coded else text

    def _literal(self, num_bits: int) -> Field:
        number = self._number(num_bits)
        name = self._entry(number)[0] if number else self._text()
        return name, self._text()

    def _entry(self, number: int) -> Field:
        if 1 <= number <= _NUM_STATIC:
            return STATIC[number - 1]
        place = number - _NUM_STATIC - 1
        if not 0 <= place < len(self._added):
            msg = f"there is no entry {number}"
            raise FieldsError(msg)
        return self._added[place]

    def _add(self, field: Field) -> None:
        self._was_changed = True
        num_bytes = len(field[0]) + len(field[1]) + _ENTRY_BYTES
        self._shrink(self._max_bytes - num_bytes)
        if num_bytes <= self._max_bytes:
            self._added.appendleft(field)
            self._added_bytes += num_bytes

    def _resize(self, max_bytes: int) -> None:
        if max_bytes > TABLE_BYTES:
            msg = "the table is larger than was agreed"
            raise FieldsError(msg)
        self._was_changed = True
        self._max_bytes = max_bytes
        self._shrink(max_bytes)

    def _shrink(self, max_bytes: int) -> None:
        while self._added and self._added_bytes > max_bytes:
            name, value = self._added.pop()
            self._added_bytes -= len(name) + len(value) + _ENTRY_BYTES
