"""Flags of the engine that are memroute's own, each with the reason and what to use instead.

An engine that takes more memory than was reserved for it takes it from its neighbours; one that
listens elsewhere, or tells no metrics, is not seen by operator and router. So ``engine.args`` are
parsed as the engine parses them, and what decides these things is refused by name. What tunes an
engine, and takes memory too, has a field in ``spec.engine``, which the footprint counts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from memroute_operator.engines.vllm_arguments import Flag, Stray, parse_arguments

# Flags that a message names one by one before it only counts.
MAX_LISTED = 3
# Longer words are cut in a message.
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class _Owner:
    """Why a flag is memroute's own."""

    why: str
    instead: str | None = None
    """The field of the spec to use."""


_MEMORY = _Owner("memroute computes it from what it has reserved")
_PARALLEL = _Owner(
    "memroute reserves devices for tensor parallelism alone", "parallelism.tensorParallelSize"
)
_ADDRESS = _Owner("probes, operator and router reach the engine where memroute has put it, by HTTP")
_DRAFT = _Owner("the footprint does not count what speculative decoding loads")
_GRAPHS = _Owner(
    "the footprint counts the engine's usual CUDA graphs", "engine.execution (Eager takes none)"
)
_EXPERTS = _Owner("the footprint does not count redundant experts")
_CONFIG = _Owner("the footprint goes by the model's own config.json")
_HELP = _Owner("it ends the engine at once")
OWNED: Mapping[str, _Owner] = {
    "--config": _Owner("memroute cannot see what the file says", "engine.args for each flag"),
    "--help": _HELP,
    "--model": _Owner("the footprint is that of spec.model", "model.name"),
    "--revision": _Owner("the footprint is that of one commit", "model.source.hub.revision"),
    "--served-model-name": _Owner("routers and operator go by it", "model.servedName"),
    "--max-model-len": _Owner("the KV cache is sized by it", "memory.maxContextTokens"),
    "--kv-cache-dtype": _Owner("the KV cache is sized by it", "memory.kvCacheDtype"),
    "--kv-cache-dtype-skip-layers": _Owner("the KV cache is sized for all layers alike"),
    "--quantization": _Owner("the weights are sized by it", "memory.quantization"),
    "--quantization-config": _Owner("the weights are sized by it", "memory.quantization"),
    "--max-num-seqs": _Owner("sampling takes memory for each", "engine.maxSequences"),
    "--max-num-batched-tokens": _Owner(
        "activations take memory for each", "engine.maxBatchedTokens"
    ),
    "--block-size": _Owner("the KV cache is counted in blocks", "engine.blockSizeTokens"),
    "--enforce-eager": _Owner("CUDA graphs take memory", "engine.execution"),
    "--performance-mode": _Owner(
        "it sets sequences, batched tokens and CUDA graphs",
        "engine.maxSequences, engine.maxBatchedTokens",
    ),
    "--gpu-memory-utilization": _MEMORY,
    "--kv-cache-memory-bytes": _MEMORY,
    "--num-gpu-blocks-override": _MEMORY,
    "--mm-ipc-gpu-memory-gb": _Owner("the footprint does not count it"),
    "--skip-mm-profiling": _Owner("the engine would not count what images take"),
    "--cudagraph-capture-sizes": _GRAPHS,
    "--max-cudagraph-capture-size": _GRAPHS,
    "--hf-config-path": _CONFIG,
    "--speculative-config": _DRAFT,
    "--spec-method": _DRAFT,
    "--spec-model": _DRAFT,
    "--spec-tokens": _DRAFT,
    "--diffusion-config": _DRAFT,
    "--tensor-parallel-size": _PARALLEL,
    "--pipeline-parallel-size": _PARALLEL,
    "--data-parallel-size": _PARALLEL,
    "--data-parallel-size-local": _PARALLEL,
    "--data-parallel-rank": _PARALLEL,
    "--data-parallel-start-rank": _PARALLEL,
    "--data-parallel-address": _PARALLEL,
    "--data-parallel-rpc-port": _PARALLEL,
    "--data-parallel-backend": _PARALLEL,
    "--data-parallel-hybrid-lb": _PARALLEL,
    "--data-parallel-external-lb": _PARALLEL,
    "--data-parallel-multi-port-external-lb": _PARALLEL,
    "--decode-context-parallel-size": _PARALLEL,
    "--prefill-context-parallel-size": _PARALLEL,
    "--nnodes": _PARALLEL,
    "--node-rank": _PARALLEL,
    "--master-addr": _PARALLEL,
    "--master-port": _PARALLEL,
    "--enable-elastic-ep": _PARALLEL,
    "--elastic-ep-max-dp-size": _PARALLEL,
    "--device-ids": _Owner("memroute chooses the devices", "placement"),
    "--enable-eplb": _EXPERTS,
    "--eplb-config": _EXPERTS,
    "--host": _ADDRESS,
    "--port": _ADDRESS,
    "--uds": _ADDRESS,
    "--grpc": _ADDRESS,
    "--headless": _ADDRESS,
    "--api-server-count": _Owner("routers read the metrics of one server"),
    "--ssl-keyfile": _ADDRESS,
    "--ssl-certfile": _ADDRESS,
    "--ssl-ca-certs": _ADDRESS,
    "--disable-log-stats": _Owner("routers go by the engine's metrics"),
    "--shutdown-timeout": _Owner("memroute drains replicas before they end"),
}
_SLOTS = _Owner(
    "memroute sets the slots for adapters by spec.engine and spec.adapters", "engine.maxAdapters"
)
OWNED_WITH_SLOTS: Mapping[str, _Owner] = {
    "--enable-lora": _SLOTS,
    "--max-loras": _SLOTS,
    "--max-lora-rank": _Owner(
        "memroute sets the rank of the slots for adapters", "engine.maxAdapterRank"
    ),
}
"""Where the spec has typed slots for adapters: a flag that says something else is no tuning."""
# Flags of which some values are memroute's own.
_WIDE_DTYPES = frozenset({"float", "float32"})
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
    owned = {**OWNED, **OWNED_WITH_SLOTS} if has_slots else OWNED
    told = [
        sentence for one in parse_arguments(words) if (sentence := _judge(one, owned)) is not None
    ]
    if not told:
        return None
    more = f"; and {len(told) - MAX_LISTED} more" if told[MAX_LISTED:] else ""
    return "; ".join(told[:MAX_LISTED]) + more


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


def _judge(one: Flag | Stray, owned: Mapping[str, _Owner]) -> str | None:
    where = f"engine.args[{one.position}] {_shown(one.written)}"
    if isinstance(one, Stray):
        return f"{where} belongs to no flag: the engine would take it for another model"
    if one.could_be:
        names = ", ".join(one.could_be[:MAX_LISTED])
        return f"{where} could be {names}: write it out"
    owner = owned.get(one.name) or _owner_of_value(one)
    if owner is None:
        return None
    called = "" if one.written.partition("=")[0] == one.name else f" (that is {one.name})"
    use = f"use spec.{owner.instead}" if owner.instead else "leave it out"
    return f"{where}{called} is memroute's own, because {owner.why}; {use}"


def _owner_of_value(flag: Flag) -> _Owner | None:
    """Flags of which only some values decide memory."""
    if flag.name == "--dtype" and flag.value in _WIDE_DTYPES:
        return _Owner("the footprint counts 16 bit, and that is 32")
    keys = _keys(flag.value)
    if flag.name == "--hf-overrides" and not all(key.startswith("rope") for key in keys):
        return _Owner("the footprint goes by the model's own config.json, rope settings apart")
    if flag.name == "--compilation-config" and any(key.startswith(_GRAPH_KEYS) for key in keys):
        return _GRAPHS
    return None


def _keys(value: str | None) -> Iterable[str]:
    """Of a JSON object; of what is none, something that no key is."""
    try:
        found = json.loads(value or "")
    except ValueError:
        return ("?",)
    return found.keys() if isinstance(found, dict) else ("?",)


def _shown(text: str) -> str:
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return json.dumps(cut, ensure_ascii=False)
