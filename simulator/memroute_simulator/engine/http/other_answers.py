"""Answers of the two other APIs that vLLM speaks: Anthropic's messages and OpenAI's responses."""

from dataclasses import dataclass, field
from typing import Any

from memroute_simulator.engine.http.answers import Usage, event

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesShape:
    """``/v1/messages``."""

    request_id: str
    model: str

    def whole(self, texts: list[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """One message, of one text."""
        text, reason = texts[0]
        content = [{"type": "text", "text": text}]
        return self._message(content, _STOP_REASONS.get(reason, "end_turn"), usage)

    def opening(self, index: int, usage: Usage) -> bytes:
        """The message, still empty, and the beginning of its text."""
        return event("message_start", message=self._message([], None, usage)) + event(
            "content_block_start", index=index, content_block={"type": "text", "text": ""}
        )

    def chunk(self, index: int, text: str, reason: str | None, usage: Usage | None) -> bytes:
        """Some of the text."""
        return event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})

    def closing(self, reason: str, usage: Usage, *, includes_usage: bool) -> bytes:
        """Why it ends, and what it took."""
        delta = {"stop_reason": _STOP_REASONS.get(reason, "end_turn"), "stop_sequence": None}
        return (
            event("content_block_stop", index=0)
            + event("message_delta", delta=delta, usage=_usage(usage))
            + event("message_stop")
        )

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, usage: Usage
    ) -> dict[str, Any]:
        return {
            "id": self.request_id, "type": "message", "role": "assistant", "content": content,
            "model": self.model, "stop_reason": reason, "stop_sequence": None,
            "usage": _usage(usage),
        }  # fmt: skip


@dataclass(slots=True, kw_only=True)
class ResponsesShape:
    """``/v1/responses``. Owns the text so far, which its last events repeat."""

    request_id: str
    model: str
    created: int
    _text: list[str] = field(default_factory=list)
    _number: int = 0

    def whole(self, texts: list[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """One response, of one message."""
        text, reason = texts[0]
        return self._response(reason, [self._item("completed", text)], usage)

    def opening(self, index: int, usage: Usage) -> bytes:
        """The response, its message and its text, all still empty."""
        item = self._item("in_progress", None)
        return (
            self._event("response.created", response=self._response(None, [], None))
            + self._event("response.in_progress", response=self._response(None, [], None))
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", part=_part(""), **self._place)
        )

    def chunk(self, index: int, text: str, reason: str | None, usage: Usage | None) -> bytes:
        """Some of the text."""
        self._text.append(text)
        return self._event("response.output_text.delta", delta=text, logprobs=[], **self._place)

    def closing(self, reason: str, usage: Usage, *, includes_usage: bool) -> bytes:
        """Everything once more, whole."""
        text = "".join(self._text)
        item = self._item("completed", text)
        return (
            self._event("response.output_text.done", text=text, logprobs=[], **self._place)
            + self._event("response.content_part.done", part=_part(text), **self._place)
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event("response.completed", response=self._response(reason, [item], usage))
        )

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self.request_id}", "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event(kind, sequence_number=self._number - 1, **fields)

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{self.request_id}", "type": "message", "role": "assistant",
            "status": status, "content": [] if text is None else [_part(text)],
        }  # fmt: skip

    def _response(
        self, reason: str | None, output: list[dict[str, Any]], usage: Usage | None
    ) -> dict[str, Any]:
        status = "in_progress" if reason is None else "completed"
        told = {"reason": "max_output_tokens"} if reason == "length" else None
        document: dict[str, Any] = {
            "id": f"resp_{self.request_id}", "object": "response", "created_at": self.created,
            "model": self.model, "output": output, "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [], "incomplete_details": told,
            "status": "incomplete" if told else status,
        }  # fmt: skip
        if usage is not None:
            document["usage"] = _usage(usage) | {
                "total_tokens": usage.num_prompt_tokens + usage.num_output_tokens,
                "input_tokens_details": {"cached_tokens": usage.num_cached_tokens or 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            }
        return document


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}


def _usage(usage: Usage) -> dict[str, Any]:
    return {"input_tokens": usage.num_prompt_tokens, "output_tokens": usage.num_output_tokens}


def chat_of_messages(body: dict[str, Any]) -> dict[str, Any]:
    """The chat that an Anthropic request asks for."""
    chat = {k: v for k, v in body.items() if k not in {"system", "stop_sequences"}}
    system = body.get("system")
    if system and isinstance(chat.get("messages"), list):
        chat["messages"] = [{"role": "system", "content": system}, *chat["messages"]]
    return chat


def chat_of_responses(body: dict[str, Any]) -> dict[str, Any]:
    """The chat that a request for a response asks for."""
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    chat = {k: v for k, v in body.items() if k not in {"input", "instructions"}}
    if body.get("instructions") and isinstance(items, list):
        items = [{"role": "system", "content": body["instructions"]}, *items]
    return chat | {"messages": items, "max_tokens": body.get("max_output_tokens")}
