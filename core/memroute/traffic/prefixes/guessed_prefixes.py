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
# Two million tokens at 256 each: more than any replica of today holds; a few MB of index.


class PrefixIndex:
    """Owns what was sent where; the same calls give the same answers."""

    def __init__(self) -> None:
        self._holders = BlockHolders()
        self._recent: dict[str, OrderedDict[int, None]] = {}

    @property
    def num_blocks(self) -> int:
        """Keys that some replica has."""
        return len(self._holders)

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """Leading blocks of the prompt that each replica has; who has none is not in it."""
        return self._holders.match(keys)

    def insert(self, replica: str, keys: Sequence[int], *, max_blocks: int) -> int:
        """The replica has been sent a prompt of these blocks, and keeps ``max_blocks``.

        Returns how many of them, at the prompt's end, it was not known to have.
        """
        bit = self._holders.bit(replica)
        recent = self._recent.get(replica)
        if recent is None:
            recent = self._recent[replica] = OrderedDict()
        # From the end, so that a beginning is always more recent than what follows it.
        num_new = 0
        for key in reversed(keys):
            if key in recent:
                recent.move_to_end(key)
            else:
                recent[key] = None
                num_new += 1
                self._holders.add(key, bit)
        limit = max(1, min(MAX_BLOCKS_PER_REPLICA, max_blocks))
        while len(recent) > limit:
            key, _ = recent.popitem(last=False)
            self._holders.drop(key, bit)
        return num_new

    def take_back(self, replica: str, keys: Sequence[int]) -> None:
        """It was sent these, and never had them."""
        recent = self._recent.get(replica)
        if recent is None:
            return
        bit = self._holders.bit(replica)
        for key in keys:
            if key in recent:
                del recent[key]
                self._holders.drop(key, bit)

    def forget(self, replica: str) -> None:
        """The replica is gone, or its cache is empty."""
        recent = self._recent.pop(replica, None)
        if recent is None:
            return
        bit = self._holders.bit(replica)
        for key in recent:
            self._holders.drop(key, bit)
        self._holders.forget(replica)
