"""``memroute-fetch adapters``: runs beside an engine, and fetches the adapters that it is told of.

``PUT /adapters`` with ``{"name": "hf://org/name@revision"}`` says what is wanted, all of it each
time; it and ``GET`` answer how far each is. One source after the other, into the same cache as the
init container, by the same steps (``task``): locks, checksums, room, the note of the pod.

One that cannot be fetched is told, and tried again; nothing ends the program but a signal.
"""

import argparse
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx2

from memroute.command_line import port
from memroute_fetch.disk import eviction
from memroute_fetch.disk.cache import model_folders
from memroute_fetch.disk.eviction import noted_users
from memroute_fetch.failures import ExitCode, FetchError, StoppedError, TransientError
from memroute_fetch.kept_adapters import Fetched, KeptAdapters, read_wanted
from memroute_fetch.remotes.http import new_client
from memroute_fetch.remotes.opening import remote_of
from memroute_fetch.remotes.revisions import pinned_source
from memroute_fetch.settings import FetchCommandLine, Settings, settings_of_adapter
from memroute_fetch.sources import ADAPTERS_FOLDER, Source, adapter_directory
from memroute_fetch.task import Task, run_task
from memroute_fetch.telling.progress import Progress
from memroute_fetch.telling.progress_server import Handler, Server

LOGGER = logging.getLogger(__name__)
PORT = 8082
PATH = "/adapters"
# Bytes of one question: 256 names and sources, and of one adapter_config.json. Chosen by hand.
MAX_BODY_BYTES = 1024**2
CONFIG = "adapter_config.json"
# Seconds until a signal is seen where nothing is due.
STOP_SECONDS = 0.5


def run_adapters(
    arguments: Sequence[str], environment: Mapping[str, str], stopping: threading.Event
) -> ExitCode:
    """Serve until ``stopping``."""
    options = _options(arguments)
    cache: Path = options.cache
    kept = KeptAdapters(time.monotonic)
    host = environment.get("MEMROUTE_BIND_ADDRESS") or ""

    def settings(source: Source) -> Settings:
        return settings_of_adapter(source, cache, options.max_cache_bytes, environment)

    try:
        server = _Server(options.port, kept, host)
    except OSError as error:
        LOGGER.error(  # noqa: TRY400 - a sentence, no trace
            "memroute-fetch: port %d cannot be had (%s): another container of the pod may listen "
            "on it, and that has to take another one", options.port, error.strerror or error,
        )  # fmt: skip
        return ExitCode.USAGE
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    LOGGER.info("adapters are fetched into %s, at port %d", cache, server.server_port)
    try:
        (cache / ADAPTERS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        LOGGER.warning("%s", eviction.disk_failure(error, cache).message)
    with new_client() as client:
        while not stopping.is_set():
            kept.news.clear()
            source, wait = kept.next_due()
            if source is None:
                _give_up_others(kept.settled(), cache, environment.get("POD_UID"))
                kept.news.wait(STOP_SECONDS if wait is None else min(STOP_SECONDS, wait))
                continue
            _fetch(source, kept, settings, client, stopping)
    server.shutdown()
    server.server_close()
    return ExitCode.COMPLETE


def _give_up_others(used: frozenset[str] | None, cache: Path, pod: str | None) -> None:
    """The cache may evict what this pod has had fetched and uses no more.

    ``used``: folders; None where that is not clear now. A pod lives for weeks, and a list changes
    several times a day.
    """
    if used is None or not pod:
        return
    try:
        for folder in model_folders(cache):
            is_adapter = folder.directory.startswith(f"{ADAPTERS_FOLDER}/")
            if is_adapter and folder.directory not in used and pod in noted_users(folder):
                folder.forget_use(pod)
                LOGGER.info("%s is used here no more", folder.directory)
    except OSError as error:
        LOGGER.warning("what is used no more stays: %s", error)


def _fetch(
    text: str,
    kept: KeptAdapters,
    settings: Callable[[Source], Settings],
    client: httpx2.Client,
    stopping: threading.Event,
) -> None:
    """One source into the cache, or why it is not there. The boundary of each."""
    cache = Path()
    try:
        source = pinned_source(text, client)
        own = settings(source)
        cache = own.cache
        kept.complete(text, _fetched(source, own, client, stopping))
    except FetchError as error:
        failure = error
    except TransientError as error:
        failure = error.failure
    except StoppedError:
        return
    except OSError as error:
        failure = eviction.disk_failure(error, cache)
    except Exception as error:  # one adapter's trouble is no other's
        LOGGER.exception("an error of memroute's own, at %s", text)
        message = f"an error of memroute's own ({type(error).__name__}: {error}): please report it"
        failure = FetchError(ExitCode.BUG, message)
    else:
        LOGGER.info("%s is complete", text)
        return
    LOGGER.error("memroute-fetch: %s: %s", text, failure.message)
    kept.failed(text, failure.code, failure.message)


def _fetched(
    source: Source, settings: Settings, client: httpx2.Client, stopping: threading.Event
) -> Fetched:
    settings.cache.mkdir(parents=True, exist_ok=True)

    def pause(seconds: float) -> None:
        if stopping.wait(seconds) if seconds else stopping.is_set():
            raise StoppedError

    directory = adapter_directory(source)
    run_task(
        Task(
            source=source,
            directory=directory,
            file=None,
            is_adapter=True,
            settings=settings,
            progress=Progress(time.monotonic, 1),
            pause=pause,
            open_remote=lambda: remote_of(source, settings, client),
        )
    )
    rank, base = _said_of_itself(settings.cache / directory / CONFIG)
    return Fetched(source=str(source), directory=directory, rank=rank, base_model=base)


def _said_of_itself(path: Path) -> tuple[int | None, str | None]:
    """Rank and base model of an ``adapter_config.json``; None each where it does not say."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(MAX_BODY_BYTES))
    except (OSError, ValueError, RecursionError):
        return None, None
    if not isinstance(said, dict):
        return None, None
    rank, base = said.get("r"), said.get("base_model_name_or_path")
    is_rank = isinstance(rank, int) and not isinstance(rank, bool) and rank > 0
    return rank if is_rank else None, base if isinstance(base, str) else None


def _length(said: str | None) -> int | None:
    """Bytes of a question; None where it has too many, or does not say."""
    if not said or not said.isdecimal() or len(said) > len(str(MAX_BODY_BYTES)):
        return None
    length = int(said)
    return length if length <= MAX_BODY_BYTES else None


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = FetchCommandLine(
        prog="memroute-fetch adapters",
        description="Beside an engine: fetch the LoRA adapters that PUT /adapters names.",
    )
    add = parser.add_argument
    add("--cache", type=Path, required=True, metavar="DIR", help="the cache, a directory")
    add("--max-cache-bytes", type=int, metavar="N", help="bytes of all of the cache together")
    add("--port", type=port, default=PORT, metavar="N", help=f"of /adapters ({PORT})")
    return parser.parse_args(arguments)


class _Server(Server):
    def __init__(self, port: int, kept: KeptAdapters, host: str) -> None:
        self.kept = kept
        super().__init__(port, host, _Handler)


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
        """How far each is."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, "there is /adapters and nothing else")
            return
        self.answer(self.server.kept.document())

    def do_PUT(self) -> None:  # noqa: N802 - as http.server calls it
        """What is wanted from now on."""
        length = _length(self.headers.get("Content-Length"))
        if self.path != PATH or length is None:
            self.send_error(400, "PUT /adapters takes an object of names and sources")
            return
        try:
            wanted = read_wanted(json.loads(self.rfile.read(length)))
        except (ValueError, RecursionError):
            wanted = None
        if wanted is None:
            self.send_error(400, "PUT /adapters takes an object of names and sources")
            return
        self.server.kept.want(wanted)
        self.answer(self.server.kept.document())
