"""KV cache on the host: how much of it fits, and what moving it costs.

vLLM 0.32's native connector (``--kv-offloading-size``), by its source:

```text
chunk  = roundup(bytes of a block on one rank x copies x blocks per chunk, 4096)
chunks = floor(size / chunk)              size: of one engine, all its ranks together
copies = ranks; 1 where all layers are latent and only tensor parallelism splits the model
```

The bytes of a token are the same as on the device. Each data-parallel rank is an engine with a
region of its own. The unit of a copy is one layer's page of a block; pages under 28 KiB are read by
a kernel instead of the copy engine.
"""

from dataclasses import dataclass

from memroute.errors import UnsupportedShapeError
from memroute.footprint import KVCacheLayout, ReplicaShape
from memroute.footprint.architecture import LatentAttention
from memroute.hierarchy.links import HostLink
from memroute.units import ceil_div

PAGE_BYTES = 4096
# vLLM 0.32 cpu/swap_blocks_triton.py: smaller pages, 16 of them or more, go by a kernel of 12 SMs.
KERNEL_PAGE_BYTES = 28 * 1024
KERNEL_MIN_COPIES = 16
# The kernel's law, fitted on figure 4 of vLLM's blog of 2026-01-08 (H100: 12.5 GB/s at 4 KB, 31 at
# 16 KB, 42 at 64 KB): what a link gives, less 11 KB of start per page.
KERNEL_HALF_BYTES = 11e3


@dataclass(frozen=True, slots=True, kw_only=True)
class KVTier:
    """What one engine keeps on its host."""

    region_bytes: int
    """Of one engine (each data-parallel rank is one), all its ranks together; pinned."""
    num_regions: int
    """Engines of the replica."""
    chunk_bytes: int
    chunk_tokens: int
    """What is moved, looked up and evicted as one."""
    num_chunks: int
    capacity_tokens: int
    """Of one engine, at sequences of the whole context."""
    page_bytes: int
    """The unit of a copy: one layer of one block on one rank."""
    rank_token_bytes: float
    """Bytes that one rank moves for each token."""

    @property
    def host_bytes(self) -> int:
        """What the node must keep for the replica: pinned, in the container's memory, in shm."""
        return self.region_bytes * self.num_regions

    def load_seconds(self, num_tokens: int, link: HostLink) -> float:
        """Seconds to bring so many tokens back, every rank over its own link at once."""
        size = num_tokens * self.rank_token_bytes
        copies = size / self.page_bytes if self.page_bytes else 0.0
        if self.page_bytes < KERNEL_PAGE_BYTES and copies >= KERNEL_MIN_COPIES:
            share = self.page_bytes / (self.page_bytes + KERNEL_HALF_BYTES)
            return size / (link.read_bytes_per_second * share)
        return size / link.read_rate(self.page_bytes)

    def store_seconds(self, num_tokens: int, link: HostLink) -> float:
        """Seconds to write so many tokens back; beside the steps, on a stream of its own."""
        return num_tokens * self.rank_token_bytes / link.write_rate(self.page_bytes)


def kv_tier(shape: ReplicaShape, size_bytes: int, *, blocks_per_chunk: int = 1) -> KVTier:
    """The tier of a replica whose engines are each given ``size_bytes`` on the host.

    Raises ``UnsupportedShapeError`` where the model has nothing to move, or one chunk does not fit.
    """
    layout = shape.kv_layout
    block_bytes = layout.bytes_per_block
    if not block_bytes:
        msg = "the model caches nothing that could be moved to the host"
        raise UnsupportedShapeError(msg)
    ranks = shape.tensor_parallel_size * shape.pipeline_parallel_size
    copies = 1 if _is_stored_once(shape) else ranks
    chunk_bytes = ceil_div(block_bytes * copies * blocks_per_chunk, PAGE_BYTES) * PAGE_BYTES
    num_chunks = size_bytes // chunk_bytes
    if num_chunks < 1:
        msg = f"{size_bytes:,} bytes on the host hold no chunk of {chunk_bytes:,} bytes"
        raise UnsupportedShapeError(msg)
    return KVTier(
        region_bytes=size_bytes,
        num_regions=shape.data_parallel_size,
        chunk_bytes=chunk_bytes,
        chunk_tokens=layout.block_size_tokens * blocks_per_chunk,
        num_chunks=num_chunks,
        capacity_tokens=_capacity_tokens(layout, num_chunks * blocks_per_chunk, shape),
        page_bytes=_page_bytes(layout),
        rank_token_bytes=layout.bytes_for(shape.max_context_tokens) / shape.max_context_tokens,
    )


def _is_stored_once(shape: ReplicaShape) -> bool:
    """Whether rank 0 stores for all: each rank of a latent cache holds the same bytes."""
    is_latent = all(isinstance(layer.mixer, LatentAttention) for layer in shape.architecture.layers)
    return is_latent and shape.pipeline_parallel_size == 1


def _capacity_tokens(layout: KVCacheLayout, num_blocks: int, shape: ReplicaShape) -> int:
    """Of a pool on the device with as many blocks beside its null block: here is none."""
    pool = (num_blocks + layout.num_null_blocks) * layout.bytes_per_block
    return layout.capacity_tokens(pool, shape.max_context_tokens)


def _page_bytes(layout: KVCacheLayout) -> int:
    """Of the first group that grows: pages of all groups are equal, or near it."""
    for group in layout.groups:
        if group.token_bytes:
            return min(page.page_bytes for page in group.pages)
    return layout.bytes_per_block
