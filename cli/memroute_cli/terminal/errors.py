"""What a person typed and cannot be done: one sentence, on stderr, exit status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from memroute.sentences import for_stderr


class UserError(Exception):
    """What was asked makes no sense, or cannot be had; the message is for who asked."""


def tell(sentence: str) -> None:
    """Print a sentence for a person on stderr."""
    sys.stderr.write(for_stderr(sentence) + "\n")


@contextmanager
def told_errors(command: str) -> Iterator[None]:
    """A ``UserError`` inside becomes its sentence and exit status 2."""
    try:
        yield
    except UserError as error:
        tell(f"memroute {command}: {error}")
        raise typer.Exit(2) from None
