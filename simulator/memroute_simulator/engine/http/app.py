"""The server: routes, what surrounds every request, and the process around both."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import aiohttp
from aiohttp import web

from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.card_time import CardTime, follow
from memroute_simulator.engine.faults import Faults
from memroute_simulator.engine.http.administration import Administration
from memroute_simulator.engine.http.development import Development
from memroute_simulator.engine.http.errors import APIError
from memroute_simulator.engine.http.generation import Generation
from memroute_simulator.engine.http.responses import json_response
from memroute_simulator.engine.kv_events import KVEventPublisher
from memroute_simulator.engine.memory import EngineMemory, host_kv_bytes
from memroute_simulator.engine.metrics import EngineMetrics
from memroute_simulator.engine.model import BlockEvent
from memroute_simulator.engine.pacing import PacedEngine
from memroute_simulator.engine.sleeping import Sleeper
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.engine.startup import DriverClient, EngineStartError, Start
from memroute_simulator.engine.text import Tokenizer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_BODY_BYTES = 64 * 1024**2
FALLBACK_VOCABULARY = 32_000


class EngineServer:
    """One API server over one engine. Owns both."""

    def __init__(
        self,
        arguments: EngineArguments,
        spec: EngineSpec,
        constants: Mapping[str, float] = MappingProxyType({}),
        driver: DriverClient | None = None,
    ) -> None:
        """``constants``: what it has measured at its start. ``driver``: of its node; None: none.

        Raises ``MemrouteError`` for a model that is to sleep and whose bytes nobody knows.
        """
        faults = Faults()
        faults.update(arguments.faults)
        self.publisher = None
        offloading = arguments.offloading
        if arguments.kv_events is not None:
            self.publisher = KVEventPublisher(
                arguments.kv_events,
                num_ranks=spec.parallelism.data_parallel_size,
                block_size_tokens=spec.layout.block_size_tokens,
                host_blocks_per_chunk=spec.host_blocks_per_chunk,
                describes_host=offloading is not None and offloading.describes_events,
            )
        self.engine = PacedEngine(
            spec,
            make_metrics=lambda schedulers: EngineMetrics(
                spec,
                schedulers,
                model_name=arguments.served_model_names[0],
                utilization_ratio=arguments.gpu_memory_utilization,
                kv_cache_memory_bytes=arguments.kv_cache_memory_bytes,
                shows_host_size=offloading is None or offloading.is_shown,
            ),
            faults=faults,
            time_scale=arguments.time_scale,
            on_event=self._on_event if self.publisher else None,
            on_step=self._on_step if self.publisher else None,
        )
        if self.publisher is not None:
            for scheduler in self.engine.schedulers:
                if scheduler.host is not None:
                    scheduler.host.keeps_events = True
        tokenizer = Tokenizer(spec.architecture.vocab_size or FALLBACK_VOCABULARY)
        self.generation = Generation(arguments, self.engine, tokenizer)
        self._administration = Administration(
            arguments, self.engine, self.generation, tokenizer, self.publisher, constants
        )
        memory = EngineMemory.of(arguments, spec, driver) if arguments.enable_sleep_mode else None
        self._development = Development(
            self.engine, Sleeper(self.engine, memory, time_scale=arguments.time_scale)
        )
        self._is_pooling = arguments.runner == "pooling"

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[self._around_every_request]
        )
        router = application.router
        self._administration.add_routes(router)
        self._development.add_routes(router)
        if self._is_pooling:
            router.add_post("/v1/embeddings", self.generation.embeddings)
        else:
            router.add_post("/v1/chat/completions", self.generation.chat)
            router.add_post("/v1/completions", self.generation.completions)
            router.add_post("/v1/messages", self.generation.messages)
            router.add_post("/v1/messages/count_tokens", self.generation.count_tokens)
            router.add_post("/v1/responses", self.generation.responses)
        return application

    async def run(self) -> None:
        """Step, and answer replays of KV events, until the engine dies."""
        if self.publisher is None:
            await self.engine.run()
            return
        replays = [
            asyncio.create_task(self.publisher.serve_replays(rank))
            for rank in range(self.engine.num_ranks)
        ]
        try:
            await self.engine.run()
        finally:
            for task in replays:
                task.cancel()
            self.publisher.close()

    def _on_event(self, rank: int, event: BlockEvent) -> None:
        if self.publisher is not None:
            self.publisher.on_event(rank, event)

    def _on_step(self) -> None:
        """The device's events are told first: what a chunk is called by is known then."""
        if self.publisher is None:
            return
        for rank, scheduler in enumerate(self.engine.schedulers):
            if scheduler.host is not None:
                for event in scheduler.host.take_events():
                    self.publisher.on_host_event(rank, event)
        self.publisher.publish()

    @web.middleware
    async def _around_every_request(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Count it, and turn refusals into their bodies."""
        start = time.monotonic()
        self._administration.num_http_requests += 1
        try:
            response = await self._answer(request, handler)
        finally:
            self._administration.num_http_requests -= 1
        resource = request.match_info.route.resource
        if resource is not None:
            self.engine.metrics.on_http(
                resource.canonical, request.method, response.status, time.monotonic() - start,
                request.content_length or 0, response.content_length or 0,
            )  # fmt: skip
        return response

    @staticmethod
    async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except APIError as error:
            return error.response()
        except web.HTTPNotFound:
            return json_response({"detail": "Not Found"}, status=404)
        except web.HTTPMethodNotAllowed as error:
            allow = {"Allow": ", ".join(sorted(error.allowed_methods))}
            return json_response({"detail": "Method Not Allowed"}, status=405, headers=allow)
        except ConnectionResetError:
            # The client left, or a fault reset the connection: nobody reads an answer.
            return web.Response(status=499)


async def serve_engine(arguments: EngineArguments, start: Start) -> int:
    """Start, serve until SIGTERM, drain; the exit status.

    ``start``: what the engine allocates on an emulated node.
    """
    url = os.environ.get("MEMROUTE_DRIVER_URL")
    if not url:
        return await _serve(arguments, arguments.standalone_spec(), {}, None)
    async with aiohttp.ClientSession() as session:
        driver = DriverClient(url, session)
        try:
            spec, constants = await start(arguments, driver)
            if kept := host_kv_bytes(spec):
                await driver.hold_host(kept)
        except EngineStartError as error:
            print(f"ERROR EngineCore failed to start. {error}", file=sys.stderr)
            return 1
        return await _serve(arguments, spec, constants, driver)


async def _serve(
    arguments: EngineArguments,
    spec: EngineSpec,
    constants: Mapping[str, float],
    driver: DriverClient | None,
) -> int:
    context = spec.context_tokens
    pool = spec.total_blocks * spec.layout.bytes_per_block
    tokens = spec.layout.reported_tokens(pool, context)
    print(
        f"INFO GPU KV cache size: {tokens:,} tokens, Maximum concurrency for "
        f"{context:,} tokens per request: {tokens / context:.2f}x"
    )
    server = EngineServer(arguments, spec, constants, driver)
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, arguments.host, arguments.port, backlog=2048).start()
    print(
        f"INFO serving {arguments.served_model_names[0]} on {arguments.host}:{arguments.port}",
        flush=True,
    )
    following = None
    if driver is not None:
        card = CardTime()
        server.engine.stretched = card.step_seconds
        following = asyncio.create_task(follow(driver.url, server.engine, card))
    try:
        return await _until_stopped(server, runner, arguments)
    finally:
        if following is not None:
            following.cancel()


async def _until_stopped(
    server: EngineServer, runner: web.AppRunner, arguments: EngineArguments
) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    stepping = asyncio.create_task(server.run())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait([stepping, waiting], return_when=asyncio.FIRST_COMPLETED)
    if stepping.done():
        stepping.result()
        print(f"ERROR EngineCore died: {server.engine.last_words}", file=sys.stderr)
        # Its clients are told before the process goes.
        await asyncio.sleep(0.5)
        await runner.cleanup()
        return 1
    server.generation.is_draining = True
    deadline = time.monotonic() + arguments.shutdown_timeout_seconds
    while server.engine.num_in_flight and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await runner.cleanup()
    stepping.cancel()
    return 0
