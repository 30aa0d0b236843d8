"""Which paths are served, and how the size of a request is read from its body.

Everything else, an engine's administration first of all (``/sleep``, ``/v1/load_lora_adapter``,
``/collective_rpc``, ``/invocations`` …), is 404: what is not named here cannot be reached.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from memroute_router.requests import (
    BadRequestError,
    ParsedRequest,
    parse_audio_form,
    parse_chat,
    parse_completion,
    parse_input,
    parse_messages,
    parse_no_tokens,
    parse_responses,
    parse_texts,
)

Parser = Callable[[dict[str, Any]], ParsedRequest]
Check = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One path of the OpenAI (or Anthropic) API that engines serve."""

    path: bytes
    what: str
    parse_document: Parser | None
    """None: the body is a form."""
    is_anthropic: bool = False

    def parse(self, body: bytes, content_type: bytes, check: Check | None = None) -> ParsedRequest:
        """What admission needs to know. Raises ``BadRequestError``.

        ``check``: is shown the document, and raises the same where that holds what it may not.
        """
        if self.parse_document is None:
            return parse_audio_form(body, content_type)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            msg = f"the body is not JSON: {error}"
            raise BadRequestError(msg) from error
        if not isinstance(document, dict):
            msg = "the body is not a JSON object"
            raise BadRequestError(msg)
        if check is not None:
            check(document)
        return self.parse_document(document)


def _routes() -> dict[bytes, Route]:
    table: list[tuple[tuple[bytes, ...], str, Parser | None]] = [
        ((b"/v1/chat/completions",), "chat completion", parse_chat),
        ((b"/v1/completions",), "text completion", parse_completion),
        ((b"/v1/responses",), "response", parse_responses),
        ((b"/v1/messages",), "Anthropic message", parse_messages),
        ((b"/v1/messages/count_tokens",), "Anthropic token count", parse_no_tokens),
        ((b"/v1/embeddings",), "embedding", parse_input),
        ((b"/v1/rerank", b"/rerank", b"/v2/rerank"), "ranking of documents", parse_texts),
        ((b"/v1/score", b"/score"), "similarity of texts", parse_texts),
        ((b"/pooling", b"/classify"), "pooling, classification", parse_input),
        ((b"/tokenize", b"/detokenize"), "token ids of a text, text of token ids", parse_no_tokens),
        (
            (b"/v1/audio/transcriptions", b"/v1/audio/translations"),
            "text of a recording",
            None,
        ),
        ((b"/v1/audio/speech",), "speech of a text", parse_input),
    ]
    return {
        path: Route(
            path=path,
            what=what,
            parse_document=parse,
            is_anthropic=path.startswith(b"/v1/messages"),
        )
        for paths, what, parse in table
        for path in paths
    }


ROUTES: Final = _routes()
"""The paths that are proxied, all by POST."""
