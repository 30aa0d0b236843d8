"""LoRA adapters at run time: the calls of vLLM and of SGLang, with their refusals.

Files are looked at where there are any: on an emulated node a mount is a folder of this machine
(``MEMROUTE_SIMULATOR_MOUNTS``), and an adapter that is not there, or is of too large a rank, is
refused in the engine's words. Elsewhere a folder that does not exist is taken on trust.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from memroute_simulator.engine.arguments import EngineArguments
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.http.errors import APIError
from memroute_simulator.engine.http.generation import Generation
from memroute_simulator.engine.http.parsing import read_body
from memroute_simulator.engine.http.responses import json_response

RUNTIME_VARIABLE: Final = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
MOUNTS_VARIABLE: Final = "MEMROUTE_SIMULATOR_MOUNTS"
"""Of an emulated container: a JSON object, from mount paths to folders."""


class AdapterEndpoints:
    """The handlers. The adapters themselves are the generation's."""

    def __init__(self, arguments: EngineArguments, generation: Generation) -> None:
        self._arguments = arguments
        self._generation = generation

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """The paths of this engine; none where it loads no adapters while it runs."""
        if not self._arguments.enable_lora:
            return
        if self._arguments.dialect is MetricsDialect.SGLANG:
            router.add_post("/load_lora_adapter", self._load_sglang)
            router.add_post("/unload_lora_adapter", self._unload_sglang)
        elif os.environ.get(RUNTIME_VARIABLE, "").lower() in {"1", "true"}:
            router.add_post("/v1/load_lora_adapter", self._load)
            router.add_post("/v1/unload_lora_adapter", self._unload)

    async def _load(self, request: web.Request) -> web.Response:
        body = read_body(await request.read())
        name, path = str(body.get("lora_name") or ""), str(body.get("lora_path") or "")
        if not name or not path:
            text = "Both 'lora_name' and 'lora_path' must be provided."
            raise APIError(400, "InvalidUserInput", text)
        if name in self._generation.adapters:
            text = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
            raise APIError(400, "InvalidUserInput", text)
        problem = self._problem(path)
        if problem is not None:
            is_absent = problem.startswith("No adapter found")
            if is_absent:
                raise APIError(404, "NotFoundError", f"Loading lora {name} failed: {problem}")
            raise APIError(400, "BadRequestError", problem)
        self._generation.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        body = read_body(await request.read())
        name = str(body.get("lora_name") or "")
        if not name:
            text = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise APIError(400, "InvalidUserInput", text)
        if name not in self._generation.adapters:
            text = f"The lora adapter '{name}' cannot be found."
            raise APIError(404, "NotFoundError", text)
        del self._generation.adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _load_sglang(self, request: web.Request) -> web.Response:
        body = read_body(await request.read())
        name, path = str(body.get("lora_name") or ""), str(body.get("lora_path") or "")
        if name in self._generation.adapters:
            return self._told(f"LoRA with name {name} already loaded.")
        problem = self._problem(path)
        if problem is not None:
            return self._told(problem)
        self._generation.adapters[name] = path
        return self._told(None)

    async def _unload_sglang(self, request: web.Request) -> web.Response:
        name = str(read_body(await request.read()).get("lora_name") or "")
        if self._generation.adapters.pop(name, None) is None:
            return self._told(f"LoRA adapter {name} does not exist.")
        return self._told(None)

    def _told(self, problem: str | None) -> web.Response:
        """As SGLang answers: what is loaded by now, and what was wrong."""
        document: dict[str, Any] = {
            "success": problem is None,
            "error_message": problem or "",
            "loaded_adapters": dict(self._generation.adapters),
        }
        return json_response(document, status=200 if problem is None else 400)

    def _problem(self, path: str) -> str | None:
        """Why an engine cannot load what is there; None when it can."""
        mounts = os.environ.get(MOUNTS_VARIABLE)
        folder = _folder(path, json.loads(mounts) if mounts else {})
        if mounts is None and not folder.is_dir():
            return None
        try:
            said = json.loads((folder / "adapter_config.json").read_text())
        except (OSError, ValueError):
            return f"No adapter found for {path}"
        rank = int(said.get("r", 8))
        if rank > self._arguments.max_lora_rank:
            limit = self._arguments.max_lora_rank
            return f"LoRA rank {rank} is greater than max_lora_rank {limit}."
        return None


def _folder(path: str, mounts: dict[str, str]) -> Path:
    """The folder of this machine that a path in the container is."""
    for mount in sorted(mounts, key=len, reverse=True):
        if path == mount or path.startswith(f"{mount}/"):
            return Path(mounts[mount] + path[len(mount) :])
    return Path(path)
