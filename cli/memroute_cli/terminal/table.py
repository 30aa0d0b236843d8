"""Tables that fit a line: names give way in their middle, numbers are never cut.

```text
1. every column as wide as its widest cell
2. too wide: the column of names with the most characters gives one, until all is as wide as the
   line or has its least width
3. still too wide: the last column, where it is one of sentences, is folded below itself
```
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

GAP = "  "
ELLIPSIS = "…"
# Of a sentence's column, characters: below that it reads like a newspaper's edge.
LEAST_SENTENCE = 24
# Of what is before the last slash of a name, characters: three, an ellipsis, three.
LEAST_HEAD = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table."""

    name: str
    is_number: bool = False
    """Right-aligned."""
    least: int | None = None
    """Of names: characters that it keeps, the others give way in the middle. None: all."""
    is_word: bool = False
    """Of names: they give way at their end, because what a word begins with is what it says."""
    is_sentence: bool = False
    """The last column alone: folded into what is left of the line."""
    is_wide: bool = False
    """Shown with ``--wide`` alone."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, one for each column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    is_wide: bool = False

    def lines(self, width: int) -> list[str]:
        """The head and the rows in lines of at most that many characters."""
        shown = [n for n, column in enumerate(self.columns) if self.is_wide or not column.is_wide]
        columns = [self.columns[n] for n in shown]
        rows = [[row[n] for n in shown] for row in self.rows]
        widths = _widths(columns, rows, None if self.is_wide else width)
        heads = [column.name for column in columns]
        return [line for cells in (heads, *rows) for line in _line(columns, cells, widths)]

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[RenderableType]":
        """For rich: the head is bold; a line of ``--wide`` is not broken."""
        from rich.text import Text  # noqa: PLC0415 - rich asks, so it is there

        head, *rows = self.lines(options.max_width)
        yield Text(head, style="bold", no_wrap=True, overflow="ignore")
        for line in rows:
            yield Text(line, no_wrap=True, overflow="ignore")


def elided(text: str, width: int) -> str:
    """The text in at most that many characters: its beginning, ``…`` and its end.

    Of ``NODE/DEVICE`` the node alone gives way while something of it can be told.
    """
    if len(text) <= width:
        return text
    if width <= 1:
        return ELLIPSIS[:width]
    head, slash, tail = text.rpartition("/")
    if slash and (left := width - 1 - len(tail)) >= LEAST_HEAD:
        return f"{elided(head, left)}/{tail}"
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}{ELLIPSIS}{text[len(text) - end :]}"


def shortened(text: str, width: int) -> str:
    """A sentence in one line: its beginning and ``…``."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: max(0, width - 1)].rstrip()}{ELLIPSIS}"


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[int]:
    widths = [
        max([len(column.name), *(len(row[n]) for row in rows)]) for n, column in enumerate(columns)
    ]
    if width is None:
        return widths
    spare = width - len(GAP) * (len(columns) - 1)
    if columns and columns[-1].is_sentence:
        others = sum(widths[:-1])
        widths[-1] = min(widths[-1], max(LEAST_SENTENCE, spare - others))
    while sum(widths) > spare:
        giving = [
            n
            for n, column in enumerate(columns)
            if column.least is not None and widths[n] > max(column.least, len(column.name))
        ]
        if not giving:
            break
        widths[max(giving, key=lambda n: widths[n])] -= 1
    return widths


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    parts = []
    folded: list[str] = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        if column.is_sentence:
            first, *folded = textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
            parts.append(first.ljust(width))
        elif column.is_number:
            parts.append(cell.rjust(width))
        else:
            give = shortened if column.is_word else elided
            text = cell if column.least is None else give(cell, width)
            parts.append(text.ljust(width))
    yield GAP.join(parts).rstrip()
    indent = " " * (sum(widths[:-1]) + len(GAP) * (len(widths) - 1))
    for line in folded:
        yield indent + line
