"""What an engine needs beside weights and KV cache, per accelerator.

None of these has a closed formula: each is a law or a constant with its source, the value
that is expected and the range that public start logs of vLLM 0.10 to 0.32 span. A reservation
takes the high end, so that the engine starts; what it reports then calibrates the estimate
(``footprint.calibration``).
"""

from memroute.footprint.architecture import (
    GatedDeltaNet,
    Mamba2,
    MixtureOfExperts,
    ModelArchitecture,
)
from memroute.footprint.estimate import Estimate
from memroute.footprint.kv_cache.cells import cells_of
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.weights.sharding import Parallelism
from memroute.units import GIB


def _range(low: float, expected: float, high: float) -> Estimate:
    return Estimate(low=int(low * GIB), expected=int(expected * GIB), high=int(high * GIB))


CUDA_CONTEXT = _range(0.23, 0.50, 0.60)
# The process context lies outside the engine's budget: total less free at start is 0.23 GiB
# (L4), 0.45 (RTX 4090), 0.60 (H100, H200).

NON_TORCH_SINGLE = _range(0.0, 0.15, 0.27)
NON_TORCH_PARALLEL = _range(1.3, 1.70, 2.10)
# cuBLAS, attention workspaces, NCCL. Logs: 0.02 (RTX 4090), 0.07 (B200), 1.38 (H200, tp 2),
# 1.84 (H100, tp 4); llm-d-planner 0.3.3 (49 runs on H100, vLLM 0.19.0): 0.27 at tensor
# parallel 1, 2.10 above.

CUDA_GRAPH_BYTES_PER_LAYER = int(0.02 * GIB)
# 0.68 GiB over 36 layers (Qwen3-8B), 0.65 over 34 (gemma-3-4b).
CUDA_GRAPHS_LOW, CUDA_GRAPHS_HIGH = int(0.24 * GIB), int(1.0 * GIB)
STATE_GRAPH_FACTOR = 2.5
# A stack with recurrent states captures more per layer: 2.37 GiB over 48 (Qwen3-Next).

WEIGHTS_EXPECTED_RATIO = 1.001
WEIGHTS_HIGH_RATIO = 1.02
# Loaded weights exceed the formula by 0.1 % (Qwen3-8B: 15.27 GiB of 15.256); KAITO takes 1.02.

MIN_ACTIVATION = _range(0.9, 1.3, 1.5)
# An RTX 4090 log with 256 sequences shows 1.40 GiB where the sampler's law gives 0.55; an RTX
# 5090 about 1.35 with all else that is neither weights nor cache.

SAMPLER_COPIES = 3.8
# The sampler's logits: 3.8 x max_num_seqs x vocabulary x 4 bytes. llm-d-planner's constants at
# 1,024 sequences give Llama 3.86, Qwen2 3.88, Qwen3 3.81, Gemma 2 3.74, Gemma 3 3.94.

ENCODER_VALUES_PER_PATCH = (4, 3)
# (of the intermediate size, of the hidden size) that a vision tower holds per patch at its
# peak. From one log (vllm#21489: gemma-3-4b, 64 images of 4,096 patches, 9.96 GiB), so its
# range is wide.

ACTIVATION_LOW_RATIO, ACTIVATION_HIGH_RATIO = 0.7, 1.3

MARGIN_BYTES = int(0.15 * GIB)
# Allocator fragmentation that nothing above accounts for.


def peak_activation(
    architecture: ModelArchitecture,
    *,
    parallelism: Parallelism,
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> Estimate:
    """Bytes of the largest transient allocation of one step, as the engine's profile has it.

    The sampler's logits, the workspace of the experts, and the states that a prefill of many
    sequences carries; or the vision tower's own peak, if that is larger.
    """
    vocab_size = architecture.vocab_size or 0
    logits = int(SAMPLER_COPIES * max_num_seqs * vocab_size * 4)
    text = (
        logits
        + _expert_workspace(architecture, parallelism, max_num_batched_tokens)
        + _state_workspace(architecture, parallelism, max_num_seqs)
    )
    largest = max(text, _encoder_peak(architecture, max_num_batched_tokens))
    expected = max(MIN_ACTIVATION.expected, largest)
    return Estimate(
        low=min(expected, max(MIN_ACTIVATION.low, int(largest * ACTIVATION_LOW_RATIO))),
        expected=expected,
        # The sampler's law is good to a few percent; what comes on top is not.
        high=max(
            MIN_ACTIVATION.high,
            expected,
            logits + int((largest - min(largest, logits)) * ACTIVATION_HIGH_RATIO),
        ),
    )


def _expert_workspace(
    architecture: ModelArchitecture, parallelism: Parallelism, num_tokens: int
) -> int:
    """VLLM's fused experts: per routed token the wider of gate-and-up and output, and the act."""
    largest = 0
    for layer in architecture.layers:
        for feed_forward in layer.feed_forwards or ():
            if isinstance(feed_forward, MixtureOfExperts):
                width = feed_forward.intermediate_size // (
                    1 if parallelism.expert_parallel else parallelism.num_expert_ranks
                )
                values = max(2 * width, architecture.hidden_size) + width
                routed = num_tokens * feed_forward.num_experts_per_token
                largest = max(largest, 2 * routed * values)
    return largest


def _state_workspace(
    architecture: ModelArchitecture, parallelism: Parallelism, max_num_seqs: int
) -> int:
    """Initial and final state of every sequence of a prefill, in 32 bit, for one layer."""
    largest = 0
    for layer in architecture.layers:
        if isinstance(layer.mixer, GatedDeltaNet | Mamba2):
            (cell,) = cells_of(
                layer.mixer,
                dtype=KVCacheDtype.AUTO,
                tensor_parallel_size=parallelism.tensor_parallel_size,
                state_dtype_bytes=4,
            )
            largest = max(largest, cell.state_bytes)
    return 2 * max_num_seqs * largest


def _encoder_peak(architecture: ModelArchitecture, num_tokens: int) -> int:
    vision = architecture.vision
    if vision is None:
        return 0
    of_intermediate, of_hidden = ENCODER_VALUES_PER_PATCH
    values = of_intermediate * vision.intermediate_size + of_hidden * vision.hidden_size
    return int(2 * values * num_tokens * vision.patches_per_token)


def cuda_graphs(architecture: ModelArchitecture) -> Estimate:
    """Bytes of the captured graphs."""
    has_state = any(
        isinstance(layer.mixer, GatedDeltaNet | Mamba2) for layer in architecture.layers
    )
    factor = STATE_GRAPH_FACTOR if has_state else 1.0
    expected = int(CUDA_GRAPH_BYTES_PER_LAYER * architecture.num_layers * factor)
    expected = max(CUDA_GRAPHS_LOW, expected)
    return Estimate(
        low=CUDA_GRAPHS_LOW, expected=expected, high=max(CUDA_GRAPHS_HIGH, int(1.2 * expected))
    )


def non_torch(parallelism: Parallelism) -> Estimate:
    """Bytes of libraries and communication buffers on one rank."""
    return NON_TORCH_SINGLE if parallelism.tensor_parallel_size == 1 else NON_TORCH_PARALLEL
