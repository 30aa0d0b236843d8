"""From what a prompt holds to what it weighs."""

from itertools import pairwise
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from memroute_router.requests.content import Content
from memroute_router.requests.parsed import PromptWeight, salt_of
from memroute_router.requests.text import Chain, Span, utf8, weigh

SAMPLED_STRETCH_BYTES: Final = 65_536
# Texts of a batch, which have no keys, are weighed together in stretches of this.


def weigh_content(
    document: dict[str, Any], content: Content, *, leading: bytes = b""
) -> PromptWeight:
    """One prompt of text and attachments, with the keys of its blocks.

    ``leading``: what keeps it apart from prompts that begin alike (its tools, which some
    templates write before and others behind the first message).
    """
    weight = PromptWeight()
    chain = Chain(root_of(document, leading))
    pieces = content.pieces
    if content.attachments:
        weight.attachments = content.attachments
        stops = [*content.places, len(pieces)]
        weight.longest_bytes = _add(chain, pieces[: stops[0]])
        for index, (start, stop) in enumerate(pairwise(stops)):
            chain.add_attachment(index, content.attachments[index].key)
            weight.longest_bytes += _add(chain, pieces[start:stop])
    else:
        weight.longest_bytes = _add(chain, pieces)
    weight.keys = tuple(chain.keys)
    weight.spans = chain.spans
    weight.ascii = float(content.overhead_tokens)
    for span in chain.spans:
        _take(weight, span)
    return weight


def weigh_texts(weight: PromptWeight, texts: list[str], times: int = 1) -> None:
    """More texts of a batch, each of which is read ``times`` times."""
    text = "".join(texts)
    data = utf8(text)
    is_ascii = text.isascii()
    for start in range(0, len(data), SAMPLED_STRETCH_BYTES):
        size = min(SAMPLED_STRETCH_BYTES, len(data) - start)
        span = weigh(data, start, size, is_ascii=is_ascii)
        weight.ascii += times * span.ascii
        weight.digits += times * span.digits
        weight.other += times * span.other


def num_bytes(text: str) -> int:
    """Of a text in UTF-8."""
    return len(text) if text.isascii() else len(utf8(text))


def root_of(document: dict[str, Any], leading: bytes = b"") -> int:
    """What all keys of a prompt begin with: the model, the salt, the tools."""
    return xxh3_64_intdigest(utf8(salt_of(document)) + b"\x00" + leading)


def _add(chain: Chain, pieces: list[str]) -> int:
    text = pieces[0] if len(pieces) == 1 else "".join(pieces)
    data = utf8(text)
    chain.add_text(data, is_ascii=text.isascii())
    return len(data)


def _take(weight: PromptWeight, span: Span) -> None:
    weight.ascii += span.ascii
    weight.digits += span.digits
    weight.other += span.other
