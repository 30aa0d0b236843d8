"""Leading blocks of a prompt that each replica has cached, as its own KV events report them.

Engines name blocks by hashes of their own, which differ by version and configuration. Every event
also has the block's tokens and the block before it. So blocks are keyed here by a chain over their
tokens, which a request's tokens give too. An engine's hashes are only used to find a block again:
as a parent, or to remove it.

A block whose parent is unknown, because events were lost, cannot be keyed, nor can the blocks that
follow it. Such blocks are counted, and nothing is guessed. A prompt that is on its way to a replica
counts as cached there (``sent``, ``ended``), so that a second request with the same prompt follows
it before any event comes.
"""

from collections.abc import Sequence
from hashlib import blake2b

from memroute.traffic.prefixes.holders import BlockHolders


class BlockIndex:
    """Owns the blocks that replicas have reported; bounded by what they hold."""

    def __init__(self) -> None:
        self._holders = BlockHolders()
        self._known: dict[str, dict[int | bytes, int]] = {}
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

    def num_blocks(self, replica: str) -> int:
        """Blocks that it holds."""
        return len(self._known.get(replica, ()))

    def names(self, replica: str) -> list[int | bytes]:
        """What it calls the blocks that it holds."""
        return list(self._known.get(replica, ()))

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """Leading blocks of the prompt that each followed replica has."""
        return self._holders.match(keys)

    def match_sent(self, keys: Sequence[int]) -> dict[str, int]:
        """The same of what is on its way to them; these keys may be of other blocks."""
        return self._sent.match(keys)

    # What replicas tell.

    def follow(self, replica: str) -> None:
        """Its events are heard from now on; what was known of it is forgotten."""
        self.forget(replica)
        self._known[replica] = {}
        self._counts[replica] = {}

    def stored(
        self,
        replica: str,
        hashes: Sequence[int | bytes],
        *,
        parent: int | bytes | None,
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
        key = root
        if parent is not None:
            told = known.get(parent)
            if told is None:
                self.num_orphans += len(hashes)
                return
            key = told
        bit = self._holders.bit(replica)
        counts = self._counts[replica]
        for index, name in enumerate(hashes):
            start = index * block_tokens
            tokens = tuple(token_ids[start : start + block_tokens])
            salt = salts[index] if index < len(salts) else None
            key = next_key(key, tokens, salt)
            if name in known:
                continue
            known[name] = key
            counts[key] = counts.get(key, 0) + 1
            self._holders.add(key, bit)

    def removed(self, replica: str, hashes: Sequence[int | bytes]) -> None:
        """Blocks are cached no more."""
        known = self._known.get(replica)
        if known is None:
            return
        counts = self._counts[replica]
        bit = self._holders.bit(replica)
        for name in hashes:
            key = known.pop(name, None)
            if key is None:
                continue
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
                self._holders.drop(key, bit)

    def cleared(self, replica: str) -> None:
        """Its cache is empty."""
        if replica in self._known:
            self._drop_all(replica)
            self._known[replica] = {}
            self._counts[replica] = {}

    def forget(self, replica: str) -> None:
        """It is gone, or is not heard any more."""
        if replica in self._known:
            self._drop_all(replica)
            del self._known[replica]
            del self._counts[replica]
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

    def _drop_all(self, replica: str) -> None:
        bit = self._holders.bit(replica)
        for key in self._counts[replica]:
            self._holders.drop(key, bit)


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
