"""Endpoints that vLLM opens with ``VLLM_SERVER_DEV_MODE=1``: sleep, pause, resets, calls."""

import json
import os
import time

from aiohttp import web

from memroute_simulator.engine.http.errors import APIError, bad_request
from memroute_simulator.engine.http.responses import json_response
from memroute_simulator.engine.pacing import PacedEngine
from memroute_simulator.engine.sleeping import MODES, SLEEP_STATES, Sleeper, WakeError

DEVELOPMENT_VARIABLE = "VLLM_SERVER_DEV_MODE"
RELOAD_WEIGHTS = "reload_weights"


class Development:
    """The handlers of one engine."""

    def __init__(self, engine: PacedEngine, sleeper: Sleeper) -> None:
        self._engine = engine
        self._sleeper = sleeper

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """All of its paths; none without the variable."""
        if os.environ.get(DEVELOPMENT_VARIABLE, "").lower() not in {"1", "true"}:
            return
        router.add_post("/sleep", self._sleep)
        router.add_post("/wake_up", self._wake_up)
        router.add_get("/is_sleeping", self._is_sleeping)
        router.add_post("/collective_rpc", self._collective_rpc)
        router.add_post("/pause", self._pause)
        router.add_post("/resume", self._resume)
        router.add_get("/is_paused", self._is_paused)
        router.add_post("/reset_prefix_cache", self._reset_prefix_cache)

    async def _sleep(self, request: web.Request) -> web.Response:
        level, mode = request.query.get("level", "1"), request.query.get("mode", "abort")
        if level not in {str(one) for one in SLEEP_STATES}:
            raise bad_request(f"sleep level must be 0, 1 or 2, got {level}")
        if mode not in MODES:
            raise bad_request(f"Invalid pause mode: {mode}")
        start = time.monotonic()
        await self._sleeper.sleep(int(level), mode)
        self._engine.metrics.on_sleep_operation("sleep", time.monotonic() - start)
        return json_response({"status": "sleeping", "level": int(level)})

    async def _wake_up(self, request: web.Request) -> web.Response:
        tags = request.query.getall("tags", [])
        if self._engine.faults.is_wake_failing:
            raise APIError(500, "InternalServerError", "the fault is_wake_failing is on")
        start = time.monotonic()
        try:
            await self._sleeper.wake_up(tags)
        except WakeError as error:
            raise APIError(500, "InternalServerError", str(error)) from error
        self._engine.metrics.on_sleep_operation("wake_up", time.monotonic() - start)
        return json_response({"status": "awake", "tags": tags or None})

    async def _is_sleeping(self, _request: web.Request) -> web.Response:
        return json_response({"is_sleeping": self._sleeper.is_sleeping})

    async def _collective_rpc(self, request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
        except ValueError as error:
            return json_response({"detail": f"JSON decode error: {error}"}, status=400)
        method = body.get("method") if isinstance(body, dict) else None
        if method is None:
            return json_response({"detail": "Missing 'method' in request body"}, status=400)
        if method != RELOAD_WEIGHTS:
            message = f"'Worker' object has no attribute {method!r}"
            raise APIError(500, "InternalServerError", message)
        try:
            await self._sleeper.reload_weights()
        except WakeError as error:
            raise APIError(500, "InternalServerError", str(error)) from error
        ranks = self._engine.spec.parallelism.num_devices
        return json_response({"results": [None] * ranks})

    async def _pause(self, _request: web.Request) -> web.Response:
        self._engine.pause()
        return json_response({"status": "paused"})

    async def _resume(self, _request: web.Request) -> web.Response:
        self._engine.resume()
        return json_response({"status": "resumed"})

    async def _is_paused(self, _request: web.Request) -> web.Response:
        return json_response({"is_paused": self._engine.is_paused})

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        for scheduler in self._engine.schedulers:
            if request.query.get("reset_external", "false").casefold() in {"true", "1"}:
                scheduler.forget_prefixes()
            else:
                scheduler.cache.clear()
        return json_response({"success": True})
