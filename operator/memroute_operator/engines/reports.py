"""What engines say of their own memory, as facts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What one engine says of its KV pool, sized by itself from a share of the device (vLLM)."""

    num_blocks: int
    """Of one data-parallel rank, the null block included."""
    utilization_ratio: float
    block_size_tokens: int | None = None
    """Tokens of one block, as the engine resolved it; None when it does not say."""
    kv_cache_size_tokens: int | None = None
    """Tokens that the pool of one rank holds; None when it does not say."""


# What a label of a report may say and still be believed: far beyond any engine.
MAX_BLOCKS = 10**9
MAX_BLOCK_SIZE_TOKENS = 2**20
MAX_CACHE_TOKENS = 10**12


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
