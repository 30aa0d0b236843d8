"""Flags of SGLang 0.5.23 that are memroute's own.

``--config FILE`` is among them: the words of the file are put before the others, so all that is
refused here could be in it.
"""

from collections.abc import Iterator, Mapping, Sequence

from memroute_operator.engines.command_lines import (
    Flag,
    Stray,
    Word,
    flag_table,
    parse_by_argparse,
)
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
    MODEL,
    NAME,
    PARALLEL,
    QUANTIZATION,
    RANK_OF_SLOTS,
    SLOTS,
    UNCOUNTED,
    Owner,
    refusal_of,
)
from memroute_operator.engines.sglang_flags import (
    ALIASES,
    LISTS,
    OPTIONAL,
    SWITCHES,
    TOGGLES,
    VALUES,
)

TABLE = flag_table(
    switches=SWITCHES,
    toggles=TOGGLES,
    values=VALUES,
    optional=OPTIONAL,
    lists=LISTS,
    aliases=ALIASES,
)
# What SGLang does with a word that belongs to no flag.
STRAY = "the engine would end at once (unrecognized arguments)"
_OFFLOAD = Owner("the footprint counts all weights on the devices")
_ROLES = Owner("routers send each request to one replica, which does all of it")
OWNED: Mapping[str, Owner] = {
    "--config": FILE_OF_FLAGS,
    "--help": ENDS,
    "--model-path": MODEL,
    "--revision": COMMIT,
    "--served-model-name": NAME,
    "--context-length": CONTEXT,
    "--kv-cache-dtype": CACHE_DTYPE,
    "--quantization": QUANTIZATION,
    "--quantization-param-path": QUANTIZATION,
    "--modelopt-quant": QUANTIZATION,
    "--quantize-and-serve": QUANTIZATION,
    "--rl-quant-profile": QUANTIZATION,
    "--json-model-override-args": CONFIG,
    "--decrypted-config-file": CONFIG,
    "--max-running-requests": Owner("sampling takes memory for each", "engine.maxSequences"),
    "--chunked-prefill-size": Owner("activations take memory for each", "engine.maxBatchedTokens"),
    "--max-prefill-tokens": Owner("activations take memory for each", "engine.maxBatchedTokens"),
    "--page-size": Owner("the KV cache is counted in blocks", "engine.blockSizeTokens"),
    "--mem-fraction-static": MEMORY,
    "--max-total-tokens": MEMORY,
    "--swa-full-tokens-ratio": MEMORY,
    "--mamba-full-memory-ratio": MEMORY,
    "--max-mamba-cache-size": MEMORY,
    "--enable-unified-memory": MEMORY,
    "--mm-feature-transport": UNCOUNTED,
    "--weight-cache-mode": UNCOUNTED,
    "--disable-cuda-graph": Owner("CUDA graphs take memory", "engine.execution"),
    "--disable-cuda-graph-padding": GRAPHS,
    "--cuda-graph-config": GRAPHS,
    "--cuda-graph-backend-decode": GRAPHS,
    "--cuda-graph-backend-prefill": GRAPHS,
    "--cuda-graph-max-bs-decode": GRAPHS,
    "--cuda-graph-max-bs-prefill": GRAPHS,
    "--cuda-graph-max-seq-len-prefill": GRAPHS,
    "--cuda-graph-prefill-max-context": GRAPHS,
    "--cuda-graph-bs-decode": GRAPHS,
    "--cuda-graph-bs-prefill": GRAPHS,
    "--tp-size": PARALLEL,
    "--pp-size": PARALLEL,
    "--dp-size": PARALLEL,
    "--ep-size": PARALLEL,
    "--dcp-size": PARALLEL,
    "--attn-dp-size": PARALLEL,
    "--attn-cp-size": PARALLEL,
    "--moe-dp-size": PARALLEL,
    "--moe-dense-tp-size": PARALLEL,
    "--dwdp-size": PARALLEL,
    "--shared-experts-tp-size": PARALLEL,
    "--enable-dp-attention": PARALLEL,
    "--enable-dp-lm-head": PARALLEL,
    "--nnodes": PARALLEL,
    "--node-rank": PARALLEL,
    "--dist-init-addr": PARALLEL,
    "--use-ray": PARALLEL,
    "--max-ep-size": PARALLEL,
    "--elastic-ep-initial-size": PARALLEL,
    "--elastic-ep-join-rank-offset": PARALLEL,
    "--device": DEVICES,
    "--base-gpu-id": DEVICES,
    "--gpu-id-step": DEVICES,
    "--enable-eplb": EXPERTS,
    "--ep-num-redundant-experts": EXPERTS,
    "--init-expert-location": EXPERTS,
    "--enable-lora": SLOTS,
    "--lora-paths": SLOTS,
    "--max-loras-per-batch": SLOTS,
    "--max-lora-rank": RANK_OF_SLOTS,
    "--lora-target-modules": RANK_OF_SLOTS,
    "--speculative-algorithm": DRAFT,
    "--speculative-draft-model-path": DRAFT,
    "--uno-lora-path": DRAFT,
    "--decoupled-spec-role": DRAFT,
    "--dllm-algorithm": DRAFT,
    "--cpu-offload-gb": _OFFLOAD,
    "--offload-group-size": _OFFLOAD,
    "--delete-ckpt-after-loading": Owner("other replicas load the same files"),
    "--disaggregation-mode": _ROLES,
    "--enable-pdmux": _ROLES,
    "--encoder-only": _ROLES,
    "--gated-launch-port": Owner("memroute orders starts by a gate of its own"),
    "--host": ADDRESS,
    "--port": ADDRESS,
    "--smg-grpc-mode": ADDRESS,
    "--grpc-mode": ADDRESS,
    "--ssl-keyfile": ADDRESS,
    "--ssl-certfile": ADDRESS,
    "--ssl-ca-certs": ADDRESS,
}
_WIDE_DTYPES = frozenset({"float", "float32"})


def refusal(words: Sequence[str]) -> str | None:
    """Why ``engine.args`` cannot be taken, a sentence for each flag; None when they can."""
    return refusal_of(parse_arguments(words), OWNED, stray=STRAY, by_value=_owner_of_value)


def parse_arguments(words: Sequence[str]) -> list[Flag | Stray]:
    """The flags of a command line, in their order."""
    return list(parse_by_argparse(list(_dashed(words)), TABLE))


def _dashed(words: Sequence[str]) -> Iterator[Word]:
    for position, written in enumerate(words):
        name, equals, value = written.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        yield Word(name + equals + value, position, written)


def _owner_of_value(flag: Flag) -> Owner | None:
    if flag.name == "--dtype" and flag.value in _WIDE_DTYPES:
        return Owner("the footprint counts 16 bit, and that is 32")
    return None
