r"""Regular expressions that publishers write, matched in bounded time.

Python's ``re`` tries again from every place where it had a choice: ``(\w+\.?)+$`` takes years over
one name, and nothing else of the process runs. So an expression with few choices is left to ``re``.
One with many is walked by the set of positions that it can have reached, which are at most as many
as the name has characters. Either gives the same answer.
"""

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from memroute.errors import UnknownFormatError, UnsupportedShapeError

# The grammar that ``re`` itself reads: modules of its own, of which nobody has types.
sre: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

# Ways that ``re`` may try over one name: two ``.*`` in a name of 60 characters, and some choices.
# Unit: tries. Source: chosen by hand, a tenth of a millisecond.
MAX_TRIES = 30_000
_NAME_LENGTH, _NUMBER_LENGTH = 60, 3
# Of one expression. Units: characters, repetitions in repetitions. Source: chosen by hand, ten
# times what published checkpoints have.
MAX_CHARACTERS = 20_000
MAX_DEPTH = 3
MAX_REPETITIONS = 1_000
# What a match takes, in matches of a simple expression (half a microsecond). Measured on names of
# 60 characters: ``.*layers.*mlp.*`` 20 µs, ``(\\w+\\.?)+$`` 120 µs.
WALKED, WALKED_DEEPLY = 20, 200
_SINGLE = (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_LOOPS = (*_REPEATS, sre.ASSERT, sre.ASSERT_NOT)
_DIGITS = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression: ``match`` from the beginning of a name, ``search`` anywhere in it."""

    pattern: re.Pattern[str]
    careful: "_Walk | None" = None
    """What matches instead of the pattern, where that might take for ever."""
    cost: int = 1
    """What a match takes, in matches of a simple one."""

    def match(self, name: str) -> bool:
        """Whether a name begins so."""
        if self.careful is not None:
            return self.careful.reached(name, 1) != 0
        return self.pattern.match(name) is not None

    def search(self, name: str) -> bool:
        """Whether there is such a part in a name."""
        if self.careful is not None:
            return self.careful.reached(name, (2 << len(name)) - 1) != 0
        return self.pattern.search(name) is not None


@lru_cache(maxsize=4096)
def expression(text: str) -> Expression:
    """A checkpoint's regular expression.

    Raises ``UnsupportedShapeError`` for what is none, and ``UnknownFormatError`` for one that
    would take too long.
    """
    if len(text) > MAX_CHARACTERS:
        msg = f"a regular expression of {len(text)} characters"
        raise UnknownFormatError(msg)
    try:
        pattern, tree = re.compile(text), parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        msg = f"quantization_config names modules by {text!r:.200}, which is no regular expression"
        raise UnsupportedShapeError(msg) from error
    # A repetition at the very end never has to be tried again.
    is_open = bool(tree) and tree[-1][0] in _REPEATS and len(tree[-1][1][2]) == 1
    if _tries(tree[:-1] if is_open else tree) <= MAX_TRIES:
        return Expression(pattern)
    odd = tree.state.flags & ~re.UNICODE.value
    if odd or not _can_be_walked(tree, 0):
        msg_0 = f"{text!r:.200}, which may take for ever to match,"
        raise UnknownFormatError(msg_0)
    return Expression(pattern, _Walk(tree), WALKED if _depth(tree) <= 1 else WALKED_DEEPLY)


def _depth(items: Iterable[Any]) -> int:
    """Repetitions in repetitions; what lies ahead counts as one."""
    return max(
        ((op in _LOOPS) + max(map(_depth, _parts(op, what)), default=0) for op, what in items),
        default=0,
    )


def _tries(items: Iterable[Any], *, is_repeated: bool = False) -> int:
    """A bound of how often ``re`` tries: each choice multiplies."""
    tries = 1
    for op, what in items:
        repeats = is_repeated or (op in _REPEATS and what[1] > 1)
        inside = [_tries(part, is_repeated=repeats) for part in _parts(op, what)]
        if op is sre.BRANCH:
            tries *= MAX_TRIES if is_repeated else 2 + sum(one - 1 for one in inside)
        elif inside:
            tries *= inside[0]
        if op in _REPEATS and what[0] != what[1]:
            tries *= MAX_TRIES if is_repeated else _ways(what)
        elif op in _REPEATS and what[1] > _NAME_LENGTH:
            tries *= MAX_TRIES
        # A number that says enough, and stays small.
        tries = min(tries, 100 * MAX_TRIES)
    return tries


def _ways(repeat: Sequence[Any]) -> int:
    """How many lengths a repetition may take in a name."""
    _, most, items = repeat
    if most == 1:
        return 2
    is_number = len(items) == 1 and _is_number(*items[0])
    return _NUMBER_LENGTH if is_number else _NAME_LENGTH


def _is_number(op: Any, what: Any) -> bool:
    if op is not sre.IN:
        return False
    return all(
        one == (sre.CATEGORY, sre.CATEGORY_DIGIT)
        or (one[0] is sre.RANGE and chr(one[1][0]) in _DIGITS and chr(one[1][1]) in _DIGITS)
        for one in what
    )


def _parts(op: Any, what: Any) -> Sequence[Any]:
    """The expressions inside one item."""
    if op is sre.BRANCH:
        return list(what[1])
    if op is sre.SUBPATTERN:
        return [what[3]]
    if op in _REPEATS:
        return [what[2]]
    return [what[1]] if op in (sre.ASSERT, sre.ASSERT_NOT) else []


_WALKED = (
    *_SINGLE, sre.BRANCH, sre.SUBPATTERN, *_REPEATS, sre.ASSERT, sre.ASSERT_NOT, sre.AT,
)  # fmt: skip


def _can_be_walked(items: Iterable[Any], depth: int) -> bool:
    for op, what in items:
        is_deeper = op in _LOOPS
        if op not in _WALKED or depth + is_deeper > MAX_DEPTH:
            return False
        if op in (sre.ASSERT, sre.ASSERT_NOT) and what[0] < 0:
            return False
        if op is sre.SUBPATTERN and (what[1] or what[2]):
            return False
        if op in _REPEATS and what[0] > MAX_REPETITIONS:
            return False
        if not all(_can_be_walked(part, depth + is_deeper) for part in _parts(op, what)):
            return False
    return True


@dataclass(slots=True, eq=False)
class _Walk:
    """Positions are bits of a number: bit 3 is set where three characters have been read."""

    tree: Any
    members: dict[tuple[int, str], bool] = field(default_factory=dict)
    """Whether a character is in a set, asked once."""

    def reached(self, name: str, starts: int) -> int:
        """Where the expression may end in a name, from any of the starts."""
        return self._all(self.tree, name, starts)

    def _all(self, items: Iterable[Any], name: str, at: int) -> int:
        for op, what in items:
            at = self._one(op, what, name, at)
            if not at:
                return 0
        return at

    def _one(self, op: Any, what: Any, name: str, at: int) -> int:
        if op in _SINGLE:
            return (at & self._read(op, what, name)) << 1
        if op is sre.BRANCH:
            found = 0
            for part in what[1]:
                found |= self._all(part, name, at)
            return found
        if op is sre.SUBPATTERN:
            return self._all(what[3], name, at)
        if op in _REPEATS:
            return self._repeat(what, name, at)
        if op is sre.AT:
            return at & _places(what, name)
        # What lies ahead is looked at from each position.
        ahead = sum(one for one in _bits(at) if self._all(what[1], name, one))
        return ahead if op is sre.ASSERT else at & ~ahead

    def _read(self, op: Any, what: Any, name: str) -> int:
        """Positions before a character that fits."""
        if op is sre.ANY:
            return (1 << len(name)) - 1
        places = _characters(name)
        if op is not sre.IN:
            fitting = places.get(chr(what), 0)
            return fitting if op is sre.LITERAL else ((1 << len(name)) - 1) & ~fitting
        found = 0
        for character, positions in places.items():
            key = (id(what), character)
            known = self.members.get(key)
            if known is None:
                known = self.members[key] = _is_in(what, character)
            found |= positions if known else 0
        return found

    def _repeat(self, what: Any, name: str, at: int) -> int:
        least, most, items = what
        for _ in range(least):
            at = self._all(items, name, at)
            if not at:
                return 0
        if most is sre.MAXREPEAT and len(items) == 1 and items[0][0] in _SINGLE:
            return _spread(at, self._read(items[0][0], items[0][1], name) << 1)
        found = new = at
        count = int(least)
        while new and count < most:
            new = self._all(items, name, new) & ~found
            found |= new
            count += 1
        return found


@lru_cache(maxsize=4096)
def _characters(name: str) -> dict[str, int]:
    """The positions of each character of a name."""
    found: dict[str, int] = {}
    for index, character in enumerate(name):
        found[character] = found.get(character, 0) | 1 << index
    return found


def _spread(positions: int, open_positions: int) -> int:
    """The positions, and what follows each as long as it is open. Steps double."""
    step = 1
    while open_positions:
        positions |= open_positions & (positions << step)
        open_positions &= open_positions << step
        step *= 2
    return positions


def _bits(positions: int) -> Iterable[int]:
    while positions:
        lowest = positions & -positions
        yield lowest
        positions ^= lowest


def _places(what: Any, name: str) -> int:
    """Where a name begins, ends, or a word of it does."""
    if what in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
        return 1
    if what in (sre.AT_END, sre.AT_END_STRING):
        return 1 << len(name)
    is_word = [False, *(one.isalnum() or one == "_" for one in name), False]
    edges = sum(
        1 << place for place in range(len(name) + 1) if is_word[place] != is_word[place + 1]
    )
    return edges if what is sre.AT_BOUNDARY else ((2 << len(name)) - 1) & ~edges


def _is_in(members: Sequence[Any], character: str) -> bool:
    is_negated = members[0][0] is sre.NEGATE
    found = any(_is_member(op, what, character) for op, what in members if op is not sre.NEGATE)
    return found != is_negated


def _is_member(op: Any, what: Any, character: str) -> bool:
    if op is sre.LITERAL:
        return ord(character) == int(what)
    if op is sre.RANGE:
        return int(what[0]) <= ord(character) <= int(what[1])
    by_category = {
        sre.CATEGORY_DIGIT: character.isdecimal(),
        sre.CATEGORY_SPACE: character.isspace(),
        sre.CATEGORY_WORD: character.isalnum() or character == "_",
    }
    if what in by_category:
        return by_category[what]
    opposite = {
        sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT, sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
        sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
    }  # fmt: skip
    return not by_category[opposite[what]]
