"""From what a prompt holds to what it weighs."""

from bisect import bisect_left
from itertools import pairwise
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from memroute.traffic.lengths.prompt import ACCENTS, DIGITS, SYMBOLS, WORDS
from memroute_router.requests.content import Content
from memroute_router.requests.parsed import PromptWeight, salt_of
from memroute_router.requests.text import Chain, Span, utf8, weigh_stretches

PIECES_OF_A_MESSAGE: Final = 2
# Its role and its text, which are not joined: a prompt of one message may be long.


def weigh_content(
    document: dict[str, Any], content: Content, *, leading: bytes = b""
) -> PromptWeight:
    """One prompt of text and attachments, with the keys of its blocks.

    ``leading``: what keeps it apart from prompts that begin alike (its tools, which some
    templates write before and others behind the first message).
    """
    chain = Chain(root_of(document, leading))
    weight = PromptWeight(chain)
    num_pieces = len(content.pieces)
    if content.attachments:
        weight.attachments = content.attachments
        stops = [*content.places, num_pieces]
        weight.longest_bytes = _add(chain, content, 0, stops[0])
        for index, (start, stop) in enumerate(pairwise(stops)):
            chain.add_attachment(index, content.attachments[index].key)
            weight.longest_bytes += _add(chain, content, start, stop)
    else:
        weight.longest_bytes = _add(chain, content, 0, num_pieces)
    if content.optional_bytes:
        weight.longest_bytes = max(0, weight.longest_bytes - content.optional_bytes)
    weight.keys = tuple(chain.keys)
    for span in chain.spans:
        _take(weight, span, 1)
    return weight


def weigh_texts(weight: PromptWeight, texts: list[str], times: int = 1) -> None:
    """More texts of a batch, each of which is read ``times`` times."""
    text = "".join(texts)
    for span in weigh_stretches(utf8(text), 0, is_ascii=text.isascii()):
        _take(weight, span, times)


def root_of(document: dict[str, Any], leading: bytes = b"") -> int:
    """What all keys of a prompt begin with: the model, the salt, the tools."""
    return xxh3_64_intdigest(utf8(salt_of(document)) + b"\x00" + leading)


def _add(chain: Chain, content: Content, start: int, stop: int) -> int:
    """The text of these pieces; how many bytes it has."""
    pieces = content.pieces[start:stop]
    lead = b""
    parts: list[str] | list[bytes] = pieces
    if len(pieces) == PIECES_OF_A_MESSAGE and pieces[0].isascii() and pieces[1].isascii():
        is_ascii = True
        lead, data = pieces[0].encode(), pieces[1].encode()
    elif (text := "".join(pieces)).isascii():
        is_ascii = True
        data = text.encode()
    else:
        is_ascii = False
        parts = [utf8(piece) for piece in pieces]
        data = b"".join(parts)
    first_span = len(chain.spans)
    starts, at = [0], 0
    for part in parts:
        at += len(part)
        starts.append(at)
    begins, overheads = content.begins, content.overheads
    if content.attachments:
        first, last = bisect_left(begins, start), bisect_left(begins, stop)
        begins, overheads = begins[first:last], overheads[first:last]
    cuts = [starts[begin - start] for begin in begins]
    chain.add_text(data, cuts, is_ascii=is_ascii, lead=lead)
    if len(chain.spans) == first_span + 1:
        chain.spans[first_span].words += sum(overheads)
    else:
        _add_overheads(chain.spans, first_span, cuts, overheads)
    return at


def _add_overheads(spans: list[Span], index: int, begins: list[int], overheads: list[int]) -> None:
    """Messages' overheads belong to the stretches that they begin in."""
    if index >= len(spans):
        return
    end = spans[index].num_bytes
    for number, begin in enumerate(begins):
        while begin >= end and index + 1 < len(spans):
            index += 1
            end += spans[index].num_bytes
        spans[index].words += overheads[number]


def _take(weight: PromptWeight, span: Span, times: int) -> None:
    parts = weight.parts
    parts[WORDS] += times * span.words
    parts[SYMBOLS] += times * span.symbols
    parts[DIGITS] += times * span.digits
    if span.scripts is not None:
        for index, tokens in enumerate(span.scripts):
            parts[ACCENTS + index] += times * tokens
