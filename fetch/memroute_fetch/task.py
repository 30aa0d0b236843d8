"""One model or adapter into the cache, once: the order of things.

1. Whole already? Then its use is noted, and nothing is asked of anybody.
2. The lock: whoever else fetches it finishes first, and then 1 holds.
3. The source's list, and which of its files an engine needs.
4. Room for what is missing: models that nobody uses leave, the least lately used first.
5. Each file: from the disk where its bytes are right, else from the source.
6. The marker, when every file is in its place and on the disk.

Being used is noted under the lock that eviction needs: a model cannot leave between 1 and the note.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from memroute.units import format_gib
from memroute_fetch.checksums import Hashing, hash_prefix
from memroute_fetch.disk import eviction
from memroute_fetch.disk.cache import ModelFolder
from memroute_fetch.disk.locks import lock
from memroute_fetch.disk.records import KeptFile, Marker
from memroute_fetch.download import Tools, check_file, fetch_file, retried
from memroute_fetch.failures import ExitCode, FetchError, StoppedError
from memroute_fetch.remotes.remote import (
    Pause,
    RemoteFile,
    RemoteModel,
    RemoteSizeError,
    refuse_clashes,
)
from memroute_fetch.selection import INDEX, adapter_files, model_files, needs_index
from memroute_fetch.settings import Settings
from memroute_fetch.sources import Source
from memroute_fetch.telling.noting import Noting
from memroute_fetch.telling.progress import Phase, Progress
from memroute_hub.documents import UnreadableDocumentError, parse_object
from memroute_hub.facts import index_facts

LOGGER = logging.getLogger(__name__)
# Bytes of an index that is read: a mixture of 384 experts has 20 MiB.
MAX_INDEX_BYTES = 64 * 2**20
# Seconds until a signal is seen while threads fetch.
STOP_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be in the cache, and all that fetching it takes."""

    source: Source
    directory: str
    file: str | None
    """The pattern that chooses the GGUF file."""
    is_adapter: bool
    settings: Settings
    progress: Progress
    pause: Pause
    open_remote: Callable[[], RemoteModel]
    """Called when something has to be asked, and not before."""

    @property
    def folder(self) -> ModelFolder:
        """Its place in the cache."""
        return ModelFolder(self.settings.cache, self.directory)


def run_task(task: Task) -> Marker:
    """The whole model. Raises ``FetchError``, ``StoppedError`` and ``OSError``."""
    folder = task.folder
    try:
        with lock(folder.lock, task.pause, lambda: _tell_waiting(task), is_shared=True):
            marker = _whole(task)
            if marker is not None:
                _note_use(task)
                return marker
        with lock(folder.lock, task.pause, lambda: _tell_waiting(task)):
            # Another one may have finished it between the two locks.
            marker = _whole(task) or _fetch(task)
            _note_use(task)
            return marker
    except OSError as error:
        # A volume that is mounted to read from serves when it holds the model.
        marker = _whole(task) if eviction.is_read_only(error) else None
        if marker is None:
            raise
        LOGGER.warning("nobody sees that %s is in use: %s", folder.path, error)
        return marker


def _note_use(task: Task) -> None:
    """The model was asked for, for this pod; pods that are gone are forgotten."""
    task.folder.note_use(task.settings.pod)
    eviction.forget_dead_users(task.folder, task.settings.live_pods)


def _whole(task: Task) -> Marker | None:
    """The marker, when every file is as it says: by size and time, else by its bytes."""
    folder = task.folder
    marker = folder.marker()
    if marker is None or marker.source != str(task.source) or marker.file != task.file:
        return None
    is_verifying = task.settings.is_verifying
    for kept in marker.files:
        if folder.is_unchanged(kept) and not is_verifying:
            continue
        task.progress.phase(Phase.CHECKING, f"{kept.path} is compared with its checksum")
        if not _is_right(kept, task):
            LOGGER.warning("%s of %s is not as it was written", kept.path, folder.path)
            return None
    task.progress.planned(marker.num_bytes)
    for kept in marker.files:
        task.progress.kept(task.directory, kept.path, kept.size_bytes)
    return marker


def _is_right(kept: KeptFile, task: Task) -> bool:
    """Whether a file still has the bytes that were written down."""
    found = task.folder.stat(kept.path)
    if found is None or found.st_size != kept.size_bytes:
        return False
    hashing = Hashing(kept.size_bytes, ())
    hash_prefix(task.folder.path / kept.path, hashing, kept.size_bytes, lambda _: task.pause(0))
    return hashing.sha256 == kept.sha256


def _fetch(task: Task) -> Marker:
    """Steps 3 to 6, under the lock."""
    folder, progress = task.folder, task.progress
    # Whatever happens next: a model that is not as its marker says has none.
    folder.unmark()
    progress.phase(Phase.CHECKING, f"the list of {task.source} is read")
    remote = task.open_remote()
    files = _chosen(task, remote)
    total_bytes = sum(file.size_bytes for file in files)
    folder.begin()
    folder.prune_partial(files)
    tools = Tools(remote=remote, progress=progress, pause=task.pause)
    kept, missing = _compared(task, files, tools)
    progress.planned(total_bytes)
    partial = folder.partial_sizes()
    missing_bytes = sum(
        file.size_bytes - min(partial.get(folder.part(file).name, 0), file.size_bytes)
        for file in missing
    )
    eviction.make_room(
        task.settings, task.directory, missing_bytes, total_bytes, progress, task.pause
    )
    LOGGER.info(
        "%s: %d files, %s to fetch, %s there already",
        task.source, len(files), format_gib(missing_bytes), format_gib(total_bytes - missing_bytes),
    )  # fmt: skip
    progress.phase(Phase.DOWNLOADING, f"{len(missing)} files of {task.source}")
    with Noting(progress, folder.progress):
        kept += _all_fetched(task, missing, kept, tools)
    progress.phase(Phase.VERIFYING, "the last files reach the disk")
    return _finished(task, remote, files, kept)


def _chosen(task: Task, remote: RemoteModel) -> list[RemoteFile]:
    """The files that an engine needs, with their checksums."""
    listed = retried(remote.files, task.pause)
    refuse_clashes(listed)
    if task.is_adapter:
        wanted = adapter_files(listed)
    else:
        indexed = None
        if needs_index(listed, task.file):
            index = next(file for file in listed if file.path == INDEX)
            indexed = retried(lambda: _indexed(remote, index), task.pause)
        wanted = model_files(listed, task.file, indexed)
    return [retried(lambda file=file: remote.described(file), task.pause) for file in wanted]  # type: ignore[misc]


def _indexed(remote: RemoteModel, index: RemoteFile) -> frozenset[str]:
    """The weight files that the index names; none where it cannot be read."""
    if index.size_bytes > MAX_INDEX_BYTES:
        return frozenset()
    try:
        with remote.open(index, 0, index.size_bytes) as body:
            text = _bounded(body.chunks)
        return index_facts(parse_object(text))[1]
    except (UnreadableDocumentError, RemoteSizeError):
        return frozenset()


def _bounded(chunks: Iterable[bytes]) -> bytes:
    """All bytes, or as many as an index may have."""
    gathered = bytearray()
    for chunk in chunks:
        gathered += chunk
        if len(gathered) > MAX_INDEX_BYTES:
            break
    return bytes(gathered)


def _compared(
    task: Task, files: Sequence[RemoteFile], tools: Tools
) -> tuple[list[KeptFile], list[RemoteFile]]:
    """What is in its place and right, and what is missing. Wrong files are removed."""
    folder = task.folder
    noted = {kept.path: kept for kept in folder.kept()}
    kept, missing = [], []
    for file in files:
        known = noted.get(file.path)
        is_known = (
            known is not None
            and (known.identity, known.size_bytes) == (file.identity, file.size_bytes)
            and folder.is_unchanged(known)
            and not task.settings.is_verifying
        )
        if not is_known and folder.stat(file.path) is not None:
            task.progress.phase(Phase.CHECKING, f"{file.path} is compared with its checksum")
        found = known if is_known else check_file(file, folder, tools)
        if found is not None:
            kept.append(found)
            task.progress.kept(task.directory, file.path, file.size_bytes)
        else:
            folder.remove(file.path)
            missing.append(file)
    folder.note_kept(kept)
    return kept, missing


def _all_fetched(
    task: Task, missing: Sequence[RemoteFile], kept: Sequence[KeptFile], tools: Tools
) -> list[KeptFile]:
    """Every missing file, a few at once, the largest first. What is right is noted on the way."""
    failed = threading.Event()
    noting = threading.Lock()
    fetched: list[KeptFile] = []

    def pause(seconds: float) -> None:
        task.pause(seconds)
        if failed.is_set():
            raise StoppedError

    def fetch(file: RemoteFile) -> None:
        try:
            one = fetch_file(file, task.folder, replace(tools, pause=pause))
            with noting:
                fetched.append(one)
                task.folder.note_kept([*kept, *fetched])
        except BaseException:
            failed.set()
            raise

    ordered = sorted(missing, key=lambda file: -file.size_bytes)
    threads = ThreadPoolExecutor(task.settings.parallel_files, "fetch")
    try:
        tasks = [threads.submit(fetch, file) for file in ordered]
        while wait(tasks, STOP_SECONDS, return_when=FIRST_EXCEPTION).not_done:
            # A thread may wait for a byte for half a minute: a stop does not wait for it.
            task.pause(0)
            if failed.is_set():
                break
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    _raise_first(tasks)
    return fetched


def _raise_first(tasks: Sequence[Future[None]]) -> None:
    """What went wrong, rather than that the others were stopped for it."""
    errors = [error for one in tasks if not one.cancelled() and (error := one.exception())]
    errors.sort(key=lambda error: isinstance(error, StoppedError))
    if errors:
        raise errors[0]


def _finished(
    task: Task, remote: RemoteModel, files: Sequence[RemoteFile], kept: Sequence[KeptFile]
) -> Marker:
    """The marker, written. What is in the folder is looked at once more: size and time."""
    by_path = {one.path: one for one in kept}
    marker = Marker(
        source=str(task.source),
        commit=remote.commit,
        file=task.file,
        files=tuple(by_path[file.path] for file in files),
        finished_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    for one in marker.files:
        if not task.folder.is_unchanged(one):
            message = (
                f"{one.path} was changed while the rest was fetched: something else writes to "
                f"{task.folder.path}"
            )
            raise FetchError(ExitCode.CACHE_UNUSABLE, message)
    task.folder.finish(marker)
    return marker


def _tell_waiting(task: Task) -> None:
    """Say that another program fetches the model, and how far it is."""
    other = eviction.noted_progress(task.folder)
    words = "" if other is None else f" ({other})"
    task.progress.phase(Phase.WAITING, f"another pod fetches {task.directory}{words}")
