"""What SGLang takes beside weights and pool: what ``memory_hook.py`` of 0.5.23 keeps free.

SGLang publishes a rule of thumb, not measurements: ``1.5 MiB`` for each token of a prefill chunk,
``2 MiB`` for each sequence of the largest captured batch. No public log breaks its memory down,
so a reservation takes the larger of that rule and of what vLLM, which runs the same kernels, has
been seen to take. The 10 GiB that SGLang keeps by default on accelerators of more than 60 GiB go
with its chunks of 8,192 tokens there; memroute passes 2,048, and keeps what the terms add up to.
"""

from typing import TYPE_CHECKING

from memroute.errors import UnsupportedShapeError
from memroute.footprint.architecture import LatentAttention
from memroute.footprint.estimate import Estimate
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.runtime import Runtime, vllm_runtime
from memroute.footprint.weights import Quantization
from memroute.units import MIB

if TYPE_CHECKING:
    from memroute.footprint.replica import ReplicaShape

# Bytes that SGLang keeps for each token of a prefill chunk, and beside them all.
SGLANG_CHUNK_TOKEN_BYTES = int(1.5 * MIB)
SGLANG_META_BYTES = 512 * MIB
SGLANG_MIN_CHUNK_TOKENS = 2048
# For each sequence of the largest batch whose decode graph it captures.
SGLANG_DECODE_GRAPH_BYTES = 2 * MIB
# For each captured size of a prefill; with latent attention, for all of them together.
SGLANG_PREFILL_GRAPH_BYTES = 8 * MIB
SGLANG_LATENT_GRAPHS_BYTES = 1536 * MIB
# For communication, times tensor and pipeline parallel size over eight.
SGLANG_PARALLEL_BYTES = 1024 * MIB

# What SGLang takes for ``--kv-cache-dtype`` and ``--quantization``, of what a shape can ask for.
SGLANG_CACHE_DTYPES = {
    KVCacheDtype.AUTO: "auto",
    KVCacheDtype.BFLOAT16: "bf16",
    KVCacheDtype.FP8: "fp8_e4m3",
    KVCacheDtype.FP8_E4M3: "fp8_e4m3",
    KVCacheDtype.FP8_E5M2: "fp8_e5m2",
}
SGLANG_QUANTIZATIONS = {
    Quantization.FP8: "fp8",
    Quantization.AWQ: "awq",
    Quantization.GPTQ: "gptq",
    Quantization.MXFP4: "mxfp4",
    Quantization.NVFP4: "nvfp4_online",
    Quantization.BITSANDBYTES: "bitsandbytes",
}


def sglang_runtime(shape: "ReplicaShape") -> Runtime:
    """By its own rule, and never less than was seen of vLLM."""
    laws, parallelism = vllm_runtime(shape), shape.parallelism
    chunk = max(shape.max_num_batched_tokens, SGLANG_MIN_CHUNK_TOKENS)
    is_latent = any(isinstance(layer.mixer, LatentAttention) for layer in shape.architecture.layers)
    prefill_graphs = (
        SGLANG_LATENT_GRAPHS_BYTES
        if is_latent
        else num_prefill_graphs(shape.max_num_batched_tokens) * SGLANG_PREFILL_GRAPH_BYTES
    )
    ranks = parallelism.tensor_parallel_size * parallelism.pipeline_parallel_size
    graphs = shape.max_num_seqs * SGLANG_DECODE_GRAPH_BYTES + prefill_graphs
    return Runtime(
        peak_activation=_between(
            laws.peak_activation, SGLANG_META_BYTES + chunk * SGLANG_CHUNK_TOKEN_BYTES
        ),
        graphs=_between(laws.graphs, graphs),
        non_torch=_between(laws.non_torch, ranks * SGLANG_PARALLEL_BYTES // 8),
        context=laws.context,
    )


def _between(law: Estimate, rule: int) -> Estimate:
    """From the less of both to the more of both; the engine's own rule is what is expected."""
    return Estimate(low=min(law.low, rule), expected=rule, high=max(law.high, rule))


def num_prefill_graphs(max_tokens: int) -> int:
    """How many sizes of a prefill SGLang captures: ``generate_prefill_cuda_graph_batch_sizes``."""
    steps = (
        range(4, 33, 4), range(48, 257, 16), range(288, 513, 32), range(576, 1025, 64),
        range(1280, 4097, 256), range(4608, max_tokens + 1, 512),
    )  # fmt: skip
    return sum(1 for step in steps for size in step if size <= max_tokens)


def check_sglang(shape: "ReplicaShape") -> None:
    """Raise ``UnsupportedShapeError``, with the way out, for what SGLang cannot store."""
    kv_cache_dtype, quantization = shape.kv_cache_dtype, shape.quantization
    if kv_cache_dtype not in SGLANG_CACHE_DTYPES:
        known = ", ".join(sorted(one.value for one in SGLANG_CACHE_DTYPES))
        message = f"SGLang has no KV cache of {kv_cache_dtype}; it has {known}"
        raise UnsupportedShapeError(message)
    if quantization is not Quantization.NONE and quantization not in SGLANG_QUANTIZATIONS:
        known = ", ".join(sorted(one.value for one in SGLANG_QUANTIZATIONS))
        message = (
            f"SGLang does not quantize to {quantization} as it loads; it can {known}, and any "
            f"checkpoint that is quantized already (quantization=none)"
        )
        raise UnsupportedShapeError(message)
