"""Tokens of text that nobody has tokenized, and the keys of its blocks.

A token is 4.7 bytes of English prose and 1.0 of a table of digits. The bytes alone tell much of
that: every byte has a weight, and a text has as many tokens as its weights add up to. The weights
are a least-squares fit to five tokenizers (Qwen 3, Llama 3.1, Gemma 3, DeepSeek V3, Mistral's
Tekken) over prose, code, JSON, logs and twenty languages; ``python -m bench.sizing`` prints how far
off they are. In UTF-8 the first byte of a character tells its script; the bytes that follow it
weigh nothing. Of long texts a sample of bytes is weighed.

Blocks are stretches of UTF-8, small at the beginning of a prompt and larger further on, so that a
prefix is known to a few percent of its length at any length. The key of a block is a hash of
all up to its end, and is the same in all processes.
"""

from typing import Final
from zlib import adler32

from xxhash import xxh3_64_intdigest

from memroute.traffic.lengths.prompt import (
    ABJADS,
    ACCENTS,
    ALPHABETS,
    HAN,
    HANGUL,
    INDIC,
    KANA,
    MEASURED,
    SYMBOLS,
)

WEIGHT_OF_A_TOKEN: Final = 48
# The weights below are in 48ths of a token: whole numbers, the largest 96.
_LOWER: Final = 11
_UPPER: Final = 30
_SPACE: Final = 3
_LINE_END: Final = 12
_PUNCTUATION: Final = 26
_DIGIT: Final = 46
# Fitted: 0.23, 0.63, 0.06 (most spaces begin a word's token), 0.25, 0.54 and 0.96 tokens.
_SCRIPTS: Final = (
    # The first bytes of characters, what a character weighs, and its kind.
    (0xC2, 0xCB, 58, ACCENTS),  # accented Latin letters, which split words: 1.2 tokens
    (0xCC, 0xD4, 20, ALPHABETS),  # Greek, Cyrillic: 0.42
    (0xD5, 0xDF, 22, ABJADS),  # Hebrew, Arabic: 0.46
    (0xE0, 0xE1, 29, INDIC),  # 0.6
    (0xE2, 0xE2, 35, SYMBOLS),  # dashes, quotes, symbols: 0.73
    (0xE3, 0xE3, 30, KANA),  # 0.63, as Chinese characters while nothing is learned
    (0xE4, 0xE9, 30, HAN),  # 0.63
    (0xEA, 0xED, 32, HANGUL),  # 0.67
    (0xEE, 0xEF, 38, HAN),  # full-width punctuation: 0.8
    (0xF0, 0xF4, 96, SYMBOLS),  # emoji, rare characters: 2
)
_FIRST_SCRIPT: Final = ACCENTS
NUM_SCRIPTS: Final = MEASURED - ACCENTS


def _tables() -> tuple[bytes, bytes, bytes, list[bytes]]:
    """Weights of bytes as words, symbols, digits, and as the beginnings of each other script."""
    words, symbols, digits = bytearray(256), bytearray(256), bytearray(256)
    scripts = [bytearray(256) for _ in range(NUM_SCRIPTS)]
    for code in range(128):
        character = chr(code)
        if character.isdigit():
            digits[code] = _DIGIT
        elif character.isalpha():
            words[code] = _LOWER if character.islower() else _UPPER
        elif character in "\n\r":
            symbols[code] = _LINE_END
        elif character.isspace():
            words[code] = _SPACE
        elif code > 1:  # 0 and 1 are our own separators
            symbols[code] = _PUNCTUATION
    for first, last, weight, kind in _SCRIPTS:
        table = symbols if kind == SYMBOLS else scripts[kind - _FIRST_SCRIPT]
        for code in range(first, last + 1):
            table[code] = weight
    return bytes(words), bytes(symbols), bytes(digits), [bytes(table) for table in scripts]


_TABLES: Final = _tables()
_WORD_WEIGHTS: Final = _TABLES[0]
_SYMBOL_WEIGHTS: Final = _TABLES[1]
_DIGIT_WEIGHTS: Final = _TABLES[2]
_SCRIPT_WEIGHTS: Final = _TABLES[3]
_WEIGHTS: Final = bytes(
    sum(table[code] for table in (_WORD_WEIGHTS, _SYMBOL_WEIGHTS, _DIGIT_WEIGHTS, *_SCRIPT_WEIGHTS))
    for code in range(256)
)
_WORD_BYTES: Final = bytes(
    code
    for code in range(256)
    if not any(table[code] for table in (_SYMBOL_WEIGHTS, _DIGIT_WEIGHTS, *_SCRIPT_WEIGHTS))
)
# Bytes of nothing but words, and those that follow the first of a character.
_NO_BEGINNINGS: Final = bytes([*range(0x80), *range(0x80, 0xC2), 0xE2, *range(0xF0, 0x100)])
# Bytes that begin no character of the scripts.
_SCRIPT_BYTES: Final = [
    bytes(code for code in range(256) if table[code]) for table in _SCRIPT_WEIGHTS
]
_SCRIPT_OF: Final = bytes(
    next((script for script, table in enumerate(_SCRIPT_WEIGHTS) if table[code]), 0)
    for code in range(256)
)
# The bytes that begin characters of each script, and of each byte the script.

_LIMITS: Final[tuple[int, ...]] = (1024, 4096, 16_384, 65_536, 1 << 62)
_TOGETHER: Final[tuple[int, ...]] = (1024, 3072, 12_288, 24_576, 65_536)
_FIRST_COMBS: Final[tuple[int, ...]] = (1, 11, 41, 83, 227)
_SECOND_COMBS: Final[tuple[int, ...]] = (0, 17, 47, 89, 233)
_SIZES: Final[tuple[int, ...]] = (512, 512, 1024, 2048, 4096)
# Up to which byte of the prompt; how much is weighed together; the steps between its bytes that
# are weighed; bytes of a block. A prompt of 2, 10, 40 and 400 KB has 4, 14, 32 and 126 keys, more
# where messages end. (Their type leaves their length open: of a known one, compiled code makes a
# new tuple whenever its n-th is asked for.)
#
# All of the first kilobyte is weighed, and some 500 bytes of each stretch behind it, which tell
# its tokens to about 4 %. Two combs take them: what repeats itself (tables, logs with lines of one
# length) can be in step with one of them only. Steps are primes of 5 or more: with 2 or 3,
# characters of that many bytes would always be met at the same byte. Steps go by the place in the
# prompt alone: the same text in the same place is weighed the same in every prompt, whatever
# follows it. So ``Beginnings`` learn by how much a sample is off, too.
#
# Adler-32 tells a sum up to 65,520. Of 1,024 bytes in a row the greatest is 1,024 x 46 (digits: a
# character of more weight has more bytes), of combs at most 572 x 96.
_MIN_PARTED: Final = 256
_PART_STEP: Final = 5
# Of more bytes than that every fifth is sorted by kind: how many tokens there are is told by all,
# of which kind by those. Every fourth or sixth would meet characters of two or three bytes at the
# same byte.


def utf8(text: str) -> bytes:
    """The text's bytes; a lone surrogate, which no engine could be sent, does not matter."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def num_bytes(text: str) -> int:
    """Of a text in UTF-8."""
    return len(text) if text.isascii() else len(utf8(text))


class Span:
    """What a stretch of text weighs."""

    __slots__ = ("digits", "num_bytes", "scripts", "symbols", "words")

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.words = 0.0
        self.symbols = 0.0
        self.digits = 0.0
        self.scripts: list[float] | None = None
        """Tokens of each kind, before any correction; None: it is all ASCII."""

    def scale(self, ratio: float) -> None:
        """Take every kind to be so many times as many tokens."""
        self.words *= ratio
        self.symbols *= ratio
        self.digits *= ratio
        if self.scripts is not None:
            self.scripts = [ratio * tokens for tokens in self.scripts]


def weigh_stretches(data: bytes, position: int, *, is_ascii: bool, lead: bytes = b"") -> list[Span]:
    """What text weighs, in stretches. ``position``: how many bytes of the prompt are before it.

    ``lead``: how the text begins, which goes on with ``data``.
    """
    spans: list[Span] = []
    num_bytes = len(lead) + len(data)
    start = stretch = 0
    while start < num_bytes:
        while position + start >= _LIMITS[stretch]:
            stretch += 1
        limit = min(num_bytes, _LIMITS[stretch] - position)
        end = min(limit, start + _TOGETHER[stretch])
        first, second = _FIRST_COMBS[stretch], _SECOND_COMBS[stretch]
        if second:
            sample = _every(first, lead, data, start, end)
            sample += _every(second, lead, data, start + second // 2, end)
        else:
            sample = _every(1, lead, data, start, end)
        spans.append(_weighed(sample, end - start, is_ascii=is_ascii))
        start = end
    return spans


def _every(step: int, lead: bytes, data: bytes, start: int, end: int) -> bytes:
    """``(lead + data)[start:end:step]``, of which no more is copied."""
    before = len(lead)
    if start >= before:
        return data[start - before : end - before : step]
    return (lead + data[: max(0, end - before)])[start:end:step]


def _weighed(sample: bytes, size: int, *, is_ascii: bool) -> Span:
    """How many tokens of each kind ``size`` bytes are taken to be, of which this is a sample."""
    span = Span(size)
    scale = size / (len(sample) * WEIGHT_OF_A_TOKEN)
    # The sum of the weights: Adler-32 adds up bytes, in its lower half, from 1 on.
    total = ((adler32(sample.translate(_WEIGHTS)) & 0xFFFF) - 1) * scale
    if len(sample) > _MIN_PARTED:
        sample = sample[::_PART_STEP]
        scale = size / (len(sample) * WEIGHT_OF_A_TOKEN)
    others = sample.translate(None, _WORD_BYTES)
    if not others:
        span.words = total
        return span
    span.symbols = ((adler32(others.translate(_SYMBOL_WEIGHTS)) & 0xFFFF) - 1) * scale
    span.digits = ((adler32(others.translate(_DIGIT_WEIGHTS)) & 0xFFFF) - 1) * scale
    num_others = span.symbols + span.digits
    if not is_ascii:
        beginnings = others.translate(None, _NO_BEGINNINGS)
        if beginnings:
            span.scripts = [0.0] * NUM_SCRIPTS
            while beginnings:
                # One script after the other, as few texts have more than two.
                script = _SCRIPT_OF[beginnings[0]]
                weights = beginnings.translate(_SCRIPT_WEIGHTS[script])
                tokens = ((adler32(weights) & 0xFFFF) - 1) * scale
                span.scripts[script] = tokens
                num_others += tokens
                beginnings = beginnings.translate(None, _SCRIPT_BYTES[script])
    if num_others <= total:
        span.words = total - num_others
    else:
        # No words, and the part had more of the others than the whole.
        span.scale(total / num_others)
    return span


MIN_TAIL_BYTES: Final = 64
# Text that fills no block has a key too where it ends a message or the prompt: what follows differs
# from one request to the next just there. 64 bytes are about 16 tokens, the smallest block that
# engines cache.
MIN_BLOCK_SHARE: Final = 4
# A quarter of a block: shorter messages are taken together, so that a prompt of many has not many
# more keys.


class Chain:
    """The keys of a prompt, and what each stretch of it weighs: built once, from its beginning."""

    __slots__ = ("_position", "ends", "keys", "last", "links", "spans")

    def __init__(self, root: int) -> None:
        self.keys: list[int] = []
        self.ends: list[int] = []
        """Of each key: up to which byte of the text it reaches."""
        self.links: dict[int, int] = {}
        """Keys of attachments, by their place among the keys: which attachment it is."""
        self.spans: list[Span] = []
        self.last = root
        self._position = 0

    def add_text(self, data: bytes, cuts: list[int], *, is_ascii: bool, lead: bytes = b"") -> None:
        """More of it, up to its end or the next attachment. ``cuts``: where messages begin.

        ``lead``: how the text begins, which goes on with ``data``: a long text need not be copied
        to have its role before it.
        """
        before = len(lead)
        num_bytes = before + len(data)
        position, last = self._position, self.last
        self.spans += weigh_stretches(data, position, is_ascii=is_ascii, lead=lead)
        keys, ends, limits, digest = self.keys, self.ends, _LIMITS, xxh3_64_intdigest
        num_cuts = len(cuts)
        start = stretch = cut = 0
        last_start = num_bytes - MIN_TAIL_BYTES
        while start <= last_start:
            while position + start >= limits[stretch]:
                stretch += 1
            size = _SIZES[stretch]
            end = start + size
            if cut < num_cuts:
                least = start + size // MIN_BLOCK_SHARE
                while cut < num_cuts and cuts[cut] < least:
                    cut += 1
                if cut < num_cuts and cuts[cut] < end:
                    end = cuts[cut]
            if start >= before:
                last = digest(data[start - before : end - before], last)
            else:
                last = digest(_every(1, lead, data, start, end), last)
            keys.append(last)
            ends.append(position + end)
            start = end
        if start > num_bytes:
            ends[-1] = position + num_bytes
        self.last = last
        self._position = position + num_bytes

    def add_attachment(self, index: int, key: int) -> None:
        """An image or a recording: one link, whatever its size."""
        self.last = xxh3_64_intdigest(b"\0attachment", self.last ^ key)
        self.links[len(self.keys)] = index
        self.keys.append(self.last)
        self.ends.append(self._position)
