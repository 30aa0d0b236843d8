"""Tokens of text that nobody has tokenized, and the keys of its blocks.

Tokens per byte differ by a factor of four between English prose (4.7 bytes) and tables of digits
(1.0). They are well told by the bytes alone: every byte has a weight, and a text has as many tokens
as its weights add up to. The weights are a least-squares fit to five tokenizers (Qwen 3,
Llama 3.1, Gemma 3, DeepSeek V3, Mistral's Tekken) over prose, code, JSON, logs and twenty languages;
``python -m bench.sizing`` prints how far off they are. In UTF-8 the first byte of a character tells
its script; the bytes that follow it weigh nothing. Of long texts a sample of bytes is weighed.

Blocks are stretches of UTF-8, small at the beginning of a prompt and larger further on, so that a
prefix is known to a few percent of its length at any length. The key of a block is a hash of
all up to its end, and is the same in all processes.
"""

from typing import Final
from zlib import adler32

from xxhash import xxh3_64_intdigest

WEIGHT_OF_A_TOKEN: Final = 48
# The weights below are in 48ths of a token: whole numbers, the largest 96.
MAX_SAMPLED_BYTES: Final = 640
# Of a stretch: 640 x 96 stays under 65,521, up to where a byte sum can be read off Adler-32. The
# share of a class of bytes is then known to about 2 percentage points.

_LOWER: Final = 11
_UPPER: Final = 30
_SPACE: Final = 3
_LINE_END: Final = 12
_PUNCTUATION: Final = 26
_DIGIT: Final = 46
# Fitted: 0.23, 0.63, 0.06 (most spaces begin a word's token), 0.25, 0.54 and 0.96 tokens.
_SCRIPTS: Final = (
    (0xC2, 0xCB, 58),  # accented Latin letters, which split words: 1.2 tokens
    (0xCC, 0xD4, 20),  # Greek, Cyrillic: 0.42
    (0xD5, 0xDF, 22),  # Hebrew, Arabic: 0.46
    (0xE0, 0xE0, 29),  # Indic scripts, Thai: 0.6
    (0xE1, 0xE2, 35),  # Vietnamese, Georgian; dashes, quotes, symbols: 0.73
    (0xE3, 0xE9, 30),  # Chinese, Japanese: 0.63
    (0xEA, 0xED, 32),  # Korean: 0.67
    (0xEE, 0xEF, 38),  # full-width punctuation: 0.8
    (0xF0, 0xF4, 96),  # emoji, rare characters: 2
)  # fmt: skip


def _tables() -> tuple[bytes, bytes, bytes]:
    """Weights of bytes as text in ASCII, as digits, and as the beginnings of other characters."""
    ascii_weights, digits, other = bytearray(256), bytearray(256), bytearray(256)
    for code in range(128):
        character = chr(code)
        if character.isdigit():
            digits[code] = _DIGIT
        elif character.isalpha():
            ascii_weights[code] = _LOWER if character.islower() else _UPPER
        elif character in "\n\r":
            ascii_weights[code] = _LINE_END
        elif character.isspace():
            ascii_weights[code] = _SPACE
        elif code:  # a zero byte is our own separator
            ascii_weights[code] = _PUNCTUATION
    for first, last, weight in _SCRIPTS:
        for code in range(first, last + 1):
            other[code] = weight
    return bytes(ascii_weights), bytes(digits), bytes(other)


_ASCII_WEIGHTS, _DIGIT_WEIGHTS, _OTHER_WEIGHTS = _tables()


def utf8(text: str) -> bytes:
    """The text's bytes; a lone surrogate, which no engine could be sent, does not matter."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


class Span:
    """A stretch of a prompt: some text, or an attachment."""

    __slots__ = ("ascii", "attachment", "digits", "num_blocks", "num_bytes", "other", "size")

    def __init__(self, num_bytes: int, size: int) -> None:
        self.num_bytes = num_bytes
        self.size = size
        """Bytes of each of its blocks; the last may have fewer."""
        self.num_blocks = 0
        """Blocks of it that have keys."""
        self.ascii = 0.0
        self.digits = 0.0
        self.other = 0.0
        """Tokens of each kind, before any correction."""
        self.attachment = -1
        """Its place among the attachments; -1: it is text."""


def weigh(data: bytes, start: int, size: int, *, is_ascii: bool) -> Span:
    """How many tokens of each kind the bytes from ``start`` on are taken to be."""
    span = Span(size, size)
    stride = 1
    if size > MAX_SAMPLED_BYTES:
        # Odd, so that what repeats every 2, 4 or 8 bytes is not always met at the same place.
        stride = (size // MAX_SAMPLED_BYTES + 1) | 1
    sample = data[start : start + size : stride]
    if not sample:
        return span
    scale = size / (len(sample) * WEIGHT_OF_A_TOKEN)
    span.ascii = ((adler32(sample.translate(_ASCII_WEIGHTS)) & 0xFFFF) - 1) * scale
    span.digits = ((adler32(sample.translate(_DIGIT_WEIGHTS)) & 0xFFFF) - 1) * scale
    if not is_ascii:
        span.other = ((adler32(sample.translate(_OTHER_WEIGHTS)) & 0xFFFF) - 1) * scale
    return span


MIN_TAIL_BYTES: Final = 64
# The end of a prompt that fills no block has a key too, so that the same prompt is known as a whole;
# 64 bytes are about 16 tokens, the smallest block that engines cache.
_STRETCHES: Final = ((4096, 4096, 512), (16_384, 12_288, 1024), (65_536, 16_384, 2048))
_FURTHER: Final = (65_536, 4096)
# Up to which byte; how much is weighed together; bytes of a block. A prompt of 2, 10, 40 and 400 KB
# is matched to within 256, 512, 1,024 and 2,048 bytes on average, and has 4, 14, 32 and 126 keys.


class Chain:
    """The keys of a prompt, and what each stretch of it weighs: built once, from its beginning."""

    __slots__ = ("_position", "keys", "last", "spans")

    def __init__(self, root: int) -> None:
        self.keys: list[int] = []
        self.spans: list[Span] = []
        self.last = root
        self._position = 0

    def add_text(self, data: bytes, *, is_ascii: bool) -> None:
        """More of the prompt, up to its end or the next attachment."""
        start = 0
        left = len(data)
        keys, last = self.keys, self.last
        while left:
            together, size = _stretch(self._position)
            together = min(together, left)
            span = weigh(data, start, together, is_ascii=is_ascii)
            span.size = size
            end = start + together
            before = len(keys)
            while start + size <= end:
                last = xxh3_64_intdigest(data[start : start + size], last)
                keys.append(last)
                start += size
            if end - start >= MIN_TAIL_BYTES:
                last = xxh3_64_intdigest(data[start:end], last)
                keys.append(last)
            start = end
            span.num_blocks = len(keys) - before
            self.spans.append(span)
            self._position += together
            left -= together
        self.last = last

    def add_attachment(self, index: int, key: int) -> None:
        """An image or a recording: one link, whatever its size."""
        self.last = xxh3_64_intdigest(b"\x00attachment", self.last ^ key)
        self.keys.append(self.last)
        span = Span(0, 0)
        span.num_blocks = 1
        span.attachment = index
        self.spans.append(span)


def _stretch(position: int) -> tuple[int, int]:
    """How many bytes are weighed together there, and the bytes of a block."""
    for limit, together, size in _STRETCHES:
        if position < limit:
            return min(together, limit - position), size
    return _FURTHER
