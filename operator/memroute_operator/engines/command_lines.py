"""Words of a command line as Python's argparse takes them, by a table of an engine's flags.

argparse takes any unique beginning of a flag for the flag, ``-qfp8`` for ``-q fp8``, ``=`` for a
space. A check of spellings would miss most of that. So words are parsed, and what they mean is
checked (``ownership``). A flag that a table does not have may be a newer engine's: the words that
follow are taken for its own. Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

_NEGATIVE_NUMBER = re.compile(r"^-\d+$|^-\d*\.\d+$")
# Of -q, -n and -r, whose value may follow without a space.
SHORT_LENGTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag as the engine would take it."""

    name: str
    """Its full name, as ``--max-model-len``; as it was written where nobody knows it."""
    values: tuple[str, ...] = ()
    is_negated: bool = False
    """Whether it was written in its ``--no-`` form."""
    could_be: tuple[str, ...] = ()
    """The names of which it is the beginning, where those are several: the engine refuses it."""
    position: int
    """Of the word in the list, from 0."""
    written: str
    """The word as it was written."""

    @property
    def value(self) -> str | None:
        """Its first value."""
        return self.values[0] if self.values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A word that belongs to no flag."""

    position: int
    written: str


@dataclass(frozen=True, slots=True)
class Word:
    """One word, as argparse sees it."""

    text: str
    position: int
    written: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagTable:
    """The flags that an engine knows, by how many words follow each."""

    spellings: Mapping[str, str]
    """Every spelling that is exact → the flag's name."""
    alone: AbstractSet[str]
    """The flags that no word follows."""
    many: AbstractSet[str]
    """The flags that any number of words may follow."""

    def most_values(self, name: str) -> int:
        """How many words may follow; of a flag that nobody knows, any number."""
        if name in self.alone:
            return 0
        return 1 if self.spellings.get(name) == name and name not in self.many else 2**31


def flag_table(
    *,
    switches: AbstractSet[str],
    toggles: AbstractSet[str],
    values: AbstractSet[str],
    optional: AbstractSet[str],
    lists: AbstractSet[str],
    aliases: Mapping[str, str],
) -> FlagTable:
    """A table of names without their dashes; ``toggles`` have a ``--no-`` form each."""
    names = {
        f"--{name}": f"--{name}" for name in sorted(switches | toggles | values | optional | lists)
    }
    return FlagTable(
        spellings=names | {f"--no-{name}": f"--{name}" for name in sorted(toggles)} | dict(aliases),
        alone=frozenset(f"--{name}" for name in switches | toggles),
        many=frozenset(f"--{name}" for name in lists),
    )


def parse_by_argparse(words: Sequence[Word], table: FlagTable) -> Iterator[Flag | Stray]:
    """The flags of these words, in their order, and the words that belong to none."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word.text == "--":
            for rest in words[position:]:
                yield Stray(position=rest.position, written=rest.written)
            return
        if not _is_flag(word.text, table):
            yield Stray(position=word.position, written=word.written)
            continue
        names, attached, spelling = _matches(word.text, table)
        name = names[0] if len(names) == 1 else word.text.partition("=")[0]
        values: list[str] = [] if attached is None else [attached]
        if attached is None:
            most = table.most_values(name)
            while len(values) < most and position < len(words):
                if _is_flag(words[position].text, table) or words[position].text == "--":
                    break
                values.append(words[position].text)
                position += 1
        yield Flag(
            name=name,
            values=tuple(values),
            is_negated=spelling.startswith("--no-") and name != spelling,
            could_be=tuple(names) if len(names) > 1 else (),
            position=word.position,
            written=word.written,
        )


def _is_flag(text: str, table: FlagTable) -> bool:
    """Whether argparse takes it for a flag, known or not, and not for a value."""
    if not text.startswith("-") or text == "-":
        return False
    if text in table.spellings or text.partition("=")[0] in table.spellings:
        return True
    if _matches(text, table)[0]:
        return True
    return not _NEGATIVE_NUMBER.match(text) and " " not in text


def _matches(text: str, table: FlagTable) -> tuple[list[str], str | None, str]:
    """Names that it may mean, the value that is attached to it, and the spelling that was meant."""
    spellings = table.spellings
    key, equals, value = text.partition("=")
    attached = value if equals else None
    if text in spellings:
        return [spellings[text]], None, text
    if key in spellings:
        return [spellings[key]], attached, key
    found = [spelling for spelling in spellings if spelling.startswith(key)]
    if not text.startswith("--"):
        short, rest = text[:SHORT_LENGTH], text[SHORT_LENGTH:]
        if short in spellings:
            return [spellings[short]], rest.removeprefix("="), short
        # argparse looks for the whole word, its = included.
        found = [spelling for spelling in spellings if spelling.startswith(text)]
        attached = None
    names = list(dict.fromkeys(spellings[spelling] for spelling in found))
    return names, attached, found[0] if len(found) == 1 else key
