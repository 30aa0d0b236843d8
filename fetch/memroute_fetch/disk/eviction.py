"""Room in a cache: what is held and used, gathered; what leaves, carried out. ``room`` decides."""

import errno
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

from memroute.units import format_gib
from memroute_fetch.disk.cache import ModelFolder, model_folders, replace_text, room_lock, scopes
from memroute_fetch.disk.locks import lock, try_lock
from memroute_fetch.disk.room import CachedModel, Volume, models_to_evict, users_alive
from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.remotes.remote import Pause
from memroute_fetch.settings import LivePods, Settings
from memroute_fetch.telling.progress import Phase, Progress

LOGGER = logging.getLogger(__name__)
# Looks at the cache before giving up: a model that was to leave may be taken into use meanwhile.
ROUNDS = 5
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def make_room(
    settings: Settings,
    directory: str,
    missing_bytes: int,
    total_bytes: int,
    progress: Progress,
    pause: Pause,
) -> None:
    """Room for what is missing of a model, promised to it until it is there.

    Raises ``FetchError`` (``NO_SPACE``). One program at a time decides, so that two that start at
    once do not count the same free bytes.
    """
    cache = settings.cache
    with lock(room_lock(cache), pause, lambda: _tell_turn(progress)):
        for last in range(ROUNDS, 0, -1):
            folders = {
                f"{scope.name}/{one.directory}" if scope != cache else one.directory: one
                for scope in scopes(cache)
                for one in model_folders(scope)
            }
            cached = [
                _seen_of(name, one, settings.live_pods, is_foreign=name != one.directory)
                for name, one in folders.items()
            ]
            volume = Volume(free_bytes=free_bytes(cache), keep_free_bytes=settings.keep_free_bytes)
            leaving = models_to_evict(
                directory, missing_bytes, total_bytes, cached, volume, settings.max_cache_bytes
            )
            if not leaving:
                break
            if last == 1:
                message = "models that were to leave the cache were taken into use: start again"
                raise FetchError(ExitCode.NO_SPACE, message)
            for one in leaving:
                _evict(folders[one.directory], one, settings.live_pods, progress)
        reservation = ModelFolder(cache, directory).reservation
        replace_text(reservation, json.dumps({"bytes_total": total_bytes}))


def free_bytes(cache: Path) -> int:
    """Bytes of the volume that this program may write."""
    found = os.statvfs(cache)
    return found.f_bavail * found.f_frsize


def noted_users(folder: ModelFolder) -> dict[str, float]:
    """The pods that were noted at a model, and when (seconds since 1970)."""
    found = {}
    try:
        for one in os.scandir(folder.users):
            found[one.name] = one.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        pass
    return found


def forget_dead_users(folder: ModelFolder, live: LivePods | None) -> None:
    """Remove the notes of pods that are gone."""
    noted = noted_users(folder)
    for pod in noted.keys() - set(users_alive(noted, live)):
        (folder.users / pod).unlink(missing_ok=True)


def noted_progress(folder: ModelFolder) -> str | None:
    """How far the program that fetches a model is, in its words; None where it says nothing."""
    try:
        with folder.progress.open("rb") as file:
            document = json.loads(file.read(4096))
    except (OSError, ValueError):
        return None
    said = document.get("sentence") if isinstance(document, dict) else None
    return said if isinstance(said, str) else None


def is_read_only(error: OSError) -> bool:
    """Whether it means that this program may not write."""
    return error.errno in _READ_ONLY


def disk_failure(error: OSError, cache: Path) -> FetchError:
    """What an error of the operating system means, of the cache."""
    words = error.strerror or str(error)
    if error.errno in _FULL:
        message = f"{cache} ran full while the model was written ({words}): make room there"
        return FetchError(ExitCode.NO_SPACE, message)
    if is_read_only(error):
        message = (
            f"{cache} cannot be written by user {os.geteuid()} ({words}: {error.filename}): give "
            f"the pod an fsGroup (volumes), or the directory that owner (host paths)"
        )
        return FetchError(ExitCode.CACHE_UNUSABLE, message)
    message = f"the cache {cache} fails ({words}: {error.filename}): see to the disk"
    return FetchError(ExitCode.CACHE_UNUSABLE, message)


def _seen_of(
    name: str, folder: ModelFolder, live: LivePods | None, *, is_foreign: bool
) -> CachedModel:
    """A model by the name that the decision knows it by. Of others, as far as it can be read."""
    try:
        return replace(_seen(folder, live), directory=name, is_foreign=is_foreign)
    except OSError as error:
        if not is_foreign:
            raise
        LOGGER.warning("%s of others cannot be read: it counts, and stays (%s)", name, error)
        return CachedModel(
            directory=name, num_bytes=folder.num_bytes(), last_used_seconds=0.0, is_whole=True,
            is_in_use=True, is_foreign=True,
        )  # fmt: skip


def _seen(folder: ModelFolder, live: LivePods | None) -> CachedModel:
    """A model as the decision sees it."""
    num_bytes = folder.num_bytes()
    is_whole = folder.marker() is not None
    with try_lock(folder.lock) as is_free:
        is_busy = not is_free
    reserved_bytes = 0
    if is_busy and not is_whole:
        reserved_bytes = max(_reserved_total(folder) - num_bytes, 0)
    try:
        last_used_seconds = folder.last_used.stat().st_mtime
    except FileNotFoundError:
        last_used_seconds = 0.0
    return CachedModel(
        directory=folder.directory,
        num_bytes=num_bytes,
        last_used_seconds=last_used_seconds,
        is_whole=is_whole,
        is_in_use=is_busy or bool(users_alive(noted_users(folder), live)),
        reserved_bytes=reserved_bytes,
    )


def _reserved_total(folder: ModelFolder) -> int:
    try:
        total = json.loads(folder.reservation.read_bytes()).get("bytes_total")
    except (OSError, ValueError, AttributeError):
        return 0
    return total if isinstance(total, int) else 0


def _evict(
    folder: ModelFolder, seen: CachedModel, live: LivePods | None, progress: Progress
) -> None:
    """Remove a model, unless somebody began to use it."""
    name = "a model of others" if seen.is_foreign else folder.directory
    words = f"{name} ({format_gib(seen.num_bytes)}) leaves the cache"
    progress.phase(Phase.EVICTING, words)
    with try_lock(folder.lock) as is_free:
        if is_free and not users_alive(noted_users(folder), live):
            LOGGER.info("%s: nobody uses it, and room is needed", words)
            try:
                folder.evict()
            except OSError:
                if not seen.is_foreign:
                    raise
                LOGGER.exception("%s, and cannot be removed", words)


def _tell_turn(progress: Progress) -> None:
    progress.phase(Phase.WAITING, "another pod makes room in the cache")
