"""Everything of an engine's surface that generates nothing: state, tokens, faults."""

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.faults import FaultError
from memroute_simulator.engine.http.adapters import AdapterEndpoints
from memroute_simulator.engine.http.errors import bad_request, unknown_model
from memroute_simulator.engine.http.generation import Generation
from memroute_simulator.engine.http.parsing import read_body
from memroute_simulator.engine.http.responses import json_response
from memroute_simulator.engine.kv_events import KVEventPublisher
from memroute_simulator.engine.metrics import only_series, render
from memroute_simulator.engine.pacing import PacedEngine
from memroute_simulator.engine.text import Tokenizer


class Administration:
    """Handlers around one engine."""

    def __init__(
        self,
        arguments: EngineArguments,
        engine: PacedEngine,
        generation: Generation,
        tokenizer: Tokenizer,
        publisher: KVEventPublisher | None,
        constants: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.num_http_requests = 0
        self._arguments = arguments
        self._engine = engine
        self._generation = generation
        self._tokenizer = tokenizer
        self._publisher = publisher
        self._constants = constants
        self._frozen_page: bytes | None = None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Every path that a server of this configuration has."""
        for path in ("/health", "/ping"):
            router.add_get(path, self._health)
        router.add_get("/metrics", self._metrics)
        router.add_get("/metrics/", self._metrics)
        router.add_get("/version", self._version)
        router.add_get("/load", self._load)
        router.add_get("/v1/models", self._models)
        router.add_post("/tokenize", self._tokenize)
        router.add_post("/detokenize", self._detokenize)
        router.add_get("/kv_event_sources", self._kv_event_sources)
        router.add_get("/simulator/faults", self._faults)
        router.add_post("/simulator/faults", self._set_faults)
        AdapterEndpoints(self._arguments, self._generation).add_routes(router)
        if self._arguments.dialect is MetricsDialect.SGLANG:
            router.add_get("/v1/loads", self._sglang_loads)
            router.add_get("/ready", self._health)
            router.add_get("/health_generate", self._health)
            router.add_get("/server_info", self._server_info)
        if self._arguments.dialect is MetricsDialect.LLAMA_CPP:
            router.add_get("/slots", self._slots)
            router.add_get("/props", self._props)

    async def _health(self, _request: web.Request) -> web.Response:
        is_down = (
            self._engine.is_dead
            or self._engine.faults.is_health_failing
            or self._generation.is_draining
        )
        if self._arguments.dialect is MetricsDialect.LLAMA_CPP:
            loading = {"error": {"code": 503, "message": "Loading model"}}
            body = loading if is_down else {"status": "ok"}
            return json_response(body, status=503 if is_down else 200)
        return web.Response(status=503 if is_down else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        faults = self._engine.faults
        if faults.are_metrics_failing:
            return web.Response(status=500, text="Internal Server Error")
        if not faults.is_metrics_frozen or self._frozen_page is None:
            self._frozen_page = render(
                self._engine.metrics,
                self._engine.schedulers,
                self._engine.inbox_sizes,
                self._arguments.dialect,
                self._constants,
            )
        page = self._frozen_page
        names = request.query.getall("name[]", [])
        if names and request.path.endswith("/"):
            page = only_series(page, frozenset(names))
        return web.Response(
            body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _version(self, _request: web.Request) -> web.Response:
        return json_response({"version": self._arguments.reported_version})

    async def _load(self, _request: web.Request) -> web.Response:
        tracked = self._arguments.enable_server_load_tracking
        return json_response({"server_load": self.num_http_requests if tracked else 0})

    async def _models(self, _request: web.Request) -> web.Response:
        base = self._arguments.served_model_names
        cards = [self._card(name, self._arguments.model, None) for name in base]
        cards += [
            self._card(name, path, base[0]) for name, path in self._generation.adapters.items()
        ]
        return json_response({"object": "list", "data": cards})

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        now = int(time.time())
        permission = {
            "id": f"modelperm-{name}", "object": "model_permission", "created": now,
            "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True,
            "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False,
            "organization": "*", "group": None, "is_blocking": False,
        }  # fmt: skip
        return {
            "id": name, "object": "model", "created": now, "owned_by": "vllm", "root": root,
            "parent": parent,
            "max_model_len": None if parent else self._engine.spec.context_tokens,
            "permission": [permission],
        }  # fmt: skip

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = read_body(await request.read())
        self._check_model(body)
        if "messages" in body:
            tokens = self._tokenizer.encode_chat(body["messages"])
        else:
            tokens = self._tokenizer.encode(str(body.get("prompt", "")))
        context = self._engine.spec.context_tokens
        return json_response(
            {"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": None}
        )

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = read_body(await request.read())
        self._check_model(body)
        return json_response({"prompt": self._tokenizer.decode(list(body.get("tokens", ())))})

    def _check_model(self, body: dict[str, Any]) -> None:
        name = body.get("model")
        if name and name not in self._generation.models:
            raise unknown_model(name, list(self._arguments.served_model_names))

    async def _kv_event_sources(self, _request: web.Request) -> web.Response:
        return json_response(self._publisher.sources() if self._publisher else {})

    # Others' surfaces, and our own.

    async def _sglang_loads(self, _request: web.Request) -> web.Response:
        loads = []
        for rank, scheduler in enumerate(self._engine.schedulers):
            cache = scheduler.cache
            size = cache.layout.block_size_tokens
            used = (cache.num_usable - cache.num_free) * size
            total = cache.num_usable * size
            loads.append(
                {
                    "dp_rank": rank,
                    "num_running_reqs": scheduler.num_running,
                    "num_waiting_reqs": scheduler.num_waiting + self._engine.inbox_sizes[rank],
                    "num_used_tokens": used,
                    "max_total_num_tokens": total,
                    "max_running_requests": scheduler.max_num_seqs,
                    "token_usage": used / total if total else 0.0,
                }
            )
        return json_response({"loads": loads})

    async def _server_info(self, _request: web.Request) -> web.Response:
        arguments = self._arguments
        return json_response(
            {
                "model_path": arguments.model,
                "served_model_name": arguments.served_model_names[0],
                "tp_size": arguments.tensor_parallel_size,
                "context_length": self._engine.spec.context_tokens,
            }
        )

    async def _slots(self, _request: web.Request) -> web.Response:
        (scheduler,) = self._engine.schedulers
        slots = [
            {
                "id": index,
                "n_ctx": self._engine.spec.context_tokens,
                "is_processing": index < scheduler.num_running,
            }
            for index in range(scheduler.max_num_seqs)
        ]
        return json_response(slots)

    async def _props(self, _request: web.Request) -> web.Response:
        (scheduler,) = self._engine.schedulers
        context = self._engine.spec.context_tokens
        return json_response(
            {
                "total_slots": scheduler.max_num_seqs,
                "model_path": self._arguments.model,
                "default_generation_settings": {"n_ctx": context},
            }
        )

    async def _faults(self, _request: web.Request) -> web.Response:
        return json_response(self._engine.faults.as_dict())

    async def _set_faults(self, request: web.Request) -> web.Response:
        body = read_body(await request.read())
        try:
            self._engine.faults.update(body)
        except FaultError as error:
            raise bad_request(str(error)) from None
        if self._engine.faults.is_out_of_memory and not self._engine.is_dead:
            # After the answer: the process ends with the engine.
            asyncio.get_running_loop().call_later(0.05, self._engine.die)
        return json_response(self._engine.faults.as_dict())
