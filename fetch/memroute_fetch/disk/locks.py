"""Locks between programs: flock on a file that is never removed.

The kernel gives a lock back when its holder ends, however it ends: no lock outlives a killed
program, and none needs a heartbeat. On NFS the server does the same when the client is gone.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.remotes.remote import Pause

LOGGER = logging.getLogger(__name__)
# Seconds between two looks at a lock that somebody else has, chosen by hand: a waiter tells
# its progress at the same pace.
POLL_SECONDS = 0.5
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def try_lock(path: Path, *, is_shared: bool = False) -> Iterator[bool]:
    """Whether the lock is held, until the context ends; False when somebody else has it.

    Raises ``FetchError`` where the file system has no locks, and ``OSError``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        yield _take(descriptor, path, is_shared=is_shared)
    finally:
        os.close(descriptor)


@contextmanager
def lock(
    path: Path, pause: Pause, on_wait: Callable[[], None], *, is_shared: bool = False
) -> Iterator[None]:
    """The lock, as soon as nobody else has it; ``on_wait`` is called while somebody has."""
    is_told = False
    while True:
        with try_lock(path, is_shared=is_shared) as is_held:
            if is_held:
                yield
                return
        if not is_told:
            LOGGER.info("another program has %s: this one waits", path)
            is_told = True
        on_wait()
        pause(POLL_SECONDS)


def _take(descriptor: int, path: Path, *, is_shared: bool) -> bool:
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _NO_LOCKS:
            message = (
                f"the file system of {path.parent} has no locks ({os.strerror(error.errno or 0)}), "
                f"so that two programs could write one file: use a volume that has (flock)"
            )
            raise FetchError(ExitCode.CACHE_UNUSABLE, message) from error
        raise
    return True
