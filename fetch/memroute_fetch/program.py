"""``memroute-fetch``: see ``--help``, and docs/reference/fetch.md.

The main thread fetches; a thread answers /progress, and a few write files. SIGTERM is seen between
two chunks: what was written stays, and the next start goes on from there.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from memroute.units import format_gib
from memroute_fetch import eviction
from memroute_fetch.checksums import CheckKind
from memroute_fetch.failures import ExitCode, FetchError, StoppedError, TransientError
from memroute_fetch.http import new_client
from memroute_fetch.opening import remote_of
from memroute_fetch.progress import Phase, Progress, sentence
from memroute_fetch.progress_server import serving
from memroute_fetch.records import Marker
from memroute_fetch.settings import Settings, parse_options, settings_of, termination_log
from memroute_fetch.sources import (
    ADAPTERS_FOLDER,
    Source,
    adapter_directory,
    model_directory,
)
from memroute_fetch.task import Task, run_task

LOGGER = logging.getLogger(__name__)
# Bytes of a termination message that the kubelet reads.
MAX_LAST_WORDS_BYTES = 4096
# Files for everybody to read, and for the group to write: engines may run as another user.
UMASK = 0o002
# Seconds that a stop may take where the program waits for somebody: chosen by hand, a tenth of
# the kubelet's usual grace.
STOP_SECONDS = 3.0
# Seconds until a stop is seen where nothing else sees it.
WATCH_SECONDS = 0.5


def main() -> None:
    """Run the program, and end with one of ``ExitCode``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # A line for each request is none of ours.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    os.umask(UMASK)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    code = run(sys.argv[1:], os.environ, stopping, leave=os._exit)
    sys.stdout.flush()
    # Threads that wait for a source's next byte are not waited for.
    os._exit(code)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    stopping: threading.Event,
    leave: Callable[[int], None] = lambda _: None,
) -> ExitCode:
    """Everything but the process: what the program ends with.

    ``stopping``: end soon. ``leave``: ends the process where it hangs; whatever is on the disk then
    is what the next start goes on from.
    """
    words = termination_log(None)
    if arguments[:1] == ["adapters"]:
        from memroute_fetch.serving import run_adapters  # noqa: PLC0415 - of this alone

        return run_adapters(arguments[1:], environment, stopping)
    try:
        options = parse_options(arguments)
        words = options.termination_log
        settings = settings_of(options, environment)
    except FetchError as error:
        _last_words(error.message, words)
        LOGGER.error("memroute-fetch: %s", error.message)  # noqa: TRY400 - a sentence, no trace
        return error.code
    progress = Progress(time.monotonic, len(_wanted(settings)))
    is_over = threading.Event()

    def leave_when_stopped() -> None:
        while not stopping.is_set():
            if is_over.wait(WATCH_SECONDS):
                return
        if not is_over.wait(STOP_SECONDS):
            _last_words(_stopped(progress).message, settings.termination_log)
            leave(ExitCode.STOPPED)

    threading.Thread(target=leave_when_stopped, daemon=True, name="stopping").start()
    with serving(settings.port, lambda: progress.reading().document(), settings.host) as port:
        if port is not None:
            LOGGER.info("progress at port %d", port)
        failure = _failure(settings, progress, stopping)
    is_over.set()
    if failure is None:
        return ExitCode.COMPLETE
    _last_words(failure.message, settings.termination_log)
    LOGGER.error("memroute-fetch: %s", failure.message)
    return failure.code


def _failure(
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
        failure = _stopped(progress)
    except OSError as error:
        failure = eviction.disk_failure(error, settings.cache)
    except Exception as error:  # the program's boundary: told as a bug, with its trace
        LOGGER.exception("an error of memroute's own, at %s", settings.source)
        message = f"an error of memroute's own ({type(error).__name__}: {error}): please report it"
        failure = FetchError(ExitCode.BUG, message)
    else:
        progress.phase(Phase.COMPLETE, "")
        summary = json.dumps(_summary(settings, progress, markers, time.monotonic() - begun))
        _last_words(summary, settings.termination_log)
        LOGGER.info("%s", sentence(progress.reading()))
        LOGGER.info("%s", summary)
        return None
    progress.phase(Phase.FAILED, failure.message)
    return failure


def _stopped(progress: Progress) -> FetchError:
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
    for directory, source in _wanted(settings).items():
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


def _wanted(settings: Settings) -> dict[str, Source]:
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


def _last_words(text: str, path: Path | None) -> None:
    """What the kubelet shows of this container; nothing where it cannot be written."""
    if path is None:
        return
    data = text.encode()[:MAX_LAST_WORDS_BYTES].decode("utf-8", "ignore").encode()
    try:
        with path.open("wb") as file:
            file.write(data)
    except OSError as error:
        LOGGER.debug("no last words: %s", error)
