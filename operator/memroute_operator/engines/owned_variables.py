"""Variables of an engine's container by which it would take what memroute has not reserved.

Engines read more than their flags: llama.cpp has a variable for each flag, vLLM and SGLang size
buffers by some, and all see the devices that ``NVIDIA_VISIBLE_DEVICES`` and its like name. Where a
container says them twice, the last counts, and ``spec.engine.env`` stands last. So they are refused
by name, in ``spec.engine.env`` and in the template's container of the engine.

Of ``envFrom`` the names in the ConfigMap or Secret are not seen, but its ``prefix`` is: one that
could make such a name is refused. Names without a prefix are not seen. The devices of a shared
replica are safe from them: Kubernetes lets ``env``, where memroute says them, go before
``envFrom``.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from memroute.footprint import EngineType
from memroute_operator.engines import llama_cpp_owned
from memroute_operator.engines.ownership import (
    DEVICES,
    DRAFT,
    EXPERTS,
    GRAPHS,
    MODEL,
    PARALLEL,
    UNCOUNTED,
    Owner,
)
from memroute_operator.pod.pod_defaults import ENGINE_CONTAINER

_OURS = Owner("memroute sets it, so that the engine takes what was reserved and is seen alive")
# Of every engine's container.
DEVICE_VARIABLES: Final[Mapping[str, Owner]] = dict.fromkeys(
    ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
     "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"), DEVICES,
)  # fmt: skip
# By engine: vLLM 0.32's ``envs.py``, SGLang 0.5.23's ``environ.py``, llama.cpp b11434.
OWNED_VARIABLES: Final[Mapping[EngineType, Mapping[str, Owner]]] = {
    EngineType.VLLM: {
        "VLLM_CPU_KVCACHE_SPACE": UNCOUNTED,
        "VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE": UNCOUNTED,
        "VLLM_DEEPEP_BUFFER_SIZE_MB": UNCOUNTED,
        "VLLM_SPARSE_INDEXER_MAX_LOGITS_MB": UNCOUNTED,
        "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": GRAPHS,
        "VLLM_MODEL_REDIRECT_PATH": MODEL,
        "VLLM_DP_SIZE": PARALLEL,
        "VLLM_DP_RANK": PARALLEL,
        "VLLM_DP_RANK_LOCAL": PARALLEL,
        "VLLM_DP_MASTER_IP": PARALLEL,
        "VLLM_DP_MASTER_PORT": PARALLEL,
        "VLLM_ELASTIC_EP_SCALE_UP_LAUNCH": EXPERTS,
        "VLLM_SERVER_DEV_MODE": Owner("it opens calls that put the engine to sleep", "sleep"),
        "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": Owner("probes have to see that an engine is dead"),
    },
    EngineType.SGLANG: {
        "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING": _OURS,
        "SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": _OURS,
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": _OURS,
        "SGLANG_FLASHINFER_WORKSPACE_SIZE": UNCOUNTED,
        "SGLANG_SYMM_MEM_PREALLOC_GB_SIZE": UNCOUNTED,
        "SGLANG_DISAGG_STAGING_BUFFER": UNCOUNTED,
        "SGLANG_DISAGG_STAGING_POOL_SIZE_MB": UNCOUNTED,
        "SGLANG_EMBEDDING_POOL_SIZE_MB": UNCOUNTED,
        "SGLANG_USE_CUDA_IPC_TRANSPORT": UNCOUNTED,
        "SGLANG_MM_FEATURE_CACHE_MB": UNCOUNTED,
        "SGLANG_MM_BUFFER_SIZE_MB": UNCOUNTED,
        "SGLANG_VLM_CACHE_SIZE_MB": UNCOUNTED,
        "SGLANG_VIT_ENABLE_CUDA_GRAPH": GRAPHS,
    },
    EngineType.LLAMA_CPP: {
        # Other models' memory would be paged out for it, silently.
        "GGML_CUDA_ENABLE_UNIFIED_MEMORY": UNCOUNTED,
        "GGML_VK_VISIBLE_DEVICES": DEVICES,
        **{
            name: llama_cpp_owned.OWNED.get(flag, DRAFT)
            for name, flag in llama_cpp_owned.VARIABLES.items()
        },
    },
    EngineType.CUSTOM: {},
}


def refusal(type_: EngineType, spec: Mapping[str, Any]) -> str | None:
    """Why the engine's variables cannot be taken, the first that cannot; None when all can."""
    owned = {**DEVICE_VARIABLES, **OWNED_VARIABLES[type_]}
    for where, container in _containers(spec):
        for index, variable in enumerate(container.get("env") or ()):
            owner = owned.get(str(variable.get("name")))
            if owner is not None:
                return _sentence(f"{where}.env[{index}] {variable['name']}", owner)
        for index, source in enumerate(container.get("envFrom") or ()):
            prefix = source.get("prefix")
            hidden = [name for name in owned if prefix and name.startswith(prefix)]
            if hidden:
                return (
                    f"{where}.envFrom[{index}] makes variables that begin with {prefix}, and "
                    f"memroute cannot see whether {hidden[0]} is among them, which is its own, "
                    f"because {owned[hidden[0]].why}; use spec.engine.env for each variable"
                )
    return None


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where variables of the engine's container are said."""
    yield "engine", spec["engine"]
    template = spec.get("template") or {}
    for index, container in enumerate((template.get("spec") or {}).get("containers") or ()):
        if container.get("name") == ENGINE_CONTAINER:
            yield f"template.spec.containers[{index}]", container


def _sentence(where: str, owner: Owner) -> str:
    use = f"use spec.{owner.instead}" if owner.instead else "leave it out"
    return f"{where} is memroute's own, because {owner.why}; {use}"
