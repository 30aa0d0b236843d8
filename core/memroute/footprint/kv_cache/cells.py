"""What one layer stores on one rank: a cell per token, or a state per sequence.

vLLM 0.32's ``kv_cache_interface.py``, one kind per way of growing:

```text
full, latent   every token, for ever
sliding        the window's tokens, and those in flight
chunked        the chunk's tokens, and those in flight
state          a constant, whatever the length
```
"""

from dataclasses import dataclass
from enum import StrEnum

from memroute.footprint.architecture import (
    Attention,
    GatedDeltaNet,
    LatentAttention,
    LightningAttention,
    Mamba2,
    Mixer,
)
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.units import ceil_div

INDEXER_SCALE_BYTES = 4
# Beside its fp8 key, an indexer keeps one fp32 scale per 128 values: 128 + 4 = 132 bytes.
INDEXER_SCALE_GROUP = 128


class CellKind(StrEnum):
    """How what a layer stores grows with a sequence."""

    FULL = "full"
    LATENT = "latent"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one layer stores on one rank. Layers with equal cells can share a block table."""

    kind: CellKind
    token_bytes: int = 0
    """Bytes of one token; 0 for a state."""
    state_bytes: int = 0
    """Bytes of one sequence's state; 0 for what grows."""
    num_checkpoints: int = 0
    """Further states that a sequence keeps where prefixes are cached."""
    reach_tokens: int | None = None
    """The window or the chunk; None for all."""
    shape: tuple[int, ...] = ()
    """Heads and dimensions: cells of equal bytes but other shapes cannot share a table."""


def cells_of(
    mixer: Mixer | None,
    *,
    dtype: KVCacheDtype,
    tensor_parallel_size: int,
    state_dtype_bytes: int | None = None,
) -> tuple[Cell, ...]:
    """The cells of one layer on one rank; none where it stores nothing.

    ``state_dtype_bytes``: of a recurrent state, where flags override the configuration.
    """
    tp = tensor_parallel_size
    match mixer:
        case Attention():
            return (_attention_cell(mixer, dtype, tp),) if mixer.owns_kv_cache else ()
        case LatentAttention():
            return _latent_cells(mixer, dtype)
        case Mamba2():
            # Groups that do not divide are replicated with their heads.
            groups = mixer.num_groups
            groups += tp - groups if groups % tp else 0
            conv = (mixer.inner_size + 2 * groups * mixer.state_size) // tp
            state = mixer.num_heads // tp * mixer.head_dim * mixer.state_size
            wide = state_dtype_bytes or mixer.state_dtype_bytes or 2
            size = (mixer.conv_kernel - 1) * conv * 2 + state * wide
            # vLLM's Mamba-2 exports the state at a block boundary from within a prefill: one
            # more block (mamba_mixer2.py; a live 0.32 server counts it).
            return (Cell(kind=CellKind.STATE, state_bytes=size, num_checkpoints=1),)
        case GatedDeltaNet():
            conv = (2 * mixer.key_size + mixer.value_size) // tp
            state = mixer.num_value_heads // tp * mixer.value_head_dim * mixer.key_head_dim
            wide = state_dtype_bytes or mixer.state_dtype_bytes or 2
            return (_state((mixer.conv_kernel - 1) * conv * 2 + state * wide),)
        case LightningAttention():
            state = mixer.num_heads // tp * mixer.head_dim * mixer.head_dim
            return (_state(state * (state_dtype_bytes or 2)),)
        case None:
            return ()


def _state(num_bytes: int) -> Cell:
    return Cell(kind=CellKind.STATE, state_bytes=num_bytes)


def _attention_cell(mixer: Attention, dtype: KVCacheDtype, tensor_parallel_size: int) -> Cell:
    heads = max(1, mixer.num_kv_heads // tensor_parallel_size)
    kind, reach = CellKind.FULL, None
    if mixer.window_tokens is not None:
        kind, reach = CellKind.SLIDING, mixer.window_tokens
    elif mixer.chunk_tokens is not None:
        kind, reach = CellKind.CHUNKED, mixer.chunk_tokens
    return Cell(
        kind=kind,
        token_bytes=heads * dtype.head_bytes(mixer.head_dim, mixer.head_dim),
        reach_tokens=reach,
        shape=(heads, mixer.head_dim),
    )


def _latent_cells(mixer: LatentAttention, dtype: KVCacheDtype) -> tuple[Cell, ...]:
    """The latent vector, on every rank; and the indexer's keys, where attention is sparse."""
    width = mixer.kv_lora_rank + mixer.rope_head_dim
    indexer = mixer.indexer
    latent = Cell(
        kind=CellKind.LATENT,
        token_bytes=dtype.latent_bytes(width, is_sparse=indexer is not None),
        shape=(1, width),
    )
    if indexer is None:
        return (latent,)
    scales = ceil_div(indexer.head_dim, INDEXER_SCALE_GROUP) * INDEXER_SCALE_BYTES
    keys = Cell(
        kind=CellKind.LATENT,
        token_bytes=indexer.head_dim + scales,
        shape=(1, indexer.head_dim),
    )
    return (latent, keys)
