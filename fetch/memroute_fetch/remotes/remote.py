"""What a source has: files with sizes and checksums, whose paths can do no harm."""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from memroute_fetch.checksums import Check
from memroute_fetch.failures import ExitCode, FetchError

# Bytes of one name and of a whole path: what file systems allow, with room for a cache's own path.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 2048
# Names that begin so are this program's own.
OWN_PREFIX = ".memroute"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a source, at one version."""

    path: str
    """From the model's own folder: checked by ``checked_path``."""
    size_bytes: int
    identity: str
    """Changes with the content: a hash, or what the store gives instead of one."""
    checks: tuple[Check, ...] = ()
    """What its bytes must hash to; empty where the source says nothing but the size."""
    key: str = ""
    """Its whole name at the source, where that is not the path."""


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes of a file that are on their way."""

    start_bytes: int
    """Where they begin: 0 where the source ignores ranges."""
    total_bytes: int | None
    """How long the source says that the whole file is; None where it does not say."""
    chunks: Iterator[bytes]


class RemoteSizeError(Exception):
    """The source has no byte at an offset where its list says that there is one."""


class RemoteModel(Protocol):
    """A source that is asked. Each method raises ``FetchError`` or ``TransientError``."""

    @property
    def commit(self) -> str | None:
        """The commit, where the source has any."""

    def files(self) -> list[RemoteFile]:
        """All files, in the source's order."""

    def described(self, file: RemoteFile) -> RemoteFile:
        """The file with the checksums that its source tells one by one."""

    def open(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[Body]:
        """The bytes from ``start`` up to ``end``. Raises ``RemoteSizeError`` as well."""


Pause = Callable[[float], None]
"""Waits so many seconds; raises ``StoppedError`` when the program is to end."""


def checked_path(path: str) -> str:
    """The path, when it leads to a file inside of the model's folder. Raises ``FetchError``.

    A tree is written by whoever owns the repository: `../x`, `/etc/x`, a name with a NUL, or
    one of this program's own.
    """
    parts = path.split("/")
    is_bad = (
        not path
        or "\\" in path
        or any(part in {"", ".", ".."} for part in parts)
        or any(part.startswith(OWN_PREFIX) for part in parts)
        or any(unicodedata.category(character) in {"Cc", "Cs"} for character in path)
        or len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES
        or any(len(part.encode("utf-8", "replace")) > MAX_NAME_BYTES for part in parts)
    )
    if is_bad:
        message = (
            f"the source lists a file called {path!r:.120}, which would not lie in the model's own "
            f"folder: nothing of it is fetched; tell its owner"
        )
        raise FetchError(ExitCode.CHECKSUM, message)
    return path


def refuse_clashes(files: list[RemoteFile]) -> None:
    """Two files of one name, or a file where another one needs a folder. Raises ``FetchError``."""
    paths = {file.path for file in files}
    folders = {
        "/".join(parts[:depth])
        for parts in (path.split("/") for path in paths)
        for depth in range(1, len(parts))
    }
    twice = paths & folders
    if len(paths) != len(files) or twice:
        message = f"the source lists {min(twice or paths)!r:.120} twice: tell its owner"
        raise FetchError(ExitCode.CHECKSUM, message)
