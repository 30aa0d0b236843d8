"""``/v1/responses``: the input is a text or a list of items."""

from typing import Any

from memroute_router.requests.content import TOKENS_PER_CALL, Content, dumped
from memroute_router.requests.dialects.chat import message_list
from memroute_router.requests.fields import model_of, output_limit, session_of
from memroute_router.requests.parsed import ParsedRequest
from memroute_router.requests.text import num_bytes
from memroute_router.requests.weighing import weigh_content


def parse_responses(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/responses``. What an engine keeps of earlier ones is not in it, and not counted."""
    model = model_of(document)
    given = document.get("input")
    items: list[dict[str, Any]] = []
    if isinstance(given, str) and given:
        items = [{"content": given}]
    elif given is not None or not (document.get("previous_response_id") or document.get("prompt")):
        items = message_list(given, "input")
    content = Content()
    content.add(document.get("instructions"), "instructions")
    tools = dumped(document["tools"]) if document.get("tools") else b""
    if tools:
        content.add_optional(tools.decode("utf-8", "replace"))
    last_question = max(
        (index for index, item in enumerate(items) if item.get("role") == "user"), default=-1
    )
    for index, item in enumerate(items):
        _add_item(item, content, with_reasoning=index > last_question)
    return ParsedRequest(
        model=model,
        weight=weigh_content(document, content, leading=tools),
        max_output_tokens=output_limit(document, "max_output_tokens"),
        is_stream=document.get("stream") is True,
        session=session_of(document),
    )


def _add_item(item: dict[str, Any], content: Content, *, with_reasoning: bool) -> None:
    kind = item.get("type")
    role = item.get("role")
    if role is None:
        role = "tool" if "output" in item else "assistant"
    content.begin_message(role)
    if kind == "reasoning":
        if with_reasoning:
            before = len(content.pieces)
            content.add(item.get("content") or item.get("summary"), "input")
            content.optional_bytes += sum(map(num_bytes, content.pieces[before:]))
        return
    if "arguments" in item:
        content.add_overhead(TOKENS_PER_CALL)
        content.add_json(item.get("name"))
        content.add_json(item["arguments"])
    content.add(item.get("content"), "input")
    for name in ("output", "input", "action", "text"):
        if name in item:
            value = item[name]
            if isinstance(value, dict):
                content.add_json(value)
            else:
                content.add(value, "input")
