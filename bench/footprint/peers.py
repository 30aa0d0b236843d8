"""What other estimators would say of the same start, by their published formulas.

* hf-mem 0.5.6: exact weights, and key and value of every token on every layer, whatever the
  attention; it knows no ranks, so its sum is divided evenly here, which flatters it.
* kvfit 0.3.0: weights / tp, and the cache of attention layers / min(tp, KV heads), windows
  known; overhead is left to the user, so there is none.
* KAITO (after v0.12.0): 1.02 x weights, 2.3 GiB + 0.05 x weights per accelerator, and the cache
  of the tokens divided by the accelerators.
"""

from memroute.footprint import KVCacheLayout, ModelArchitecture, Parallelism, weights_bytes
from memroute.footprint.architecture import Attention, LatentAttention
from memroute.footprint.kv_cache import kv_cache_layout
from memroute.units import GIB


def hf_mem_bytes(architecture: ModelArchitecture, kv_tokens: int, num_ranks: int) -> int:
    """Weights and multi-head cache of so many tokens, divided by the ranks."""
    attention = architecture.attention
    if isinstance(attention, Attention):
        width = attention.num_kv_heads * attention.head_dim
    elif isinstance(attention, LatentAttention):
        width = attention.num_heads * attention.value_head_dim
    else:
        width = 0
    cache = 2 * kv_tokens * width * architecture.num_layers * 2
    return (weights_bytes(architecture) + cache) // num_ranks


def kvfit_bytes(architecture: ModelArchitecture, kv_tokens: int, num_ranks: int) -> int:
    """Ideally sharded weights, and the cache of one sequence of so many tokens."""
    layout = kv_cache_layout(architecture, parallelism=Parallelism(tensor_parallel_size=num_ranks))
    return weights_bytes(architecture) // num_ranks + layout.read_bytes(kv_tokens)


def kaito_bytes(
    architecture: ModelArchitecture, layout: KVCacheLayout, kv_tokens: int, num_ranks: int
) -> int:
    """Weights with 2 %, the blanket overhead, and the cache divided by the accelerators."""
    weights = 1.02 * weights_bytes(architecture) / num_ranks
    cache = layout.bytes_per_token * kv_tokens
    return int(weights + 2.3 * GIB + 0.05 * weights + cache)
