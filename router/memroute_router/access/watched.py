"""Files that are read again when they change: a Secret that is mounted, a file that is edited.

What cannot be used is said, in the log and by a metric, and what was read before stays in force.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

LOGGER = logging.getLogger(__name__)
# How often files are looked at. Kubernetes takes up to a minute to bring a Secret to its pods.
POLL_SECONDS: Final = 1.0
T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """What differs when one of the files has changed; None for one that is not there.

    A Secret is changed by a link to another folder: the file behind it is another one.
    """
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


class WatchedFile(Generic[T]):
    """One file (and those that it names). Owns when it was read last."""

    def __init__(
        self,
        path: Path,
        read: Callable[[], T],
        apply: Callable[[T], Iterable[Path]],
        *,
        on_reload: Callable[[bool], None],
        errors: type[Exception],
    ) -> None:
        """``read`` takes time, changes nothing, and may raise; it may run in a thread.

        ``apply`` puts what was read in force, and returns the other files that were read.
        ``on_reload``: whether it could be read. ``errors``: those whose words may be told.
        """
        self._path = path
        self._read = read
        self._put_in_force = apply
        self._on_reload = on_reload
        self._errors = errors
        self._paths: tuple[Path, ...] = (path,)
        self._stamp: Stamp = ()

    def load(self) -> None:
        """Read it for the first time. Raises what ``read`` raises."""
        self._stamp = stamp_of(self._paths)
        self._apply(self._read())

    def look(self) -> bool:
        """Read it again if it has changed; whether it had."""
        if not self._has_changed():
            return False
        try:
            self._applied(self._read())
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, it changes nothing
            self._refused(error)
        return True

    async def follow(self) -> None:
        """Apply every change, for ever. It is read in a thread: requests go on meanwhile."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._has_changed():
                continue
            try:
                self._applied(await asyncio.to_thread(self._read))
            except Exception as error:  # noqa: BLE001 - as above
                self._refused(error)

    def _has_changed(self) -> bool:
        stamp = stamp_of(self._paths)
        has_changed = stamp != self._stamp
        # Noted before it is read: what changes meanwhile is read once more.
        self._stamp = stamp
        return has_changed

    def _refused(self, error: Exception) -> None:
        # Words that are not ours could quote the file, and with it a key.
        told = str(error) if isinstance(error, self._errors) else type(error).__name__
        LOGGER.error("not applied, the last good one stays file=%s error=%s", self._path, told)
        self._on_reload(False)

    def _applied(self, found: T) -> None:
        self._apply(found)
        LOGGER.info("applied file=%s", self._path)
        self._on_reload(True)

    def _apply(self, found: T) -> None:
        others = tuple(self._put_in_force(found))
        if others != self._paths[1:]:
            self._paths = (self._path, *others)
            self._stamp = (*self._stamp[:1], *stamp_of(others))
