"""Tokens without a tokenizer: four bytes of text are one token, both ways.

Ids are a checksum within the vocabulary; what a text was is remembered, so that ``/detokenize``
gives back what ``/tokenize`` took.
"""

import zlib
from collections import OrderedDict
from typing import Any

BYTES_PER_TOKEN = 4
TEMPLATE_TOKENS_PER_MESSAGE = 4
# A chat template wraps each message in about four special tokens.
REMEMBERED_TOKENS = 100_000
NUM_SPECIAL_TOKENS = 3
_WORDS = ("the", "model", "holds", "its", "cache", "and", "answers", "token", "by", "one")


class Tokenizer:
    """Texts to ids and back. Owns what it remembers."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._remembered: OrderedDict[int, bytes] = OrderedDict()

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        data = text.encode()
        span = max(1, self.vocab_size - NUM_SPECIAL_TOKENS)
        ids = []
        for start in range(0, len(data), BYTES_PER_TOKEN):
            piece = data[start : start + BYTES_PER_TOKEN]
            token = NUM_SPECIAL_TOKENS + zlib.crc32(piece) % span
            self._remembered[token] = piece
            ids.append(token)
        while len(self._remembered) > REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)
        return ids

    def encode_chat(self, messages: list[Any]) -> list[int]:
        """Ids of a conversation, its template included."""
        ids: list[int] = []
        for message in messages:
            role = str(message.get("role", "")) if isinstance(message, dict) else ""
            marker = zlib.crc32(role.encode()) % NUM_SPECIAL_TOKENS
            ids += [marker] * TEMPLATE_TOKENS_PER_MESSAGE
            ids += self.encode(_content(message))
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text that the ids were made from; words for ids that no text has had."""
        pieces = []
        for token in ids:
            known = self._remembered.get(token)
            pieces.append(known if known is not None else token_text(token).encode())
        return b"".join(pieces).decode(errors="replace")


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def token_text(position: int) -> str:
    """The text of an answer's n-th token."""
    word = _WORDS[position % len(_WORDS)]
    return word if position == 0 else f" {word}"
