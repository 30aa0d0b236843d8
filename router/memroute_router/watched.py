"""Files that are read again when they change: a Secret that is mounted, a file that is edited.

What cannot be used is told, in the log and to whoever counts, and what was read before stays in
force. Files that do not fit together yet (a new certificate beside an old key, half way through a
rotation) are read again when the other one has changed, too.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

LOGGER = logging.getLogger(__name__)
# How often files are looked at. Kubernetes takes up to a minute to bring a Secret to its pods.
# Unit: seconds. Source: chosen by hand.
POLL_SECONDS: Final = 1.0
T = TypeVar("T")
Stamp = tuple[tuple[int, int, int, int] | None, ...]


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """What differs when one of the files has changed; None for one that is not there.

    A Secret is changed by a link to another folder: the file behind it is another one. The time of
    its inode tells of a file that may be read again.
    """
    found: list[tuple[int, int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _tell_nobody(_is_applied: bool) -> None:
    """Nobody counts."""


class WatchedFiles(Generic[T]):
    """Files that are read together. Owns when that was last, and which they are."""

    def __init__(
        self,
        what: str,
        paths: Iterable[Path],
        read: Callable[[], T],
        apply: Callable[[T], Iterable[Path]],
        *,
        errors: tuple[type[Exception], ...],
        on_reload: Callable[[bool], None] = _tell_nobody,
        on_bug: Callable[[Exception], None] | None = None,
    ) -> None:
        """``what`` they are, for the log. ``read`` takes time, changes nothing, and may raise.

        ``apply`` puts what was read in force, and returns the other files that were read. ``read``
        may run in a thread, ``apply`` never does. ``errors``: those whose words may be told.
        ``on_bug``: is told of all others; None: of those the log has the kind alone, for their
        words could quote the file, and with it a key. ``on_reload``: whether it is in force.
        """
        self._what = what
        self._named = tuple(paths)
        self._paths = self._named
        self._read = read
        self._put_in_force = apply
        self._errors = errors
        self._on_reload = on_reload
        self._on_bug = on_bug
        self._stamp: Stamp = ()
        self._wanted = asyncio.Event()

    def load(self) -> None:
        """Read them for the first time. Raises what ``read`` and ``apply`` raise."""
        self._stamp = stamp_of(self._paths)
        self._apply(self._read())

    def look(self) -> bool:
        """Read them again if one has changed; whether one had."""
        if not self._has_changed():
            return False
        try:
            self._apply(self._read())
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, it changes nothing
            self._refused(error)
        else:
            self._applied()
        return True

    def reload_soon(self) -> None:
        """Read them again, changed or not."""
        self._wanted.set()

    async def follow(self) -> None:
        """Apply every change, for ever. They are read in a thread: requests go on meanwhile."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                if not self._has_changed():
                    continue
            else:
                self._wanted.clear()
                self._has_changed()
            try:
                self._apply(await asyncio.to_thread(self._read))
            except Exception as error:  # noqa: BLE001 - as above
                self._refused(error)
            else:
                self._applied()

    def _has_changed(self) -> bool:
        stamp = stamp_of(self._paths)
        has_changed = stamp != self._stamp
        # Noted before they are read: what changes meanwhile is read once more.
        self._stamp = stamp
        return has_changed

    def _apply(self, found: T) -> None:
        paths = (*self._named, *self._put_in_force(found))
        if paths != self._paths:
            self._stamp = (*self._stamp[: len(self._named)], *stamp_of(paths[len(self._named) :]))
            self._paths = paths

    def _applied(self) -> None:
        LOGGER.info("%s applied file=%s", self._what, self._told)
        self._on_reload(True)

    def _refused(self, error: Exception) -> None:
        is_told = isinstance(error, self._errors)
        LOGGER.error(
            "%s not applied, the last good one stays file=%s error=%s",
            self._what,
            self._told,
            str(error) if is_told else type(error).__name__,
        )
        if not is_told and self._on_bug is not None:
            self._on_bug(error)
        self._on_reload(False)

    @property
    def _told(self) -> str:
        return ",".join(map(str, self._named))
