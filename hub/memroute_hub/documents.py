"""JSON of strangers: bounded in size, depth and numbers, or a sentence that says what is wrong.

A repository's files are written by whoever owns it. A ``config.json`` may be a gigabyte, nested
ten thousand times, or hold numbers that no arithmetic survives.
"""

import json
import math
from typing import Any

from memroute_hub.errors import HubError, HubReason

# Levels of nesting, chosen by hand: published configurations have six at the most, and Python's
# own reader gives up at about a thousand.
MAX_DEPTH = 32
# Items of all its lists and objects, chosen by hand: an index of 200,000 tensors has half of
# that. As Python objects a million are some 100 MB, whatever few bytes each took.
MAX_ITEMS = 1_000_000
# Digits of a whole number that is kept as one. Tokenizers write "no limit" as 10^30: a float.
MAX_DIGITS = 18


class UnreadableDocumentError(ValueError):
    """The bytes are no JSON object that anybody should compute with."""


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. ``what`` names it. Raises ``HubError`` (``ConfigUnreadable``)."""
    try:
        return parse_object(data)
    except UnreadableDocumentError as error:
        message = f"{what} {error}: tell its owner, or give a config.json of your own"
        raise HubError(HubReason.CONFIG_UNREADABLE, message) from error


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises ``UnreadableDocumentError``, whose text continues a sentence."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_ITEMS:
        problem = f"has more than {MAX_ITEMS:,} items"
        raise UnreadableDocumentError(problem)
    try:
        document = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnreadableDocumentError:
        raise
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        # UnicodeDecodeError is one too.
        problem = f"is not JSON ({_short(str(error))})"
        raise UnreadableDocumentError(problem) from error
    if not isinstance(document, dict):
        problem = f"is JSON, but no object (it is a {type(document).__name__})"
        raise UnreadableDocumentError(problem)
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        children = (one.values() if isinstance(one, dict) else one for one in level)
        level = [each for few in children for each in few if isinstance(each, dict | list)]
        if not level:
            return document
    raise _too_deep()


def printable(text: str, max_characters: int = 200) -> str:
    """Words of a stranger, fit for a terminal and a status: one line, bounded."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    return _short(line, max_characters)


def _short(text: str, max_characters: int = 120) -> str:
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def _too_deep() -> UnreadableDocumentError:
    return UnreadableDocumentError(f"is nested more than {MAX_DEPTH} times")


def _no_constant(text: str) -> float:
    raise UnreadableDocumentError(f"is not JSON (it has {text} for a number)")  # noqa: EM102, TRY003 - the sentence's end


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        problem = f"has a number that is too large ({_short(text, 24)})"
        raise UnreadableDocumentError(problem)
    return value


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= MAX_DIGITS else _finite(text)
