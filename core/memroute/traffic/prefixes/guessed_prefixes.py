"""Which replica has how much of a prompt cached: guessed from what was sent where.

What was sent to a replica is taken to be in its cache at once: the next request with the same
prefix comes before any event could tell (llm-d calls that speculative). Each replica remembers as
many blocks as its KV cache holds, the longest unused go first and the ends of prompts before their
beginnings, as engines evict.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from memroute.traffic.prefixes.holders import BlockHolders

MAX_BLOCKS_PER_REPLICA: Final = 8192
# Two million tokens at 256 each, more than most replicas hold; a few MB of index.


class PrefixIndex:
    """Owns what was sent where; the same calls give the same answers."""

    def __init__(self) -> None:
        self._holders = BlockHolders()
        self._recent: dict[str, OrderedDict[int, int]] = {}
        self._weights: dict[str, int] = {}

    @property
    def num_blocks(self) -> int:
        """Keys that some replica has."""
        return len(self._holders)

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """Leading blocks of the prompt that each replica has; who has none is not in it."""
        return self._holders.match(keys)

    def insert(
        self, replica: str, keys: Sequence[int], *, max_blocks: int, weights: Sequence[int] = ()
    ) -> int:
        """The replica has been sent a prompt of these blocks, and keeps ``max_blocks``.

        Returns how many of them, at the prompt's end, it was not known to have.

        ``weights``: of each block, where they are not all of a size; ``max_blocks`` is the most
        that the weights of what it keeps add up to.
        """
        bit = self._holders.bit(replica)
        recent = self._recent.get(replica)
        if recent is None:
            recent = self._recent[replica] = OrderedDict()
        total = self._weights.get(replica, 0)
        # From the end, so that a beginning is always more recent than what follows it.
        num_new = 0
        for index in range(len(keys) - 1, -1, -1):
            key = keys[index]
            weight = weights[index] if weights else 1
            before = recent.get(key)
            if before is None:
                num_new += 1
                self._holders.add(key, bit)
            else:
                total -= before
                recent.move_to_end(key)
            recent[key] = weight
            total += weight
        while len(recent) > 1 and (total > max_blocks or len(recent) > MAX_BLOCKS_PER_REPLICA):
            key, weight = recent.popitem(last=False)
            total -= weight
            self._holders.drop(key, bit)
        self._weights[replica] = total
        return num_new

    def take_back(self, replica: str, keys: Sequence[int]) -> None:
        """It was sent these, and never had them."""
        recent = self._recent.get(replica)
        if recent is None:
            return
        bit = self._holders.bit(replica)
        for key in keys:
            weight = recent.pop(key, None)
            if weight is not None:
                self._weights[replica] -= weight
                self._holders.drop(key, bit)

    def blocks(self, replica: str) -> list[tuple[int, int]]:
        """Keys and weights of what the replica is taken to keep, the longest unused first."""
        recent = self._recent.get(replica)
        return [] if recent is None else list(recent.items())

    def forget(self, replica: str) -> None:
        """The replica is gone, or its cache is empty."""
        self._weights.pop(replica, None)
        recent = self._recent.pop(replica, None)
        if recent is None:
            return
        bit = self._holders.bit(replica)
        for key in recent:
            self._holders.drop(key, bit)
        self._holders.forget(replica)
