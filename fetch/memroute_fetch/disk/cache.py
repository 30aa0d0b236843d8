"""What lies in a cache, and where. Owns no state: everything is on the disk.

```text
CACHE/<directory>/                        a model's files, as an engine wants them
CACHE/<directory>/.memroute-complete.json the model is whole: written last, removed first
CACHE/.memroute/models/<directory>/       what is known of it besides; adapters/… of an adapter
    lock                                  flock: exclusive while it is fetched or evicted
    files.json                            files that are right so far, while it is not whole
    partial/<hash>.part                   bytes so far of one file
    progress.json                         of whoever fetches it, for those who wait
    reservation.json                      bytes that it will have, while it is fetched
    users/<pod>                           a pod that uses it; its time is when it started to
    last-used                             its time is when a program last asked for the model
CACHE/.memroute/room.lock                 flock: while somebody decides what is evicted
```

The operator gives each group of pods that may load the same models a folder of one cache: it is
``public`` or ``namespace-NAME`` (``scopes``). Room is decided for all, under a lock beside them.

Nothing follows a symbolic link: other programs may be able to write into a cache.
"""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from memroute_fetch.disk.records import KeptFile, Marker, journal_of, journal_text, marker_of
from memroute_fetch.remotes.remote import RemoteFile
from memroute_fetch.sources import ADAPTERS_FOLDER, MARKER_NAME

OWN_FOLDER = ".memroute"
MODELS_FOLDER = "models"
# Names of the folders of a cache that several groups of pods share, as the operator gives them.
PUBLIC_SCOPE, NAMESPACE_SCOPE = "public", "namespace-"
# Digits of a partial file's name: a hash of its path and of what it will be.
PART_DIGITS = 32
# Bytes of a marker or journal that are read: 300 a file, of which no model has ten thousand.
MAX_RECORD_BYTES = 16 * 2**20


class ModelFolder:
    """One model's place in a cache."""

    def __init__(self, cache: Path, directory: str) -> None:
        """``directory``: what ``model_directory`` or ``adapter_directory`` gave."""
        self.directory = directory
        self.path = cache / directory
        is_adapter = directory.startswith(f"{ADAPTERS_FOLDER}/")
        self.own = (
            cache / OWN_FOLDER / (directory if is_adapter else f"{MODELS_FOLDER}/{directory}")
        )
        self.lock = self.own / "lock"
        self.users = self.own / "users"
        self.last_used = self.own / "last-used"
        self.progress = self.own / "progress.json"
        self.reservation = self.own / "reservation.json"
        self._journal = self.own / "files.json"
        self._partial = self.own / "partial"

    def marker(self) -> Marker | None:
        """The marker, where the model is whole."""
        text = _read(self.path / MARKER_NAME)
        return None if text is None else marker_of(text)

    def is_unchanged(self, kept: KeptFile) -> bool:
        """Whether the file is on the disk with the size and the time that it was written with."""
        found = self.stat(kept.path)
        return (
            found is not None
            and found.st_size == kept.size_bytes
            and found.st_mtime_ns == kept.mtime_ns
        )

    def stat(self, path: str) -> os.stat_result | None:
        """Of a regular file that is reached through no symbolic link; None where there is none."""
        here = self.path
        try:
            for part in path.split("/")[:-1]:
                here /= part
                if not stat.S_ISDIR(here.lstat().st_mode):
                    return None
            found = (self.path / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def part(self, file: RemoteFile) -> Path:
        """Where the bytes of a file lie until all are there: another version, another name."""
        text = f"{file.path}\0{file.identity}\0{file.size_bytes}"
        return self._partial / f"{hashlib.sha256(text.encode()).hexdigest()[:PART_DIGITS]}.part"

    def partial_sizes(self) -> dict[str, int]:
        """Bytes of each partial file, by name."""
        return {one.name: one.lstat().st_size for one in _entries(self._partial)}

    def begin(self) -> None:
        """Make the folders; until ``finish`` the model is not whole."""
        self.unmark()
        self.path.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir(parents=True, exist_ok=True)
        # Of a killed program: nobody who waits is to be told how far that was.
        self.progress.unlink(missing_ok=True)

    def unmark(self) -> None:
        """The model is not whole any more: what its marker said is noted as right so far."""
        marker = self.marker()
        if marker is not None:
            self.note_kept(marker.files)
        with contextlib.suppress(FileNotFoundError):
            (self.path / MARKER_NAME).unlink()

    def kept(self) -> tuple[KeptFile, ...]:
        """What was right when it was written, of a model that is not whole."""
        text = _read(self._journal)
        return () if text is None else journal_of(text)

    def note_kept(self, files: Iterable[KeptFile]) -> None:
        """Replace what ``kept`` says."""
        replace_text(self._journal, journal_text(files))

    def place(self, part: Path, path: str) -> int:
        """Put a finished file where it belongs; its time in nanoseconds."""
        here = self.path
        for name in path.split("/")[:-1]:
            here /= name
            if _is_other_than_folder(here):
                here.unlink()
            here.mkdir(exist_ok=True)
        target = self.path / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        part.replace(target)
        return target.lstat().st_mtime_ns

    def remove(self, path: str) -> None:
        """A file that is not right."""
        if self.stat(path) is not None:
            (self.path / path).unlink()

    def prune_partial(self, wanted: Iterable[RemoteFile]) -> None:
        """Remove what earlier tries left of other files, or of other versions of these."""
        names = {self.part(file).name for file in wanted}
        for one in _entries(self._partial):
            if one.name not in names:
                _remove(one)

    def finish(self, marker: Marker) -> None:
        """The model is whole: what does not belong to it goes, then the marker comes.

        The marker reaches the disk after everything that it speaks of.
        """
        wanted = {file.path for file in marker.files}
        folders = {
            "/".join(path.split("/")[:depth])
            for path in wanted
            for depth in range(1, path.count("/") + 1)
        }
        self._prune(self.path, "", wanted, folders)
        for name in (*folders, ""):
            sync_folder(self.path / name)
        replace_text(self.path / MARKER_NAME, marker.text(), is_synced=True)
        sync_folder(self.path.parent)
        shutil.rmtree(self._partial, ignore_errors=True)
        for one in (self._journal, self.progress, self.reservation):
            one.unlink(missing_ok=True)

    def evict(self) -> None:
        """Remove the model: its marker first, so that nobody takes half of it for all."""
        (self.path / MARKER_NAME).unlink(missing_ok=True)
        if self.path.is_symlink():
            self.path.unlink()
        elif self.path.exists():
            shutil.rmtree(self.path)
        for one in (self._partial, self.users):
            shutil.rmtree(one, ignore_errors=True)
        for one in (self._journal, self.progress, self.reservation, self.last_used):
            one.unlink(missing_ok=True)

    def num_bytes(self) -> int:
        """Bytes on the disk, of a model that is whole or not."""
        return tree_bytes(self.path) + tree_bytes(self._partial)

    def note_use(self, pod: str | None) -> None:
        """A program has asked for the model just now, for that pod."""
        self.own.mkdir(parents=True, exist_ok=True)
        _touch(self.last_used)
        if pod is not None:
            self.users.mkdir(exist_ok=True)
            _touch(self.users / pod)

    def forget_use(self, pod: str) -> None:
        """That pod uses the model no more."""
        (self.users / pod).unlink(missing_ok=True)

    def _prune(self, folder: Path, prefix: str, wanted: set[str], folders: set[str]) -> None:
        for one in _entries(folder):
            path = f"{prefix}{one.name}"
            if path in folders and not one.is_symlink():
                self._prune(one, f"{path}/", wanted, folders)
            elif path not in wanted and path != MARKER_NAME:
                _remove(one)


def model_folders(cache: Path) -> list[ModelFolder]:
    """Every model and adapter that the cache knows of, whole or not."""
    models = _entries(cache / OWN_FOLDER / MODELS_FOLDER)
    adapters = _entries(cache / OWN_FOLDER / ADAPTERS_FOLDER)
    names = [*(one.name for one in models), *(f"{ADAPTERS_FOLDER}/{one.name}" for one in adapters)]
    return [ModelFolder(cache, name) for name in names]


def scopes(cache: Path) -> list[Path]:
    """The caches that share a size and a volume with this one, which is the first of them.

    Told by their names: what else lies beside a cache is none of them.
    """
    if not _is_scope(cache.name):
        return [cache]
    others = [
        one
        for one in _entries(cache.parent)
        if one.name != cache.name and _is_scope(one.name) and _is_folder(one / OWN_FOLDER)
    ]
    return [cache, *others]


def room_lock(cache: Path) -> Path:
    """The lock of whoever decides what is evicted, of all scopes of a cache."""
    return (cache.parent if _is_scope(cache.name) else cache) / OWN_FOLDER / "room.lock"


def _is_scope(name: str) -> bool:
    return name == PUBLIC_SCOPE or name.startswith(NAMESPACE_SCOPE)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def tree_bytes(path: Path) -> int:
    """Bytes of all files below a path, or of a file; links count nothing."""
    total = 0
    for one in _entries(path):
        with contextlib.suppress(FileNotFoundError):
            found = one.lstat()
            if stat.S_ISDIR(found.st_mode):
                total += tree_bytes(one)
            elif stat.S_ISREG(found.st_mode):
                total += found.st_size
    return total


def replace_text(path: Path, text: str, *, is_synced: bool = False) -> None:
    """Write a file so that others see all of it or what was there before."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if is_synced:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the names of a folder on the disk, not only in memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(MAX_RECORD_BYTES).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def _entries(path: Path) -> list[Path]:
    """What lies in a folder, in order; nothing where there is none."""
    try:
        return [] if path.is_symlink() else sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_other_than_folder(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _touch(path: Path) -> None:
    path.touch()
    os.utime(path)
