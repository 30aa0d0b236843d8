"""Bytes and blocks of a KV cache: what a pool holds, what a sequence pins.

An engine hands out KV cache in blocks, the same for all groups of layers, so a sequence pins
the sum over the groups of whole blocks. vLLM keeps one block of the pool for itself (the null
block): a pool of N blocks serves N - 1.

Worked by hand, gemma-3-27b at 131,072 tokens with 16,384 in flight: its 10 full layers pin
ceil(131072 / 16) = 8,192 blocks; each of 6 groups of sliding layers ceil((1023 + 16384) / 16)
+ 1 = 1,089; together 14,726 blocks of 16 x 8,192 x 10 = 1,310,720 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from memroute.footprint.architecture import LatentAttention, ModelArchitecture
from memroute.footprint.kv_cache.cells import CellKind, cells_of
from memroute.footprint.kv_cache.checkpoint import resolved_dtype
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.kv_cache.groups import KVGroup, group_cells
from memroute.footprint.weights.sharding import (
    SINGLE,
    Parallelism,
    check_parallelism,
    pipeline_layers,
)

NUM_NULL_BLOCKS = 1
# vLLM v1/core/block_pool.py: one block is the permanent null block.
BLOCK_SIZE_TOKENS = 16
# vLLM's default on CUDA.
LATENT_BLOCK_SIZE_TOKENS = 64
# FlashMLA's.
BLOCK_ALIGNMENT_TOKENS = 16
# The smallest block that FlashAttention's kernels take.
LATENT_HYBRID_ALIGNMENT_TOKENS = 128
# vLLM platforms/interface.py: latent kernels beside a state need multiples of 128.


class StateCacheMode(StrEnum):
    """How states are kept (``--mamba-cache-mode``)."""

    NONE = "none"
    """One state per sequence."""
    ALIGN = "align"
    """With prefix caching, vLLM's default: one more, at the last block boundary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthShare:
    """A part of the traffic: so many tokens per sequence (prompt and output), so often."""

    tokens: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheLayout:
    """How one rank stores what sequences leave behind."""

    groups: tuple[KVGroup, ...]
    in_flight_tokens: int
    """Tokens that are scheduled and not yet settled, at most: windows hold them too."""
    num_state_blocks: int = 1
    """Blocks of one sequence in a group of states, checkpoints apart."""
    caches_prefixes: bool = False
    bytes_per_block: int
    """Of the pool, on the fullest pipeline stage."""
    num_null_blocks: int = NUM_NULL_BLOCKS
    """Blocks of the pool that serve nobody."""

    @property
    def block_size_tokens(self) -> int:
        """Tokens of a block of the first group that grows; 1 where nothing does."""
        for group in self.groups:
            if group.kind is not CellKind.STATE:
                return group.block_size_tokens
        return 1

    @property
    def num_layers(self) -> int:
        """Cells over all groups."""
        return sum(group.num_layers for group in self.groups)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token takes on one rank while nothing is bounded by a window."""
        return sum(group.token_bytes for group in self.groups)

    def blocks_for(self, num_tokens: int) -> int:
        """The most blocks that a sequence of ``num_tokens`` pins, over all groups."""
        return sum(
            group.blocks_for(
                num_tokens,
                in_flight_tokens=self.in_flight_tokens,
                num_state_blocks=self.num_state_blocks,
                caches_prefixes=self.caches_prefixes,
            )
            for group in self.groups
        )

    def bytes_for(self, num_tokens: int) -> int:
        """Bytes that one sequence of ``num_tokens`` pins on one rank."""
        return self.blocks_for(num_tokens) * self.bytes_per_block

    def pool_bytes_for(self, *, num_sequences: int, tokens_per_sequence: int) -> int:
        """Bytes of the smallest pool that holds so many sequences of that length at once."""
        blocks = num_sequences * self.blocks_for(tokens_per_sequence) + self.num_null_blocks
        return blocks * self.bytes_per_block

    def num_blocks_in(self, pool_bytes: int) -> int:
        """Blocks that a pool of ``pool_bytes`` has, the null block included."""
        return max(0, pool_bytes // self.bytes_per_block) if self.bytes_per_block else 0

    def max_concurrency(self, pool_bytes: int, max_context_tokens: int) -> float:
        """Sequences of the whole context that the pool holds, as vLLM reports it.

        ``kv_cache_max_concurrency``: the null block is counted as if it served.
        """
        blocks = self.blocks_for(max_context_tokens)
        return self.num_blocks_in(pool_bytes) / blocks if blocks else 0.0

    def reported_tokens(self, pool_bytes: int, max_context_tokens: int) -> int:
        """What vLLM reports as ``kv_cache_size_tokens``: concurrency times context."""
        return int(self.max_concurrency(pool_bytes, max_context_tokens) * max_context_tokens)

    def capacity_tokens(self, pool_bytes: int, max_context_tokens: int) -> int:
        """Tokens that sequences of the whole context can hold, the null block left out."""
        blocks = self.blocks_for(max_context_tokens)
        usable = max(0, self.num_blocks_in(pool_bytes) - self.num_null_blocks)
        return usable * max_context_tokens // blocks if blocks else 0

    def num_sequences_within(self, pool_bytes: int, mix: Sequence[LengthShare]) -> int:
        """Sequences of a mix of lengths that the pool holds at once, on average.

        Each sequence is counted at its final length: what a pool must bear without preempting.
        """
        total = sum(share.weight for share in mix)
        if total <= 0:
            return 0
        mean = sum(share.weight * self.blocks_for(share.tokens) for share in mix) / total
        usable = max(0, self.num_blocks_in(pool_bytes) - self.num_null_blocks)
        return int(usable / mean) if mean else 0

    def longest_context_tokens(self, pool_bytes: int, limit_tokens: int) -> int:
        """The longest sequence, up to a limit, that the pool holds; 0 if not even one token."""
        usable = self.num_blocks_in(pool_bytes) - self.num_null_blocks
        low, high = 0, limit_tokens
        while low < high:
            middle = (low + high + 1) // 2
            if self.blocks_for(middle) <= usable:
                low = middle
            else:
                high = middle - 1
        return low

    def read_bytes(self, num_tokens: int) -> int:
        """Bytes that one decode step reads of a sequence: the window's part, and the state."""
        total = 0
        for group in self.groups:
            if group.kind is CellKind.STATE:
                total += sum(page.cell.state_bytes for page in group.pages)
            else:
                seen = (
                    num_tokens
                    if group.reach_tokens is None
                    else min(num_tokens, group.reach_tokens)
                )
                total += seen * group.token_bytes
        return total


@lru_cache(maxsize=4096)
def kv_cache_layout(
    architecture: ModelArchitecture,
    *,
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO,
    parallelism: Parallelism = SINGLE,
    max_num_batched_tokens: int = 2048,
    num_concurrent_batches: int | None = None,
    block_size_tokens: int | None = None,
    block_alignment_tokens: int | None = None,
    state_cache_mode: StateCacheMode = StateCacheMode.ALIGN,
    state_dtype_bytes: int | None = None,
    num_speculative_tokens: int = 0,
    num_prediction_layers: int = 0,
) -> KVCacheLayout:
    """The layout of one rank, by vLLM 0.32's rules.

    ``num_concurrent_batches``: batches in flight; by default one more than there are pipeline
    stages, as asynchronous scheduling has it. ``num_prediction_layers``: layers for multi-token
    prediction that are loaded too; each caches as the last layer does. ``kv_cache_dtype``: auto is
    what the checkpoint says of its cache.

    Raises ``UnsupportedShapeError`` when the model cannot be split or stored so.
    """
    check_parallelism(architecture, parallelism)
    kv_cache_dtype = resolved_dtype(architecture, kv_cache_dtype)
    is_latent = any(isinstance(layer.mixer, LatentAttention) for layer in architecture.layers)
    layers = list(enumerate(architecture.layers))
    layers += layers[-1:] * num_prediction_layers
    cells = [
        (index, cell)
        for index, layer in layers
        for cell in cells_of(
            layer.mixer,
            dtype=kv_cache_dtype,
            tensor_parallel_size=parallelism.tensor_parallel_size,
            state_dtype_bytes=state_dtype_bytes,
        )
    ]
    default_block = LATENT_BLOCK_SIZE_TOKENS if is_latent else BLOCK_SIZE_TOKENS
    default_alignment = LATENT_HYBRID_ALIGNMENT_TOKENS if is_latent else BLOCK_ALIGNMENT_TOKENS
    groups = group_cells(
        cells,
        block_size_tokens=block_size_tokens or default_block,
        block_alignment_tokens=block_alignment_tokens or default_alignment,
    )
    batches = num_concurrent_batches or parallelism.pipeline_parallel_size + 1
    stages = pipeline_layers(architecture.num_layers, parallelism.pipeline_parallel_size)
    return KVCacheLayout(
        groups=groups,
        in_flight_tokens=batches * max_num_batched_tokens,
        num_state_blocks=(
            (2 if state_cache_mode is StateCacheMode.ALIGN else 1) + num_speculative_tokens
        ),
        caches_prefixes=state_cache_mode is StateCacheMode.ALIGN,
        bytes_per_block=max(
            (
                sum(page.page_bytes for page in group.pages if page.layer in stage)
                for group in groups
                for stage in stages
            ),
            default=0,
        ),
    )
