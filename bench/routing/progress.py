"""Many runs, one after the other: how far they are, and what there is when they end early."""

import sys
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


class IncompleteError(Exception):
    """Not every run could be measured; ``rows`` are of those that were."""

    def __init__(self, why: str, rows: list[Row]) -> None:
        super().__init__(why)
        self.rows = rows


def collect(runs: Iterable[Row | Exception], *, count: int, name: str, by: str) -> list[Row]:
    """What ``count`` runs measured, told on stderr as they end. ``by``: who is measured.

    A run that failed comes as its error. Raises ``IncompleteError`` when there is one, or on an
    interrupt, and what has failed itself where nothing was measured.
    """
    rows: list[Row] = []
    failures: list[Exception] = []
    why = ""
    try:
        for number, row in enumerate(runs, 1):
            if isinstance(row, Exception):
                failures.append(row)
                print(f"\n{name}: {row}", file=sys.stderr)
                continue
            rows.append(row)
            told = f"{name}: {number} of {count} ({row['case']}, {row[by]})"
            print(f"\r{told}".ljust(79), end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        why = f"interrupted after {len(rows)} of {count} runs"
        rows = _without_last_round(rows)
    print(file=sys.stderr)
    if failures and not rows:
        raise failures[0]
    if failures:
        why = why or f"{len(failures)} of {count} runs failed, the first: {failures[0]}"
    if why:
        raise IncompleteError(why, rows)
    return rows


def _without_last_round(rows: list[Row]) -> list[Row]:
    """Rows of rounds in which everybody had a turn: a case and a seed are one."""
    if not rows:
        return []
    last = (rows[-1]["case"], rows[-1]["seed"])
    return [row for row in rows if (row["case"], row["seed"]) != last]
