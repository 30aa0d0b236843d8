"""Blocks that replicas keep behind their devices, as their KV events tell: on hosts, and storage.

vLLM tells of a *chunk*, some blocks that are moved as one, by the hash of its last block and
nothing else. The hash is the one that the device's events had, so a name that was told with its
tokens once is enough; a name that is not known yet waits until an event of the device has it. With
``self_describing_kv_events`` a chunk is told by the hashes and tokens of all its blocks. Chunks
that share blocks tell those again: names are counted.

How many blocks make a chunk nobody tells: it is the greatest number that divides the places at
which chunks end. A lookup of the engine takes whole chunks, from the one on in which the device's
hit ends, so what counts here is whether a chunk's last block is there.

An event that the cache was cleared does not say whether the host was: vLLM's
``/reset_prefix_cache`` clears it only with ``reset_connector``, a sleep always does. What was known
stays, and is doubted: a chunk that is stored again although it was there shows that it was gone,
and all that was doubted with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from typing import Final

from memroute.traffic.prefixes.holders import BlockHolders, ReplicaBits
from memroute.traffic.prefixes.tiers import Tier

Name = int | bytes
Known = tuple[int, int]
"""Key of a block, and its place in its chain: 1 for the first."""

_BOTH: Final = (Tier.HOST, Tier.STORAGE)


class _Doubt:
    """What an event has made doubtful that was not before."""

    __slots__ = ("before", "names", "number")

    def __init__(self, names: set[Name], before: "_Doubt | None") -> None:
        self.names = names
        self.before = before
        """What was doubted already when the event came, and is as doubtful by it."""
        self.number: int = 0 if before is None else before.number + 1


class _Block:
    """One block by an engine's name for it."""

    __slots__ = ("doubt", "is_end", "key", "on_host", "on_storage", "place")

    def __init__(self) -> None:
        self.doubt: _Doubt | None = None
        """The first that was told of it; None: nothing says that it may be gone."""
        self.key = 0
        self.place = 0
        """0: nobody has told its tokens yet."""
        self.is_end = False
        """Whether a chunk ends with it."""
        self.on_host = 0
        """How many chunks there have it."""
        self.on_storage = 0

    def count(self, tier: Tier) -> int:
        return self.on_host if tier is Tier.HOST else self.on_storage

    def add(self, tier: Tier, change: int) -> None:
        if tier is Tier.HOST:
            self.on_host += change
        else:
            self.on_storage += change


class _Replica:
    """What one replica keeps behind its device."""

    __slots__ = ("blocks", "chunk_blocks", "host", "storage")

    def __init__(self) -> None:
        self.blocks: dict[Name, _Block] = {}
        self.host: dict[int, int] = {}
        """Names by key: ranks name the same block apart."""
        self.storage: dict[int, int] = {}
        self.chunk_blocks = 0
        """Blocks of a chunk; 0 while nobody has told of any."""

    def counts(self, tier: Tier) -> dict[int, int]:
        return self.host if tier is Tier.HOST else self.storage


class OffloadedBlocks:
    """Owns what is known of hosts and storage; bounded by what they hold."""

    def __init__(self) -> None:
        self._bits = ReplicaBits()
        self._host = BlockHolders(self._bits)
        self._storage = BlockHolders(self._bits)
        self._replicas: dict[str, _Replica] = {}

    def tells(self, replica: str) -> bool:
        """Whether it has told of anything behind its device since it is heard."""
        return replica in self._replicas

    def num_blocks(self, replica: str, tier: Tier) -> int:
        """Blocks whose place in a prompt is known."""
        one = self._replicas.get(replica)
        return 0 if one is None else len(one.counts(tier))

    def names(self, replica: str) -> list[Name]:
        """What it calls the blocks that it keeps there."""
        one = self._replicas.get(replica)
        return [] if one is None else list(one.blocks)

    def known(self, replica: str, name: Name) -> Known | None:
        """Which block that is, where it is kept there and has been told."""
        one = self._replicas.get(replica)
        block = None if one is None else one.blocks.get(name)
        return (block.key, block.place) if block is not None and block.place else None

    def behind(
        self, keys: Sequence[int], on_device: Mapping[str, int]
    ) -> dict[str, tuple[int, int]]:
        """Blocks of a prompt that each replica's host has, and its storage, behind its device.

        ``on_device``: leading blocks that its device has. Consecutive, in whole chunks; who has
        none is not in it.
        """
        found: dict[str, tuple[int, int]] = {}
        if not len(self._host) and not len(self._storage):
            return found
        by_size: dict[int, dict[int, int]] = {}
        for replica, one in self._replicas.items():
            size = one.chunk_blocks
            if size:
                starts = by_size.setdefault(size, {})
                first = on_device.get(replica, 0) // size
                starts[first] = starts.get(first, 0) | self._bits.bit(replica)
        for size, starts in by_size.items():
            for replica, end in self._ends(keys, size, starts).items():
                begin = on_device.get(replica, 0)
                if end > begin:
                    stored = self._only_stored(keys, replica, size, begin, end)
                    found[replica] = end - begin - stored, stored
        return found

    # What replicas tell.

    def stored(
        self, replica: str, tier: Tier, name: Name, known: Known | None, *, is_end: bool = True
    ) -> None:
        """A block is kept there; ``known``: which it is, where that was told."""
        one = self._replicas.get(replica)
        if one is None:
            one = self._replicas[replica] = _Replica()
        block = one.blocks.get(name)
        if block is None:
            block = one.blocks[name] = _Block()
        elif is_end and block.count(tier) and block.doubt is not None:
            self._disprove(replica, block.doubt)
            block = one.blocks.setdefault(name, block)
        block.is_end |= is_end
        if known is not None and not block.place:
            self._identify(replica, one, block, known)
        elif block.place and is_end:
            one.chunk_blocks = gcd(one.chunk_blocks, block.place)
        block.add(tier, 1)
        if block.count(tier) == 1 and block.place:
            self._hold(replica, one, block, tier)

    def identified(self, replica: str, name: Name, known: Known) -> None:
        """An event of the device has told which block that is."""
        one = self._replicas.get(replica)
        block = None if one is None else one.blocks.get(name)
        if one is not None and block is not None and not block.place:
            self._identify(replica, one, block, known)

    def chunk(self, replica: str, num_blocks: int) -> None:
        """A chunk of so many blocks was told whole."""
        one = self._replicas.get(replica)
        if one is not None:
            one.chunk_blocks = gcd(one.chunk_blocks, num_blocks)

    def removed(self, replica: str, tier: Tier, names: Iterable[Name]) -> None:
        """Blocks are there no more, as far as one chunk that had them goes."""
        one = self._replicas.get(replica)
        if one is None:
            return
        for name in names:
            block = one.blocks.get(name)
            if block is None or not block.count(tier):
                continue
            block.add(tier, -1)
            if block.count(tier):
                continue
            if block.place:
                self._let_go(replica, one, block, tier)
            if not block.on_host and not block.on_storage:
                self._forget_name(one, name)

    def dropped(self, replica: str, names: Iterable[Name], tiers: Sequence[Tier] = _BOTH) -> None:
        """Whatever was told of them there is gone."""
        one = self._replicas.get(replica)
        if one is None:
            return
        for name in names:
            block = one.blocks.get(name)
            if block is None:
                continue
            for tier in tiers:
                if block.count(tier):
                    block.add(tier, -block.count(tier))
                    if block.place:
                        self._let_go(replica, one, block, tier)
            if not block.on_host and not block.on_storage:
                self._forget_name(one, name)

    def doubt(self, replica: str, names: Iterable[Name]) -> None:
        """These may be gone: nobody says. Each is kept once, however often it is doubted."""
        one = self._replicas.get(replica)
        if one is None:
            return
        new: set[Name] = set()
        latest: _Doubt | None = None
        for name in names:
            block = one.blocks.get(name)
            if block is None:
                continue
            before = block.doubt
            if before is None:
                new.add(name)
            elif latest is None or before.number > latest.number:
                latest = before
        if new:
            doubt = _Doubt(new, latest)
            _leave_out_empty(doubt)
            for name in new:
                one.blocks[name].doubt = doubt

    def forget(self, replica: str) -> None:
        """It is gone, or is not heard any more."""
        if replica in self._replicas:
            self.dropped(replica, self.names(replica))
            del self._replicas[replica]
            self._bits.forget(replica)

    # Inside.

    def _ends(self, keys: Sequence[int], size: int, starts: dict[int, int]) -> dict[str, int]:
        """Where the consecutive chunks end, in blocks, of replicas by their first chunk."""
        ends: dict[str, int] = {}
        left, chunk = 0, min(starts)
        while True:
            left |= starts.pop(chunk, 0)
            end = (chunk + 1) * size
            has = 0
            if end <= len(keys):
                key = keys[end - 1]
                has = self._host.of(key) | self._storage.of(key)
            self._bits.note(ends, left & ~has, chunk * size)
            left &= has
            if left:
                chunk += 1
            elif starts:
                chunk = min(starts)
            else:
                return ends

    def _only_stored(
        self, keys: Sequence[int], replica: str, size: int, begin: int, end: int
    ) -> int:
        """Blocks between these whose chunks only the storage has."""
        if not self._replicas[replica].storage:
            return 0
        bit = self._bits.bit(replica)
        count = 0
        for last in range((begin // size + 1) * size, end + 1, size):
            if not self._host.of(keys[last - 1]) & bit:
                count += last - max(begin, last - size)
        return count

    def _identify(self, replica: str, one: _Replica, block: _Block, known: Known) -> None:
        block.key, block.place = known
        if block.is_end:
            one.chunk_blocks = gcd(one.chunk_blocks, block.place)
        for tier in _BOTH:
            if block.count(tier):
                self._hold(replica, one, block, tier)

    def _hold(self, replica: str, one: _Replica, block: _Block, tier: Tier) -> None:
        counts = one.counts(tier)
        counts[block.key] = counts.get(block.key, 0) + 1
        holders = self._host if tier is Tier.HOST else self._storage
        holders.add(block.key, self._bits.bit(replica))

    def _let_go(self, replica: str, one: _Replica, block: _Block, tier: Tier) -> None:
        counts = one.counts(tier)
        counts[block.key] -= 1
        if not counts[block.key]:
            del counts[block.key]
            holders = self._host if tier is Tier.HOST else self._storage
            holders.drop(block.key, self._bits.bit(replica))

    def _forget_name(self, one: _Replica, name: Name) -> None:
        doubt = one.blocks.pop(name).doubt
        if doubt is not None:
            doubt.names.discard(name)

    def _disprove(self, replica: str, doubt: _Doubt) -> None:
        """What is stored again was gone; and so was all that was doubted with it."""
        names: list[Name] = []
        each: _Doubt | None = doubt
        while each is not None:
            names += each.names
            each = each.before
        self.dropped(replica, names)


def _leave_out_empty(doubt: _Doubt) -> None:
    """What was doubted before and is gone by now is no part of the chain any more."""
    each = doubt
    before = each.before
    while before is not None:
        if before.names:
            each = before
        else:
            each.before = before.before
        before = each.before
