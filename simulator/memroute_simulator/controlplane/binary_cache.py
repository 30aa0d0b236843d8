"""The folder of binaries that outlives checkouts, and who may write to it."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memroute.sentences import for_stderr


class BinaryError(RuntimeError):
    """A binary is missing and cannot be built; the message says in one sentence why."""


Report = Callable[[str], None]


def report_to_stderr(text: str) -> None:
    """Print a sentence of progress."""
    print(for_stderr(text), file=sys.stderr, flush=True)


def cache_directory() -> Path:
    """The folder that outlives checkouts."""
    if configured := os.environ.get("MEMROUTE_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "memroute"


@contextmanager
def locked(path: Path, report: Report) -> Iterator[None]:
    """One process at a time; the others wait, and say so."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building the same binaries; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
