"""A word on stderr while something takes its time; only where that is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# ECMA-48: the cursor to the beginning of the line, and the line cleared.
CLEAR = "\r\x1b[K"


@contextmanager
def working(what: str) -> Iterator[None]:
    """``what`` is shown until the block ends, and leaves nothing behind."""
    is_seen = sys.stderr.isatty()
    if is_seen:
        sys.stderr.write(f"{what} …")
        sys.stderr.flush()
    try:
        yield
    finally:
        if is_seen:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
