"""A replica for every key, on which all routers agree without messages: rendezvous hashing.

Every (key, replica) pair has a weight that is a hash of both, and a key's favourite is the replica
of the greatest weight (highest random weight: Thaler and Ravishankar, 1998). Routers that know the
same replicas agree on every key. When a replica goes, only its own keys move. A replica that comes
takes an equal share of all others' keys.

Replicas of unequal KV caches have shares as unequal as those: weight = -size / ln(u), with ``u``
the hash as a number between 0 and 1 (Schindelhauer and Schomaker, 2005).

Keys are hashed into slots, and the ranking of a slot is computed once for a set of replicas. So a
look-up costs the same for any number of replicas.
"""

import hashlib
import math
from collections.abc import Container
from typing import Final

# Slots of keys. With 1,000 replicas each is the favourite of 65 slots, give or take 8: as even as
# prompts are. All of them worked out take some 8 MB a pool.
# Unit: slots. Source: a bound of memory, chosen by hand.
NUM_SLOTS: Final = 1 << 16
# Replicas of a slot that are remembered, the favourite first: those that follow it answer for the
# slot while it is out or cannot hold a request.
# Unit: replicas. Source: chosen by hand.
NUM_RANKED: Final = 3
_MASK: Final = (1 << 64) - 1
_TO_RATIO: Final = 2.0**-64


class OtherRouters:
    """The other routers of the same replicas. Set by ``PeerGroup``, read by every pool."""

    __slots__ = ("num", "num_heard")

    def __init__(self) -> None:
        self.num = 0
        """Number of routers beside this one."""
        self.num_heard = 0
        """Number of those that are heard, so that what they send is known here."""

    @property
    def unheard_ratio(self) -> float:
        """The share (0 to 1) of all routers, this one included, that is not heard."""
        return (self.num - self.num_heard) / (self.num + 1)


class Rendezvous:
    """The favourite replica of a key. Owns the replicas' seeds and the slots worked out so far."""

    __slots__ = ("_seeds", "_sizes", "_slots")

    def __init__(self) -> None:
        self._seeds: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._slots: dict[int, list[str]] = {}

    def add(self, replica: str, size: int = 1) -> None:
        """A replica has come; ``size``: its share of the keys, relative to others' (above 0)."""
        self._seeds[replica] = text_key(replica)
        self._sizes[replica] = size
        self._slots.clear()

    def resize(self, replica: str, size: int) -> None:
        """Change a replica's share; does nothing for an unknown replica."""
        before = self._sizes.get(replica)
        if before is not None and before != size:
            self._sizes[replica] = size
            self._slots.clear()

    def remove(self, replica: str) -> None:
        """A replica has gone: its keys move to the others."""
        if self._seeds.pop(replica, None) is not None:
            del self._sizes[replica]
            self._slots.clear()

    def favourite(self, key: int, among: Container[str]) -> str | None:
        """The first of the key's replicas that is in ``among``; None where none of the first is."""
        slot = mixed(key) % NUM_SLOTS
        ranked = self._slots.get(slot)
        if ranked is None:
            ranked = self._slots[slot] = self._ranked(slot)
        for replica in ranked:
            if replica in among:
                return replica
        return None

    def _ranked(self, slot: int) -> list[str]:
        sizes = self._sizes
        weights = [
            (math.log((mixed(seed ^ (slot + 1)) + 1) * _TO_RATIO) / sizes[replica], replica)
            for replica, seed in self._seeds.items()
        ]
        weights.sort(reverse=True)
        return [replica for _, replica in weights[:NUM_RANKED]]


def text_key(text: str) -> int:
    """A number of 64 bits for a text, the same in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def mixed(value: int) -> int:
    """A number of 64 bits in which every bit depends on every bit of ``value`` (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
