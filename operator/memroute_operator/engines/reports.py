"""What engines say of their own memory, as facts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """A KV pool that the engine has sized by itself from a share of the device (vLLM)."""

    num_blocks: int
    """Of one data-parallel rank, the null block included."""
    utilization_ratio: float
    block_size_tokens: int | None = None
    """Tokens of one block, as the engine resolved it; None when it does not say."""
    kv_cache_size_tokens: int | None = None
    """Tokens that the pool of one rank holds; None when it does not say."""
    num_ranks: int = 1
    """Data-parallel ranks, each with a pool of this size."""

    @property
    def kv_tokens(self) -> int | None:
        """Tokens that requests can hold, all ranks together, as routers count them; None: unknown.

        Without the null block. Before vLLM 0.25 the blocks are all that is said.
        """
        block, size = self.block_size_tokens, self.kv_cache_size_tokens
        if size is None and block is not None:
            size = self.num_blocks * block
        return None if size is None else self.num_ranks * max(0, size - (block or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsReport:
    """Parts that the engine has measured one by one (SGLang): its activations are none of them."""

    weights_bytes: int
    kv_cache_bytes: int
    graph_bytes: int | None = None
    """Of all captured graphs; None when it does not say."""
    kv_tokens: int | None = None
    """Tokens that its pool holds; None when it does not say."""


EngineReport = PoolReport | PartsReport

# What a label of a report may say and still be believed: far beyond any engine.
MAX_BLOCKS = 10**9
MAX_BLOCK_SIZE_TOKENS = 2**20
MAX_CACHE_TOKENS = 10**12
MAX_GIB = 1024.0


def whole(text: str | None, least: int, most: int) -> int | None:
    """A whole number within bounds; None for anything else."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > len(str(most)):
        return None
    value = int(text)
    return value if least <= value <= most else None


def ratio(text: str | None) -> float | None:
    """A share above 0 and up to 1; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0.0 < value <= 1.0 else None
