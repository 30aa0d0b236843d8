"""Leading blocks of a prompt that each replica has cached, as its own KV events report them.

Engines name blocks by hashes of their own, which differ by version and configuration. Every event
also has the block's tokens and the block before it. So blocks are keyed here by a chain over their
tokens, which a request's tokens give too. An engine's hashes are only used to find a block again:
as a parent, or to remove it.

A block whose parent is unknown, because events were lost, cannot be keyed, nor can the blocks that
follow it. Such blocks are counted, and nothing is guessed. A prompt that is on its way to a replica
counts as cached there (``sent``, ``ended``), so that a second request with the same prompt follows
it before any event comes.

What lies behind the device, on hosts and in storage, is kept apart (``offloaded``): a block that
the device has lost may be there still.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from memroute.traffic.prefixes.holders import BlockHolders
from memroute.traffic.prefixes.offloaded_blocks import Known, Name, OffloadedBlocks
from memroute.traffic.prefixes.tiers import Tier

# Names of blocks that a device has just lost, which are kept in case its host tells of them: a
# store is told when its copy has ended, and the device may have let the block go by then. Two steps
# of 8,192 tokens at 16 each are 1,024 blocks; four times that.
# Unit: blocks of one replica. Source: chosen by hand.
MAX_RECENT: Final = 4096


class BlockIndex:
    """Owns the blocks that replicas have reported; bounded by what they hold."""

    def __init__(self) -> None:
        self._holders = BlockHolders()
        self.offloaded = OffloadedBlocks()
        """Blocks on hosts and in storage."""
        self._known: dict[str, dict[Name, Known]] = {}
        self._recent: dict[str, OrderedDict[Name, Known]] = {}
        self._missed: dict[str, set[int]] = {}
        self._counts: dict[str, dict[int, int]] = {}
        self._sent = BlockHolders()
        self._num_sent: dict[str, dict[int, int]] = {}
        self.num_orphans = 0
        """Blocks that could not be keyed, since the start."""
        self.block_tokens = 0
        """Tokens of a block, as the replicas say; 0 while none has."""

    def follows(self, replica: str) -> bool:
        """Whether its events are heard: then what it has is known, not guessed."""
        return replica in self._known

    def is_whole(self, replica: str) -> bool:
        """Whether every event of it was heard, since its engine began: nothing is unknown."""
        return not self._missed.get(replica)

    def num_blocks(self, replica: str, tier: Tier = Tier.DEVICE) -> int:
        """Blocks that it holds there."""
        if tier is not Tier.DEVICE:
            return self.offloaded.num_blocks(replica, tier)
        return len(self._known.get(replica, ()))

    def names(self, replica: str) -> list[Name]:
        """What it calls the blocks that it holds, wherever."""
        known = self._known.get(replica, {})
        return [*known, *(name for name in self.offloaded.names(replica) if name not in known)]

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """Leading blocks of the prompt that each followed replica has."""
        return self._holders.match(keys)

    def match_sent(self, keys: Sequence[int]) -> dict[str, int]:
        """The same of what is on its way to them; these keys may be of other blocks."""
        return self._sent.match(keys)

    def behind(
        self, keys: Sequence[int], on_device: Mapping[str, int]
    ) -> dict[str, tuple[int, int]]:
        """Blocks of the prompt on each replica's host, and in storage, behind ``on_device``."""
        return self.offloaded.behind(keys, on_device)

    # What replicas tell.

    def follow(self, replica: str) -> None:
        """Its events are heard from now on; what was known of it is forgotten."""
        self.forget(replica)
        self._known[replica] = {}
        self._recent[replica] = OrderedDict()
        self._counts[replica] = {}

    def missed(self, replica: str, rank: int) -> None:
        """Events of a rank were lost: what it has beside what it tells is not known."""
        if replica in self._known:
            self._missed.setdefault(replica, set()).add(rank)

    def began(self, replica: str, rank: int) -> None:
        """A rank's events are heard from its engine's first one on."""
        self._missed.get(replica, set()).discard(rank)

    def stored(
        self,
        replica: str,
        hashes: Sequence[Name],
        *,
        parent: Name | None,
        token_ids: Sequence[int],
        block_tokens: int,
        salts: Sequence[object] = (),
        root: int = 0,
    ) -> None:
        """Blocks are cached, one after the other, the first of them after ``parent``.

        ``salts``: of each block, what beside its tokens makes it another (images); ``root``: what
        keeps its chain apart from others (``chain_root``).
        """
        known = self._known.get(replica)
        if known is None or block_tokens <= 0:
            return
        self.block_tokens = block_tokens
        before = self._after(replica, parent, root)
        if before is None:
            self.num_orphans += len(hashes)
            return
        key, place = before
        bit = self._holders.bit(replica)
        counts = self._counts[replica]
        for index, name in enumerate(hashes):
            start = index * block_tokens
            tokens = tuple(token_ids[start : start + block_tokens])
            salt = salts[index] if index < len(salts) else None
            key = next_key(key, tokens, salt)
            place += 1
            if name in known:
                continue
            known[name] = key, place
            counts[key] = counts.get(key, 0) + 1
            self._holders.add(key, bit)
            self.offloaded.identified(replica, name, (key, place))

    def offloaded_to(
        self,
        replica: str,
        tier: Tier,
        hashes: Sequence[Name],
        *,
        parent: Name | None = None,
        token_ids: Sequence[int] = (),
        block_tokens: int = 0,
        salts: Sequence[object] = (),
        root: int = 0,
    ) -> None:
        """Blocks are kept behind the device. Without tokens each hash is the last of its chunk.

        A name that is known is the block that it was; what cannot be named yet waits for an event
        that does.
        """
        if replica not in self._known:
            return
        size = self.block_tokens or block_tokens
        is_whole = block_tokens > 0 and len(token_ids) >= len(hashes) * block_tokens
        if not is_whole or block_tokens % size:
            for name in hashes:
                self.offloaded.stored(replica, tier, name, self._find(replica, name))
            return
        self.block_tokens = size
        # An engine beside the engine may name greater blocks: each is some of the device's.
        per_name = block_tokens // size
        at = self._after(replica, parent, root)
        for index, name in enumerate(hashes):
            if at is not None:
                key, place = at
                salt = salts[index] if index < len(salts) else None
                for start in range(index * block_tokens, (index + 1) * block_tokens, size):
                    key = next_key(key, tuple(token_ids[start : start + size]), salt)
                at = key, place + per_name
            # Which block that is, the device knew better: of images these events tell nothing.
            at = self._find(replica, name) or at
            self.offloaded.stored(replica, tier, name, at, is_end=index == len(hashes) - 1)
        self.offloaded.chunk(replica, per_name * len(hashes))

    def removed(self, replica: str, hashes: Sequence[Name], tier: Tier = Tier.DEVICE) -> None:
        """Blocks are cached no more there; elsewhere they may be still."""
        known = self._known.get(replica)
        if known is None:
            return
        if tier is not Tier.DEVICE:
            self.offloaded.removed(replica, tier, hashes)
            return
        counts = self._counts[replica]
        recent = self._recent[replica]
        bit = self._holders.bit(replica)
        for name in hashes:
            told = known.pop(name, None)
            if told is None:
                continue
            recent[name] = told
            key = told[0]
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
                self._holders.drop(key, bit)
        while len(recent) > MAX_RECENT:
            recent.popitem(last=False)

    def emptied(self, replica: str, names: Sequence[Name], tier: Tier | None) -> None:
        """A tier has lost these, however many chunks had them.

        None: the device has, and whether what lies behind it was cleared too nobody says.
        """
        if tier is None or tier is Tier.DEVICE:
            self.removed(replica, names)
        else:
            self.offloaded.dropped(replica, names, (tier,))
        if tier is None:
            self.offloaded.doubt(replica, names)

    def dropped(self, replica: str, names: Sequence[Name]) -> None:
        """These are nowhere any more."""
        self.removed(replica, names)
        self.offloaded.dropped(replica, names)
        recent = self._recent.get(replica)
        if recent is not None:
            for name in names:
                recent.pop(name, None)

    def cleared(self, replica: str) -> None:
        """Its cache is empty, and whatever lies behind it."""
        if replica in self._known:
            self._drop_all(replica)
            self._known[replica] = {}
            self._recent[replica] = OrderedDict()
            self._counts[replica] = {}

    def forget(self, replica: str) -> None:
        """It is gone, or is not heard any more."""
        if replica in self._known:
            self._drop_all(replica)
            del self._known[replica]
            del self._recent[replica]
            del self._counts[replica]
            self._missed.pop(replica, None)
            self._holders.forget(replica)

    # What is on its way to them.

    def sent(self, replica: str, keys: Sequence[int]) -> None:
        """A prompt of these blocks is under way to it."""
        counts = self._num_sent.setdefault(replica, {})
        bit = self._sent.bit(replica)
        for key in keys:
            counts[key] = counts.get(key, 0) + 1
            self._sent.add(key, bit)

    def ended(self, replica: str, keys: Sequence[int]) -> None:
        """It is under way no more: from now on its events say what is left of it."""
        counts = self._num_sent.get(replica)
        if counts is None:
            return
        bit = self._sent.bit(replica)
        for key in keys:
            left = counts.get(key, 0) - 1
            if left > 0:
                counts[key] = left
            else:
                counts.pop(key, None)
                self._sent.drop(key, bit)
        if not counts:
            del self._num_sent[replica]
            self._sent.forget(replica)

    # Inside.

    def _find(self, replica: str, name: Name) -> Known | None:
        """Which block a replica calls so."""
        told = self._known[replica].get(name) or self.offloaded.known(replica, name)
        return told or self._recent[replica].get(name)

    def _after(self, replica: str, parent: Name | None, root: int) -> Known | None:
        """What a chain goes on from; None where the parent is not known."""
        return (root, 0) if parent is None else self._find(replica, parent)

    def _drop_all(self, replica: str) -> None:
        bit = self._holders.bit(replica)
        for key in self._counts[replica]:
            self._holders.drop(key, bit)
        self.offloaded.forget(replica)


def chain_root(adapter: str = "", salt: str = "") -> int:
    """What a chain begins with: adapters and salts keep caches apart.

    The same in every process, as all keys: Python's hash of a text is not, its hash of numbers is.
    """
    return _text_key(f"{adapter}\0{salt}") if adapter or salt else 0


def next_key(key: int, tokens: tuple[int, ...], salt: object = None) -> int:
    """The key of the block of ``tokens`` that follows the one of ``key``."""
    return hash((key, tokens)) if salt is None else hash((key, tokens, _text_key(repr(salt))))


def _text_key(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def block_keys(token_ids: Sequence[int], block_tokens: int, root: int = 0) -> tuple[int, ...]:
    """Keys of the whole blocks of a prompt."""
    keys = []
    key = root
    for end in range(block_tokens, len(token_ids) + 1, block_tokens):
        key = next_key(key, tuple(token_ids[end - block_tokens : end]))
        keys.append(key)
    return tuple(keys)
