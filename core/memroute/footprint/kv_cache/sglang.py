"""SGLang's rules, where they differ from vLLM's.

SGLang 0.5 counts tokens, not blocks: a pool of ``bytes // cell_size`` tokens, shared by a radix
tree. ``mem_fraction_static`` is (weights + KV pool) / GPU memory, of the memory that was free
before loading, so neighbours shrink it. Under DP attention a sequence's cache lives on one
attention group of tp / dp ranks. Sources: ``mem_cache/kv_cache_configurator.py``,
``arg_groups/memory_hook.py``.
"""

from memroute.errors import UnsupportedShapeError
from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.kv_cache.cells import CellKind, cells_of
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.kv_cache.groups import KVGroup, Page
from memroute.footprint.kv_cache.layout import KVCacheLayout
from memroute.footprint.weights.sharding import SINGLE, Parallelism, check_parallelism
from memroute.units import GIB, MIB

BY_GPU_GIB = (
    # (GPU under so many GiB, chunked prefill size, largest decode batch of the graphs)
    (20, 2048, 8), (35, 4096, 48), (60, 4096, 32), (90, 8192, 256), (160, 8192, 256),
)  # fmt: skip
LARGEST = (16384, 512)
LARGE_GPU_GIB = 60
LARGE_GPU_RESERVE_BYTES = 10 * GIB
# Tokens of a page: 1 by default, up to 64 where a backend wants it so (FlashMLA). Which backend an
# engine picks is not known before it starts, so pools are counted in the largest pages.
PAGE_TOKENS = 64


def pool_layout(
    architecture: ModelArchitecture,
    *,
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO,
    parallelism: Parallelism = SINGLE,
    page_size_tokens: int | None = None,
) -> KVCacheLayout:
    """The pool of one rank, in pages; one more page than it serves is SGLang's own padding.

    ``page_size_tokens``: where a flag says it.

    Windows count in full: SGLang bounds them by a second pool whose share of the first is a flag
    (``--swa-full-tokens-ratio``), so this is never too little.
    Raises ``UnsupportedShapeError`` where the model cannot be split so, or carries states.
    """
    check_parallelism(architecture, parallelism)
    page_tokens = page_size_tokens or PAGE_TOKENS
    pages = []
    for index, layer in enumerate(architecture.layers):
        for cell in cells_of(
            layer.mixer,
            dtype=kv_cache_dtype,
            tensor_parallel_size=parallelism.tensor_parallel_size,
        ):
            if cell.kind is CellKind.STATE:
                message = (
                    f"{architecture.family} carries recurrent states, which SGLang keeps in a pool "
                    f"of its own; memroute has no rule for its size: serve the model with vLLM"
                )
                raise UnsupportedShapeError(message)
            size = cell.token_bytes * page_tokens
            pages.append(
                Page(layer=index, cell=cell, block_size_tokens=page_tokens, page_bytes=size)
            )
    group = KVGroup(
        kind=CellKind.FULL, block_size_tokens=page_tokens, reach_tokens=None, pages=tuple(pages)
    )
    return KVCacheLayout(
        groups=(group,) if pages else (),
        in_flight_tokens=0,
        bytes_per_block=sum(page.page_bytes for page in pages),
    )


def cell_bytes(
    architecture: ModelArchitecture,
    *,
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO,
    tensor_parallel_size: int = 1,
    attention_data_parallel_size: int = 1,
) -> int:
    """Bytes of one token on one rank, every attention layer counted in full.

    Windows are bounded in a second pool by ratio, states in a third by running requests: this
    is the cell of the first.
    """
    attention_ranks = max(1, tensor_parallel_size // attention_data_parallel_size)
    return sum(
        cell.token_bytes
        for layer in architecture.layers
        for cell in cells_of(
            layer.mixer, dtype=kv_cache_dtype, tensor_parallel_size=attention_ranks
        )
    )


def capacity_tokens(pool_bytes: int, token_bytes: int, *, page_size_tokens: int = 1) -> int:
    """Tokens of a pool, in whole pages: ``max_total_num_tokens``."""
    if not token_bytes:
        return 0
    return pool_bytes // token_bytes // page_size_tokens * page_size_tokens


def pool_bytes(*, free_before_bytes: int, free_after_bytes: int, mem_fraction_static: float) -> int:
    """What is left for KV cache once the weights are loaded; 0 when they took it all."""
    return max(0, free_after_bytes - int(free_before_bytes * (1 - mem_fraction_static)))


def default_mem_fraction_static(total_bytes: int, parallelism: Parallelism) -> float:
    """The fraction that SGLang chooses where no flag does, to two decimals.

    It leaves room for metadata, activations of one chunk, communication and decode graphs.
    """
    gib = total_bytes / GIB
    chunk, decode_batch = next(
        ((chunk, batch) for limit, chunk, batch in BY_GPU_GIB if gib < limit), LARGEST
    )
    tp, pp = parallelism.tensor_parallel_size, parallelism.pipeline_parallel_size
    reserve_mib = 512 + 1.5 * max(chunk, 2048) + tp * pp / 8 * 1024 + 2 * decode_batch
    reserve = int(reserve_mib * MIB)
    if gib > LARGE_GPU_GIB:
        reserve = max(reserve, LARGE_GPU_RESERVE_BYTES)
    return round((total_bytes - reserve) / total_bytes, 2)
