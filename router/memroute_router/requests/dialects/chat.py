"""``/v1/chat/completions``, and the conversations that embeddings may be asked of."""

from typing import Any

from memroute_router.requests.content import TOKENS_PER_CALL, Content, dumped
from memroute_router.requests.errors import BadRequestError
from memroute_router.requests.fields import (
    model_of,
    num_answers,
    output_limit,
    session_of,
    truncation,
)
from memroute_router.requests.parsed import ParsedRequest
from memroute_router.requests.weighing import weigh_content


def parse_chat(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/chat/completions``. Raises ``BadRequestError``, as all of these do.

    Schemas (``response_format``, ``guided_json``, ``structured_outputs``) steer the answer and are
    no part of the prompt; tools are.
    """
    model = model_of(document)
    content, tools = read_chat(document, document.get("messages"), "messages")
    num_choices, num_sequences = num_answers(document)
    return ParsedRequest(
        model=model,
        weight=weigh_content(document, content, leading=tools),
        max_output_tokens=output_limit(document, "max_completion_tokens", "max_tokens"),
        num_choices=num_choices,
        num_sequences=num_sequences,
        document=document,
        is_stream=document.get("stream") is True,
        session=session_of(document),
        truncated_tokens=truncation(document),
    )


def read_chat(document: dict[str, Any], messages: object, parameter: str) -> tuple[Content, bytes]:
    """What a conversation holds; and its tools as JSON, which are in it too."""
    listed = message_list(messages, parameter)
    content = Content()
    tools = dumped(document["tools"]) if document.get("tools") else b""
    last_question = _last_question(listed)
    has_tools = not tools
    for index, message in enumerate(listed):
        role = message.get("role")
        if not has_tools and str(role) not in {"system", "developer"}:
            # Most templates write tools with the instructions, before the conversation.
            content.add_optional(tools.decode("utf-8", "replace"))
            has_tools = True
        content.begin_message(role)
        if index > last_question:
            _add_reasoning(message, content)
        content.add(message.get("content"), parameter)
        if message.get("tool_calls"):
            add_calls(message["tool_calls"], content)
    if not has_tools:
        content.add_optional(tools.decode("utf-8", "replace"))
    return content, tools


def message_list(messages: object, parameter: str) -> list[dict[str, Any]]:
    """The messages. Raises ``BadRequestError`` unless they are objects, and some."""
    if not isinstance(messages, list) or not messages:
        msg = f"{parameter} must be a non-empty list"
        raise BadRequestError(msg, parameter)
    for message in messages:
        if not isinstance(message, dict):
            msg = f"each of {parameter} must be an object"
            raise BadRequestError(msg, parameter)
    return messages


def add_calls(calls: object, content: Content) -> None:
    """Calls of tools that an assistant made: their names and arguments."""
    if not isinstance(calls, list):
        content.add_json(calls)
        return
    content.add_overhead(TOKENS_PER_CALL * len(calls))
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            content.pieces.append("\1")
            content.add_json(function.get("name"))
            content.add_json(function.get("arguments"))
        else:
            content.add_json(call)


def _add_reasoning(message: dict[str, Any], content: Content) -> None:
    for name in ("reasoning", "reasoning_content"):
        reasoning = message.get(name)
        if isinstance(reasoning, str):
            content.add_optional(reasoning)
            return


def _last_question(messages: list[dict[str, Any]]) -> int:
    """Where the user spoke last: templates drop the reasoning before it."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user":
            return index
    return -1
