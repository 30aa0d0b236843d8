"""How long one engine step takes, from the architecture and the accelerator.

A roofline with the efficiencies that aiconfigurator uses: 0.8 of the bandwidth for weights
and KV reads, about half of the peak rate for prefill, plus CPU time per step and sequence
(0.2 ms + 20 us, fitted on public vLLM runs). Good to some 20 %: enough for pressure to build
and drain as it does on hardware. A later model replaces it by measured coefficients.
"""

from dataclasses import dataclass

from memroute.catalog import Accelerator
from memroute.footprint import (
    KVCacheLayout,
    ModelArchitecture,
    Parallelism,
    Quantization,
    active_parameters,
    weights_per_rank,
)

BANDWIDTH_EFFICIENCY_RATIO = 0.8
COMPUTE_EFFICIENCY_RATIO = 0.5
CPU_SECONDS_PER_STEP = 0.2e-3
CPU_SECONDS_PER_SEQUENCE = 20e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeModel:
    """Seconds of one step, by what the step computes and reads."""

    weights_read_seconds: float
    seconds_per_prefill_token: float
    seconds_per_context_token: float

    @classmethod
    def for_rank(
        cls,
        architecture: ModelArchitecture,
        accelerator: Accelerator,
        layout: KVCacheLayout,
        *,
        quantization: Quantization,
        tensor_parallel_size: int,
    ) -> "StepTimeModel":
        """The model of one tensor-parallel rank."""
        bandwidth = accelerator.bandwidth_bytes_per_second * BANDWIDTH_EFFICIENCY_RATIO
        flops = accelerator.bf16_flops * COMPUTE_EFFICIENCY_RATIO
        weights = weights_per_rank(
            architecture,
            quantization=quantization,
            parallelism=Parallelism(tensor_parallel_size=tensor_parallel_size),
        ).bytes_per_rank
        parameters = active_parameters(architecture) / tensor_parallel_size
        return cls(
            weights_read_seconds=weights / bandwidth,
            seconds_per_prefill_token=2 * parameters / flops,
            seconds_per_context_token=layout.bytes_per_token / bandwidth,
        )

    def step_seconds(
        self, *, num_scheduled_tokens: int, num_context_tokens: int, num_sequences: int
    ) -> float:
        """Seconds of a step over so many new tokens, cached tokens read, and sequences."""
        compute = num_scheduled_tokens * self.seconds_per_prefill_token
        return (
            max(self.weights_read_seconds, compute)
            + num_context_tokens * self.seconds_per_context_token
            + CPU_SECONDS_PER_STEP
            + CPU_SECONDS_PER_SEQUENCE * num_sequences
        )
