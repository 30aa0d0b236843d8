"""Bytes and blocks of the KV cache.

An engine hands out KV cache in blocks of a fixed number of tokens, so a request pins whole
blocks: ``ceil(tokens / block_size)``. vLLM keeps one block of the pool for itself (the null
block): a pool of N blocks serves N - 1.
"""

from dataclasses import dataclass
from enum import StrEnum

from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.weights import kv_heads_per_rank
from memroute.units import ceil_div

NUM_NULL_BLOCKS = 1
# vLLM v1/core/block_pool.py: one block is the permanent null block.


class KVCacheDtype(StrEnum):
    """How keys and values are stored; the values are vLLM's flag values."""

    AUTO = "auto"
    """The model's own data type: 16 bit for every model in the catalogue."""
    FP8 = "fp8"

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one stored value (per-tensor fp8 scales are negligible)."""
        return 1 if self is KVCacheDtype.FP8 else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheLayout:
    """How one tensor-parallel rank stores the keys and values of one token."""

    num_layers: int
    num_kv_heads: int
    """KV heads on this rank, after tensor parallelism split (or replicated) them."""
    head_dim: int
    dtype_bytes: int
    block_size_tokens: int = 16
    """16 is vLLM's default on CUDA."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of HBM that one token occupies on one rank: a key and a value per head."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype_bytes

    @property
    def bytes_per_block(self) -> int:
        """Bytes of HBM that one block occupies on one rank."""
        return self.bytes_per_token * self.block_size_tokens

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that a sequence of ``num_tokens`` pins."""
        return ceil_div(num_tokens, self.block_size_tokens)

    def pool_bytes_for(self, *, num_sequences: int, tokens_per_sequence: int) -> int:
        """Bytes of the smallest pool that holds so many sequences of that length at once."""
        blocks = num_sequences * self.blocks_for(tokens_per_sequence) + NUM_NULL_BLOCKS
        return blocks * self.bytes_per_block

    def num_blocks_in(self, pool_bytes: int) -> int:
        """Blocks that a pool of ``pool_bytes`` has, the null block included."""
        return max(0, pool_bytes // self.bytes_per_block)

    def capacity_tokens(self, pool_bytes: int) -> int:
        """Tokens that requests can hold in a pool of ``pool_bytes``."""
        usable_blocks = max(0, self.num_blocks_in(pool_bytes) - NUM_NULL_BLOCKS)
        return usable_blocks * self.block_size_tokens


def kv_cache_layout(
    architecture: ModelArchitecture,
    *,
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO,
    tensor_parallel_size: int = 1,
) -> KVCacheLayout:
    """The layout of one rank. Raises ``UnsupportedShapeError`` when heads do not divide."""
    return KVCacheLayout(
        num_layers=architecture.num_layers,
        num_kv_heads=kv_heads_per_rank(architecture, tensor_parallel_size),
        head_dim=architecture.head_dim,
        dtype_bytes=kv_cache_dtype.dtype_bytes,
    )
