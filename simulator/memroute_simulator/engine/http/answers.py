"""The JSON of completions and chats, whole and in chunks, as vLLM 0.32 prints it."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int | None
    """None where ``--enable-prompt-tokens-details`` is off."""
    is_chat: bool

    def document(self, *, is_stream: bool) -> dict[str, Any]:
        """The ``usage`` of an answer."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.num_prompt_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
            "completion_tokens": self.num_output_tokens,
        }
        if is_stream:
            if self.num_cached_tokens is not None:
                written = {"created_cache_tokens": 0} if self.is_chat else {}
                usage["prompt_tokens_details"] = {"cached_tokens": self.num_cached_tokens} | written
            return usage
        details = None
        if self.num_cached_tokens is not None:
            details = {
                "cached_tokens": self.num_cached_tokens,
                "created_cache_tokens": 0 if self.is_chat else None,
                "multimodal_tokens": None,
            }
        return usage | {"prompt_tokens_details": details, "completion_tokens_details": None}


class AnswerShape(Protocol):
    """How one API words an answer."""

    def whole(self, texts: list[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """The body of an answer; ``texts``: (text, finish reason) of each choice."""
        ...

    def opening(self, index: int, usage: Usage) -> bytes:
        """What comes before the first token of a choice."""
        ...

    def chunk(self, index: int, text: str, reason: str | None, usage: Usage | None) -> bytes:
        """A token (or some) of one choice; ``usage`` where it is told with every chunk."""
        ...

    def closing(self, reason: str, usage: Usage, *, includes_usage: bool) -> bytes:
        """What comes after the last token of all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIShape:
    """Completions and chats: one answer's fixed parts."""

    request_id: str
    model: str
    created: int
    is_chat: bool
    fingerprint: str

    def whole(self, texts: list[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """The body of an answer; ``texts``: (text, finish reason) of each choice."""
        choices = [self._choice(i, text, reason) for i, (text, reason) in enumerate(texts)]
        document = {
            "id": self.request_id,
            "object": "chat.completion" if self.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": usage.document(is_stream=False),
        }
        if self.is_chat:
            document |= dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text"))
        return document | dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))

    def _choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        if not self.is_chat:
            return {
                "index": index, "text": text, "logprobs": None, "finish_reason": reason,
                "stop_reason": None, "token_ids": None, "prompt_logprobs": None,
                "prompt_token_ids": None, "routed_experts": None,
            }  # fmt: skip
        message = {"role": "assistant", "content": text} | dict.fromkeys(
            ("refusal", "annotations", "audio", "function_call", "reasoning")
        )
        return {
            "index": index, "message": message, "logprobs": None, "finish_reason": reason,
            "stop_reason": None, "token_ids": None, "routed_experts": None,
        }  # fmt: skip

    def _head(self) -> str:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return (
            f'data: {{"id":"{self.request_id}","object":"{kind}","created":{self.created},'
            f'"model":{json.dumps(self.model)},"choices":['
        )

    def opening(self, index: int, usage: Usage) -> bytes:
        """The role, in a chat."""
        if not self.is_chat:
            return b""
        return (
            f'{self._head()}{{"index":{index},"delta":{{"role":"assistant","content":""}},'
            '"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
        ).encode()

    def chunk(self, index: int, text: str, reason: str | None, usage: Usage | None) -> bytes:
        """A token (or some) of one choice; ``usage`` where it is told with every chunk."""
        shown = "null" if reason is None else f'"{reason}"'
        if self.is_chat:
            stop = "" if reason is None else '"stop_reason":null,'
            body = (
                f'{{"index":{index},"delta":{{"content":"{text}"}},"logprobs":null,'
                f'"finish_reason":{shown},{stop}"token_ids":null}}]'
            )
        else:
            body = (
                f'{{"index":{index},"text":"{text}","logprobs":null,"finish_reason":{shown},'
                '"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]'
            )
        tail = "}\n\n"
        if usage is not None:
            document = usage.document(is_stream=True)
            document.pop("prompt_tokens_details", None)
            tail = f',"usage":{_compact(document)}}}\n\n'
        return f"{self._head()}{body}{tail}".encode()

    def closing(self, reason: str, usage: Usage, *, includes_usage: bool) -> bytes:
        """The usage, where it was asked for, and the end."""
        if not includes_usage:
            return DONE
        document = _compact(usage.document(is_stream=True))
        told = f'"usage":{document},"system_fingerprint":"{self.fingerprint}"'
        return f"{self._head()}],{told}}}\n\n".encode() + DONE


def error_chunk(document: dict[str, Any]) -> bytes:
    """An error in the middle of a stream."""
    return f"data: {_compact(document)}\n\n".encode()


def event(kind: str, **fields: Any) -> bytes:
    """An event with a name, as Anthropic's API and OpenAI's responses have them."""
    return f"event: {kind}\ndata: {_compact({'type': kind} | fields)}\n\n".encode()


def _compact(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
