"""Chats, completions and embeddings: from a parsed body to the last byte."""

import hashlib
import random
import time
import uuid
import zlib
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from aiohttp import web

from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.http.answers import (
    DONE,
    AnswerShape,
    OpenAIShape,
    Usage,
    error_chunk,
)
from memroute_simulator.engine.http.errors import (
    APIError,
    bad_request,
    engine_dead,
    queue_full,
    unknown_model,
)
from memroute_simulator.engine.http.other_answers import (
    MessagesShape,
    ResponsesShape,
    chat_of_messages,
    chat_of_responses,
)
from memroute_simulator.engine.http.parsing import GenerationRequest, parse, read_body
from memroute_simulator.engine.http.responses import json_response
from memroute_simulator.engine.model import EngineRequest, TokenContent
from memroute_simulator.engine.pacing import (
    EngineDeadError,
    PacedEngine,
    RequestAbortedError,
    TokenStream,
)
from memroute_simulator.engine.text import Tokenizer, token_text

MEAN_OUTPUT_TOKENS = 160
# How long answers are that nothing limits: an exponential, seeded by request order.
ABORT = "abort"
# The finish reason of a request that the engine has ended, as when it is put to sleep.
LOAD_HEADER = "endpoint-load-metrics"


class Generation:
    """Runs requests on the engine. Owns the adapters' names and the chance of lengths."""

    def __init__(
        self, arguments: EngineArguments, engine: PacedEngine, tokenizer: Tokenizer
    ) -> None:
        self.adapters: dict[str, str] = dict(arguments.adapters)
        self.is_draining = False
        self._arguments = arguments
        self._engine = engine
        self._tokenizer = tokenizer
        self._rng = random.Random(arguments.seed)  # noqa: S311 - answer lengths, not secrets
        digest = hashlib.sha256(repr(arguments).encode()).hexdigest()[:8]
        self._fingerprint = f"vllm-{arguments.reported_version}-{digest}"

    @property
    def models(self) -> list[str]:
        """Names that are served: the model's, then the adapters'.

        SGLang knows an adapter as ``MODEL:ADAPTER``.
        """
        served = self._arguments.served_model_names
        if self._arguments.dialect is MetricsDialect.SGLANG:
            return [*served, *(f"{served[0]}:{name}" for name in self.adapters)]
        return [*served, *self.adapters]

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``."""
        body = read_body(await request.read())
        return await self._generate(request, body, self._openai_shape(request, is_chat=False))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/chat/completions``."""
        body = read_body(await request.read())
        return await self._generate(request, body, self._openai_shape(request, is_chat=True))

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/messages``, Anthropic's API."""
        body = chat_of_messages(read_body(await request.read()))
        shape = MessagesShape(request_id=f"msg_{uuid.uuid4().hex[:16]}", model=self._named(body))
        return await self._generate(request, body, shape)

    async def count_tokens(self, request: web.Request) -> web.Response:
        """``POST /v1/messages/count_tokens``."""
        body = chat_of_messages(read_body(await request.read()))
        self._check_model(body.get("model"))
        tokens = self._tokenizer.encode_chat(body.get("messages") or [])
        return json_response({"input_tokens": len(tokens)})

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/responses``."""
        body = chat_of_responses(read_body(await request.read()))
        shape = ResponsesShape(
            request_id=uuid.uuid4().hex[:16], model=self._named(body), created=int(time.time())
        )
        return await self._generate(request, body, shape)

    async def embeddings(self, request: web.Request) -> web.Response:
        """``POST /v1/embeddings``, on an engine that was started with ``--runner pooling``."""
        body = read_body(await request.read())
        self._check_model(body.get("model"))
        given = body.get("input")
        inputs = given if isinstance(given, list) and not _are_ids(given) else [given]
        prompts = [tuple(x) if isinstance(x, list) else tuple(self._tokenizer.encode(str(x or "")))
                   for x in inputs]  # fmt: skip
        if not all(prompts):
            raise bad_request("Either input must be provided and non-empty.", "input")
        streams = [self._submit(p, 1, 1, None, 0, 0, request) for p in prompts]
        size = int(body.get("dimensions") or self._engine.spec.architecture.hidden_size)
        async with AsyncExitStack() as stack:
            for stream in streams:
                stack.callback(self._engine.leave, stream, "stop")
            for stream in streams:
                await self._embedded(stream)
        tokens = sum(map(len, prompts))
        return json_response(
            {
                "id": f"embd-{uuid.uuid4().hex[:16]}",
                "object": "list",
                "created": int(time.time()),
                "model": body.get("model"),
                "data": [
                    {"index": i, "object": "embedding", "embedding": _embedding(prompt, size)}
                    for i, prompt in enumerate(prompts)
                ],
                "usage": {
                    "prompt_tokens": tokens,
                    "total_tokens": tokens,
                    "completion_tokens": 0,
                    "prompt_tokens_details": None,
                },
            }
        )

    def _openai_shape(self, request: web.Request, *, is_chat: bool) -> OpenAIShape:
        return OpenAIShape(
            request_id=_request_id(request, is_chat=is_chat),
            model="",
            created=int(time.time()),
            is_chat=is_chat,
            fingerprint=self._fingerprint,
        )

    def _named(self, body: dict[str, Any]) -> str:
        return str(body.get("model") or self.models[0])

    async def _generate(
        self, request: web.Request, body: dict[str, Any], shape: AnswerShape
    ) -> web.StreamResponse:
        is_chat = not isinstance(shape, OpenAIShape) or shape.is_chat
        parsed = self._parsed(body, is_chat=is_chat)
        if self.is_draining:
            raise APIError(503, "Service Unavailable", "The engine is shutting down")
        if self._engine.faults.refuses():
            status = self._engine.faults.error_status
            raise APIError(status, "InternalServerError", "A fault was asked for.")
        if isinstance(shape, OpenAIShape):
            shape = replace(shape, model=self._named(body))
        choices = self._submit_all(parsed, request)
        async with AsyncExitStack() as stack:
            for choice in choices:
                stack.callback(choice.leave, self._engine)
            if parsed.is_stream:
                return await self._stream(request, parsed, shape, choices)
            return await self._whole(request, parsed, shape, choices)

    def _parsed(self, body: dict[str, Any], *, is_chat: bool) -> GenerationRequest:
        spec = self._engine.spec
        try:
            parsed = parse(
                body, is_chat=is_chat, tokenizer=self._tokenizer, context_tokens=spec.context_tokens
            )
        except APIError as error:
            # The shape of the body is judged before the model's name, its numbers after.
            if error.kind != "Bad Request":
                self._check_model(body.get("model"))
            raise
        self._check_model(parsed.model)
        return parsed

    def _check_model(self, name: object) -> None:
        if name and name not in self.models:
            raise unknown_model(name, list(self._arguments.served_model_names))

    def _submit_all(self, parsed: GenerationRequest, request: web.Request) -> list["_Choice"]:
        count = len(parsed.prompts) * parsed.num_samples
        limit = self._arguments.max_num_queued_reqs
        if limit is not None and self._engine.num_in_flight + count > limit:
            self._engine.metrics.rejections["max_num_queued_reqs"].inc()
            raise queue_full()
        choices = []
        num_own = len(self._arguments.served_model_names)
        for prompt in parsed.prompts:
            for _ in range(parsed.num_samples):
                length, reason = self._output_length(parsed)
                adapter = parsed.model if parsed.model in self.models[num_own:] else None
                stream = self._submit(
                    prompt, length, parsed.num_samples, adapter, parsed.priority, parsed.salt,
                    request, max_tokens=parsed.max_tokens,
                )  # fmt: skip
                choices.append(_Choice(stream, reason))
        return choices

    def _submit(
        self,
        prompt: tuple[int, ...],
        num_output_tokens: int,
        num_samples: int,
        adapter: str | None,
        priority: int,
        salt: int,
        request: web.Request,
        *,
        max_tokens: int | None = None,
    ) -> TokenStream:
        number = uuid.uuid4().int >> 80
        salt = hash((salt, zlib.crc32(adapter.encode()))) if adapter else salt
        engine_request = EngineRequest(
            request_id=str(number),
            num_prompt_tokens=len(prompt),
            num_output_tokens=num_output_tokens,
            max_output_tokens=max_tokens or num_output_tokens,
            content=TokenContent(prompt, number, salt),
            priority=priority,
            arrival_seconds=time.monotonic(),
            adapter=adapter,
        )
        try:
            return self._engine.submit(
                engine_request, max_tokens=max_tokens or num_output_tokens,
                num_samples=num_samples, rank=_pinned_rank(request, self._engine.num_ranks),
            )  # fmt: skip
        except EngineDeadError:
            raise engine_dead() from None

    def _output_length(self, parsed: GenerationRequest) -> tuple[int, str]:
        """How many tokens to generate, and the finish reason."""
        if parsed.ignores_eos:
            return parsed.max_tokens, "length"
        wanted = max(1, parsed.min_tokens, round(self._rng.expovariate(1 / MEAN_OUTPUT_TOKENS)))
        return (parsed.max_tokens, "length") if wanted >= parsed.max_tokens else (wanted, "stop")

    async def _wait(self, stream: TokenStream, seen: int) -> int:
        try:
            return await stream.wait_beyond(seen)
        except EngineDeadError:
            raise engine_dead() from None

    async def _embedded(self, stream: TokenStream) -> None:
        """Wait for a prompt that generates nothing: ended, there is nothing to answer."""
        try:
            await self._wait(stream, 0)
        except RequestAbortedError:
            raise engine_dead() from None

    async def _whole(
        self,
        request: web.Request,
        parsed: GenerationRequest,
        shape: AnswerShape,
        choices: list["_Choice"],
    ) -> web.Response:
        texts = []
        for choice in choices:
            wanted, reason = choice.stream.request.num_output_tokens, choice.reason
            seen = 0
            try:
                while seen < wanted:
                    seen = await self._wait(choice.stream, seen)
            except RequestAbortedError:
                wanted, reason = choice.stream.num_tokens, ABORT
            texts.append((self._text(0, wanted), reason))
        usage = self._usage(parsed, choices, sum(c.stream.num_tokens for c in choices))
        return json_response(shape.whole(texts, usage), headers=self._load_headers(request))

    async def _stream(
        self,
        request: web.Request,
        parsed: GenerationRequest,
        shape: AnswerShape,
        choices: list["_Choice"],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        faults = self._engine.faults
        reset_at = faults.reset_after_tokens if faults.resets() else None
        await response.prepare(request)
        sent = 0
        try:
            for index, choice in enumerate(choices):
                wanted = choice.stream.request.num_output_tokens
                seen = 0
                while seen < wanted:
                    following = self._next_event(seen, wanted)
                    available = await choice.stream.wait_beyond(following - 1)
                    chunks = []
                    if not seen:
                        chunks.append(shape.opening(index, self._usage(parsed, choices, 0)))
                    while following <= available:
                        text = self._text(seen, following)
                        sent += following - seen
                        seen = following
                        following = self._next_event(seen, wanted)
                        usage = (
                            self._usage(parsed, choices, sent)
                            if parsed.has_continuous_usage
                            else None
                        )
                        reason = choice.reason if seen == wanted else None
                        chunks.append(shape.chunk(index, text, reason, usage))
                        if seen == wanted:
                            break
                    await response.write(b"".join(chunks))
                    if reset_at is not None and sent >= reset_at and request.transport is not None:
                        request.transport.abort()
                        return response
        except EngineDeadError:
            await response.write(error_chunk(engine_dead().document()))
            await response.write(DONE)
            return response
        except RequestAbortedError:
            reason = ABORT
            opening = b"" if sent else shape.opening(0, self._usage(parsed, choices, 0))
            await response.write(opening + shape.chunk(len(choices) - 1, "", ABORT, None))
        else:
            reason = choices[-1].reason
        usage = self._usage(parsed, choices, sent)
        await response.write(shape.closing(reason, usage, includes_usage=parsed.includes_usage))
        return response

    def _text(self, start: int, end: int) -> str:
        """What an answer's tokens from ``start`` to ``end`` say."""
        if self._engine.faults.are_weights_missing:
            return "!" * (end - start)
        return "".join(token_text(position) for position in range(start, end))

    def _next_event(self, seen: int, wanted: int) -> int:
        """Tokens of a choice at its next event: the first comes alone, the last when it is there.

        ``--stream-interval``, as in vLLM.
        """
        return 1 if not seen else min(wanted, seen + self._arguments.stream_interval)

    def _usage(
        self, parsed: GenerationRequest, choices: list["_Choice"], num_output_tokens: int
    ) -> Usage:
        cached = None
        if self._arguments.enable_prompt_tokens_details:
            cached = choices[0].stream.request.num_hit_tokens
        return Usage(
            num_prompt_tokens=sum(map(len, parsed.prompts)),
            num_output_tokens=num_output_tokens,
            num_cached_tokens=cached,
            is_chat=parsed.is_chat,
        )

    def _load_headers(self, request: web.Request) -> dict[str, str]:
        """ORCA: only answers that are not streamed carry it."""
        wanted = request.headers.get("endpoint-load-metrics-format", "").upper()
        if wanted not in {"TEXT", "JSON"}:
            return {}
        schedulers = self._engine.schedulers
        waiting = float(sum(s.num_waiting for s in schedulers) + sum(self._engine.inbox_sizes))
        usage = max(s.cache.utilization_ratio for s in schedulers)
        if wanted == "TEXT":
            value = (
                f"TEXT named_metrics.num_requests_waiting={waiting}, "
                f"named_metrics.kv_cache_usage_perc={usage}"
            )
        else:
            value = (
                f'JSON {{"named_metrics": {{"num_requests_waiting": {waiting}, '
                f'"kv_cache_usage_perc": {usage}}}}}'
            )
        return {LOAD_HEADER: value}


class _Choice:
    """One sample of one prompt."""

    __slots__ = ("reason", "stream")

    def __init__(self, stream: TokenStream, reason: str) -> None:
        self.stream = stream
        self.reason = reason

    def leave(self, engine: PacedEngine) -> None:
        engine.leave(self.stream, self.reason)


def _request_id(request: web.Request, *, is_chat: bool) -> str:
    given = request.headers.get("X-Request-Id") or uuid.uuid4().hex[:16]
    return f"{'chatcmpl' if is_chat else 'cmpl'}-{given}"


def _pinned_rank(request: web.Request, num_ranks: int) -> int | None:
    """``X-data-parallel-rank`` pins a request to a rank."""
    given = request.headers.get("X-data-parallel-rank")
    if given is None:
        return None
    if not given.isdigit() or int(given) >= num_ranks:
        raise bad_request(f"data_parallel_rank {given} is out of range [0, {num_ranks}).")
    return int(given)


def _are_ids(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(item, int) for item in given)


def _embedding(prompt: tuple[int, ...], size: int) -> list[float]:
    """A unit vector that depends on the prompt alone."""
    rng = random.Random(hash(prompt))  # noqa: S311 - no secret
    vector = [rng.gauss(0.0, 1.0) for _ in range(size)]
    norm = sum(x * x for x in vector) ** 0.5
    return [x / norm for x in vector]
