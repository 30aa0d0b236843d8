"""What llama.cpp takes beside its model and cache: the buffer of a step, and what nobody counts.

llama.cpp allocates one buffer for the largest step. Measured on the CPU (llama-server of November
2026, 22 shapes of Llama, flash attention on): five rows of the hidden size and three of the
feed-forward width (two of all heads, where those are wider) for each token of a micro-batch, in 32
bit, and a mask of two bytes for each of its tokens and each of a slot. Exact to 0.1 MiB where the
feed-forward is three times the hidden size or more, up to a third too much where it is not.
Releases before that reserved the logits of a whole micro-batch: the high end has them. What the
CUDA backend takes beside its buffers is not known; llama.cpp's own fitting leaves 1,024 MiB free
on each device for it, and so does a reservation.
"""

from typing import TYPE_CHECKING

from memroute.errors import UnsupportedShapeError
from memroute.footprint import overhead
from memroute.footprint.architecture import (
    MLP,
    Attention,
    LatentAttention,
    Layer,
    MixtureOfExperts,
    ModelArchitecture,
)
from memroute.footprint.estimate import Estimate
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.kv_cache.llama_cpp import DEFAULT_UBATCH_TOKENS, slot_tokens
from memroute.footprint.runtime import Runtime
from memroute.footprint.weights import Quantization
from memroute.units import MIB

if TYPE_CHECKING:
    from memroute.footprint.replica import ReplicaShape

# Rows of 32 bit that llama.cpp's step holds for each token: of the hidden size, of the width of the
# feed-forward, or of all heads. Fitted to its start log; see above.
LLAMA_CPP_HIDDEN_ROWS = 5
LLAMA_CPP_FFN_ROWS = 3
LLAMA_CPP_HEAD_ROWS = 2
# For each token of a micro-batch and each of a slot: the mask, 16 bit.
LLAMA_CPP_MASK_BYTES = 2
# How far below the fit a step of the same shapes was, at the most.
LLAMA_CPP_STEP_LOW_RATIO = 0.7
# What llama.cpp's own fitting leaves free on each device (--fit-target, 1,024 MiB).
LLAMA_CPP_UNACCOUNTED_BYTES = 1024 * MIB

# What llama.cpp stores a cache as that is asked for so: 16 bit.
LLAMA_CPP_CACHE_DTYPES = frozenset({KVCacheDtype.AUTO, KVCacheDtype.FLOAT16})


def llama_cpp_runtime(shape: "ReplicaShape") -> Runtime:
    """By what its start log shows, and with the room that it leaves itself."""
    expected = llama_cpp_step_bytes(shape.architecture, shape.max_context_tokens)
    logits = DEFAULT_UBATCH_TOKENS * 4 * (shape.architecture.vocab_size or 0)
    nothing = Estimate.exactly(0)
    return Runtime(
        peak_activation=Estimate(
            low=int(expected * LLAMA_CPP_STEP_LOW_RATIO), expected=expected, high=expected + logits
        ),
        graphs=nothing,
        non_torch=Estimate(
            low=0,
            expected=overhead.NON_TORCH_SINGLE.expected,
            high=LLAMA_CPP_UNACCOUNTED_BYTES,
        ),
        context=overhead.CUDA_CONTEXT,
    )


def llama_cpp_step_bytes(architecture: ModelArchitecture, context_tokens: int) -> int:
    """Bytes of llama.cpp's buffer for one micro-batch in slots of that length."""
    hidden = architecture.hidden_size
    widest = max(
        [hidden]
        + [LLAMA_CPP_FFN_ROWS * _feed_forward_width(layer) for layer in architecture.layers]
        + [LLAMA_CPP_HEAD_ROWS * _heads_width(layer) for layer in architecture.layers]
    )
    rows = DEFAULT_UBATCH_TOKENS * 4 * (LLAMA_CPP_HIDDEN_ROWS * hidden + widest)
    return rows + DEFAULT_UBATCH_TOKENS * LLAMA_CPP_MASK_BYTES * slot_tokens(context_tokens)


def _feed_forward_width(layer: Layer) -> int:
    """The widest feed-forward of a token: its experts together, where it has some."""
    widths = [0]
    for one in layer.feed_forwards or ():
        match one:
            case MLP():
                widths.append(one.intermediate_size)
            case MixtureOfExperts():
                routed = one.num_experts_per_token * one.intermediate_size
                widths.append(routed + one.shared_intermediate_size)
    return max(widths)


def _heads_width(layer: Layer) -> int:
    match layer.mixer:
        case Attention():
            return layer.mixer.num_heads * layer.mixer.head_dim
        case LatentAttention():
            width = layer.mixer.kv_lora_rank + layer.mixer.rope_head_dim
            return layer.mixer.num_heads * width
        case _:
            return 0


def check_llama_cpp(shape: "ReplicaShape") -> None:
    """Raise ``UnsupportedShapeError``, with the way out, for what llama.cpp cannot do."""
    if shape.parallelism.num_devices > 1:
        message = (
            "llama.cpp runs on one device here (tensorParallelSize=1): how it splits a model over "
            "several is not in the footprint; serve large models with vLLM or SGLang"
        )
        raise UnsupportedShapeError(message)
    if shape.quantization is not Quantization.NONE:
        message = (
            f"llama.cpp does not quantize as it loads: name a GGUF file of that size instead of "
            f"quantization={shape.quantization}"
        )
        raise UnsupportedShapeError(message)
    if shape.kv_cache_dtype not in LLAMA_CPP_CACHE_DTYPES:
        message = (
            f"llama.cpp has no KV cache of {shape.kv_cache_dtype}; leave it at auto, which is 16 "
            f"bit there"
        )
        raise UnsupportedShapeError(message)
