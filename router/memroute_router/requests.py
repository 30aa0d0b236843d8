"""Requests, parsed once: what is needed to admit them. The bytes go on unchanged."""

import re
from typing import Any

import orjson

from memroute.traffic.prefixes import block_keys, chain_root
from memroute.traffic.request import RequestProfile
from memroute.units import ceil_div

BYTES_PER_TOKEN = 4
# English text and code in current tokenizers: 3.5 to 4.5 bytes per token.
MAX_BYTES_PER_TOKEN = 16
# No running text packs more into a token on average: what a final refusal may rely on.
TOKENS_PER_MESSAGE = 4
# Chat templates wrap each message in about four special tokens.
TOKENS_PER_ATTACHMENT = 1024
# An image or a recording: 256 to 4,096 by model and size; nobody knows before the engine does.
BLOCK_CHARACTERS = 1024
# Of text, about 256 tokens: prefixes are told apart by as much, and a prompt of 100 KB has 100
# keys.
TOKENS_PER_ID_BLOCK = 256
MAX_TOKEN_ID = 2**31 - 1
MAX_LIMIT = 2**63 - 1
MAX_SESSION_CHARACTERS = 128
DEFAULT_COMPLETION_TOKENS = 16
# The API's own default for text completions.

_BOUNDARY = re.compile(rb'(?is)multipart/form-data\s*;.*?boundary="?([^";,\s]{1,70})"?')
_MODEL_PART = re.compile(rb'(?i)content-disposition:[^\r\n]*;\s*name="?model"?\s*(?:;|\r|$)')


class BadRequestError(Exception):
    """The request cannot be understood; the message says why, the parameter says where."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter


class ParsedRequest:
    """What the router needs to know of a request."""

    __slots__ = ("document", "is_stream", "max_output_tokens", "model", "num_choices", "prefix",
                 "prompt_bytes", "prompt_tokens", "session", "token_ids")  # fmt: skip

    def __init__(
        self,
        *,
        model: str,
        prompt_tokens: int,
        prompt_bytes: int | None = None,
        max_output_tokens: int | None = 0,
        num_choices: int = 1,
        is_stream: bool = False,
        prefix: tuple[int, ...] = (),
        session: str = "",
        document: dict[str, Any] | None = None,
        token_ids: list[int] | None = None,
    ) -> None:
        """``prefix``: keys of the blocks of its text, for the index of prefixes.

        ``session``: what the body calls the conversation (``prompt_cache_key``). ``document``:
        the body, where a tokenizer can tell its ids; ``token_ids``: those that it came with.

        ``prompt_bytes``: of text, None when the prompt came as token ids.

        ``max_output_tokens``: None when the client set no limit, 0 when nothing is generated.
        """
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.prompt_bytes = prompt_bytes
        self.max_output_tokens = max_output_tokens
        self.num_choices = num_choices
        self.is_stream = is_stream
        self.prefix = prefix
        self.session = session
        self.document = document
        self.token_ids = token_ids

    def tokenized(self, token_ids: list[int]) -> None:
        """Its prompt is these ids: counted, not estimated."""
        self.token_ids = token_ids
        self.prompt_tokens = len(token_ids)
        self.prompt_bytes = None
        if self.document is not None:
            self.prefix = id_keys(token_ids, _salt(self.document))

    def profile(
        self,
        *,
        assumed_output_tokens: int,
        tokens_ratio: float = 1.0,
        tenant: str = "",
        priority: int = 0,
        deadline_seconds: float | None = None,
        session: str = "",
        adapter: str = "",
        draw: float = 0.0,
        block_tokens: int = 0,
    ) -> RequestProfile:
        """The tokens it is expected to hold. ``assumed_output_tokens``: when it sets no limit.

        ``tokens_ratio``: what prompts of this model have turned out to hold over what we take
        them to hold. ``block_tokens``: of the blocks that replicas tell they have; 0: none tells.
        """
        blocks: tuple[int, ...] = ()
        if block_tokens and self.token_ids is not None and not self._has_salt():
            blocks = block_keys(self.token_ids, block_tokens, chain_root(adapter))
        num_prompt_tokens = self.prompt_tokens
        tokens_per_block = TOKENS_PER_ID_BLOCK
        if self.prompt_bytes is not None:
            num_prompt_tokens = max(1, round(num_prompt_tokens * tokens_ratio))
            tokens_per_block = 1
            if self.prompt_bytes:
                share = BLOCK_CHARACTERS / self.prompt_bytes
                tokens_per_block = max(1, int(num_prompt_tokens * min(1.0, share)))
        output = assumed_output_tokens
        if self.max_output_tokens is not None:
            output = min(output, self.max_output_tokens)
        at_least = self.prompt_tokens
        if self.prompt_bytes is not None:
            at_least = ceil_div(self.prompt_bytes, MAX_BYTES_PER_TOKEN)
        return RequestProfile(
            num_prompt_tokens=num_prompt_tokens,
            min_prompt_tokens=at_least,
            max_output_tokens=self.max_output_tokens,
            assumed_output_tokens=output * self.num_choices,
            num_choices=self.num_choices,
            is_stream=self.is_stream,
            tenant=tenant,
            priority=priority,
            deadline_seconds=deadline_seconds,
            prefix=self.prefix,
            tokens_per_block=tokens_per_block,
            session=session,
            adapter=adapter,
            draw=draw,
            blocks=blocks,
        )

    def _has_salt(self) -> bool:
        return self.document is not None and bool(self.document.get("cache_salt"))


def parse_chat(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/chat/completions``. Raises ``BadRequestError``, as all of these do."""
    model = _model(document)
    num_bytes, num_tokens = _conversation_size(document, document.get("messages"), "messages")
    older = _positive(document.get("max_tokens"), "max_tokens")
    limit = _positive(document.get("max_completion_tokens"), "max_completion_tokens")
    return ParsedRequest(
        model=model,
        prompt_tokens=num_tokens,
        prompt_bytes=num_bytes,
        max_output_tokens=older if limit is None else limit,
        num_choices=_positive(document.get("n"), "n") or 1,
        document=document,
        is_stream=document.get("stream") is True,
        session=_session(document),
        prefix=_conversation_keys(document, document.get("messages")),
    )


def parse_completion(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/completions``."""
    model = _model(document)
    prompt = document.get("prompt")
    num_bytes, num_tokens = _prompt_size(prompt, "prompt")
    num_prompts = len(prompt) if isinstance(prompt, list) and not _are_token_ids(prompt) else 1
    limit = document.get("max_tokens")
    return ParsedRequest(
        model=model,
        prompt_tokens=num_tokens,
        prompt_bytes=num_bytes,
        max_output_tokens=_positive(
            DEFAULT_COMPLETION_TOKENS if limit is None else limit, "max_tokens"
        ),
        num_choices=(_positive(document.get("n"), "n") or 1) * num_prompts,
        document=document if num_prompts == 1 else None,
        token_ids=_only_ids(prompt),
        is_stream=document.get("stream") is True,
        session=_session(document),
        prefix=_prompt_keys(document, prompt),
    )


def parse_responses(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/responses``: the input is a text or a list of items."""
    model = _model(document)
    given = document.get("input")
    if isinstance(given, str) and given:
        given = [{"content": given}]
    num_bytes, num_tokens = _conversation_size(document, given, "input")
    extra = _text_bytes(document.get("instructions"))
    return ParsedRequest(
        model=model,
        prompt_tokens=num_tokens + ceil_div(extra, BYTES_PER_TOKEN),
        prompt_bytes=num_bytes + extra,
        max_output_tokens=_positive(document.get("max_output_tokens"), "max_output_tokens"),
        is_stream=document.get("stream") is True,
        session=_session(document),
        prefix=_conversation_keys(document, given, document.get("instructions")),
    )


def parse_messages(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/messages`` of Anthropic's API: ``max_tokens`` is the client's to set."""
    model = _model(document)
    num_bytes, num_tokens = _conversation_size(document, document.get("messages"), "messages")
    extra = _text_bytes(document.get("system"))
    return ParsedRequest(
        model=model,
        prompt_tokens=num_tokens + ceil_div(extra, BYTES_PER_TOKEN),
        prompt_bytes=num_bytes + extra,
        max_output_tokens=_positive(document.get("max_tokens"), "max_tokens"),
        is_stream=document.get("stream") is True,
        session=_session(document),
        prefix=_conversation_keys(document, document.get("messages"), document.get("system")),
    )


def parse_input(document: dict[str, Any]) -> ParsedRequest:
    """Embeddings, pooling, classification, speech: ``input``, and nothing is generated."""
    model = _model(document)
    if "messages" in document and "input" not in document:
        num_bytes, num_tokens = _conversation_size(document, document["messages"], "messages")
        return ParsedRequest(model=model, prompt_tokens=num_tokens, prompt_bytes=num_bytes)
    size, num_tokens = _prompt_size(document.get("input"), "input")
    return ParsedRequest(model=model, prompt_tokens=num_tokens, prompt_bytes=size)


def parse_texts(document: dict[str, Any]) -> ParsedRequest:
    """Ranking and scoring: the first text is read once with each of the others."""
    model = _model(document)
    first = document.get("query", document.get("text_1", document.get("queries")))
    others = document.get("documents", document.get("text_2", document.get("data_2")))
    items = others if isinstance(others, list) else [others]
    num_bytes = _text_bytes(first) * max(1, len(items)) + sum(_text_bytes(item) for item in items)
    return ParsedRequest(
        model=model, prompt_tokens=ceil_div(num_bytes, BYTES_PER_TOKEN), prompt_bytes=num_bytes
    )


def parse_no_tokens(document: dict[str, Any]) -> ParsedRequest:
    """Tokenizing and counting: no KV cache is held."""
    return ParsedRequest(model=_model(document), prompt_tokens=0)


def parse_audio_form(body: bytes, content_type: bytes) -> ParsedRequest:
    """A form with a recording: its model; how long the recording is, only the engine knows."""
    match = _BOUNDARY.match(content_type)
    if match is None:
        msg = "the body must be multipart/form-data with a boundary"
        raise BadRequestError(msg)
    for part in body.split(b"--" + match[1])[1:]:
        head, blank, value = part.partition(b"\r\n\r\n")
        if blank and _MODEL_PART.search(head):
            model = value.removesuffix(b"\r\n").decode("utf-8", "replace")
            return ParsedRequest(
                model=_model({"model": model}),
                prompt_tokens=TOKENS_PER_ATTACHMENT,
                prompt_bytes=0,
                max_output_tokens=None,
            )
    return ParsedRequest(model=_model({}), prompt_tokens=0)


def text_keys(parts: list[str], salt: str) -> tuple[int, ...]:
    """A key for each whole block of the text: a hash of all up to its end.

    ``salt``: keeps apart what engines keep apart (vLLM's ``cache_salt``).
    """
    text = "".join(parts)
    keys = []
    last = hash(salt)
    for end in range(BLOCK_CHARACTERS, len(text) + 1, BLOCK_CHARACTERS):
        last = hash((last, text[end - BLOCK_CHARACTERS : end]))
        keys.append(last)
    return tuple(keys)


def id_keys(ids: list[int], salt: str) -> tuple[int, ...]:
    """The same, of token ids."""
    return block_keys(ids, TOKENS_PER_ID_BLOCK, chain_root(salt=salt))


def _conversation_keys(
    document: dict[str, Any], messages: object, *leading: object
) -> tuple[int, ...]:
    """Keys of a conversation, in the order in which templates write it: tools come first."""
    parts: list[str] = []
    tools = document.get("tools")
    if tools:
        parts.append(orjson.dumps(tools).decode())
    for content in leading:
        _add_text(parts, content)
    if isinstance(messages, list):
        for message in messages:
            parts.append("\x00")
            if isinstance(message, dict):
                role = message.get("role")
                if isinstance(role, str):
                    parts.append(role)
                _add_text(parts, message.get("content"))
                calls = message.get("tool_calls")
                if calls:
                    parts.append(orjson.dumps(calls).decode())
    return text_keys(parts, _salt(document))


def _salt(document: dict[str, Any]) -> str:
    """Caches keep adapters apart, which go by the model's name, and what clients ask them to."""
    salt = document.get("cache_salt")
    return f"{document.get('model')}\0{salt if isinstance(salt, str) else ''}"


def _add_text(parts: list[str], content: object) -> None:
    if isinstance(content, str):
        parts.append(content)
    elif isinstance(content, list):
        for part in content:
            _add_text(parts, part)
    elif isinstance(content, dict):
        if "text" in content or "content" in content:
            _add_text(parts, content.get("text", content.get("content")))
        else:
            # An image or a recording: the same one is the same prefix.
            parts.append(orjson.dumps(content).decode())


def _prompt_keys(document: dict[str, Any], prompt: object) -> tuple[int, ...]:
    """Keys of one prompt; several at once have none in common with others."""
    salt = _salt(document)
    if isinstance(prompt, str):
        return text_keys([prompt], salt)
    if isinstance(prompt, list) and prompt:
        first = prompt[0]
        if isinstance(first, int):
            return id_keys(prompt, salt)
        if len(prompt) == 1:
            return _prompt_keys(document, first)
    return ()


def _only_ids(prompt: object) -> list[int] | None:
    """The ids of a prompt that came as such, alone."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list):
        prompt = prompt[0]
    return prompt if isinstance(prompt, list) and prompt and _are_token_ids(prompt) else None


def _session(document: dict[str, Any]) -> str:
    key = document.get("prompt_cache_key")
    return key[:MAX_SESSION_CHARACTERS] if isinstance(key, str) else ""


def _model(document: dict[str, Any]) -> str:
    model = document.get("model")
    if not isinstance(model, str) or not model:
        msg = "model must name one of /v1/models"
        raise BadRequestError(msg, "model")
    return model


def _positive(value: object, parameter: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as engines take it
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT:
        msg = f"{parameter} must be a positive integer"
        raise BadRequestError(msg, parameter)
    return value


def _conversation_size(
    document: dict[str, Any], messages: object, parameter: str
) -> tuple[int, int]:
    """Bytes of text, and tokens, of a list of messages and the tools beside it."""
    if not isinstance(messages, list) or not messages:
        msg = f"{parameter} must be a non-empty list"
        raise BadRequestError(msg, parameter)
    num_bytes = 0
    num_tokens = TOKENS_PER_MESSAGE * len(messages)
    for message in messages:
        if not isinstance(message, dict):
            msg = f"each of {parameter} must be an object"
            raise BadRequestError(msg, parameter)
        content = message.get("content")
        if isinstance(content, str):
            num_bytes += len(content) if content.isascii() else len(content.encode())
        elif content is not None:
            num_bytes += _text_bytes(content)
            num_tokens += TOKENS_PER_ATTACHMENT * _num_attachments(content)
        calls = message.get("tool_calls")
        if calls:
            num_bytes += len(orjson.dumps(calls))
    tools = document.get("tools")
    if tools:
        num_bytes += len(orjson.dumps(tools))
    return num_bytes, num_tokens + ceil_div(num_bytes, BYTES_PER_TOKEN)


def _text_bytes(content: object) -> int:
    if isinstance(content, str):
        try:
            return len(content) if content.isascii() else len(content.encode())
        except UnicodeEncodeError:
            return 3 * len(content)
    if isinstance(content, list):
        return sum(_text_bytes(part) for part in content)
    if isinstance(content, dict):
        return _text_bytes(content.get("text", content.get("content")))
    return 0


def _num_attachments(content: object) -> int:
    """Parts that are no text: images, recordings, files."""
    if not isinstance(content, list):
        return 0
    return sum(isinstance(part, dict) and "text" not in part for part in content)


def _are_token_ids(prompt: list[Any]) -> bool:
    # At the speed of C: there may be a hundred thousand of them.
    types = set(map(type, prompt))
    if not types <= {int} and (not types <= {int, float} or any(x != int(x) for x in prompt)):
        return False
    return not prompt or (min(prompt) >= 0 and max(prompt) <= MAX_TOKEN_ID)


def _prompt_size(prompt: object, parameter: str) -> tuple[int | None, int]:
    if isinstance(prompt, str) and prompt:
        num_bytes = _text_bytes(prompt)
        return num_bytes, ceil_div(num_bytes, BYTES_PER_TOKEN)
    if isinstance(prompt, list) and prompt:
        if _are_token_ids(prompt):
            return None, len(prompt)
        if all(isinstance(text, str) for text in prompt):
            num_bytes = sum(_text_bytes(text) for text in prompt)
            return num_bytes, ceil_div(num_bytes, BYTES_PER_TOKEN)
        if all(isinstance(tokens, list) and _are_token_ids(tokens) for tokens in prompt):
            return None, sum(len(tokens) for tokens in prompt)
    msg = f"{parameter} must be a text, a list of texts, or token ids"
    raise BadRequestError(msg, parameter)
