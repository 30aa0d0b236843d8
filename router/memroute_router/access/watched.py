"""Files that are read again when they change: a Secret that is mounted, a file that is edited.

What cannot be used is said, in the log and by a metric, and what was read before stays in force.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

LOGGER = logging.getLogger(__name__)
# How often files are looked at. Kubernetes takes up to a minute to bring a Secret to its pods.
POLL_SECONDS: Final = 1.0
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


class WatchedFile:
    """One file (and what it names). Owns when it was read last."""

    def __init__(
        self,
        path: Path,
        load: Callable[[], Iterable[Path]],
        *,
        on_reload: Callable[[bool], None],
        errors: type[Exception],
    ) -> None:
        """``load`` reads and applies it; it returns the other files that it has read.

        ``load`` raises ``errors`` and has changed nothing then. ``on_reload``: whether it could.
        """
        self._path = path
        self._load = load
        self._on_reload = on_reload
        self._errors = errors
        self._paths: tuple[Path, ...] = (path,)
        self._stamp: Stamp = ()

    def load(self) -> None:
        """Read it for the first time. Raises what ``load`` raises."""
        self._stamp = stamp_of(self._paths)
        self._read()

    def look(self) -> bool:
        """Read it again if it has changed; whether it had."""
        stamp = stamp_of(self._paths)
        if stamp == self._stamp:
            return False
        # Noted first: what changes while it is read is read once more.
        self._stamp = stamp
        try:
            self._read()
        except self._errors as error:
            LOGGER.error("not applied, the last good one stays file=%s error=%s", self._path, error)  # noqa: TRY400 - the message says it all
            self._on_reload(False)
        else:
            LOGGER.info("applied file=%s", self._path)
            self._on_reload(True)
        return True

    def _read(self) -> None:
        others = tuple(self._load())
        if others != self._paths[1:]:
            self._paths = (self._path, *others)
            self._stamp = (*self._stamp[:1], *stamp_of(others))
