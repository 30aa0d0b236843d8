"""The paged KV cache of one rank: blocks, prefix cache, eviction, by vLLM 0.32's rules.

* All KV groups draw from one pool; one block is the null block.
* A block that is full is keyed by the chain of tokens up to its end. Freed blocks keep their
  key and wait at the end of the free queue, so the least recently used is taken last; blocks
  without a key are taken first, then blocks never used (``block_pool.py``).
* A request frees its tail first, so that what is evicted first is what helps least.
* A hit is what *all* groups have: a full group the whole prefix, a window its last tokens, a
  state the exact position. The last token of a prompt is always computed. Of windows and
  states only what a replay can resume at is kept: the end of the prompt, and the place where
  a prefix was found to leave that of others (retention interval 0, the default of 0.32).
* Cached blocks that nobody references count as free.

Owns the blocks. Blocks are materialized when first used, so a thousand idle caches cost nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memroute.footprint.kv_cache import NUM_NULL_BLOCKS, KVCacheLayout
from memroute.footprint.kv_cache.cells import CellKind
from memroute.footprint.kv_cache.groups import KVGroup
from memroute.units import ceil_div
from memroute_simulator.engine.model.request import EngineRequest

_GROUP_BITS = 6


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks of one request that became keyed, for KV events."""

    request: EngineRequest
    group: int
    first_block: int
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """A keyed block was evicted."""

    group: int
    key: int


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """All of them are gone at once."""


BlockEvent = BlocksStored | BlocksRemoved | BlocksCleared


class KVCache:
    """Blocks by request, and by what is in them."""

    def __init__(
        self,
        *,
        num_blocks: int,
        layout: KVCacheLayout,
        caches_prefixes: bool = True,
        on_event: Callable[[BlockEvent], None] | None = None,
    ) -> None:
        """``num_blocks`` counts the null block, as ``num_gpu_blocks`` does."""
        self.num_blocks = num_blocks
        self.layout = layout
        self.caches_prefixes = caches_prefixes
        self.num_free = self.num_usable
        self.num_evictions = 0
        self._on_event = on_event
        self._groups = layout.groups
        self._is_plain = len(layout.groups) == 1 and layout.groups[0].reach_tokens is None
        self._is_plain &= layout.groups[0].kind is not CellKind.STATE if layout.groups else True
        self._next_fresh = NUM_NULL_BLOCKS
        self._unkeyed: list[int] = []
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, int] = {}
        self._by_key: dict[int, int] = {}
        self._duplicates: dict[int, list[int]] = {}
        self._more_references: dict[int, int] = {}
        self._alignment = max((group.block_size_tokens for group in layout.groups), default=1)

    @property
    def num_usable(self) -> int:
        """Blocks that requests can hold."""
        return max(0, self.num_blocks - NUM_NULL_BLOCKS)

    @property
    def num_cached_blocks(self) -> int:
        """Keyed blocks that nobody references: free, and worth something."""
        return len(self._evictable)

    @property
    def utilization_ratio(self) -> float:
        """Pinned share, 0 to 1, as ``vllm:kv_cache_usage_perc`` defines it."""
        return 1.0 - self.num_free / self.num_usable if self.num_usable else 0.0

    # Prefix lookup.

    def find_hit(self, request: EngineRequest) -> int:
        """Tokens of the request that can be taken from the cache, over all groups."""
        if not self.caches_prefixes or not self._by_key:
            return 0
        limit = request.num_tokens - 1
        if self._is_plain:
            return self._prefix_tokens(request, 0, limit)
        full = [
            index
            for index, group in enumerate(self._groups)
            if group.kind in {CellKind.FULL, CellKind.LATENT}
        ]
        hit = min((self._prefix_tokens(request, index, limit) for index in full), default=limit)
        hit = hit // self._alignment * self._alignment
        others = [index for index in range(len(self._groups)) if index not in full]
        longest = hit if full else 0
        while hit > 0 and not all(self._has_at(request, index, hit) for index in others):
            hit -= self._alignment
        request.junction_tokens = longest if longest > hit else 0
        return max(0, hit)

    def _prefix_tokens(self, request: EngineRequest, index: int, limit_tokens: int) -> int:
        size = self._groups[index].block_size_tokens
        num_blocks = limit_tokens // size
        by_key, found, chunk = self._by_key, 0, 8
        while found < num_blocks:
            # Most requests miss early: ever longer looks cost little more than the hit.
            last = min(found + chunk, num_blocks)
            for key in request.content.keys(found, last, size):
                if (key << _GROUP_BITS | index) not in by_key:
                    return found * size
                found += 1
            chunk *= 4
        return found * size

    def _has_at(self, request: EngineRequest, index: int, hit_tokens: int) -> bool:
        """Whether a group of windows or states can resume at a position."""
        group = self._groups[index]
        size = group.block_size_tokens
        last = hit_tokens // size
        first = last - 1 if group.kind is CellKind.STATE else _skipped(group, hit_tokens) // size
        keys = request.content.keys(first, last, size)
        return all((key << _GROUP_BITS | index) in self._by_key for key in keys)

    # Allocation.

    def blocks_to_admit(self, request: EngineRequest, hit_tokens: int) -> int:
        """Free blocks that holding all of the request's present tokens would take.

        Hit blocks that nobody references count: they leave the free queue.
        """
        layout, needed = self.layout, 0
        for index, group in enumerate(self._groups):
            size = group.block_size_tokens
            most = group.blocks_for(
                request.num_tokens,
                in_flight_tokens=layout.in_flight_tokens,
                num_state_blocks=layout.num_state_blocks,
                caches_prefixes=layout.caches_prefixes,
            )
            if group.kind is CellKind.STATE:
                needed += most
                continue
            skipped = _skipped(group, hit_tokens) // size
            hits = hit_tokens // size
            # The cap counts from the start, also where a hit is skipped: vLLM's own rule.
            total = min(ceil_div(request.num_tokens, size), most)
            needed += max(0, total - max(hits, skipped))
            needed += self._num_idle_hits(request, index, skipped, hits)
        return needed

    def blocks_to_begin(self, request: EngineRequest, hit_tokens: int, num_tokens: int) -> int:
        """Free blocks that the hit and the first ``num_tokens`` would take."""
        needed = 0
        for index, group in enumerate(self._groups):
            size = group.block_size_tokens
            if group.kind is CellKind.STATE:
                needed += self.layout.num_state_blocks
                continue
            skipped, hits = _skipped(group, hit_tokens) // size, hit_tokens // size
            needed += ceil_div(num_tokens, size) - max(skipped, hits)
            needed += self._num_idle_hits(request, index, skipped, hits)
        return needed

    def admit(self, request: EngineRequest, hit_tokens: int, num_tokens: int) -> bool:
        """Take the hit and blocks for the first ``num_tokens``; False, nothing done, if full."""
        groups = self._groups
        request.tables = [[] for _ in groups]
        request.num_dropped_blocks = [0] * len(groups)
        request.num_keyed_blocks = [0] * len(groups)
        if self.blocks_to_begin(request, hit_tokens, num_tokens) > self.num_free:
            return False
        for index, group in enumerate(groups):
            self._take_hit(request, index, group, hit_tokens)
        for index, group in enumerate(groups):
            self._extend(request, index, group, num_tokens)
        return True

    def blocks_to_grow(self, request: EngineRequest, num_tokens: int) -> int:
        """Free blocks that holding ``num_tokens`` in all would take of a running request."""
        if self._is_plain:
            size = self._groups[0].block_size_tokens
            return max(0, -(-num_tokens // size) - len(request.tables[0]))
        total = 0
        for index, group in enumerate(self._groups):
            if group.kind is CellKind.STATE:
                continue
            held = request.num_dropped_blocks[index] + len(request.tables[index])
            total += max(0, ceil_div(num_tokens, group.block_size_tokens) - held)
        return total

    def grow(self, request: EngineRequest, num_tokens: int) -> bool:
        """Let a running request hold ``num_tokens`` in all; False, nothing taken, if full.

        What windows have passed is given back first, and what is full is keyed.
        """
        if not self._is_plain:
            self._drop_passed(request)
        if self.blocks_to_grow(request, num_tokens) > self.num_free:
            return False
        for index, group in enumerate(self._groups):
            self._extend(request, index, group, num_tokens)
        return True

    def key_full_blocks(self, request: EngineRequest, num_computed_tokens: int) -> None:
        """Key what is full of the request with ``num_computed_tokens`` computed.

        Called as soon as those tokens are scheduled, as vLLM does: a request that is admitted
        in the same step may share them.
        """
        if not self.caches_prefixes:
            return
        for index, group in enumerate(self._groups):
            size = group.block_size_tokens
            first = request.num_keyed_blocks[index]
            last = num_computed_tokens // size
            if last <= first:
                continue
            if group.kind is CellKind.STATE:
                if last * size in self._resumable(request):
                    self._key_state(request, index, last, size)
            elif group.kind is CellKind.SLIDING:
                kept = ceil_div((group.reach_tokens or 1) - 1, size)
                for boundary in self._resumable(request):
                    end = boundary // size
                    self._key_full(request, index, max(first, end - kept), min(last, end), size)
            else:
                self._key_full(request, index, first, last, size)
            request.num_keyed_blocks[index] = last

    def _resumable(self, request: EngineRequest) -> tuple[int, ...]:
        """Positions that a later request can resume at, as far as they are known now."""
        alignment = self._alignment
        end = (request.num_prompt_tokens - 1) // alignment * alignment
        junction = request.junction_tokens // alignment * alignment
        return (end,) if junction in {0, end} else (junction, end)

    def next_change_tokens(self, request: EngineRequest, num_tokens: int) -> int:
        """The number of tokens, above ``num_tokens``, at which its blocks next change."""
        if self._is_plain:
            return len(request.tables[0]) * self._groups[0].block_size_tokens + 1
        changes = []
        for index, group in enumerate(self._groups):
            size = group.block_size_tokens
            if group.kind is CellKind.STATE:
                changes.append((num_tokens // size + 1) * size + 1)
                continue
            held = request.num_dropped_blocks[index] + len(request.tables[index])
            changes.append(held * size + 1)
            if group.reach_tokens is not None:
                changes.append(_passes_next(group, request.num_dropped_blocks[index]))
        return max(num_tokens + 1, min(changes))

    def free(self, request: EngineRequest) -> None:
        """Take all blocks of a request back, its tail first."""
        for table in request.tables:
            table.reverse()
            self._release(table)
        request.tables = []
        request.num_dropped_blocks = []
        request.num_keyed_blocks = []

    def clear(self) -> None:
        """Forget every cached prefix, as ``/reset_prefix_cache`` and a sleep do."""
        on_event = self._on_event
        if on_event is not None and len(self._key_of) == len(self._evictable):
            # Nobody uses any: vLLM clears all then, and says so in one event.
            on_event(BlocksCleared())
            self._on_event = None
        for block in self._evictable:
            self._forget_key(block)
        self._on_event = on_event
        self._unkeyed += self._evictable
        self._evictable.clear()

    # Inside.

    def _num_idle_hits(self, request: EngineRequest, index: int, first: int, last: int) -> int:
        if last <= first:
            return 0
        size = self._groups[index].block_size_tokens
        by_key, evictable = self._by_key, self._evictable
        keys = request.content.keys(first, last, size)
        return sum(by_key[key << _GROUP_BITS | index] in evictable for key in keys)

    def _take_hit(
        self, request: EngineRequest, index: int, group: KVGroup, hit_tokens: int
    ) -> None:
        if not hit_tokens or group.kind is CellKind.STATE:
            return
        size = group.block_size_tokens
        skipped, hits = _skipped(group, hit_tokens) // size, hit_tokens // size
        table = request.tables[index]
        for key in request.content.keys(skipped, hits, size):
            block = self._by_key[key << _GROUP_BITS | index]
            if block in self._evictable:
                del self._evictable[block]
                self.num_free -= 1
            else:
                self._more_references[block] = self._more_references.get(block, 0) + 1
            table.append(block)
        request.num_dropped_blocks[index] = skipped
        request.num_keyed_blocks[index] = hits

    def _extend(self, request: EngineRequest, index: int, group: KVGroup, num_tokens: int) -> None:
        table = request.tables[index]
        if group.kind is CellKind.STATE:
            missing = self.layout.num_state_blocks - len(table)
        else:
            held = request.num_dropped_blocks[index] + len(table)
            missing = -(-num_tokens // group.block_size_tokens) - held
        if missing > 0:
            self._take(missing, table)

    def _take(self, count: int, table: list[int]) -> None:
        """Take free blocks: unkeyed, then never used, then the least recently used."""
        self.num_free -= count
        for _ in range(count):
            if self._unkeyed:
                table.append(self._unkeyed.pop())
            elif self._next_fresh < self.num_blocks:
                table.append(self._next_fresh)
                self._next_fresh += 1
            else:
                block, _ = self._evictable.popitem(last=False)
                self._forget_key(block)
                self.num_evictions += 1
                table.append(block)

    def _release(self, blocks: Sequence[int]) -> None:
        unkeyed = []
        for block in blocks:
            references = self._more_references.get(block)
            if references is not None:
                if references == 1:
                    del self._more_references[block]
                else:
                    self._more_references[block] = references - 1
                continue
            self.num_free += 1
            if block in self._key_of:
                self._evictable[block] = None
            else:
                unkeyed.append(block)
        # The first of them is taken first.
        self._unkeyed += reversed(unkeyed)

    def _drop_passed(self, request: EngineRequest) -> None:
        for index, group in enumerate(self._groups):
            if group.reach_tokens is None:
                continue
            passed = _skipped(group, request.num_computed_tokens) // group.block_size_tokens
            count = passed - request.num_dropped_blocks[index]
            if count > 0:
                table = request.tables[index]
                dropped = table[:count]
                del table[:count]
                request.num_dropped_blocks[index] = passed
                self._release(dropped[::-1])

    def _key_full(
        self, request: EngineRequest, index: int, first: int, last: int, size: int
    ) -> None:
        dropped = request.num_dropped_blocks[index]
        first = max(first, dropped)
        if first >= last:
            return
        keys = request.content.keys(first, last, size)
        table = request.tables[index]
        for offset, key in enumerate(keys, first - dropped):
            self._insert_key(table[offset], key << _GROUP_BITS | index)
        if self._on_event is not None and keys:
            self._on_event(BlocksStored(request, index, first, tuple(keys)))

    def _key_state(self, request: EngineRequest, index: int, last: int, size: int) -> None:
        """Keep the state at the last boundary: the block goes to the cache, a new one is taken.

        Without a free block the checkpoint is not kept: an approximation, as the engine
        reserves it.
        """
        if not self.layout.caches_prefixes or not self.num_free:
            return
        table = request.tables[index]
        checkpoint = table.pop(0)
        if checkpoint not in self._key_of:
            (key,) = request.content.keys(last - 1, last, size)
            self._insert_key(checkpoint, key << _GROUP_BITS | index)
        self._release([checkpoint])
        self._take(1, table)

    def _insert_key(self, block: int, key: int) -> None:
        if block in self._key_of:
            return
        self._key_of[block] = key
        if self._by_key.setdefault(key, block) != block:
            self._duplicates.setdefault(key, []).append(block)

    def _forget_key(self, block: int) -> None:
        key = self._key_of.pop(block)
        twins = self._duplicates.get(key)
        if twins is None:
            del self._by_key[key]
        else:
            if self._by_key[key] == block:
                self._by_key[key] = twins.pop(0)
            else:
                twins.remove(block)
            if not twins:
                del self._duplicates[key]
        if self._on_event is not None:
            self._on_event(BlocksRemoved(key & ((1 << _GROUP_BITS) - 1), key >> _GROUP_BITS))


def _skipped(group: KVGroup, num_computed_tokens: int) -> int:
    """Tokens that the next one no longer sees."""
    if group.reach_tokens is None or group.kind is CellKind.STATE:
        return 0
    if group.kind is CellKind.CHUNKED:
        return num_computed_tokens // group.reach_tokens * group.reach_tokens
    return max(0, num_computed_tokens - group.reach_tokens + 1)


def _passes_next(group: KVGroup, num_dropped_blocks: int) -> int:
    """Tokens (the one to compute included) at which the next block falls behind the window."""
    boundary = (num_dropped_blocks + 1) * group.block_size_tokens
    reach = group.reach_tokens or 0
    if group.kind is CellKind.CHUNKED:
        return ceil_div(boundary, reach) * reach + 1
    return boundary + reach
