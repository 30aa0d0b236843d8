"""Which replica has how much of a prompt cached: guessed from what was sent where.

What was sent to a replica is taken to be in its cache at once: the next request with the same
prefix comes before any event could tell (llm-d calls that speculative). Each replica remembers as
many tokens as its KV cache holds, the longest unused go first and the ends of prompts before their
beginnings, as engines evict.

Blocks that are held by the same replicas are kept together, as a *run*: most prompts are like no
other behind their first block, and cost one entry, not one for each block. Where two prompts part,
or one ends, a run is cut in two:

```text
insert a b c d        (a b c d)
insert a b x          (a b)  then  (c d), (x)
```

The key of a block is of all text up to its end, so equal keys have equal beginnings: how much two
chains share is found by halves.

The end of a prompt can be known without what is before it: a router that comes is told of ends
first, and what was never computed is taken back from under longer prompts. Where such an end
begins inside a run, its blocks are in two runs until one of them is forgotten.
"""

from bisect import bisect_right
from collections import OrderedDict
from typing import Final

from memroute.traffic.prefixes.holders import ReplicaBits

# Blocks that the index remembers of one replica, whatever its capacity: two million tokens at 256
# each, more than most replicas hold, in a few MB.
# Unit: blocks. Source: a bound of memory, chosen by hand.
MAX_BLOCKS_PER_REPLICA: Final = 8192


class _Run:
    """Blocks that follow each other, all of which the same replicas have."""

    __slots__ = ("before_tokens", "ends", "holders", "keys")

    def __init__(
        self, keys: tuple[int, ...], ends: tuple[int, ...], before_tokens: int, holders: int
    ) -> None:
        self.keys = keys
        self.ends = ends
        """Tokens of the prompt up to the end of each block."""
        self.before_tokens = before_tokens
        """Tokens of the prompt before the first of them."""
        self.holders = holders
        """The replicas that have it, as bits."""

    @property
    def num_tokens(self) -> int:
        """What it takes of a replica's cache."""
        return self.ends[-1] - self.before_tokens

    def num_common(self, keys: tuple[int, ...], start: int) -> int:
        """Blocks that it shares with a prompt from block ``start`` on; the first is the same."""
        own = self.keys
        low, high = 1, min(len(own), len(keys) - start)
        if own[high - 1] == keys[start + high - 1]:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            if own[middle - 1] == keys[start + middle - 1]:
                low = middle
            else:
                high = middle
        return low

    def cut_off(self, count: int) -> "_Run":
        """Its first blocks, which are a run of their own from now on."""
        head = _Run(self.keys[:count], self.ends[:count], self.before_tokens, self.holders)
        self.before_tokens = self.ends[count - 1]
        self.keys, self.ends = self.keys[count:], self.ends[count:]
        return head


class _Cache:
    """What one replica is taken to have: its runs, the longest unused first."""

    __slots__ = ("num_blocks", "num_tokens", "recent")

    def __init__(self) -> None:
        self.recent: OrderedDict[_Run, None] = OrderedDict()
        self.num_tokens = 0
        self.num_blocks = 0


class PrefixIndex:
    """Owns what was sent where; the same calls give the same answers."""

    def __init__(self) -> None:
        self._replicas = ReplicaBits()
        self._runs: dict[int, _Run] = {}
        """By the key of the first block; of two that begin alike, the later."""
        self._caches: dict[str, _Cache] = {}
        self._by_bit: dict[int, _Cache] = {}

    @property
    def num_blocks(self) -> int:
        """Keys that some replica has."""
        return sum(len(run.keys) for run in self._runs.values())

    def match(self, keys: tuple[int, ...]) -> dict[str, int]:
        """Leading blocks of the prompt that each replica has; who has none is not in it."""
        found: dict[str, int] = {}
        at, count, left = 0, len(keys), -1
        while at < count:
            run = self._runs.get(keys[at])
            if run is None:
                break
            if at:
                self._replicas.note(found, left & ~run.holders, at)
            left &= run.holders
            if not left:
                return found
            common = run.num_common(keys, at)
            at += common
            if common < len(run.keys):
                break
        if at:
            self._replicas.note(found, left, at)
        return found

    def insert(
        self,
        replica: str,
        keys: tuple[int, ...],
        *,
        max_tokens: int,
        ends: tuple[int, ...] = (),
        tokens_per_block: int = 1,
    ) -> int:
        """The replica has been sent a prompt of these blocks, and keeps ``max_tokens``.

        ``ends``: tokens of the prompt up to the end of each block; empty: ``tokens_per_block``
        each. Returns how many of the blocks, at the prompt's end, it was not known to have.
        """
        cache = self._cache(replica)
        bit = self._replicas.bit(replica)
        if not ends:
            ends = tuple(
                range(tokens_per_block, tokens_per_block * (len(keys) + 1), tokens_per_block)
            )
        path: list[_Run] = []
        at, num_new = 0, 0
        while at < len(keys):
            run = self._runs.get(keys[at])
            if run is None:
                run = self._begin(keys, ends, at)
            else:
                common = run.num_common(keys, at)
                if common < len(run.keys):
                    run = self._part(run, common)
            if not run.holders & bit:
                num_new += len(run.keys)
                self._take(cache, run, bit)
            path.append(run)
            at += len(run.keys)
        # From the end, so that a beginning is always more recent than what follows it.
        recent = cache.recent
        for run in reversed(path):
            recent.move_to_end(run)
        if cache.num_tokens > max_tokens or cache.num_blocks > MAX_BLOCKS_PER_REPLICA:
            self._evict(cache, bit, max_tokens)
        return num_new

    def take_back(self, replica: str, keys: tuple[int, ...]) -> None:
        """It was sent these, the end of a prompt, and never had them."""
        cache = self._caches.get(replica)
        if cache is None:
            return
        bit = self._replicas.bit(replica)
        at = 0
        while at < len(keys):
            run = self._runs.get(keys[at])
            if run is None:
                at += 1
                continue
            if run.holders & bit:
                self._drop(cache, run, bit)
            at += len(run.keys)

    def stretches(self, replica: str) -> list[tuple[tuple[int, ...], int]]:
        """Keys that follow each other, and their tokens, of what the replica is taken to keep.

        The longest unused first. Inserting them one by one elsewhere makes that know the same.
        """
        cache = self._caches.get(replica)
        if cache is None:
            return []
        return [(run.keys, run.num_tokens) for run in cache.recent]

    def forget(self, replica: str) -> None:
        """The replica is gone, or its cache is empty."""
        cache = self._caches.pop(replica, None)
        if cache is None:
            return
        bit = self._replicas.bit(replica)
        for run in list(cache.recent):
            self._drop(cache, run, bit)
        del self._by_bit[bit]
        self._replicas.forget(replica)

    # Inside.

    def _cache(self, replica: str) -> _Cache:
        cache = self._caches.get(replica)
        if cache is None:
            cache = self._caches[replica] = _Cache()
            self._by_bit[self._replicas.bit(replica)] = cache
        return cache

    def _begin(self, keys: tuple[int, ...], ends: tuple[int, ...], at: int) -> _Run:
        """A run of the prompt's blocks from ``at`` on, up to the first that another begins with."""
        key, stop = keys[at], len(keys)
        if not self._runs.keys().isdisjoint(keys[at:]):
            stop = next(index for index in range(at, stop) if keys[index] in self._runs)
        before = ends[at - 1] if at else 0
        run = self._runs[key] = _Run(keys[at:stop], ends[at:stop], before, 0)
        return run

    def _part(self, run: _Run, count: int) -> _Run:
        """Cut a run in two; its first blocks. They count as used now wherever they are."""
        head = run.cut_off(count)
        self._runs[head.keys[0]] = head
        self._runs[run.keys[0]] = run
        holders = run.holders
        while holders:
            bit = holders & -holders
            holders ^= bit
            self._by_bit[bit].recent[head] = None
        return head

    def _take(self, cache: _Cache, run: _Run, bit: int) -> None:
        run.holders |= bit
        cache.recent[run] = None
        cache.num_tokens += run.num_tokens
        cache.num_blocks += len(run.keys)

    def _drop(self, cache: _Cache, run: _Run, bit: int) -> None:
        run.holders &= ~bit
        del cache.recent[run]
        cache.num_tokens -= run.num_tokens
        cache.num_blocks -= len(run.keys)
        first = run.keys[0]
        if not run.holders and self._runs.get(first) is run:
            del self._runs[first]

    def _evict(self, cache: _Cache, bit: int, max_tokens: int) -> None:
        """Forget what was used longest ago, until the rest fits; the last block stays in any case.

        The run that fits in part is cut where this replica alone has it. Where others have it too,
        all of it goes: it is the oldest here, and they keep theirs.
        """
        recent = cache.recent
        while cache.num_blocks > MAX_BLOCKS_PER_REPLICA and len(recent) > 1:
            self._drop(cache, next(iter(recent)), bit)
        while cache.num_tokens > max_tokens:
            run = next(iter(recent))
            is_last = len(recent) == 1
            keep = 0
            if run.holders == bit:
                fits = run.ends[-1] - (cache.num_tokens - max_tokens)
                keep = bisect_right(run.ends, fits)
            elif is_last:
                return
            if not keep and not is_last:
                self._drop(cache, run, bit)
                continue
            keep = max(1, keep)
            cache.num_tokens -= run.ends[-1] - run.ends[keep - 1]
            cache.num_blocks -= len(run.keys) - keep
            run.keys, run.ends = run.keys[:keep], run.ends[:keep]
            return
