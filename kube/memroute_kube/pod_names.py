"""Many pod names in few words, as the status of a ModelDeployment lists its replicas.

``chat-0..99`` stands for ``chat-0`` to ``chat-99``; ``chat-7-r2`` stands for itself. No name of
Kubernetes has two dots in a row, so nothing is meant twice. 5,000 replicas are one entry while
none is missing, and 25 KB at the worst, when every second one is.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Self

# No index has more digits: what is longer was not written by the operator.
_NUMBER = r"(0|[1-9][0-9]{0,9})"
_NUMBERED = re.compile(rf"(.+)-{_NUMBER}", re.ASCII)
_RANGE = re.compile(rf"(.+)-{_NUMBER}\.\.{_NUMBER}", re.ASCII)


def number_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The numbers as ranges, first and last of each, in order."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def short_names(names: Iterable[str]) -> list[str]:
    """The same names, those that follow each other as one entry; the same for the same names."""
    numbered: dict[str, list[int]] = {}
    others: list[str] = []
    for name in set(names):
        match = _NUMBERED.fullmatch(name)
        if match is None:
            others.append(name)
        else:
            numbered.setdefault(match[1], []).append(int(match[2]))
    entries = [
        f"{prefix}-{first}" if first == last else f"{prefix}-{first}..{last}"
        for prefix, numbers in sorted(numbered.items())
        for first, last in number_ranges(numbers)
    ]
    return entries + sorted(others)


class PodNames:
    """The names that a list of entries stands for. Asked in logarithmic time, never written out.

    What cannot be read is left out: whoever may edit a status may have been there.
    """

    def __init__(self, names: frozenset[str], ranges: dict[str, list[tuple[int, int]]]) -> None:
        self._names = names
        self._ranges = ranges

    @classmethod
    def read(cls, entries: object) -> Self:
        """The names of ``status.pods``, or of whatever is there."""
        names: set[str] = set()
        ranges: dict[str, list[tuple[int, int]]] = {}
        for entry in entries if isinstance(entries, list) else ():
            match = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
            if match is not None:
                ranges.setdefault(match[1], []).append((int(match[2]), int(match[3])))
            elif isinstance(entry, str):
                names.add(entry)
        return cls(frozenset(names), {prefix: _merged(found) for prefix, found in ranges.items()})

    def __contains__(self, name: str) -> bool:
        """Whether the entries stand for this name."""
        if name in self._names:
            return True
        match = _NUMBERED.fullmatch(name)
        if match is None or (ranges := self._ranges.get(match[1])) is None:
            return False
        number = int(match[2])
        at = bisect_right(ranges, number, key=lambda one: one[0]) - 1
        return at >= 0 and number <= ranges[at][1]


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order that do not overlap."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
