"""Which sizes of requests have had more than their chance: what the objective ``sizes`` needs.

Small requests are easier to serve: one of 500 tokens finds room in a KV cache, and between the
steps of answers under way, where one of 10,000 does not. So under overload small ones pass large
ones, in whatever order they wait. The remedy is feedback: of each class of sizes (within a factor
of two) the share that was given room in time is counted. A class that is above the share of all is
over its chance, and leaves room for the others as a tenant over its share does (``selection``).
What it leaves is what larger ones need, however much that is: nothing here knows why they were
passed. docs/explanation/routing.md has what it does, and what it costs.
"""

from typing import Final

# Requests after which one counts half: enough for a share of each class that noise does not decide,
# few enough to follow the traffic. With 200 the fifths are some 4 points further apart on
# heavy-heterogeneous, and as near on azure-conv.
# Unit: requests. Source: chosen by hand.
HALF_LIFE_REQUESTS: Final = 500.0
# What a request keeps of its weight with each later one.
# Unit: ratio. Source: the half-life.
KEEP_RATIO: Final[float] = 0.5 ** (1.0 / HALF_LIFE_REQUESTS)


def size_class(num_tokens: int) -> int:
    """The class of a request that is expected to hold so many tokens."""
    return num_tokens.bit_length()


class _Chance:
    """What became of one class: counts that fade."""

    __slots__ = ("num_asked", "num_in_time")

    def __init__(self) -> None:
        self.num_asked = 0.0
        self.num_in_time = 0.0


class SizeShares:
    """Owns how many requests of each class came of late, and were given room in time."""

    def __init__(self) -> None:
        self._by_class: dict[int, _Chance] = {}

    def asked(self, size_class: int) -> None:
        """A request came. Linear in the classes, of which there are some fifteen."""
        for chance in self._by_class.values():
            chance.num_asked *= KEEP_RATIO
            chance.num_in_time *= KEEP_RATIO
        self._chance(size_class).num_asked += 1.0

    def in_time(self, size_class: int) -> None:
        """One was given room early enough for its first token to be in time."""
        self._chance(size_class).num_in_time += 1.0

    def is_over(self, size_class: int) -> bool:
        """Whether a greater share of the class than of all were in time."""
        asked = in_time = 0.0
        for chance in self._by_class.values():
            asked += chance.num_asked
            in_time += chance.num_in_time
        own = self._chance(size_class)
        return own.num_in_time * asked > in_time * own.num_asked

    def _chance(self, size_class: int) -> _Chance:
        chance = self._by_class.get(size_class)
        if chance is None:
            chance = self._by_class[size_class] = _Chance()
        return chance
