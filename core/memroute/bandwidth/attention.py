"""Attention of one rank: equal layers counted together, and what they cost in one step."""

from collections import defaultdict
from dataclasses import dataclass

from memroute.bandwidth.batch import StepBatch
from memroute.bandwidth.kernels import (
    REFERENCE_KV_HEADS,
    REFERENCE_QUERY_WIDTH,
    KernelRates,
)
from memroute.footprint import KVCacheDtype, ModelArchitecture, Parallelism, kv_cache_layout
from memroute.footprint.architecture import Attention, LatentAttention
from memroute.footprint.kv_cache.cells import CellKind


@dataclass(frozen=True, slots=True)
class AttentionLayers:
    """Equal attention layers of one rank."""

    num_layers: int
    kv_heads: float
    query_width: int
    token_bytes: float
    """KV bytes of one token in one layer."""
    flops_per_pair: float
    """Operations per query-key pair."""
    reach_tokens: int | None

    def seen(self, context_tokens: float) -> float:
        """What is attended to of a context."""
        return (
            context_tokens if self.reach_tokens is None else min(context_tokens, self.reach_tokens)
        )


def attention_layers(
    architecture: ModelArchitecture, parallelism: Parallelism, dtype: KVCacheDtype
) -> tuple[AttentionLayers, ...]:
    """The attention layers of one rank, equal ones counted together."""
    tp = parallelism.tensor_parallel_size
    layout = kv_cache_layout(architecture, kv_cache_dtype=dtype, parallelism=parallelism)
    counted: defaultdict[AttentionLayers, int] = defaultdict(int)
    cells = {page.layer: page.cell for group in layout.groups for page in group.pages}
    for index, layer in enumerate(architecture.layers):
        mixer = layer.mixer
        cell = cells.get(index)
        token_bytes = cell.token_bytes if cell is not None else 0
        if isinstance(mixer, Attention):
            facts = AttentionLayers(
                0, max(1.0, mixer.num_kv_heads / tp), mixer.num_heads * mixer.head_dim // tp,
                token_bytes, 4.0 * mixer.num_heads * mixer.head_dim / tp,
                mixer.window_tokens or mixer.chunk_tokens,
            )  # fmt: skip
        elif isinstance(mixer, LatentAttention):
            width = mixer.nope_head_dim + mixer.rope_head_dim + mixer.value_head_dim
            heads = mixer.num_heads // tp
            facts = AttentionLayers(
                0, 1.0, heads * mixer.value_head_dim, token_bytes, 2.0 * heads * width, None
            )
        else:
            continue
        counted[facts] += 1
    return tuple(
        AttentionLayers(
            count, f.kv_heads, f.query_width, f.token_bytes, f.flops_per_pair, f.reach_tokens
        )
        for f, count in counted.items()
    )


def attention_seconds(
    all_layers: tuple[AttentionLayers, ...], rates: KernelRates, batch: StepBatch
) -> float:
    """Seconds of attention in one step: calls, sequences, KV bytes, query-key products."""
    total = 0.0
    decodes, context = batch.num_decodes, batch.decode_context_tokens
    decode = rates.mixed_decode if batch.prefills else rates.decode
    prefill = rates.prefill
    for layers in all_layers:
        microseconds = 0.0
        if decodes:
            seen = decodes * layers.seen(context / decodes)
            heads = layers.kv_heads / REFERENCE_KV_HEADS
            microseconds += decode.call_microseconds
            microseconds += decodes * decode.sequence_microseconds * heads
            microseconds += seen * layers.token_bytes / decode.kv_bytes_per_second * 1e6
        width = layers.query_width / REFERENCE_QUERY_WIDTH
        for new, cached in batch.prefills:
            pairs = new * layers.seen(cached + new / 2)
            microseconds += prefill.call_microseconds
            microseconds += new * prefill.token_nanoseconds * width / 1e3
            microseconds += layers.seen(cached) * prefill.cached_token_nanoseconds * width / 1e3
            microseconds += pairs * layers.flops_per_pair / prefill.flops * 1e6
        total += layers.num_layers * microseconds
    return total * 1e-6


def state_bytes(
    architecture: ModelArchitecture, parallelism: Parallelism, dtype: KVCacheDtype
) -> int:
    """Bytes of one sequence's states (Mamba, gated delta) on one rank."""
    layout = kv_cache_layout(architecture, kv_cache_dtype=dtype, parallelism=parallelism)
    return sum(
        page.cell.state_bytes
        for group in layout.groups
        if group.kind is CellKind.STATE
        for page in group.pages
    )
