"""A paged KV cache: blocks handed to requests, one block kept as the null block."""

from memroute.footprint.kv_cache import NUM_NULL_BLOCKS, KVCacheLayout


class KVPool:
    """Blocks by request. Owns the count of free ones; never hands out more than it has."""

    def __init__(self, *, num_blocks: int, layout: KVCacheLayout) -> None:
        self.num_blocks = num_blocks
        self.layout = layout
        self._held: dict[str, int] = {}
        self.num_free = num_blocks - NUM_NULL_BLOCKS

    @property
    def num_usable(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks - NUM_NULL_BLOCKS

    @property
    def utilization_ratio(self) -> float:
        """Pinned share, 0 to 1, as ``vllm:kv_cache_usage_perc`` defines it."""
        return 1.0 - self.num_free / self.num_usable if self.num_usable else 0.0

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens pin, over all groups of layers."""
        return self.layout.blocks_for(num_tokens)

    def can_grow(self, request_id: str, num_tokens: int) -> bool:
        """Whether the request can hold ``num_tokens`` in total."""
        return self._missing(request_id, num_tokens) <= self.num_free

    def grow(self, request_id: str, num_tokens: int) -> bool:
        """Let the request hold ``num_tokens`` in total; False, and nothing done, if no room."""
        missing = self._missing(request_id, num_tokens)
        if missing > self.num_free:
            return False
        if missing > 0:
            self.num_free -= missing
            self._held[request_id] = self._held.get(request_id, 0) + missing
        return True

    def free(self, request_id: str) -> None:
        """Take all blocks of the request back."""
        self.num_free += self._held.pop(request_id, 0)

    def _missing(self, request_id: str, num_tokens: int) -> int:
        return self.blocks_for(num_tokens) - self._held.get(request_id, 0)
