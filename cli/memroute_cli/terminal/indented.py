"""Sentences below what they belong to."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


class Indented:
    """A sentence ``by`` characters from the left; all lines but its first ``further`` more."""

    def __init__(self, text: str, *, by: int, further: int = 0) -> None:
        self.text = text
        self.by = by
        self.further = further

    def lines(self, width: int) -> list[str]:
        """In lines of at most that many characters, without blanks at their ends."""
        return [
            line
            for part in self.text.splitlines()
            for line in textwrap.wrap(
                part,
                width,
                initial_indent=" " * self.by,
                subsequent_indent=" " * (self.by + self.further),
                break_on_hyphens=False,
            )
        ]

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[RenderableType]":
        """For rich: each line as it is."""
        from rich.text import Text  # noqa: PLC0415 - rich asks, so it is there

        for line in self.lines(options.max_width):
            yield Text(line, no_wrap=True, overflow="ignore")
