"""An OpenAI request, parsed once: what is needed to admit it. The bytes go on unchanged."""

from dataclasses import dataclass
from typing import Any

import orjson

from memroute.footprint import RequestProfile
from memroute.units import ceil_div

BYTES_PER_TOKEN = 4
# English text and code in current tokenizers: 3.5 to 4.5 bytes per token.
MAX_BYTES_PER_TOKEN = 16
# No running text packs more into a token on average: what a final refusal may rely on.
TOKENS_PER_MESSAGE = 4
# Chat templates wrap each message in about four special tokens.

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"


class BadRequestError(Exception):
    """The request cannot be understood; the message says why, the parameter says where."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """What the router needs to know of a request."""

    model: str
    is_stream: bool
    prompt_bytes: int | None
    """Bytes of text in the prompt; None when it came as token ids."""
    prompt_tokens: int
    max_output_tokens: int | None
    num_choices: int

    def profile(self, *, assumed_output_tokens: int) -> RequestProfile:
        """The tokens it is expected to hold. ``assumed_output_tokens``: when it sets no limit."""
        output = assumed_output_tokens
        if self.max_output_tokens is not None:
            output = min(output, self.max_output_tokens)
        at_least = self.prompt_tokens
        if self.prompt_bytes is not None:
            at_least = ceil_div(self.prompt_bytes, MAX_BYTES_PER_TOKEN)
        return RequestProfile(
            num_prompt_tokens=self.prompt_tokens,
            min_prompt_tokens=at_least,
            max_output_tokens=self.max_output_tokens,
            assumed_output_tokens=output * self.num_choices,
        )


def parse_request(path: str, body: bytes) -> CompletionRequest:
    """Read a chat or text completion request. Raises ``BadRequestError``."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        msg = f"the body is not JSON: {error}"
        raise BadRequestError(msg) from error
    if not isinstance(document, dict):
        msg = "the body is not a JSON object"
        raise BadRequestError(msg)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        msg = "model must name one of /v1/models"
        raise BadRequestError(msg, "model")
    if path == CHAT_PATH:
        num_bytes: int | None
        num_bytes, num_tokens = _chat_size(document)
        limit = document.get("max_completion_tokens", document.get("max_tokens"))
    else:
        num_bytes, num_tokens = _prompt_size(document.get("prompt"))
        limit = document.get("max_tokens", 16)  # the API's default for text completions
    return CompletionRequest(
        model=model,
        is_stream=document.get("stream") is True,
        prompt_bytes=num_bytes,
        prompt_tokens=num_tokens,
        max_output_tokens=_positive(limit, "max_tokens"),
        num_choices=_positive(document.get("n"), "n") or 1,
    )


def _positive(value: object, parameter: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        msg = f"{parameter} must be a positive integer"
        raise BadRequestError(msg, parameter)
    return value


def _chat_size(document: dict[str, Any]) -> tuple[int, int]:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        msg = "messages must be a non-empty list"
        raise BadRequestError(msg, "messages")
    num_bytes = 0
    for message in messages:
        if not isinstance(message, dict):
            msg = "each message must be an object"
            raise BadRequestError(msg, "messages")
        num_bytes += _text_bytes(message.get("content"))
        if message.get("tool_calls"):
            num_bytes += len(orjson.dumps(message["tool_calls"]))
    if document.get("tools"):
        num_bytes += len(orjson.dumps(document["tools"]))
    return num_bytes, ceil_div(num_bytes, BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * len(messages)


def _text_bytes(content: object) -> int:
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, list):
        return sum(_text_bytes(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def _prompt_size(prompt: object) -> tuple[int | None, int]:
    if isinstance(prompt, str) and prompt:
        num_bytes = len(prompt.encode())
        return num_bytes, ceil_div(num_bytes, BYTES_PER_TOKEN)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(token, int) for token in prompt):
            return None, len(prompt)
        if all(isinstance(text, str) for text in prompt):
            num_bytes = sum(len(text.encode()) for text in prompt)
            return num_bytes, ceil_div(num_bytes, BYTES_PER_TOKEN)
        if all(isinstance(tokens, list) for tokens in prompt):
            return None, sum(len(tokens) for tokens in prompt)
    msg = "prompt must be a text, a list of texts, or token ids"
    raise BadRequestError(msg, "prompt")
