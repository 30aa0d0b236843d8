"""Bytes and blocks of the KV cache.

``dtype`` says what a token leaves in a head, ``cells`` what a layer stores on a rank,
``groups`` which layers share a block table, ``layout`` what a pool of such blocks holds. These
are vLLM's rules; ``sglang`` and ``llama_cpp`` have those of the other engines where they
differ.
"""

from memroute.footprint.kv_cache.cells import Cell, CellKind
from memroute.footprint.kv_cache.checkpoint import resolved_dtype
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.kv_cache.groups import KVGroup
from memroute.footprint.kv_cache.layout import (
    NUM_NULL_BLOCKS,
    KVCacheLayout,
    LengthShare,
    StateCacheMode,
    kv_cache_layout,
)

__all__ = [
    "NUM_NULL_BLOCKS",
    "Cell",
    "CellKind",
    "KVCacheDtype",
    "KVCacheLayout",
    "KVGroup",
    "LengthShare",
    "StateCacheMode",
    "kv_cache_layout",
    "resolved_dtype",
]
