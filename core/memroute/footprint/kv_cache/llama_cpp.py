"""llama.cpp's rules: the whole cache is allocated at start, for ``n_ctx`` tokens.

No paging and no preemption: a slot owns its share of the context, or all slots share it
(``--kv-unified``). Windows are kept as ``pad256(min(n_ctx, n_swa * sequences + n_ubatch))``
unless ``--swa-full``; latent attention stores no values; recurrent states are 32 bit.
Source: ``src/llama-kv-cache*.cpp``.
"""

from enum import StrEnum

from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.kv_cache.cells import CellKind, cells_of
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.kv_cache.groups import KVGroup, Page
from memroute.footprint.kv_cache.layout import KVCacheLayout
from memroute.units import ceil_div

PAD_TOKENS = 256
DEFAULT_UBATCH_TOKENS = 512


class CacheType(StrEnum):
    """How a value is stored (``--cache-type-k``, ``--cache-type-v``)."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"

    @property
    def bits(self) -> float:
        """Of one value, scales included."""
        return {CacheType.F16: 16.0, CacheType.Q8_0: 8.5, CacheType.Q4_0: 4.5}[self]


def cache_bytes(
    architecture: ModelArchitecture,
    *,
    context_tokens: int,
    num_slots: int = 1,
    is_unified: bool = False,
    keeps_full_windows: bool = False,
    cache_type: CacheType = CacheType.F16,
    ubatch_tokens: int = DEFAULT_UBATCH_TOKENS,
) -> int:
    """Bytes of the whole cache on one device.

    ``context_tokens``: of all slots together (``n_ctx``), as the server's flag has it.
    """
    streams = 1 if is_unified else num_slots
    per_stream = context_tokens // streams
    total = 0.0
    for layer in architecture.layers:
        for cell in cells_of(
            layer.mixer, dtype=KVCacheDtype.AUTO, tensor_parallel_size=1, state_dtype_bytes=4
        ):
            if cell.kind is CellKind.STATE:
                total += num_slots * cell.state_bytes
                continue
            tokens = per_stream
            if cell.reach_tokens is not None and not keeps_full_windows:
                held = cell.reach_tokens * (num_slots if is_unified else 1) + ubatch_tokens
                tokens = ceil_div(min(per_stream, held), PAD_TOKENS) * PAD_TOKENS
            # A cell is counted in 16-bit values; the type says how many bits each takes.
            total += streams * tokens * cell.token_bytes * cache_type.bits / 16
    return int(total)


def slot_tokens(context_tokens: int) -> int:
    """Tokens that a slot is given for requests of that length: whole paddings."""
    return ceil_div(context_tokens, PAD_TOKENS) * PAD_TOKENS


def slots_layout(architecture: ModelArchitecture) -> KVCacheLayout:
    """The slots as a pool, in paddings: nothing of it is lost, and windows count in full.

    (``--swa-full``: only then a prompt's cache can be used again.) States are not in it: they are
    a constant of each slot, in ``cache_bytes``.
    """
    pages = []
    for index, layer in enumerate(architecture.layers):
        for cell in cells_of(layer.mixer, dtype=KVCacheDtype.AUTO, tensor_parallel_size=1):
            if cell.kind is not CellKind.STATE:
                size = cell.token_bytes * PAD_TOKENS
                pages.append(
                    Page(layer=index, cell=cell, block_size_tokens=PAD_TOKENS, page_bytes=size)
                )
    group = KVGroup(
        kind=CellKind.FULL, block_size_tokens=PAD_TOKENS, reach_tokens=None, pages=tuple(pages)
    )
    return KVCacheLayout(
        groups=(group,) if pages else (),
        in_flight_tokens=0,
        bytes_per_block=sum(page.page_bytes for page in pages),
        num_null_blocks=0,
    )
