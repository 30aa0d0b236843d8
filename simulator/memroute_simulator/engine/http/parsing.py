"""Bodies of generation requests, checked in vLLM's order and refused in its words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute_simulator.engine.http.errors import (
    bad_parameter,
    bad_request,
    context_exceeded,
    validation_error,
)
from memroute_simulator.engine.text import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16
# OpenAI's default for completions; chats may use the whole context.


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What is asked of the engine, once it is known to make sense."""

    model: str | None
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of each."""
    max_tokens: int
    """Of the longest prompt: capped by the context."""
    asked_max_tokens: int | None
    num_samples: int
    is_chat: bool
    is_stream: bool
    includes_usage: bool
    has_continuous_usage: bool
    ignores_eos: bool
    min_tokens: int
    priority: int
    salt: int
    """Keeps prefixes of different cache salts apart."""


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ``APIError``."""
    if not raw:
        raise validation_error("missing", "body", "Field required", None)
    try:
        body = json.loads(raw)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        raise validation_error(
            "json_invalid", f"body.{position}", "JSON decode error", {},
            {"error": getattr(error, "msg", "invalid")},
        ) from None  # fmt: skip
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        raise validation_error("model_attributes_type", "body", text, body)
    return body


def parse(
    body: Mapping[str, Any], *, is_chat: bool, tokenizer: Tokenizer, context_tokens: int
) -> GenerationRequest:
    """A chat or a completion. Raises ``APIError``."""
    integers = {name: _integer(body, name) for name in _INTEGERS}
    prompts = _chat_prompts(body, tokenizer) if is_chat else _prompts(body, tokenizer)
    options = _stream_options(body)
    if is_chat and not body["messages"]:
        raise bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    truncate = integers["truncate_prompt_tokens"]
    if truncate is not None:
        keep = context_tokens if truncate == -1 else truncate
        prompts = tuple(prompt[-keep:] for prompt in prompts)
    longest = max(len(prompt) for prompt in prompts)
    asked = integers["max_completion_tokens"] or integers["max_tokens"]
    if asked is None and not is_chat:
        asked = DEFAULT_COMPLETION_TOKENS
    max_tokens = _max_tokens(asked, longest, context_tokens)
    _check_sampling(body, integers, max_tokens, prompts, tokenizer.vocab_size)
    return GenerationRequest(
        model=body.get("model"),
        prompts=prompts,
        max_tokens=max_tokens,
        asked_max_tokens=asked,
        num_samples=1 if integers["n"] is None else integers["n"],
        is_chat=is_chat,
        is_stream=bool(body.get("stream")),
        includes_usage=bool(options.get("include_usage")),
        has_continuous_usage=bool(options.get("continuous_usage_stats")),
        ignores_eos=bool(body.get("ignore_eos")),
        min_tokens=integers["min_tokens"] or 0,
        priority=integers["priority"] or 0,
        salt=hash(str(body.get("cache_salt") or "")) if body.get("cache_salt") else 0,
    )


_INTEGERS = (
    "max_tokens", "max_completion_tokens", "n", "min_tokens", "priority", "truncate_prompt_tokens",
)  # fmt: skip


def _integer(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = "Input should be a valid integer, unable to parse string as an integer"
        raise validation_error("int_parsing", f"body.{name}", text, value)
    raise validation_error("int_type", f"body.{name}", "Input should be a valid integer", value)


def _chat_prompts(body: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    if "messages" not in body:
        raise validation_error("missing", "body.messages", "Field required", dict(body))
    messages = body["messages"]
    if not isinstance(messages, list):
        text = "Input should be a valid list"
        raise validation_error("list_type", "body.messages", text, messages)
    return (tuple(tokenizer.encode_chat(messages)),)


def _prompts(body: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    prompt = body.get("prompt")
    if not prompt:
        raise bad_parameter("Either prompt or prompt_embeds must be provided and non-empty.",
                            "prompt")  # fmt: skip
    if isinstance(prompt, str):
        return (tuple(tokenizer.encode(prompt)),)
    if isinstance(prompt, list) and all(isinstance(item, int) for item in prompt):
        return (tuple(prompt),)
    if isinstance(prompt, list) and all(isinstance(item, str) for item in prompt):
        return tuple(tuple(tokenizer.encode(item)) for item in prompt)
    if isinstance(prompt, list) and all(isinstance(item, list) for item in prompt):
        return tuple(tuple(item) for item in prompt)
    raise validation_error(
        "list_type", "body.prompt", "Input should be a valid list", str(type(prompt).__name__)
    )


def _stream_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    options = body.get("stream_options")
    if options is None:
        return {}
    if not body.get("stream"):
        raise bad_parameter("Stream options can only be defined when `stream=True`.",
                            "stream_options")  # fmt: skip
    return options if isinstance(options, dict) else {}


def _max_tokens(asked: int | None, num_prompt_tokens: int, context_tokens: int) -> int:
    if asked is not None and asked > context_tokens:
        raise bad_parameter(
            f"max_tokens={asked} cannot be greater than max_model_len={context_tokens}. Please "
            "request fewer output tokens.",
            "max_tokens",
            asked,
        )
    if num_prompt_tokens > context_tokens:
        raise context_exceeded(context_tokens, num_prompt_tokens)
    left = context_tokens - num_prompt_tokens
    return left if asked is None else min(asked, left)


def _check_sampling(
    body: Mapping[str, Any],
    integers: Mapping[str, int | None],
    max_tokens: int,
    prompts: tuple[tuple[int, ...], ...],
    vocab_size: int,
) -> None:
    samples = integers["n"]
    if samples is not None and samples < 1:
        raise bad_request(f"n must be at least 1, got {samples}.")
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        value = float(temperature)
        raise bad_parameter(f"temperature must be non-negative, got {value}.", "temperature", value)
    if max_tokens < 1:
        raise bad_parameter(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens",
                            max_tokens)  # fmt: skip
    for prompt in prompts:
        outside = next((token for token in prompt if not 0 <= token < vocab_size), None)
        if outside is not None:
            raise bad_request(f"Token id {outside} is out of vocabulary")
