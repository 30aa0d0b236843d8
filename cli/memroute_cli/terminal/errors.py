"""What a person typed and cannot be done: one sentence, on stderr, exit status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


class UserError(Exception):
    """What was asked makes no sense, or cannot be had; the message is for who asked."""


@contextmanager
def told_errors(command: str) -> Iterator[None]:
    """A ``UserError`` inside becomes its sentence and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"memroute {command}: {error}", file=sys.stderr)  # noqa: T201 - what a person reads
        raise typer.Exit(2) from None
