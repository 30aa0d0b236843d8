"""One file, from its source to its place: resumed, hashed on the way, tried twice when wrong.

Bytes are written at their own offsets, never appended. Two programs that write one partial file
(on a file system whose locks do not reach other nodes) then write the same bytes to the same
places, and the checksum that each takes is that of what lies there.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from memroute_fetch.checksums import CheckKind, Hashing, hash_prefix
from memroute_fetch.disk.cache import ModelFolder
from memroute_fetch.disk.records import KeptFile
from memroute_fetch.failures import ExitCode, FetchError, TransientError
from memroute_fetch.remotes.remote import Pause, RemoteFile, RemoteModel, RemoteSizeError
from memroute_fetch.telling.progress import Progress

T = TypeVar("T")
LOGGER = logging.getLogger(__name__)
# Waits in seconds between tries that bring no byte, chosen by hand: half a minute altogether, after
# which the kubelet starts the container again, with its own growing waits.
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
# A source that asks for more patience than this (seconds) is not waited for: the next start asks.
MAX_RETRY_AFTER_SECONDS = 60.0
# Bytes of one request: CDNs send up to 50 GB for one, and some proxies less.
SEGMENT_BYTES = 8 * 2**30
# Bytes after which a file is brought to the disk: what the kernel holds back counts against the
# container's memory, and is lost with the node's power. Chosen by hand.
SYNC_BYTES = 64 * 2**20
# Tries of a file whose bytes turn out to be wrong.
TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every file of one run shares."""

    remote: RemoteModel
    progress: Progress
    pause: Pause
    """Also called with 0, between chunks: where the program is to end, it raises."""


def fetch_file(file: RemoteFile, folder: ModelFolder, tools: Tools) -> KeptFile:
    """The file, in its place. Raises ``FetchError``, ``StoppedError`` and ``OSError``."""
    part = folder.part(file)
    problem = ""
    for _ in range(TRIES):
        hashing = Hashing(file.size_bytes, file.checks)
        try:
            _fill(part, hashing, file, folder, tools)
            problem = hashing.problem() or ""
        except RemoteSizeError as error:
            problem = str(error)
        if not problem:
            mtime_ns = folder.place(part, file.path)
            return kept_file(file, hashing, mtime_ns)
        LOGGER.warning("%s of %s is wrong: %s", file.path, folder.directory, problem)
        part.unlink(missing_ok=True)
        tools.progress.kept(folder.directory, file.path, 0)
    message = (
        f"{file.path} is wrong, twice: {problem}; the source has other bytes than it lists, or a "
        f"proxy or a disk in between changes them"
    )
    raise FetchError(ExitCode.CHECKSUM, message)


def check_file(file: RemoteFile, folder: ModelFolder, tools: Tools) -> KeptFile | None:
    """The file when it is in its place already, by its bytes; None when it is to be fetched.

    A size alone proves nothing of a file that nobody has written down.
    """
    found = folder.stat(file.path)
    if found is None or found.st_size != file.size_bytes or not file.checks:
        return None
    hashing = Hashing(file.size_bytes, file.checks)
    hash_prefix(folder.path / file.path, hashing, file.size_bytes, lambda _: tools.pause(0))
    return None if hashing.problem() else kept_file(file, hashing, found.st_mtime_ns)


def kept_file(file: RemoteFile, hashing: Hashing, mtime_ns: int) -> KeptFile:
    """What is written down of a file whose bytes are right."""
    return KeptFile(
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=hashing.sha256,
        mtime_ns=mtime_ns,
        identity=file.identity,
        checked=hashing.checked if file.checks else CheckKind.SIZE,
    )


def retried(ask: Callable[[], T], pause: Pause) -> T:
    """What ``ask`` gives, tried again where that may help. Raises what it raises at last."""
    for wait in RETRY_SECONDS:
        try:
            return ask()
        except TransientError as error:
            _wait(error, wait, pause)
    try:
        return ask()
    except TransientError as error:
        raise error.failure from error


def _fill(
    part: Path, hashing: Hashing, file: RemoteFile, folder: ModelFolder, tools: Tools
) -> None:
    """Have all bytes in the partial file, and on the disk."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(part, flags, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size > file.size_bytes:
            os.ftruncate(descriptor, 0)
            size = 0
        if size:
            hash_prefix(part, hashing, size, lambda _: tools.pause(0))
            tools.progress.kept(folder.directory, file.path, hashing.num_bytes)
        failures = 0
        while hashing.num_bytes < file.size_bytes:
            before = hashing.num_bytes
            try:
                _read_some(descriptor, hashing, file, folder, tools)
            except TransientError as error:
                failures = 0 if hashing.num_bytes > before else failures
                if failures >= len(RETRY_SECONDS):
                    raise error.failure from error
                _wait(error, RETRY_SECONDS[failures], tools.pause)
                failures += 1
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_some(
    descriptor: int, hashing: Hashing, file: RemoteFile, folder: ModelFolder, tools: Tools
) -> None:
    """One request's bytes, to the disk and into the hashes."""
    start = hashing.num_bytes
    end = min(start + SEGMENT_BYTES, file.size_bytes)
    with tools.remote.open(file, start, end) as body:
        if body.total_bytes is not None and body.total_bytes != file.size_bytes:
            problem = f"it has {body.total_bytes:,} bytes where {file.size_bytes:,} are listed"
            raise RemoteSizeError(problem)
        if body.start_bytes not in {start, 0}:
            raise TransientError(_odd(file, f"bytes from {body.start_bytes:,} on came"))
        if body.start_bytes != start:
            # The source ignores ranges: what was kept of the file is of no use.
            os.ftruncate(descriptor, 0)
            hashing.restart()
            tools.progress.kept(folder.directory, file.path, 0)
        begun = synced = hashing.num_bytes
        for chunk in body.chunks:
            tools.pause(0)
            tools.progress.read(len(chunk))
            if hashing.num_bytes + len(chunk) > file.size_bytes:
                problem = f"it has more than the {file.size_bytes:,} bytes that are listed"
                raise RemoteSizeError(problem)
            _write(descriptor, chunk, hashing.num_bytes)
            hashing.update(chunk)
            tools.progress.written(folder.directory, file.path, hashing.num_bytes)
            if hashing.num_bytes - synced >= SYNC_BYTES:
                os.fdatasync(descriptor)
                synced = hashing.num_bytes
        if hashing.num_bytes == begun:
            raise TransientError(_odd(file, "no byte came"))


def _odd(file: RemoteFile, what: str) -> FetchError:
    """An answer that keeps to no rule: as good as a connection that broke."""
    message = f"{what} where {file.path} was asked for, again and again: see what is in between"
    return FetchError(ExitCode.NO_NETWORK, message)


def _write(descriptor: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        num_written = os.pwrite(descriptor, view, offset)
        view, offset = view[num_written:], offset + num_written


def _wait(error: TransientError, seconds: float, pause: Pause) -> None:
    asked = error.retry_after_seconds
    if asked is not None and asked > MAX_RETRY_AFTER_SECONDS:
        raise error.failure from error
    wanted = max(seconds, asked or 0.0)
    LOGGER.info("tried again in %g s: %s", wanted, error)
    pause(wanted)
