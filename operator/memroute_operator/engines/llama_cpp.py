"""llama.cpp's server: as many slots as were reserved, each of the whole context.

It allocates everything at its start and nothing after, so what it takes is what its flags say: the
file, ``-np`` slots of ``-c / -np`` tokens, and the buffer of a step. On a whole device too: it does
not grow into what is left. Its own fitting (``--fit``) would shrink what was asked for without a
word, and is off.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from memroute.footprint import EngineType
from memroute.footprint.kv_cache.llama_cpp import DEFAULT_UBATCH_TOKENS, slot_tokens
from memroute.placement import Placed
from memroute_kube.resources import ENGINE_PORT
from memroute_operator.engines.llama_cpp_owned import refusal as refusal_of_flags
from memroute_operator.engines.reports import EngineReport
from memroute_operator.engines.seam import (
    HOST,
    Drain,
    Phase,
    Probes,
    Variables,
    http_probes,
    needs_image,
    no_adapters,
    owned_args,
)
from memroute_operator.spec.deployment import Deployment

# llama.cpp does not drain: on SIGTERM it stops its streams without an end and, where one was open,
# leaves 30 s later (b11434, measured). So SIGTERM is kept from it for as long as streams are given,
# in seconds; routers send nothing more to a pod that is deleted. Chosen by hand: an idle replica
# holds its device for that long too.
PRE_STOP_SECONDS = 30
LEAVE_SECONDS = 30
MARGIN_SECONDS = 5
# More layers than any model has: all of them on the device.
ALL_LAYERS = 999
PHASES: Final = (
    Phase(words="starting", pattern=re.compile(r"build(?:_info)?:|system info")),
    Phase(words="loading weights", pattern=re.compile(r"loading model|load_tensors")),
    Phase(words="allocating the KV cache", pattern=re.compile(r"llama_kv_cache|llama_context:")),
    Phase(words="warming up", pattern=re.compile(r"warming up|initializing slots|n_slots")),
    Phase(words="serving", pattern=re.compile(r"model loaded|listening on")),
)


class LlamaCPP:
    """llama-server of the autumn of 2026."""

    type = EngineType.LLAMA_CPP
    phases: Sequence[Phase] = PHASES

    def kv_cache_bytes(self, deployment: Deployment, placed: Placed) -> int:
        """That of its slots, in both modes."""
        return deployment.footprint_on(placed.product).kv_cache_bytes

    def capacity_tokens(self, deployment: Deployment, placed: Placed) -> int:
        """All slots together."""
        return _num_slots(deployment) * slot_tokens(deployment.max_context_tokens)

    def command(self, deployment: Deployment) -> list[str]:
        """The image's own: llama-server."""
        return []

    def arguments(self, deployment: Deployment, placed: Placed) -> list[str]:
        """The flags that llama-server is started with."""
        file = deployment.model_file or ""
        if deployment.weights is not None and not file.startswith("/"):
            file = f"{deployment.model_argument}/{file}"
        where = (
            ["--model", file]
            if file.startswith("/")
            # It would load the repository's projector for images too, which nobody has reserved.
            else ["--hf-repo", deployment.model, "--hf-file", file, "--no-mmproj"]
        )
        slots = _num_slots(deployment)
        arguments = [
            *where,
            "--alias", deployment.served_name,
            "--host", HOST,
            "--port", str(ENGINE_PORT),
            "--ctx-size", str(slots * slot_tokens(deployment.max_context_tokens)),
            "--parallel", str(slots),
            "--n-gpu-layers", str(ALL_LAYERS),
            "--ubatch-size", str(DEFAULT_UBATCH_TOKENS),
            "--flash-attn", "on",
            "--fit", "off",
            # Prompts of others in host memory: 8 GiB by default, which nobody has reserved.
            "--cache-ram", "0",
            "--swa-full",
            "--metrics",
        ]  # fmt: skip
        return arguments + list(deployment.engine_args)

    def environment(self, deployment: Deployment, placed: Placed) -> Variables:
        """None of its own."""
        return []

    def probes(self, deployment: Deployment) -> Probes:
        """``/health`` is 503 while it loads, from the first bind on."""
        return http_probes()

    def drain(self, deployment: Deployment) -> Drain:
        """It does not finish by itself: SIGTERM waits for what it has begun."""
        return Drain(
            grace_seconds=PRE_STOP_SECONDS + LEAVE_SECONDS + MARGIN_SECONDS,
            finish_seconds=0,
            pre_stop_seconds=PRE_STOP_SECONDS,
        )

    def refusal(self, spec: Mapping[str, Any]) -> str | None:
        """It needs an image, and the name of a file; its flags of memory are memroute's."""
        if not spec["model"].get("file"):
            return (
                "spec.model.file is needed for LlamaCPP, because a repository of GGUF files has "
                "one for each size: name the one to load (such as Qwen3-8B-Q4_K_M.gguf, or a path "
                "in a volume), and its bytes as spec.model.checkpointBytes"
            )
        return (
            owned_args(spec, refusal_of_flags)
            or needs_image(
                spec,
                self.type,
                "llama.cpp's server for your devices (its tag server-cuda, or a copy)",
            )
            or no_adapters(spec, self.type, "merge the adapter into the GGUF file, or use VLLM")
        )

    def read_report(self, page: str) -> EngineReport | None:
        """It says nothing of its memory there; its start log does (``--verbosity 4``)."""
        return None


def _num_slots(deployment: Deployment) -> int:
    shape = deployment.shape
    assert shape is not None  # noqa: S101 - callers have seen the footprint
    return shape.concurrency
