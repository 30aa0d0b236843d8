"""How the log is written: one line for each event, as text or as JSON.

Words that others choose (models, headers, engines' errors) cannot begin a line of their own: what
is not printable (line feeds, U+2028, the escape of terminal codes) is written as an escape.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import orjson

_UNKNOWN: Final = "-"


class LogFormat(StrEnum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


def text_stamp(seconds: float) -> str:
    """The beginning of a line of text. ``seconds`` since the epoch."""
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when.isoformat(sep=' ', timespec='milliseconds')[:23].replace('.', ',')} INFO "


def json_stamp(seconds: float) -> str:
    """The time of a line of JSON, as RFC 3339 has it. ``seconds`` since the epoch."""
    when = datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: int | None) -> str:
    """A count; ``-`` where it is unknown."""
    return _UNKNOWN if value is None else str(value)


def seconds_of(value: float | None) -> str:
    """Seconds to the millisecond; ``-`` where they are unknown."""
    return _UNKNOWN if value is None else f"{value:.3f}"


def one_word(name: str) -> str:
    """A name that somebody else chose: quoted where it is more than one word; ``-`` if empty."""
    if not name:
        return _UNKNOWN
    return name if name.isprintable() and " " not in name and '"' not in name else quoted(name)


def quoted(text: str) -> str:
    """Text of any kind on one line, in quotation marks."""
    return '"' + printable(text).replace('"', "'") + '"'


def printable(text: str) -> str:
    """Text of any kind on one line: what is not printable becomes an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_line(document: dict[str, object]) -> str:
    """A line of JSON; what cannot be written as UTF-8 becomes an escape."""
    try:
        text = orjson.dumps(document).decode()
    except (TypeError, UnicodeEncodeError):
        safe = {
            key: value.encode("utf-8", "backslashreplace").decode()
            if isinstance(value, str)
            else value
            for key, value in document.items()
        }
        text = orjson.dumps(safe, default=str).decode()
    # JSON allows them inside strings; programs that split text into lines do not.
    for char, escape in (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085")):
        if char in text:
            text = text.replace(char, escape)
    return text
