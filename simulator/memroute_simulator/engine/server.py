"""vLLM's HTTP surface over the simulated engine: answers, streams and errors of its shape."""

import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp import web

from memroute_simulator.engine.arguments import EngineArguments, parse_arguments
from memroute_simulator.engine.core import EngineCore
from memroute_simulator.engine.kv_pool import KVPool
from memroute_simulator.engine.metrics import EngineMetrics
from memroute_simulator.engine.scheduler import EngineRequest, Scheduler
from memroute_simulator.engine.startup import (
    DriverClient,
    EngineStartError,
    StartedEngine,
    start_engine,
)
from memroute_simulator.engine.step_time import StepTimeModel
from memroute_simulator.engine.text import count_chat_tokens, count_tokens, token_text

VLLM_VERSION = "0.32.0"
MEAN_OUTPUT_TOKENS = 160
# How long answers are that nothing limits: an exponential, seeded by request order.


class EngineServer:
    """The API of one engine. Owns its core and the count of requests."""

    def __init__(self, arguments: EngineArguments, started: StartedEngine) -> None:
        self._arguments = arguments
        self._max_model_len = started.max_model_len
        self._rng = random.Random(arguments.seed)  # noqa: S311 - answer lengths, not secrets
        scheduler = Scheduler(
            pool=KVPool(num_blocks=started.num_blocks, layout=started.layout),
            step_time=StepTimeModel.for_rank(
                started.architecture,
                started.accelerator,
                started.layout,
                quantization=arguments.quantization,
                tensor_parallel_size=arguments.tensor_parallel_size,
            ),
            max_num_batched_tokens=arguments.max_num_batched_tokens,
            max_num_seqs=arguments.max_num_seqs,
        )
        self._metrics = EngineMetrics(
            scheduler,
            model_name=arguments.served_model_name,
            max_model_len=started.max_model_len,
            cache_dtype=arguments.kv_cache_dtype,
            gpu_memory_utilization=arguments.gpu_memory_utilization,
            kv_cache_memory_bytes=arguments.kv_cache_memory_bytes,
        )
        self.core = EngineCore(scheduler, self._metrics, time_scale=arguments.time_scale)
        self.is_draining = False

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=64 * 1024**2)
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._serve_metrics)
        application.router.add_get("/version", self._version)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1/completions", self._completions)
        return application

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=503 if self.is_draining else 200)

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": VLLM_VERSION})

    async def _models(self, _request: web.Request) -> web.Response:
        card = {
            "id": self._arguments.served_model_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self._arguments.model,
            "parent": None,
            "max_model_len": self._max_model_len,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _read_json(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _error(400, "BadRequestError", "messages must be a non-empty list", "messages")
        prompt_tokens = count_chat_tokens(messages)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        return await self._answer(request, body, prompt_tokens, limit, is_chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await _read_json(request)
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            prompt_tokens = len(prompt)
        elif isinstance(prompt, str) and prompt:
            prompt_tokens = count_tokens(prompt)
        else:
            raise _error(
                400, "BadRequestError", "prompt must be a text or a list of token ids", "prompt"
            )
        return await self._answer(
            request, body, prompt_tokens, body.get("max_tokens", 16), is_chat=False
        )

    async def _answer(
        self,
        request: web.Request,
        body: dict[str, Any],
        prompt_tokens: int,
        limit: int | None,
        *,
        is_chat: bool,
    ) -> web.StreamResponse:
        if self.is_draining:
            raise _error(503, "Service Unavailable", "The engine is shutting down")
        model = self._arguments.served_model_name
        if body.get("model") != model:
            text = f"The model `{body.get('model')}` does not exist. Valid aliases: {model}."
            raise _error(404, "NotFoundError", text, "model")
        output_tokens, finish_reason = self._output_length(body, prompt_tokens, limit)
        prefix = "chatcmpl" if is_chat else "cmpl"
        engine_request = EngineRequest(
            request_id=f"{prefix}-{uuid.uuid4().hex}",
            num_prompt_tokens=prompt_tokens,
            num_output_tokens=output_tokens,
        )
        answer = _AnswerShape(
            request_id=engine_request.request_id,
            model=model,
            is_chat=is_chat,
            finish_reason=finish_reason,
            prompt_tokens=prompt_tokens,
        )
        if not body.get("stream"):
            text = "".join([token_text(p) async for p in self.core.generate(engine_request)])
            return web.json_response(answer.whole(text, output_tokens))
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        position = 0
        async for position in self.core.generate(engine_request):
            last = position == output_tokens - 1
            await response.write(answer.chunk(token_text(position), first=position == 0, last=last))
        if include_usage:
            await response.write(answer.usage_chunk(position + 1))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _output_length(
        self, body: dict[str, Any], prompt_tokens: int, limit: int | None
    ) -> tuple[int, str]:
        """How many tokens to generate, and the finish reason. Raises 400 when it cannot fit."""
        context = self._max_model_len
        if limit is not None and limit > context:
            text = f"max_tokens={limit} cannot be greater than max_model_len={context}"
            raise _error(400, "BadRequestError", text, "max_tokens")
        if prompt_tokens >= context or (limit and prompt_tokens + limit > context):
            text = (
                f"This model's maximum context length is {context} tokens. However, your prompt "
                f"contains at least {prompt_tokens} input tokens, which exceeds this limit"
                f"{f' with max_tokens={limit}' if limit else ' even without any output tokens'}."
            )
            raise _error(400, "BadRequestError", text, "input_tokens")
        ceiling = limit or context - prompt_tokens
        if body.get("ignore_eos"):
            return ceiling, "length"
        wanted = max(1, round(self._rng.expovariate(1 / MEAN_OUTPUT_TOKENS)))
        return (ceiling, "length") if wanted >= ceiling else (wanted, "stop")


class _AnswerShape:
    """The JSON of one answer, whole or in chunks."""

    def __init__(
        self, *, request_id: str, model: str, is_chat: bool, finish_reason: str, prompt_tokens: int
    ) -> None:
        self._is_chat = is_chat
        self._finish_reason = finish_reason
        self._prompt_tokens = prompt_tokens
        kind = "chat.completion" if is_chat else "text_completion"
        self._whole = {
            "id": request_id,
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }
        self._chunk = self._whole | ({"object": "chat.completion.chunk"} if is_chat else {})

    def usage(self, output_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self._prompt_tokens + output_tokens,
        }

    def whole(self, text: str, output_tokens: int) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": self._finish_reason,
            "logprobs": None,
        }
        if self._is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return self._whole | {"choices": [choice], "usage": self.usage(output_tokens)}

    def chunk(self, text: str, *, first: bool, last: bool) -> bytes:
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": self._finish_reason if last else None,
            "logprobs": None,
        }
        if self._is_chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": text}
        else:
            choice["text"] = text
        return _event(self._chunk | {"choices": [choice]})

    def usage_chunk(self, output_tokens: int) -> bytes:
        return _event(self._chunk | {"choices": [], "usage": self.usage(output_tokens)})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


async def _read_json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise _error(400, "BadRequestError", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _error(400, "BadRequestError", "the body is not a JSON object")
    return body


def _error(status: int, kind: str, text: str, parameter: str | None = None) -> web.HTTPException:
    document = {"error": {"message": text, "type": kind, "param": parameter, "code": status}}
    classes = {400: web.HTTPBadRequest, 404: web.HTTPNotFound, 503: web.HTTPServiceUnavailable}
    return classes[status](text=json.dumps(document), content_type="application/json")


async def serve_engine(arguments: EngineArguments) -> int:
    """Start, serve until SIGTERM, drain; the exit status."""
    url = os.environ.get("MEMROUTE_DRIVER_URL")
    if not url:
        print(
            "MEMROUTE_DRIVER_URL is not set: no emulated driver to allocate from", file=sys.stderr
        )
        return 2
    async with aiohttp.ClientSession() as session:
        try:
            started = await start_engine(arguments, DriverClient(url, session))
        except EngineStartError as error:
            print(f"ERROR EngineCore failed to start. {error}", file=sys.stderr)
            return 1
    tokens = started.layout.reported_tokens(started.kv_cache_bytes, started.max_model_len)
    print(
        f"INFO GPU KV cache size: {tokens:,} tokens, Maximum concurrency for "
        f"{started.max_model_len:,} tokens per request: {tokens / started.max_model_len:.2f}x"
    )
    server = EngineServer(arguments, started)
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, arguments.host, arguments.port, backlog=1024).start()
    print(f"INFO serving {arguments.served_model_name} on {arguments.host}:{arguments.port}")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    stepping = asyncio.create_task(server.core.run())
    await asyncio.wait(
        [stepping, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    if stepping.done():
        stepping.result()
    server.is_draining = True
    deadline = time.monotonic() + arguments.shutdown_timeout_seconds
    while server.core.num_in_flight and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await runner.cleanup()
    stepping.cancel()
    return 0


def main(argv: Sequence[str]) -> int:
    """Run one engine; the exit status."""
    return asyncio.run(serve_engine(parse_arguments(argv)))
