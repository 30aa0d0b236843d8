"""Values of a document that somebody has written, with what is wrong with them.

Nothing here repeats a value: where one stands that does not belong there, it may be a key.
"""

import re
from datetime import UTC, date, datetime
from typing import Any, Final

from memroute_router.lifecycle.claims import MAX_PRIORITY, MAX_TENANT_BYTES

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]*")
_MAX_COUNT: Final = 10**12
# Characters of an unknown field that are told: a longer one could be a key.
_MAX_TOLD_CHARACTERS: Final = 21


class DocumentReader:
    """Reads the values of a document. Owns the list of what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def mapping(self, document: Any, where: str, known: set[str]) -> dict[str, Any]:
        """The document as a mapping of known fields."""
        if not isinstance(document, dict):
            self.problems.append(f"{where} must be a mapping of {', '.join(sorted(known))}")
            return {}
        for name in document:
            if name not in known:
                is_short = isinstance(name, str) and len(name) <= _MAX_TOLD_CHARACTERS
                told = name if is_short else "…"
                self.problems.append(
                    f"{where}.{told} is unknown; known: {', '.join(sorted(known))}"
                )
        return document

    def list(self, document: dict[str, Any], name: str, where: str) -> list[Any]:
        """The field's list; empty without one."""
        value = document.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problems.append(f"{where}.{name} must be a list")
            return []
        return value

    def name(self, document: dict[str, Any], name: str, where: str) -> str | None:
        """The field as a name that logs, metrics and header fields can carry."""
        value = document.get(name)
        if (
            not isinstance(value, str)
            or len(value) > MAX_TENANT_BYTES
            or _NAME.fullmatch(value) is None
        ):
            self.problems.append(
                f"{where}.{name} must be a text of letters, digits and ._:@/-, at most "
                f"{MAX_TENANT_BYTES} characters"
            )
            return None
        return value

    def text(self, document: dict[str, Any], name: str, where: str, *, least: int) -> str | None:
        """The field as a printable text of ``least`` characters or more; None without one."""
        value = document.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) < least or not value.isprintable():
            self.problems.append(f"{where}.{name} must be a text of at least {least} characters")
            return None
        return value

    def flag(self, document: dict[str, Any], name: str, where: str) -> bool:
        """The field as a truth value; false without one."""
        value = document.get(name, False)
        if not isinstance(value, bool):
            self.problems.append(f"{where}.{name} must be true or false")
            return False
        return value

    def count(self, document: dict[str, Any], name: str, where: str) -> int | None:
        """The field as a whole number above 0; None without one."""
        value = document.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_COUNT:
            self.problems.append(f"{where}.{name} must be a positive integer")
            return None
        return value

    def priority(self, document: dict[str, Any], name: str, where: str) -> int | None:
        """The field as a priority; None without one."""
        value = document.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_PRIORITY:
            self.problems.append(f"{where}.{name} must be from {-MAX_PRIORITY} to {MAX_PRIORITY}")
            return None
        return value

    def number(self, document: dict[str, Any], name: str, where: str, most: float) -> float | None:
        """The field as a number above 0, at most ``most``; None without one."""
        value = document.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            self.problems.append(f"{where}.{name} must be above 0 and at most {most:g}")
            return None
        return float(value)

    def time(self, document: dict[str, Any], name: str, where: str) -> float | None:
        """The field as seconds since the epoch; None without one."""
        value = document.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                value = None
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if not isinstance(value, datetime):
            self.problems.append(f"{where}.{name} must be a time, like 2027-01-31T00:00:00Z")
            return None
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
