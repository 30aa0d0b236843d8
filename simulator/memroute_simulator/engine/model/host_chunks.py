"""Chunks of KV cache on the host: who is there, who goes, by vLLM 0.32's ``CPUOffloadingManager``.

A chunk is absent, pending (being stored), or ready; a ready one may be pinned by loads. What is
stored takes the place of the least recently used chunk that nobody pins. A request that ends marks
its chunks as used with its last one first, so that the tail of a prefix goes before its head. An
offer that cannot be placed whole is refused whole.

Owns the chunks. Compared with vLLM's own manager, call by call, in the conformance suite.
"""

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

# Above so many entries per chunk that could go, the heap is made anew: entries that recency has
# overtaken stay in it until they come up.
_MAX_STALE_RATIO = 2
_MIN_COMPACTED = 64


class HostChunks:
    """Chunks by key, in the order in which they would go."""

    def __init__(self, num_chunks: int) -> None:
        self.num_chunks = num_chunks
        self._references: dict[int, int] = {}
        """Loads that pin it; -1 while it is being stored."""
        self._ranks: dict[int, int] = {}
        self._idle: set[int] = set()
        self._heap: list[tuple[int, int]] = []
        self._last_rank = 0

    def __len__(self) -> int:
        """Chunks that are there or on their way."""
        return len(self._references)

    def is_ready(self, key: int) -> bool | None:
        """Whether it can be loaded now; False while it is being stored, None where it is not."""
        references = self._references.get(key)
        return None if references is None else references >= 0

    def known(self, keys: Iterable[int]) -> list[int]:
        """Those that an offer of them counts as used: all but what another is storing now."""
        return [key for key in keys if self._references.get(key, 0) >= 0]

    def prepare_store(self, keys: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """Take places for those that are absent: (to store, evicted).

        None, and nothing changed, where not enough chunks can go: those that are offered again,
        pinned or being stored stay.
        """
        new = [key for key in keys if key not in self._references]
        if not new:
            return [], []
        excess = len(new) - (self.num_chunks - len(self._references))
        evicted: list[int] = []
        if excess > 0:
            if excess > len(self._idle):
                return None
            found = self._take_oldest(excess, set(keys))
            if found is None:
                return None
            evicted = found
        for key in new:
            self._references[key] = -1
            self._use(key)
        return new, evicted

    def complete_store(self, keys: Iterable[int]) -> list[int]:
        """They can be loaded from now on: those of them that were pending."""
        stored = [key for key in keys if self._references.get(key) == -1]
        for key in stored:
            self._references[key] = 0
            self._rest(key)
        return stored

    def prepare_load(self, keys: Iterable[int]) -> None:
        """Pin ready chunks while they are read."""
        for key in keys:
            self._idle.discard(key)
            self._references[key] += 1

    def complete_load(self, keys: Iterable[int]) -> None:
        """A load that pinned them has ended."""
        for key in keys:
            self._references[key] -= 1
            if not self._references[key]:
                self._rest(key)

    def mark_used(self, keys: Sequence[int]) -> None:
        """A request with these chunks, in the order of its prompt, has ended."""
        for key in reversed(keys):
            if key in self._references:
                self._use(key)

    def clear(self) -> None:
        """Forget everything, as a sleep and ``reset_connector`` do."""
        self._references.clear()
        self._ranks.clear()
        self._idle.clear()
        self._heap.clear()

    def _use(self, key: int) -> None:
        self._last_rank += 1
        self._ranks[key] = self._last_rank
        if key in self._idle:
            self._push(key)

    def _rest(self, key: int) -> None:
        self._idle.add(key)
        self._push(key)

    def _push(self, key: int) -> None:
        heappush(self._heap, (self._ranks[key], key))
        if len(self._heap) > max(_MIN_COMPACTED, _MAX_STALE_RATIO * len(self._idle)):
            self._heap = [(self._ranks[idle], idle) for idle in self._idle]
            heapify(self._heap)

    def _take_oldest(self, count: int, protected: set[int]) -> list[int] | None:
        """Remove the least recently used ``count`` that are idle and not protected."""
        taken: list[tuple[int, int]] = []
        kept: list[tuple[int, int]] = []
        chosen: set[int] = set()
        while self._heap and len(taken) < count:
            entry = heappop(self._heap)
            rank, key = entry
            if key not in self._idle or self._ranks[key] != rank or key in chosen:
                continue
            if key in protected:
                kept.append(entry)
                continue
            taken.append(entry)
            chosen.add(key)
        for entry in kept:
            heappush(self._heap, entry)
        if len(taken) < count:
            for entry in taken:
                heappush(self._heap, entry)
            return None
        keys = [key for _, key in taken]
        for key in keys:
            self._idle.discard(key)
            del self._references[key]
            del self._ranks[key]
        return keys
