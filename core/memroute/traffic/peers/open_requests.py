"""The open requests of one peer, by number: those of a range are found without a look at all.

A peer lists its open requests four times a second, twice each, in ranges of some 256. To look at
all for each range took 42 ms a list of 5,000, interpreted: a third of a core for each peer. This
takes 1 ms.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")
# Numbers that are kept together, as a power of two: about as many as one record lists.
# Unit: bits. Source: ``wire.MAX_OPEN``.
_RANGE_BITS: Final = 8


class OpenRequests(Generic[T]):
    """Owns what is known of each, by its number, in ranges of numbers."""

    __slots__ = ("_by_range", "_count")

    def __init__(self) -> None:
        self._by_range: dict[int, dict[int, T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return number in self._by_range.get(number >> _RANGE_BITS, ())

    def get(self, number: int) -> T | None:
        """What is known of one; None: nothing."""
        some = self._by_range.get(number >> _RANGE_BITS)
        return None if some is None else some.get(number)

    def add(self, number: int, request: T) -> None:
        """One that was not known."""
        self._by_range.setdefault(number >> _RANGE_BITS, {})[number] = request
        self._count += 1

    def pop(self, number: int) -> T | None:
        """Forget one; what was known of it, None: nothing."""
        key = number >> _RANGE_BITS
        some = self._by_range.get(key)
        if some is None or number not in some:
            return None
        self._count -= 1
        found = some.pop(number)
        if not some:
            del self._by_range[key]
        return found

    def between(self, first: int, last: int) -> list[tuple[int, T]]:
        """Those of the numbers from ``first`` to ``last``."""
        begin, end = first >> _RANGE_BITS, last >> _RANGE_BITS
        ranges = self._by_range
        if end - begin < len(ranges):
            keys = [key for key in range(begin, end + 1) if key in ranges]
        else:
            keys = [key for key in ranges if begin <= key <= end]
        return [
            (number, request)
            for key in keys
            for number, request in ranges[key].items()
            if first <= number <= last
        ]

    def values(self) -> Iterator[T]:
        """All of them."""
        for some in self._by_range.values():
            yield from some.values()

    def clear(self) -> None:
        """Forget all."""
        self._by_range.clear()
        self._count = 0
