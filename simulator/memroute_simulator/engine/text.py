"""Tokens without a tokenizer: four bytes of text are one token, both ways."""

from typing import Any

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
# A chat template wraps each message in about four special tokens.
_WORDS = ("the", "model", "holds", "its", "cache", "and", "answers", "token", "by", "one")


def count_tokens(text: str) -> int:
    """Tokens of a text."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def count_chat_tokens(messages: list[dict[str, Any]]) -> int:
    """Tokens of a conversation, its template included."""
    total = 0
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        total += TOKENS_PER_MESSAGE + count_tokens(str(content))
    return total


def token_text(position: int) -> str:
    """The text of an answer's n-th token."""
    word = _WORDS[position % len(_WORDS)]
    return word if position == 0 else f" {word}"
