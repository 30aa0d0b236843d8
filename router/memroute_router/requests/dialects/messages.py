"""``/v1/messages`` of Anthropic's API."""

from typing import Any

from memroute_router.requests.content import Content, dumped
from memroute_router.requests.dialects.chat import message_list
from memroute_router.requests.fields import model_of, output_limit, session_of
from memroute_router.requests.parsed import ParsedRequest
from memroute_router.requests.weighing import weigh_content

_BILLING = "x-anthropic-billing-header"
# Claude Code's first block of instructions, which changes with every request; engines leave it out.


def parse_messages(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/messages``: ``max_tokens`` is the client's to set."""
    model = model_of(document)
    messages = message_list(document.get("messages"), "messages")
    content = Content()
    content.add(_system(document.get("system")), "system")
    tools = dumped(document["tools"]) if document.get("tools") else b""
    if tools:
        content.add_optional(tools.decode("utf-8", "replace"))
    last_question = _last_question(messages)
    for index, message in enumerate(messages):
        content.begin_message(message.get("role"))
        inner = message.get("content")
        content.add(inner if index > last_question else _spoken(inner), "messages")
    return ParsedRequest(
        model=model,
        weight=weigh_content(document, content, leading=tools),
        max_output_tokens=output_limit(document, "max_tokens"),
        is_stream=document.get("stream") is True,
        session=session_of(document),
    )


def _system(system: object) -> object:
    if not isinstance(system, list):
        return system
    return [block for block in system if not _is_billing(block)]


def _is_billing(block: object) -> bool:
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and text.startswith(_BILLING)


def _spoken(content: object) -> object:
    """Without the reasoning: templates drop it before the user's last question."""
    if not isinstance(content, list):
        return content
    return [
        part for part in content if not isinstance(part, dict) or part.get("type") != "thinking"
    ]


def _last_question(messages: list[dict[str, Any]]) -> int:
    """Where the user said something other than what tools gave back."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if not isinstance(content, list) or not all(
            isinstance(part, dict) and part.get("type") == "tool_result" for part in content
        ):
            return index
    return -1
