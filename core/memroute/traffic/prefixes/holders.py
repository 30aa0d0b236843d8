"""Which replicas have a block: for every key a set of replicas, as the bits of one number.

A prompt is a chain of block keys, each of all text up to its end. It is matched by walking its keys
while some replica is left, so a walk costs what the longest match is long, whatever the number of
replicas.
"""

from collections.abc import Sequence


class ReplicaBits:
    """Owns which replica is which bit."""

    __slots__ = ("_bits", "_names")

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def bit(self, replica: str) -> int:
        """The replica's bit; taken now when it has none."""
        bit = self._bits.get(replica)
        if bit is None:
            bit = 1
            while bit in self._names:
                bit <<= 1
            self._bits[replica] = bit
            self._names[bit] = replica
        return bit

    def forget(self, replica: str) -> None:
        """The replica is gone, and no set has its bit: that may be another's from now on."""
        bit = self._bits.pop(replica, None)
        if bit is not None:
            del self._names[bit]

    def note(self, found: dict[str, int], replicas: int, depth: int) -> None:
        """Write down for each of a set of replicas how far it matches."""
        while replicas:
            bit = replicas & -replicas
            replicas ^= bit
            found[self._names[bit]] = depth


class BlockHolders:
    """Owns the sets; the same calls give the same answers."""

    __slots__ = ("_bits", "_holders")

    def __init__(self, bits: ReplicaBits | None = None) -> None:
        """``bits``: which replica is which, where several such sets are read together."""
        self._holders: dict[int, int] = {}
        self._bits = bits or ReplicaBits()

    def __len__(self) -> int:
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
            if lost:
                self._bits.note(found, lost, depth)
            left &= has
            if not left:
                return found
            depth += 1
        self._bits.note(found, left, depth)
        return found

    def of(self, key: int) -> int:
        """The replicas that have the block, as bits."""
        return self._holders.get(key, 0)

    def bit(self, replica: str) -> int:
        """The replica's bit; taken now when it has none."""
        return self._bits.bit(replica)

    def add(self, key: int, bit: int) -> None:
        """It has the block."""
        self._holders[key] = self._holders.get(key, 0) | bit

    def drop(self, key: int, bit: int) -> None:
        """It has the block no more."""
        left = self._holders.get(key, 0) & ~bit
        if left:
            self._holders[key] = left
        else:
            self._holders.pop(key, None)

    def forget(self, replica: str) -> None:
        """The replica is gone. Its blocks have to be dropped before: its bit is another's then."""
        self._bits.forget(replica)
