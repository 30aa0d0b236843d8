"""Numbers as people write them: ``32k`` tokens, ``14GB``, ``500ms``; and lists by comma.

```text
tokens   32768, 32k = 32,000, 32K = 32,768, 1m = 1,000,000, 1M = 1,048,576  (vLLM's own rule)
bytes    14GB = 14 x 10^9, 14GiB = 14 x 2^30, and Kubernetes' 14G and 14Gi
seconds  0.5, 500ms, 2s, 1m, 1h
```
"""

import math
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeVar

import typer

from memroute.closeness import did_you_mean

Choice = TypeVar("Choice", bound=StrEnum)

_TOKENS = {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2, "g": 1000**3, "G": 1024**3}
_SECONDS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
# Of what is counted, no number is larger: what a double tells apart. It keeps a slip of the
# keyboard (1e99) from being computed with.
MAX_COUNT = 2**53
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_WRITTEN = re.compile(r"\s*([+-]?(?:\d[\d_,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?)\s*([A-Za-z]*)\s*")
_BYTES = re.compile(r"([kmgt]?)(i?)b?", re.IGNORECASE)


def tokens(text: str | int) -> int:
    """A number of tokens; a number is taken as it is. Raises ``typer.BadParameter``."""
    if isinstance(text, int):
        return text
    number, unit = _split(text, "tokens", "32768, 32k or 1M")
    value = number * _TOKENS[unit] if unit in _TOKENS else None
    if value is None or value != int(value):
        _refuse(text, "tokens", "32768, 32k (thousands), 32K (1,024s) or 1M")
    if abs(value or 0) > MAX_COUNT:
        _refuse(text, "tokens that anybody has", "32768, 32k or 1M")
    return int(value or 0)


def seconds(text: str | float) -> float:
    """A time; a number is taken as it is. Raises ``typer.BadParameter``."""
    if isinstance(text, int | float):
        return text
    number, unit = _split(text, "seconds", "0.5, 500ms or 2s")
    if unit not in _SECONDS:
        _refuse(text, "seconds", "0.5, 500ms, 2s or 1m")
    return number * _SECONDS[unit]


def whole(least: int | None = None) -> Callable[[str | int], int]:
    """A reader of whole numbers (``2000``, ``2k``), of at least that much.

    It raises ``typer.BadParameter``.
    """

    def read(text: str | int) -> int:
        value = _whole(text)
        if value is None or (least is not None and value < least):
            bound = "" if least is None else f" of at least {least}"
            msg = f"{text!r} is no whole number{bound}"
            raise typer.BadParameter(msg)
        return value

    return read


def _whole(text: str | int) -> int | None:
    if isinstance(text, int):
        return text
    match = _WRITTEN.fullmatch(text)
    if match is None or match[2] not in _TOKENS:
        return None
    value = _number(match[1]) * _TOKENS[match[2]]
    return int(value) if abs(value) <= MAX_COUNT and value == int(value) else None


def number(text: str | float) -> float:
    """A number. Raises ``typer.BadParameter``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"{text!r} is no number"
        raise typer.BadParameter(msg)
    return value


def one_of(kind: type[Choice]) -> Callable[[str], Choice]:
    """A reader of these words, in any case. It raises ``typer.BadParameter``."""

    def read(text: str) -> Choice:
        names = [member.value for member in kind]
        if text.casefold() in names:
            return kind(text.casefold())
        msg = f"{text!r}: one of {', '.join(names)}{did_you_mean(text, names)}"
        raise typer.BadParameter(msg)

    return read


def bytes_of(text: str) -> int | None:
    """Bytes, or None where it is not written as a size (it may be the name of a file)."""
    match = _WRITTEN.fullmatch(text)
    unit = None if match is None else _BYTES.fullmatch(match[2])
    if match is None or unit is None:
        return None
    base = 1024 if unit[2] else 1000
    return int(_number(match[1]) * base ** _POWERS[unit[1].casefold()])


def comma_list(values: Iterable[str] | None) -> list[str]:
    """``-a H100,L40S -a L4`` as one list, in that order, each once.

    Raises ``typer.BadParameter`` where something was given that names nothing.
    """
    given = list(values or ())
    parts = (part.strip() for value in given for part in value.split(","))
    found = list(dict.fromkeys(part for part in parts if part))
    if given and not found:
        msg = f"{given[0]!r} names nothing: leave it out, or name one"
        raise typer.BadParameter(msg)
    return found


def _split(text: str, what: str, examples: str) -> tuple[float, str]:
    match = _WRITTEN.fullmatch(text)
    if match is None:
        _refuse(text, what, examples)
        return 0.0, ""
    return _number(match[1]), match[2]


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("_", ""))


def _refuse(text: str, what: str, examples: str) -> None:
    msg = f"{text!r} is no number of {what}: write it as {examples}"
    raise typer.BadParameter(msg)
