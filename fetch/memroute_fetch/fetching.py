"""A fetch from its first request to its last words: what is asked for, what is in the way."""

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from memroute.units import format_gib
from memroute_fetch.checksums import CheckKind
from memroute_fetch.disk import eviction
from memroute_fetch.disk.records import Marker
from memroute_fetch.failures import ExitCode, FetchError, StoppedError, TransientError
from memroute_fetch.remotes.http import new_client
from memroute_fetch.remotes.opening import remote_of
from memroute_fetch.settings import Settings
from memroute_fetch.sources import ADAPTERS_FOLDER, Source, adapter_directory, model_directory
from memroute_fetch.task import Task, run_task
from memroute_fetch.telling.last_words import last_words
from memroute_fetch.telling.progress import Phase, Progress, sentence

LOGGER = logging.getLogger(__name__)


def failure_of(
    settings: Settings, progress: Progress, stopping: threading.Event
) -> FetchError | None:
    """What is in the way of the whole; None when all is there, and was told."""
    begun = time.monotonic()
    try:
        with new_client() as client:
            markers = _fetched(settings, progress, stopping, client)
    except FetchError as error:
        failure = error
    except TransientError as error:
        failure = error.failure
    except StoppedError:
        failure = stopped(progress)
    except OSError as error:
        failure = eviction.disk_failure(error, settings.cache)
    except Exception as error:  # the program's boundary: told as a bug, with its trace
        LOGGER.exception("an error of memroute's own, at %s", settings.source)
        message = f"an error of memroute's own ({type(error).__name__}: {error}): please report it"
        failure = FetchError(ExitCode.BUG, message)
    else:
        progress.phase(Phase.COMPLETE, "")
        summary = json.dumps(_summary(settings, progress, markers, time.monotonic() - begun))
        last_words(summary, settings.termination_log)
        LOGGER.info("%s", sentence(progress.reading()))
        LOGGER.info("%s", summary)
        return None
    progress.phase(Phase.FAILED, failure.message)
    return failure


def stopped(progress: Progress) -> FetchError:
    """What a signal in the middle is told as."""
    told = format_gib(progress.reading().bytes_done)
    message = f"stopped by a signal: {told} are kept, and the next start goes on from there"
    return FetchError(ExitCode.STOPPED, message)


def _fetched(
    settings: Settings, progress: Progress, stopping: threading.Event, client: httpx2.Client
) -> dict[str, Marker]:
    """All that is asked for, by directory."""
    settings.cache.mkdir(parents=True, exist_ok=True)

    def pause(seconds: float) -> None:
        if stopping.wait(seconds) if seconds else stopping.is_set():
            raise StoppedError

    markers: dict[str, Marker] = {}
    for directory, source in wanted(settings).items():
        is_adapter = directory.startswith(f"{ADAPTERS_FOLDER}/")
        task = Task(
            source=source,
            directory=directory,
            file=None if is_adapter else settings.file,
            is_adapter=is_adapter,
            settings=settings,
            progress=progress,
            pause=pause,
            open_remote=lambda source=source: remote_of(source, settings, client),  # type: ignore[misc]
        )
        try:
            markers[directory] = run_task(task)
        except FetchError as error:
            raise FetchError(error.code, f"{source}: {error.message}") from error
    return markers


def wanted(settings: Settings) -> dict[str, Source]:
    """Sources by directory: adapters first, which are small and fail soon; each once."""
    adapters = {adapter_directory(one): one for one in settings.adapters.values()}
    return adapters | {model_directory(settings.source, settings.file): settings.source}


def _summary(
    settings: Settings, progress: Progress, markers: Mapping[str, Marker], seconds: float
) -> dict[str, Any]:
    """What the pod's status keeps of a fetch that is over."""
    reading = progress.reading()
    directory = model_directory(settings.source, settings.file)
    files = [file for marker in markers.values() for file in marker.files]
    unproven = sum(file.checked is CheckKind.SIZE for file in files)
    return {
        "source": str(settings.source),
        "directory": directory,
        "files": len(files),
        "bytes": reading.bytes_done,
        "bytes_from_cache": reading.bytes_from_cache,
        "bytes_read_from_source": reading.bytes_read_from_source,
        "files_checked_by_size_alone": unproven,
        "seconds": round(seconds, 1),
        "adapters": {name: adapter_directory(one) for name, one in settings.adapters.items()},
    }
