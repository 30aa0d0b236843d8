"""What an engine says that a request has used: tokens of its prompt, of its answer, cached ones.

Read once for each request: from the end of a whole answer, or from the event of a stream that
carries it. OpenAI's chats and completions, OpenAI's responses and Anthropic's messages are read.

A model can write whatever it likes, but not this: inside a JSON string every quotation mark is
escaped, so that ``"usage":`` is never part of a text. The arguments of a tool can be JSON of the
model's own (``tool_use`` of Anthropic's whole answers); they stand before the usage, and the last
one counts.
"""

import re
from typing import Any, Final

import orjson

# Bytes of the end of an answer that are kept for its usage. vLLM 0.32 writes up to 600 bytes from
# the word to the end of an answer. Where more follows (the token ids of a prompt, if a client asked
# for them), the usage stays unknown. Chosen by hand.
MAX_TAIL_BYTES: Final = 4096
_KEY: Final = b'"usage"'
_COLON: Final = re.compile(rb"\s*:\s*")
# An object whose values are numbers, words, or objects of those: all that a usage consists of.
_OBJECT: Final = re.compile(rb"\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\}")
# More tokens than any context or answer has: such a number is no count.
_MAX_TOKENS: Final = 2**31


class Usage:
    """Tokens as an engine counted them; None where it did not say."""

    __slots__ = ("cached_tokens", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        """All of the prompt, cached or not."""
        self.output_tokens: int | None = None
        """Of all choices together."""
        self.cached_tokens: int | None = None
        """Of the prompt, those that the engine found in its prefix cache."""

    def read(self, text: bytes) -> None:
        """Take what the last usage in ``text`` says; what it does not say stays as it was."""
        at = text.rfind(_KEY)
        while at >= 0:
            value_at = _after_colon(text, at + len(_KEY))
            if value_at >= 0:
                value = _object_at(text, value_at)
                if value:
                    self._take(value)
                return
            at = text.rfind(_KEY, 0, at)

    def _take(self, text: bytes) -> None:
        try:
            document: dict[str, Any] = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        prompt = _tokens(document.get("prompt_tokens"))
        output = _tokens(document.get("completion_tokens"))
        details = document.get("prompt_tokens_details")
        cached = None
        if prompt is None and output is None:
            prompt = _tokens(document.get("input_tokens"))
            output = _tokens(document.get("output_tokens"))
            details = document.get("input_tokens_details")
            cached = _tokens(document.get("cache_read_input_tokens"))
            if prompt is not None:
                # Anthropic counts what was cached, or is from now on, beside the input.
                created = _tokens(document.get("cache_creation_input_tokens"))
                prompt += (cached or 0) + (created or 0)
        if isinstance(details, dict):
            cached = _tokens(details.get("cached_tokens"))
        if prompt:  # vLLM's message_start says 0 where it does not know yet
            self.prompt_tokens = prompt
        if output is not None:
            self.output_tokens = output
        if cached is not None:
            self.cached_tokens = cached


def _after_colon(text: bytes, at: int) -> int:
    """Where the value begins that follows a key which ends at ``at``; -1: none follows."""
    if text[at : at + 2] == b":{":
        return at + 1  # as vLLM writes it: nothing to look for
    colon = _COLON.match(text, at)
    return -1 if colon is None else colon.end()


def _object_at(text: bytes, at: int) -> bytes:
    """The object that begins there; empty: it has no end, or is of another kind."""
    if text[at : at + 1] != b"{":
        return b""
    end = text.find(b"}", at) + 1
    if not end:  # compiled, a slice that ends before it begins is an error
        return b""
    plain = text[at:end]
    if plain.count(b"{") == 1:
        return plain
    found = _OBJECT.match(text, at)
    return b"" if found is None else found[0]


def tail_of(text: bytes) -> bytes:
    """The end of ``text``, where its usage is."""
    return text if len(text) <= MAX_TAIL_BYTES else text[-MAX_TAIL_BYTES:]


def _tokens(value: object) -> int | None:
    if type(value) is not int or not 0 <= value < _MAX_TOKENS:
        return None
    return value
