"""The Huffman code of header fields (RFC 7541, appendix B), which is a canonical one."""

from typing import Final

# Bits of the code of each byte. Unit: bits. Source: RFC 7541, appendix B; the codes follow from
# them, in the order of their lengths and then of their bytes. The end of string has 30.
_LENGTHS: Final = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5,
    6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23,
    23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26,
    27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
)  # fmt: skip
_LONGEST: Final = 30
# More bits than a byte's padding can have.
_MAX_PADDING: Final = 7


class HuffmanError(ValueError):
    """The bytes are no such code."""


def _table() -> dict[int, int]:
    """The byte of each code, by the code with a 1 before it: that tells lengths apart."""
    table: dict[int, int] = {}
    code, before = 0, 0
    for length, byte in sorted([(length, byte) for byte, length in enumerate(_LENGTHS)]):
        code <<= length - before
        table[(1 << length) | code] = byte
        code += 1
        before = length
    return table


_BYTES: Final[dict[int, int]] = _table()


def decode(data: bytes) -> bytes:
    """The text. Raises ``HuffmanError``."""
    found = bytearray()
    table = _BYTES
    code, length = 1, 0
    for byte in data:
        at = 7
        while at >= 0:
            code = (code << 1) | ((byte >> at) & 1)
            length += 1
            at -= 1
            if length >= 5:  # noqa: PLR2004 - the shortest code
                meant = table.get(code)
                if meant is not None:
                    found.append(meant)
                    code, length = 1, 0
                elif length > _LONGEST:
                    msg = "no such code"
                    raise HuffmanError(msg)
    if length > _MAX_PADDING or code != (2 << length) - 1:
        msg = "the padding is not the beginning of the end of string"
        raise HuffmanError(msg)
    return bytes(found)
