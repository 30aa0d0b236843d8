"""Flags of vLLM that are memroute's own, each with the reason and what to use instead.

An engine that takes more memory than was reserved for it takes it from its neighbours; one that
listens elsewhere, or tells no metrics, is not seen by operator and router. So ``engine.args`` are
parsed as the engine parses them, and what decides these things is refused by name. What tunes an
engine, and takes memory too, has a field in ``spec.engine``, which the footprint counts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from memroute_operator.engines.ownership import (
    ADDRESS,
    CACHE_DTYPE,
    COMMIT,
    CONFIG,
    CONTEXT,
    DEVICES,
    DRAFT,
    ENDS,
    EXPERTS,
    FILE_OF_FLAGS,
    GRAPHS,
    MEMORY,
    METRICS,
    MODEL,
    NAME,
    PARALLEL,
    QUANTIZATION,
    RANK_OF_SLOTS,
    SLOTS,
    Owner,
    refusal_of,
)
from memroute_operator.engines.vllm_arguments import Flag, parse_arguments

OWNED: Mapping[str, Owner] = {
    "--config": FILE_OF_FLAGS,
    "--help": ENDS,
    "--model": MODEL,
    "--revision": COMMIT,
    "--served-model-name": NAME,
    "--max-model-len": CONTEXT,
    "--kv-cache-dtype": CACHE_DTYPE,
    "--kv-cache-dtype-skip-layers": Owner("the KV cache is sized for all layers alike"),
    "--quantization": QUANTIZATION,
    "--quantization-config": QUANTIZATION,
    "--max-num-seqs": Owner("sampling takes memory for each", "engine.maxSequences"),
    "--max-num-batched-tokens": Owner(
        "activations take memory for each", "engine.maxBatchedTokens"
    ),
    "--block-size": Owner("the KV cache is counted in blocks", "engine.blockSizeTokens"),
    "--enforce-eager": Owner("CUDA graphs take memory", "engine.execution"),
    "--performance-mode": Owner(
        "it sets sequences, batched tokens and CUDA graphs",
        "engine.maxSequences, engine.maxBatchedTokens",
    ),
    "--gpu-memory-utilization": MEMORY,
    "--kv-cache-memory-bytes": MEMORY,
    "--num-gpu-blocks-override": MEMORY,
    "--mm-ipc-gpu-memory-gb": Owner("the footprint does not count it"),
    "--skip-mm-profiling": Owner("the engine would not count what images take"),
    "--cudagraph-capture-sizes": GRAPHS,
    "--max-cudagraph-capture-size": GRAPHS,
    "--hf-config-path": CONFIG,
    "--speculative-config": DRAFT,
    "--spec-method": DRAFT,
    "--spec-model": DRAFT,
    "--spec-tokens": DRAFT,
    "--diffusion-config": DRAFT,
    "--tensor-parallel-size": PARALLEL,
    "--pipeline-parallel-size": PARALLEL,
    "--data-parallel-size": PARALLEL,
    "--data-parallel-size-local": PARALLEL,
    "--data-parallel-rank": PARALLEL,
    "--data-parallel-start-rank": PARALLEL,
    "--data-parallel-address": PARALLEL,
    "--data-parallel-rpc-port": PARALLEL,
    "--data-parallel-backend": PARALLEL,
    "--data-parallel-hybrid-lb": PARALLEL,
    "--data-parallel-external-lb": PARALLEL,
    "--data-parallel-multi-port-external-lb": PARALLEL,
    "--decode-context-parallel-size": PARALLEL,
    "--prefill-context-parallel-size": PARALLEL,
    "--nnodes": PARALLEL,
    "--node-rank": PARALLEL,
    "--master-addr": PARALLEL,
    "--master-port": PARALLEL,
    "--enable-elastic-ep": PARALLEL,
    "--elastic-ep-max-dp-size": PARALLEL,
    "--device-ids": DEVICES,
    "--enable-eplb": EXPERTS,
    "--eplb-config": EXPERTS,
    "--host": ADDRESS,
    "--port": ADDRESS,
    "--uds": ADDRESS,
    "--grpc": ADDRESS,
    "--headless": ADDRESS,
    "--api-server-count": Owner("routers read the metrics of one server"),
    "--ssl-keyfile": ADDRESS,
    "--ssl-certfile": ADDRESS,
    "--ssl-ca-certs": ADDRESS,
    "--disable-log-stats": METRICS,
    "--enable-sleep-mode": Owner(
        "an engine that sleeps has to be woken before it is sent requests", "sleep"
    ),
    "--shutdown-timeout": Owner("memroute drains replicas before they end"),
}
# Where the spec has typed slots for adapters: a flag that says something else is no tuning.
OWNED_WITH_SLOTS: Mapping[str, Owner] = {
    **OWNED,
    "--enable-lora": SLOTS,
    "--max-loras": SLOTS,
    "--max-lora-rank": RANK_OF_SLOTS,
}
# What vLLM does with a word that belongs to no flag.
STRAY = "the engine would take it for another model"
# Flags of which some values are memroute's own.
_WIDE_DTYPES = frozenset({"float", "float32"})
# The connector that keeps received blocks in memory of its own, 1 GB by default: not in the pool.
_DEVICE_BUFFERS = "p2pnccl"
_GRAPH_KEYS = ("cudagraph", "max_cudagraph", "mode", "level")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA slots that the engine reserves."""

    max_adapters: int
    max_rank: int


# vLLM 0.32's own, where a flag does not say it.
DEFAULT_MAX_LORAS, DEFAULT_MAX_LORA_RANK = 1, 16
NO_ADAPTERS = Adapters(max_adapters=0, max_rank=DEFAULT_MAX_LORA_RANK)


def refusal(words: Sequence[str], *, has_slots: bool = False) -> str | None:
    """Why ``engine.args`` cannot be taken, a sentence for each flag; None when they can.

    ``has_slots``: whether ``spec`` says by its own fields what there is room for of adapters.
    """
    owned = OWNED_WITH_SLOTS if has_slots else OWNED
    return refusal_of(parse_arguments(words), owned, stray=STRAY, by_value=_owner_of_value)


def adapters_of(words: Sequence[str]) -> Adapters:
    """LoRA slots that these words make the engine reserve."""
    flags = {one.name: one for one in parse_arguments(words) if isinstance(one, Flag)}
    enabled = flags.get("--enable-lora")
    modules = flags.get("--lora-modules")
    if (enabled is None or enabled.is_negated) and modules is None:
        return NO_ADAPTERS
    return Adapters(
        max_adapters=_number(flags.get("--max-loras"), DEFAULT_MAX_LORAS),
        max_rank=_number(flags.get("--max-lora-rank"), DEFAULT_MAX_LORA_RANK),
    )


def _number(flag: Flag | None, default: int) -> int:
    value = None if flag is None else flag.value
    return int(value) if value is not None and value.isdecimal() and int(value) > 0 else default


def _owner_of_value(flag: Flag) -> Owner | None:
    """Flags of which only some values decide memory."""
    if flag.name == "--dtype" and flag.value in _WIDE_DTYPES:
        return Owner("the footprint counts 16 bit, and that is 32")
    keys = _keys(flag.value)
    if flag.name == "--hf-overrides" and not all(key.startswith("rope") for key in keys):
        return Owner("the footprint goes by the model's own config.json, rope settings apart")
    if flag.name == "--compilation-config" and any(key.startswith(_GRAPH_KEYS) for key in keys):
        return GRAPHS
    if flag.name == "--kv-transfer-config" and _DEVICE_BUFFERS in (flag.value or "").lower():
        return Owner("the footprint does not count what it receives into on the device")
    return None


def _keys(value: str | None) -> Iterable[str]:
    """Of a JSON object; of what is none, something that no key is."""
    try:
        found = json.loads(value or "")
    except ValueError:
        return ("?",)
    return found.keys() if isinstance(found, dict) else ("?",)
