"""What an engine takes beside weights and KV pool: the terms, and vLLM's laws for them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memroute.footprint import overhead
from memroute.footprint.estimate import Estimate

if TYPE_CHECKING:
    from memroute.footprint.replica import ReplicaShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Bytes on one accelerator beside weights and KV pool."""

    peak_activation: Estimate
    graphs: Estimate
    non_torch: Estimate
    context: Estimate
    """Outside of what the engine counts as its own."""


def vllm_runtime(shape: "ReplicaShape") -> Runtime:
    """By the laws of ``overhead``, fitted to start logs of vLLM 0.10 to 0.32."""
    return Runtime(
        peak_activation=overhead.peak_activation(
            shape.architecture,
            parallelism=shape.parallelism,
            max_num_seqs=shape.max_num_seqs,
            max_num_batched_tokens=shape.max_num_batched_tokens,
        ),
        graphs=overhead.cuda_graphs(shape.architecture),
        non_torch=overhead.non_torch(shape.parallelism),
        context=overhead.CUDA_CONTEXT,
    )
