"""What an engine needs beside weights and KV cache, per accelerator.

None of these has a closed formula. Each constant here is the high end of what public logs
of vLLM 0.19 to 0.32 show, so that a reservation errs on the side of starting; how far off it
was shows in the engine's own report after start.
"""

from memroute.units import GIB

CUDA_CONTEXT_BYTES = int(0.6 * GIB)
# The process context lies outside the engine's budget: 0.23 GiB (L4) to 0.60 (H100, H200).

NON_TORCH_BYTES_SINGLE = int(0.27 * GIB)
NON_TORCH_BYTES_PARALLEL = int(2.10 * GIB)
# cuBLAS, attention workspaces, NCCL. llm-d-planner 0.3.3 (49 runs on H100, vLLM 0.19.0):
# 0.27 GiB at tensor parallel 1, 2.10 above.

CUDA_GRAPH_BYTES = int(1.0 * GIB)
# 0.25 to 2.4 GiB in logs; 0.7 is typical up to 10B parameters at 256 sequences.

WEIGHT_LOADING_MARGIN_RATIO = 0.02
# Loaded weights exceed the formula by 0.1 % (Qwen3-8B) to a few percent; KAITO takes 1.02.

MIN_PEAK_ACTIVATION_BYTES = int(1.5 * GIB)
# An RTX 4090 log with 256 sequences shows 1.40 GiB where the sampler's law gives 0.5.

SAMPLER_COPIES = 3.8
# Peak activation is about 3.8 x max_num_seqs x vocabulary x 4 bytes (the sampler's logits):
# inferred from llm-d-planner's constants at 1,024 sequences (Llama 3.86, Qwen3 3.81).

MARGIN_BYTES = int(0.15 * GIB)
# Allocator fragmentation that nothing above accounts for.


def peak_activation_bytes(*, vocab_size: int, max_num_seqs: int) -> int:
    """Bytes of the largest transient allocation of one step."""
    logits_bytes = int(SAMPLER_COPIES * max_num_seqs * vocab_size * 4)
    return max(MIN_PEAK_ACTIVATION_BYTES, logits_bytes)


def non_torch_bytes(*, tensor_parallel_size: int) -> int:
    """Bytes of libraries and communication buffers on one rank."""
    return NON_TORCH_BYTES_SINGLE if tensor_parallel_size == 1 else NON_TORCH_BYTES_PARALLEL
