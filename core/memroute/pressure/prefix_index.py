"""Which replica has how much of a prompt cached: guessed from what was sent where.

A prompt is a chain of block keys, each of all text up to its end. For every key the index knows a
set of replicas, as the bits of one number; a prompt is matched by walking its keys while some
replica is left, so a walk costs what the longest match is long, whatever the number of replicas.

What was sent to a replica is taken to be in its cache at once: the next request with the same
prefix comes before any event could tell (llm-d calls that speculative). Each replica remembers as
many blocks as its KV cache holds, the longest unused go first and the ends of prompts before their
beginnings, as engines evict.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

MAX_BLOCKS_PER_REPLICA: Final = 8192
# Two million tokens at 256 each: more than any replica of today holds; a few MB of index.


class PrefixIndex:
    """Owns the keys; the same calls give the same answers."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._recent: dict[str, OrderedDict[int, None]] = {}
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}

    @property
    def num_blocks(self) -> int:
        """Keys that some replica has."""
        return len(self._holders)

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """Leading blocks of the prompt that each replica has; who has none is not in it."""
        holders = self._holders
        found: dict[str, int] = {}
        if not keys:
            return found
        left = holders.get(keys[0], 0)
        depth = 0
        for key in keys:
            has = holders.get(key, 0)
            lost = left & ~has
            while lost:
                bit = lost & -lost
                lost ^= bit
                found[self._names[bit]] = depth
            left &= has
            if not left:
                return found
            depth += 1
        while left:
            bit = left & -left
            left ^= bit
            found[self._names[bit]] = depth
        return found

    def insert(self, replica: str, keys: Sequence[int], *, max_blocks: int) -> None:
        """The replica has been sent a prompt of these blocks, and keeps ``max_blocks``."""
        bit = self._bits.get(replica)
        if bit is None:
            bit = self._take_bit(replica)
        recent = self._recent[replica]
        holders = self._holders
        # From the end, so that a beginning is always more recent than what follows it.
        for key in reversed(keys):
            if key in recent:
                recent.move_to_end(key)
            else:
                recent[key] = None
                holders[key] = holders.get(key, 0) | bit
        limit = max(1, min(MAX_BLOCKS_PER_REPLICA, max_blocks))
        while len(recent) > limit:
            key, _ = recent.popitem(last=False)
            self._drop(key, bit)

    def forget(self, replica: str) -> None:
        """The replica is gone, or its cache is empty."""
        bit = self._bits.pop(replica, None)
        if bit is None:
            return
        del self._names[bit]
        for key in self._recent.pop(replica):
            self._drop(key, bit)

    def _drop(self, key: int, bit: int) -> None:
        left = self._holders[key] & ~bit
        if left:
            self._holders[key] = left
        else:
            del self._holders[key]

    def _take_bit(self, replica: str) -> int:
        bit = 1
        while bit in self._names:
            bit <<= 1
        self._bits[replica] = bit
        self._names[bit] = replica
        self._recent[replica] = OrderedDict()
        return bit
