"""Words of a command line as vLLM 0.32's own parser takes them.

vLLM's parser is Python's argparse with more on top (``vllm/utils/argparse_utils.py``): underscores
are dashes, ``--json-flag.key.key value`` is a key of a JSON value, ``-O3`` is a flag and its value.
argparse takes any unique beginning of a flag for the flag, ``-qfp8`` for ``-q fp8``, and ``=`` for
a space. A check of spellings would miss most of that. So words are parsed, and what they mean is
checked (``owned_flags``).

A flag that this table does not have may be a newer vLLM's: the words that follow are taken for its
own. Pure.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from memroute_operator.engines.vllm_flags import (
    ALIASES,
    LISTS,
    OPTIONAL,
    SWITCHES,
    TOGGLES,
    VALUES,
)

_NAMES = {
    f"--{name}": f"--{name}" for name in sorted(SWITCHES | TOGGLES | VALUES | OPTIONAL | LISTS)
}
# Every spelling that is exact → the flag's name.
SPELLINGS = _NAMES | {f"--no-{name}": f"--{name}" for name in sorted(TOGGLES)} | dict(ALIASES)
_ALONE = {f"--{name}" for name in SWITCHES | TOGGLES}
_MANY = {f"--{name}" for name in LISTS}
_KEY = re.compile(r"(?<=--)[^.]*")
_NEGATIVE_NUMBER = re.compile(r"^-\d+$|^-\d*\.\d+$")
OPTIMIZATION_LEVELS = frozenset("0123")
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
    """The names of which it is the beginning, where those are several: vLLM refuses it."""
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
    """A word that belongs to no flag: vLLM would take it for the model."""

    position: int
    written: str


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    """As argparse sees it."""
    position: int
    written: str


def parse_arguments(words: Sequence[str]) -> list[Flag | Stray]:
    """The flags of a command line, in their order; JSON keys of one flag are one value."""
    return list(_by_argparse(_joined_keys(_plain(words))))


def _plain(words: Sequence[str]) -> Iterator[_Word]:
    """Names with dashes; ``-O3`` in two words."""
    for position, written in enumerate(words):
        if written.startswith("--"):
            key, equals, value = written.partition("=")
            key = _KEY.sub(lambda match: match[0].replace("_", "-"), key, count=1)
            yield _Word(key + equals + value, position, written)
        elif written.startswith("-O") and written != "-O":
            yield _Word("--optimization-level", position, written)
            yield _Word(written[3:] if written[2] == "=" else written[2:], position, written)
        elif (
            written == "-O"
            and words[position + 1 : position + 2]
            and (words[position + 1] in OPTIMIZATION_LEVELS)
        ):
            yield _Word("--optimization-level", position, written)
        else:
            yield _Word(written, position, written)


def _joined_keys(words: Iterable[_Word]) -> list[_Word]:
    """``--flag.key value`` as ``--flag {"key": value}``, at the end, as vLLM does."""
    listed = list(words)
    kept: list[_Word] = []
    objects: dict[str, tuple[_Word, dict[str, object]]] = {}
    position = 0
    while position < len(listed):
        word = listed[position]
        position += 1
        key, equals, value = word.text.partition("=")
        if not word.text.startswith("-") or "." not in key:
            kept.append(word)
            continue
        if word.text.startswith("--") and "." not in word.text:
            kept.append(word)
            continue
        if not equals:
            value = listed[position].text if position < len(listed) else ""
            position += 1
        name, *path = key.removesuffix("+").split(".")
        _, found = objects.setdefault(name, (word, {}))
        _set(found, path, value)
    for name, (word, found) in objects.items():
        kept.append(_Word(name, word.position, word.written))
        kept.append(_Word(json.dumps(found), word.position, word.written))
    return kept


def _set(target: dict[str, object], path: Sequence[str], value: str) -> None:
    *parents, last = path
    for name in parents:
        inner = target.get(name)
        if not isinstance(inner, dict):
            inner = target[name] = {}
        target = inner
    target[last] = value


def _by_argparse(words: Sequence[_Word]) -> Iterator[Flag | Stray]:
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word.text == "--":
            for rest in words[position:]:
                yield Stray(position=rest.position, written=rest.written)
            return
        if not _is_flag(word.text):
            yield Stray(position=word.position, written=word.written)
            continue
        names, attached, spelling = _matches(word.text)
        name = names[0] if len(names) == 1 else word.text.partition("=")[0]
        values: list[str] = [] if attached is None else [attached]
        if attached is None:
            most = _most_values(name)
            while len(values) < most and position < len(words):
                if _is_flag(words[position].text) or words[position].text == "--":
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


def _most_values(name: str) -> int:
    """How many words may follow; of a flag that nobody knows, any number."""
    if name in _ALONE:
        return 0
    return 1 if name in _NAMES and name not in _MANY else 2**31


def _is_flag(text: str) -> bool:
    """Whether argparse takes it for a flag, known or not, and not for a value."""
    if not text.startswith("-") or text == "-":
        return False
    if text in SPELLINGS or text.partition("=")[0] in SPELLINGS:
        return True
    if _matches(text)[0]:
        return True
    return not _NEGATIVE_NUMBER.match(text) and " " not in text


def _matches(text: str) -> tuple[list[str], str | None, str]:
    """Names that it may mean, the value that is attached to it, and the spelling that was meant."""
    key, equals, value = text.partition("=")
    attached = value if equals else None
    if text in SPELLINGS:
        return [SPELLINGS[text]], None, text
    if key in SPELLINGS:
        return [SPELLINGS[key]], attached, key
    found = [spelling for spelling in SPELLINGS if spelling.startswith(key)]
    if not text.startswith("--"):
        short, rest = text[:SHORT_LENGTH], text[SHORT_LENGTH:]
        if short in SPELLINGS:
            return [SPELLINGS[short]], rest.removeprefix("="), short
        # argparse looks for the whole word, its = included.
        found = [spelling for spelling in SPELLINGS if spelling.startswith(text)]
        attached = None
    names = list(dict.fromkeys(SPELLINGS[spelling] for spelling in found))
    return names, attached, found[0] if len(found) == 1 else key
