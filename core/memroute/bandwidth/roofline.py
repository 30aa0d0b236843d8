"""Tokens per second against batch and context, by what the hardware can move and multiply.

```text
decode step  >= max( (weights read + sum of KV read) / bandwidth ,  2 P_active B / FLOPs )
                + exchange between ranks + overhead
prefill      >= max( weights / bandwidth , (2 P_active T + 2 T^2 n d L) / FLOPs )
weights read  = all but the embedding; of E experts the share 1 - (1 - k/E)^B that B tokens hit
```

Efficiencies are aiconfigurator's (0.8 of the bandwidth) and what public logs show for prefill
(about half of the peak rate), so a figure here is good to some 25 %: it orders choices, it is
no promise. Llama-3.1-8B on H100: 16.06 GB / 3.35 TB/s = 4.8 ms at least, about 6 ms at 0.8.
"""

from dataclasses import dataclass
from enum import StrEnum

from memroute.catalog import Accelerator
from memroute.footprint import (
    ModelArchitecture,
    Parallelism,
    Quantization,
    ReplicaShape,
    active_parameters,
)
from memroute.footprint.architecture import Attention, LatentAttention
from memroute.footprint.weights.model import experts_of, resolve_format
from memroute.footprint.weights.modules import Split, modules_of
from memroute.footprint.weights.sharding import rank_module_bytes

BANDWIDTH_EFFICIENCY_RATIO = 0.8
COMPUTE_EFFICIENCY_RATIO = 0.5
STEP_OVERHEAD_SECONDS = 0.5e-3
# Launches and the engine's own step: 0.2 ms + 20 us per sequence in fits of public vLLM runs.
SEQUENCE_OVERHEAD_SECONDS = 20e-6
EXCHANGES_PER_LAYER = 2
# Tensor parallelism adds up after attention and after the feed-forward.
SECONDS_PER_HOUR = 3600.0
MIN_FP8_WEIGHT_BITS = 8


class Bound(StrEnum):
    """What limits the rate: more of what would help."""

    BANDWIDTH = "bandwidth"
    COMPUTE = "compute"
    MEMORY = "memory"
    """The KV pool is full before bandwidth or compute are: more sequences do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What a replica does with so many sequences at such a length."""

    num_sequences: int
    context_tokens: int
    step_seconds: float
    """One decode step: the time between two tokens of a sequence."""
    tokens_per_second: float
    """Output tokens of all sequences together."""
    bound: Bound
    ttft_seconds: float
    """Prefill of one prompt of that context on an idle replica."""

    def cost_per_million_tokens(self, price_per_hour: float) -> float:
        """What a million output tokens cost when the whole replica costs so much per hour."""
        return price_per_hour / SECONDS_PER_HOUR / self.tokens_per_second * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The rates of one replica on one kind of accelerator."""

    shape: ReplicaShape
    accelerator: Accelerator

    def decode_step_seconds(self, *, num_sequences: int, context_tokens: int) -> float:
        """Seconds of one decode step over so many sequences of that length."""
        return self._step_seconds(*self._decode_terms(num_sequences, context_tokens), num_sequences)

    def prefill_seconds(self, num_tokens: int) -> float:
        """Seconds to read one prompt of that length on an idle replica."""
        architecture, tp = self.shape.architecture, self.shape.tensor_parallel_size
        flops = 2.0 * active_parameters(architecture) * num_tokens
        flops += _attention_flops(architecture, num_tokens)
        compute = flops / tp / (self._flops_rate() * COMPUTE_EFFICIENCY_RATIO)
        moved = self._weights_read(num_tokens) / self._bandwidth()
        steps = -(-num_tokens // self.shape.max_num_batched_tokens)
        return max(moved, compute) + self._exchange_seconds(num_tokens) + steps * self._overhead(1)

    def throughput(
        self, *, num_sequences: int, context_tokens: int, max_sequences: int | None = None
    ) -> Throughput:
        """The rates at a batch and a context; ``max_sequences``: what the KV pool holds."""
        fits = num_sequences if max_sequences is None else min(num_sequences, max_sequences)
        fits = max(1, fits)
        moved, multiplied = self._decode_terms(fits, context_tokens)
        if fits < num_sequences:
            bound = Bound.MEMORY
        else:
            bound = Bound.COMPUTE if multiplied > moved else Bound.BANDWIDTH
        step = self._step_seconds(moved, multiplied, fits)
        return Throughput(
            num_sequences=fits,
            context_tokens=context_tokens,
            step_seconds=step,
            tokens_per_second=fits * self.shape.data_parallel_size / step,
            bound=bound,
            ttft_seconds=self.prefill_seconds(context_tokens),
        )

    def _step_seconds(self, moved: float, multiplied: float, num_sequences: int) -> float:
        exchanged = self._exchange_seconds(num_sequences)
        return max(moved, multiplied) + exchanged + self._overhead(num_sequences)

    def _decode_terms(self, num_sequences: int, context_tokens: int) -> tuple[float, float]:
        kv = num_sequences * self.shape.kv_layout.read_bytes(context_tokens)
        moved = (self._weights_read(num_sequences) + kv) / self._bandwidth()
        flops = 2.0 * active_parameters(self.shape.architecture) * num_sequences
        # Decode of large batches reaches a better share of the peak than ragged prefill.
        multiplied = (
            flops
            / self.shape.tensor_parallel_size
            / (self._flops_rate() * BANDWIDTH_EFFICIENCY_RATIO)
        )
        return moved, multiplied

    def _bandwidth(self) -> float:
        return self.accelerator.bandwidth_bytes_per_second * BANDWIDTH_EFFICIENCY_RATIO

    def _flops_rate(self) -> float:
        """fp8 weights are multiplied at the fp8 rate; narrower ones are widened to 16 bit."""
        bits = resolve_format(self.shape.architecture, self.shape.quantization).bits
        if bits == MIN_FP8_WEIGHT_BITS and self.accelerator.fp8_flops is not None:
            return self.accelerator.fp8_flops
        return self.accelerator.bf16_flops

    def _weights_read(self, num_tokens: int) -> float:
        return weights_read_bytes(
            self.shape.architecture, self.shape.quantization, self.shape.parallelism, num_tokens
        )

    def _exchange_seconds(self, num_tokens: int) -> float:
        tp = self.shape.tensor_parallel_size
        if tp == 1:
            return 0.0
        architecture = self.shape.architecture
        per_layer = 2 * num_tokens * architecture.hidden_size
        total = EXCHANGES_PER_LAYER * architecture.num_layers * per_layer
        return 2 * (tp - 1) / tp * total / self.accelerator.link_bytes_per_second

    def _overhead(self, num_sequences: int) -> float:
        return STEP_OVERHEAD_SECONDS + num_sequences * SEQUENCE_OVERHEAD_SECONDS


def weights_read_bytes(
    architecture: ModelArchitecture,
    quantization: Quantization,
    parallelism: Parallelism,
    num_tokens: int,
) -> float:
    """Bytes of weights that one step over so many tokens reads on one rank."""
    weight_format = resolve_format(architecture, quantization)
    total = 0.0
    for module in modules_of(architecture):
        if module.is_table and module.name != "lm_head" and not architecture.tied_embeddings:
            continue
        size = rank_module_bytes(module, parallelism, weight_format)
        if module.split is Split.EXPERTS:
            moe = experts_of(architecture, module)
            missed = (1 - moe.num_experts_per_token / moe.num_experts) ** num_tokens
            total += size * (1 - missed)
        else:
            total += size
    return total / parallelism.pipeline_parallel_size


def _attention_flops(architecture: ModelArchitecture, num_tokens: int) -> float:
    """Scores and sums of a causal prefill: 4 n d T^2 / 2, windows cut the square."""
    total = 0.0
    for layer in architecture.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            reach = min(num_tokens, mixer.window_tokens or mixer.chunk_tokens or num_tokens)
            seen = reach * num_tokens - reach * reach / 2
            total += 4.0 * mixer.num_heads * mixer.head_dim * seen
        elif isinstance(mixer, LatentAttention):
            width = mixer.nope_head_dim + mixer.rope_head_dim + mixer.value_head_dim
            total += 2.0 * mixer.num_heads * width * num_tokens * num_tokens / 2
    return total
