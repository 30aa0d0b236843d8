"""Where text goes: as wide as the terminal, as COLUMNS says, or 80."""

import os
import sys
from typing import Any

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 80
# With --wide: longer than any line, so that none is broken.
WIDE = 10_000


class Terminal(Console):
    """A console that rather prints a longer line than cuts a number."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does it, without cutting lines off."""
        super().print(*objects, **({"crop": False} | options))


def text_width() -> int:
    """Characters of a line on stdout."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if sys.stdout.isatty():
        return os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH_WITHOUT_TERMINAL
    return WIDTH_WITHOUT_TERMINAL


def open_console(*, is_wide: bool = False) -> Terminal:
    """For stdout. ``is_wide``: lines are as long as they are."""
    return Terminal(width=WIDE if is_wide else text_width(), highlight=False)
