"""KV cache on the host by LMCache in the engine's own process (``LMCacheConnectorV1``).

```text
LMCACHE_MAX_LOCAL_CPU_SIZE   of each worker process, that is each rank; it calls them GB and counts
                             1024^3 bytes
LMCACHE_CHUNK_SIZE           256 tokens: what is stored, found and evicted as one
```

Each rank keeps its own share of every chunk, a latent cache on every rank the whole of it. A chunk
is moved as one piece, so that small pages cost nothing (inferred: its kernel gathers a chunk's
layers before the copy). Its server (``lmcache server``) is another program: one pool of the node
for all engines there, which has to be booked on the node.
"""

from dataclasses import replace

from memroute.errors import UnsupportedShapeError
from memroute.footprint import ReplicaShape
from memroute.hierarchy.kv_tier import KVTier, kv_tier
from memroute.units import GIB, ceil_div

# LMCACHE_CHUNK_SIZE where nobody sets it.
CHUNK_TOKENS = 256


def lmcache_tier(shape: ReplicaShape, size_bytes: int) -> KVTier:
    """The tier of a replica whose engines are each given ``size_bytes``, all ranks together.

    Raises ``UnsupportedShapeError`` as ``kv_tier`` does, and for models with several kinds of
    cache, which this connector does not take.
    """
    if len(shape.kv_layout.groups) != 1:
        msg = "LMCache in the engine's process keeps models with one kind of KV cache"
        raise UnsupportedShapeError(msg)
    native = kv_tier(shape, size_bytes)
    ranks = shape.tensor_parallel_size * shape.pipeline_parallel_size
    chunk = int(CHUNK_TOKENS * native.rank_token_bytes)
    num_chunks = size_bytes // ranks // chunk
    if num_chunks < 1:
        msg = f"{size_bytes // ranks:,} bytes of a rank hold no chunk of {chunk:,} bytes"
        raise UnsupportedShapeError(msg)
    return replace(
        native,
        chunk_bytes=chunk * ranks,
        chunk_tokens=CHUNK_TOKENS,
        num_chunks=num_chunks,
        capacity_tokens=num_chunks * CHUNK_TOKENS,
        page_bytes=chunk,
    )


def lmcache_settings(shape: ReplicaShape, size_bytes: int) -> tuple[dict[str, str], str]:
    """Environment and flag of an engine with so many bytes, rounded down to whole GiB a rank.

    Raises ``UnsupportedShapeError`` where that is less than one.
    """
    ranks = shape.tensor_parallel_size * shape.pipeline_parallel_size
    each = size_bytes // ranks // GIB
    if each < 1:
        msg = f"{ranks} ranks need {ceil_div(ranks * GIB, GIB)} GiB at least: one each"
        raise UnsupportedShapeError(msg)
    environment = {
        "LMCACHE_LOCAL_CPU": "true",
        "LMCACHE_MAX_LOCAL_CPU_SIZE": str(each),
        "LMCACHE_CHUNK_SIZE": str(CHUNK_TOKENS),
    }
    flag = '--kv-transfer-config={"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}'
    return environment, flag
