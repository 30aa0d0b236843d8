"""Words of a command line as vLLM 0.32's own parser takes them.

vLLM's parser is Python's argparse with more on top (``vllm/utils/argparse_utils.py``): underscores
are dashes, ``--json-flag.key.key value`` is a key of a JSON value, ``-O3`` is a flag and its value.
What remains is argparse's own (``command_lines``). Pure.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from memroute_operator.engines.command_lines import (
    Flag,
    Stray,
    Word,
    flag_table,
    parse_by_argparse,
)
from memroute_operator.engines.vllm_flags import (
    ALIASES,
    LISTS,
    OPTIONAL,
    SWITCHES,
    TOGGLES,
    VALUES,
)

__all__ = ["SPELLINGS", "Flag", "Stray", "parse_arguments"]

TABLE = flag_table(
    switches=SWITCHES,
    toggles=TOGGLES,
    values=VALUES,
    optional=OPTIONAL,
    lists=LISTS,
    aliases=ALIASES,
)
# Every spelling that is exact → the flag's name.
SPELLINGS = TABLE.spellings
_KEY = re.compile(r"(?<=--)[^.]*")
OPTIMIZATION_LEVELS = frozenset("0123")


def parse_arguments(words: Sequence[str]) -> list[Flag | Stray]:
    """The flags of a command line, in their order; JSON keys of one flag are one value."""
    return list(parse_by_argparse(_joined_keys(_plain(words)), TABLE))


def _plain(words: Sequence[str]) -> Iterator[Word]:
    """Names with dashes; ``-O3`` in two words."""
    for position, written in enumerate(words):
        if written.startswith("--"):
            key, equals, value = written.partition("=")
            key = _KEY.sub(lambda match: match[0].replace("_", "-"), key, count=1)
            yield Word(key + equals + value, position, written)
        elif written.startswith("-O") and written != "-O":
            yield Word("--optimization-level", position, written)
            yield Word(written[3:] if written[2] == "=" else written[2:], position, written)
        elif (
            written == "-O"
            and words[position + 1 : position + 2]
            and (words[position + 1] in OPTIMIZATION_LEVELS)
        ):
            yield Word("--optimization-level", position, written)
        else:
            yield Word(written, position, written)


def _joined_keys(words: Iterable[Word]) -> list[Word]:
    """``--flag.key value`` as ``--flag {"key": value}``, at the end, as vLLM does."""
    listed = list(words)
    kept: list[Word] = []
    objects: dict[str, tuple[Word, dict[str, object]]] = {}
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
        kept.append(Word(name, word.position, word.written))
        kept.append(Word(json.dumps(found), word.position, word.written))
    return kept


def _set(target: dict[str, object], path: Sequence[str], value: str) -> None:
    *parents, last = path
    for name in parents:
        inner = target.get(name)
        if not isinstance(inner, dict):
            inner = target[name] = {}
        target = inner
    target[last] = value
