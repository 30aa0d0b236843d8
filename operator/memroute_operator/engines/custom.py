"""Any engine: a command of the owner's, with what was reserved as variables.

``$(MEMROUTE_KV_CACHE_BYTES)`` in ``engine.command``, ``engine.args`` or ``engine.env`` is replaced
by kubelet, as in any pod, because each variable is in the container's environment: a script in the
image reads the same there. The footprint is that of vLLM's laws, since nobody knows the engine's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from memroute.footprint import EngineType
from memroute.placement import Placed, PlacementMode
from memroute_kube.memory_words import PLACEMENT_MODES
from memroute_kube.resources import ENGINE_PORT
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
)
from memroute_operator.engines.vllm import VLLM, utilization_ratio
from memroute_operator.spec.deployment import Deployment

# The path that is asked for health where the spec names none.
HEALTH_PATH = "/health"
# For how long SIGTERM is kept from an engine of which nobody says that it drains, in seconds; and
# what is left to it to end. As for llama.cpp, which does not drain either.
PRE_STOP_SECONDS = 30
MARGIN_SECONDS = 20
# Variables → what they are, for the documentation and for the refusal.
VARIABLES: Final[Mapping[str, str]] = {
    "MEMROUTE_MODEL": "spec.model.name",
    "MEMROUTE_MODEL_FILE": "spec.model.file; empty where it is not set",
    "MEMROUTE_SERVED_NAME": "the name that clients use",
    "MEMROUTE_HOST": "the address to listen on",
    "MEMROUTE_PORT": "the port to listen on",
    "MEMROUTE_BYTES_PER_DEVICE": "what was reserved on each device, in bytes",
    "MEMROUTE_WEIGHTS_BYTES": "of that, for weights",
    "MEMROUTE_KV_CACHE_BYTES": "of that, for the KV cache",
    "MEMROUTE_MEMORY_RATIO": "what the engine may use of the whole device, 0 to 1",
    "MEMROUTE_KV_CACHE_TOKENS": "tokens that the KV cache holds",
    "MEMROUTE_MAX_CONTEXT_TOKENS": "spec.memory.maxContextTokens",
    "MEMROUTE_CONCURRENCY": "spec.memory.concurrency",
    "MEMROUTE_MAX_SEQUENCES": "requests computed at once at the most",
    "MEMROUTE_MAX_BATCHED_TOKENS": "tokens of a step at the most",
    "MEMROUTE_TENSOR_PARALLEL_SIZE": "devices of the replica",
    "MEMROUTE_KV_CACHE_DTYPE": "auto or fp8",
    "MEMROUTE_QUANTIZATION": "none, fp8, awq or gptq",
}
# What the engine has to load: the folder of its weights, and the model's name where it fetches them
# itself. Set where the weights are in a folder, and for whoever names it.
MODEL_PATH_VARIABLE: Final = "MEMROUTE_MODEL_PATH"
# Those that keep an engine to its part of a shared device.
BOUNDS: Final = (
    "MEMROUTE_BYTES_PER_DEVICE", "MEMROUTE_KV_CACHE_BYTES", "MEMROUTE_KV_CACHE_TOKENS",
    "MEMROUTE_MEMORY_RATIO",
)  # fmt: skip
# What kubelet replaces; ``$$`` is a dollar.
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_OURS = frozenset({"POD_IP", "NVIDIA_VISIBLE_DEVICES", MODEL_PATH_VARIABLE})


class Custom:
    """Whatever listens, says that it is healthy, and keeps to what it was given."""

    type = EngineType.CUSTOM
    phases: Sequence[Phase] = ()
    _like: Final = VLLM()

    def kv_cache_bytes(self, deployment: Deployment, placed: Placed) -> int:
        """As vLLM would have it."""
        return self._like.kv_cache_bytes(deployment, placed)

    def capacity_tokens(self, deployment: Deployment, placed: Placed) -> int:
        """As vLLM would have it."""
        return self._like.capacity_tokens(deployment, placed)

    def command(self, deployment: Deployment) -> list[str]:
        """As the owner wrote it; kubelet fills it in."""
        return [str(word) for word in deployment.obj["spec"]["engine"].get("command") or ()]

    def arguments(self, deployment: Deployment, placed: Placed) -> list[str]:
        """The owner's, and none of ours."""
        return list(deployment.engine_args)

    def environment(self, deployment: Deployment, placed: Placed) -> Variables:
        """What was reserved, and all that the flags of other engines say."""
        shape = deployment.shape
        assert shape is not None  # noqa: S101 - callers have seen the footprint
        footprint = deployment.footprint_on(placed.product)
        values = {
            "MEMROUTE_MODEL": deployment.model,
            "MEMROUTE_MODEL_FILE": deployment.model_file or "",
            "MEMROUTE_SERVED_NAME": deployment.served_name,
            "MEMROUTE_HOST": HOST,
            "MEMROUTE_PORT": ENGINE_PORT,
            "MEMROUTE_BYTES_PER_DEVICE": placed.bytes_per_device,
            "MEMROUTE_WEIGHTS_BYTES": footprint.weights_bytes,
            "MEMROUTE_KV_CACHE_BYTES": self.kv_cache_bytes(deployment, placed),
            "MEMROUTE_MEMORY_RATIO": f"{utilization_ratio(deployment, placed):.2f}",
            "MEMROUTE_KV_CACHE_TOKENS": self.capacity_tokens(deployment, placed),
            "MEMROUTE_MAX_CONTEXT_TOKENS": deployment.max_context_tokens,
            "MEMROUTE_CONCURRENCY": shape.concurrency,
            "MEMROUTE_MAX_SEQUENCES": shape.max_num_seqs,
            "MEMROUTE_MAX_BATCHED_TOKENS": shape.max_num_batched_tokens,
            "MEMROUTE_TENSOR_PARALLEL_SIZE": placed.num_devices,
            "MEMROUTE_KV_CACHE_DTYPE": shape.kv_cache_dtype.value,
            "MEMROUTE_QUANTIZATION": shape.quantization.value,
        }
        variables = [{"name": name, "value": str(values[name])} for name in VARIABLES]
        if deployment.weights is not None or MODEL_PATH_VARIABLE in _references(
            _words(deployment.obj["spec"]["engine"])
        ):
            variables.insert(0, {"name": MODEL_PATH_VARIABLE, "value": deployment.model_argument})
        return variables

    def probes(self, deployment: Deployment) -> Probes:
        """The path that the spec names answers 200 once it serves, and while it lives."""
        return http_probes(deployment.obj["spec"]["engine"].get("healthPath") or HEALTH_PATH)

    def drain(self, deployment: Deployment) -> Drain:
        """It finishes for as long as the spec says; else SIGTERM waits."""
        seconds = deployment.obj["spec"]["engine"].get("drainSeconds") or 0
        pre_stop = 0 if seconds else PRE_STOP_SECONDS
        return Drain(
            grace_seconds=seconds + pre_stop + MARGIN_SECONDS,
            finish_seconds=seconds,
            pre_stop_seconds=pre_stop,
        )

    def refusal(self, spec: Mapping[str, Any]) -> str | None:
        """Variables that nobody sets, and a shared device without a bound."""
        engine = spec["engine"]
        variables = list(engine.get("env") or ())
        own = {str(one.get("name")) for one in variables}
        used = _references(_words(engine))
        unknown = [name for name in used if name not in VARIABLES and name not in _OURS | own]
        if unknown:
            return (
                f"spec.engine names variables that nobody sets: "
                f"{', '.join(f'$({name})' for name in unknown[:3])}; memroute sets "
                f"{', '.join(VARIABLES)}, and spec.engine.env sets others ($$(NAME) is the text)"
            )
        if overridden := sorted(own & (VARIABLES.keys() | {MODEL_PATH_VARIABLE})):
            return (
                f"spec.engine.env sets {overridden[0]}, which memroute sets from what it has "
                f"reserved: use another name"
            )
        mode = PLACEMENT_MODES.read(spec["placement"]["mode"])
        if mode is PlacementMode.SHARED and not set(used) & set(BOUNDS):
            return (
                f"a custom engine on a shared device has to be told its part: give it one of "
                f"{', '.join(f'$({name})' for name in BOUNDS)} in spec.engine.args, or set "
                f"placement.mode Exclusive"
            )
        return needs_image(spec, self.type, "the engine's image") or no_adapters(
            spec, self.type, "load them yourself, and list their names without a source"
        )

    def read_report(self, page: str) -> EngineReport | None:
        """What nobody knows is not believed; a page of vLLM's is read as vLLM's."""
        return None


def _words(engine: Mapping[str, Any]) -> list[object]:
    """All that kubelet fills in."""
    return [
        *(engine.get("command") or ()),
        *(engine.get("args") or ()),
        *(one.get("value") or "" for one in engine.get("env") or ()),
    ]


def _references(words: Iterable[object]) -> list[str]:
    """The variables that these words name, each once."""
    found: dict[str, None] = {}
    for word in words:
        for match in _REFERENCE.finditer(str(word)):
            if match[1]:
                found[match[1]] = None
    return list(found)
