"""Bytes that one replica needs on each of its accelerators."""

from dataclasses import dataclass

from memroute.footprint import overhead
from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.kv_cache import KVCacheDtype, KVCacheLayout, kv_cache_layout
from memroute.footprint.weights import Quantization, weights_bytes_per_rank

MAX_NUM_SEQS = 256
# vLLM's own default under 70 GiB of HBM; it bounds the activation peak, so memroute always
# passes it rather than let the engine pick 1,024 on larger accelerators.
MAX_NUM_BATCHED_TOKENS = 2048
# vLLM's default under 70 GiB: a step of 2,048 tokens already saturates prefill.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """What was asked of a replica: everything that decides its bytes."""

    architecture: ModelArchitecture
    max_context_tokens: int
    concurrency: int
    """Sequences of the whole context that the KV pool must hold at once."""
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO
    tensor_parallel_size: int = 1

    @property
    def kv_layout(self) -> KVCacheLayout:
        """How one rank stores its KV cache."""
        return kv_cache_layout(
            self.architecture,
            kv_cache_dtype=self.kv_cache_dtype,
            tensor_parallel_size=self.tensor_parallel_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFootprint:
    """Bytes on one accelerator; every rank of a tensor-parallel replica needs the same."""

    num_devices: int
    weights_bytes: int
    kv_cache_bytes: int
    peak_activation_bytes: int
    cuda_graph_bytes: int
    non_torch_bytes: int
    context_bytes: int
    margin_bytes: int
    kv_layout: KVCacheLayout

    @property
    def engine_bytes(self) -> int:
        """What the engine counts as its own: the budget that its flags speak of."""
        return (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.peak_activation_bytes
            + self.cuda_graph_bytes
            + self.non_torch_bytes
        )

    @property
    def total_bytes(self) -> int:
        """What must be free on the accelerator: the engine's budget and what lies outside."""
        return self.engine_bytes + self.context_bytes + self.margin_bytes

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that the KV pool holds."""
        return self.kv_layout.capacity_tokens(self.kv_cache_bytes)

    def kv_cache_bytes_within(self, budget_bytes: int) -> int:
        """Bytes of the KV pool when the engine may count ``budget_bytes`` as its own.

        Everything else is fixed, so whatever exceeds the need becomes KV cache.
        """
        return max(0, self.kv_cache_bytes + budget_bytes - self.engine_bytes)


def replica_footprint(shape: ReplicaShape) -> ReplicaFootprint:
    """The bytes that a replica of this shape needs on each accelerator.

    Raises ``UnsupportedShapeError`` when the model cannot be split so.
    """
    weights = weights_bytes_per_rank(
        shape.architecture,
        quantization=shape.quantization,
        tensor_parallel_size=shape.tensor_parallel_size,
    )
    return ReplicaFootprint(
        num_devices=shape.tensor_parallel_size,
        weights_bytes=int(weights * (1 + overhead.WEIGHT_LOADING_MARGIN_RATIO)),
        kv_cache_bytes=shape.kv_layout.pool_bytes_for(
            num_sequences=shape.concurrency, tokens_per_sequence=shape.max_context_tokens
        ),
        peak_activation_bytes=overhead.peak_activation_bytes(
            vocab_size=shape.architecture.vocab_size, max_num_seqs=MAX_NUM_SEQS
        ),
        cuda_graph_bytes=overhead.CUDA_GRAPH_BYTES,
        non_torch_bytes=overhead.non_torch_bytes(tensor_parallel_size=shape.tensor_parallel_size),
        context_bytes=overhead.CUDA_CONTEXT_BYTES,
        margin_bytes=overhead.MARGIN_BYTES,
        kv_layout=shape.kv_layout,
    )
