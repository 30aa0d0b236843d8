"""``memroute-fetch``: see ``--help``, and docs/reference/fetch.md.

The main thread fetches; a thread answers /progress, and a few write files. SIGTERM is seen between
two chunks: what was written stays, and the next start goes on from there.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.settings import parse_options, settings_of, termination_log
from memroute_fetch.telling.last_words import last_words
from memroute_fetch.telling.progress import Progress
from memroute_fetch.telling.progress_server import serving

LOGGER = logging.getLogger(__name__)
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
    try:
        if arguments[:1] == ["adapters"]:
            from memroute_fetch.serving import run_adapters  # noqa: PLC0415 - of this alone

            return run_adapters(arguments[1:], environment, stopping)
        options = parse_options(arguments)
        words = options.termination_log
        settings = settings_of(options, environment)
    except FetchError as error:
        last_words(error.message, words)
        LOGGER.error("memroute-fetch: %s", error.message)  # noqa: TRY400 - a sentence, no trace
        return error.code
    # After the options: --help and one that is misspelt are answered at once.
    from memroute_fetch.fetching import failure_of, stopped, wanted  # noqa: PLC0415

    progress = Progress(time.monotonic, len(wanted(settings)))
    is_over = threading.Event()

    def leave_when_stopped() -> None:
        while not stopping.is_set():
            if is_over.wait(WATCH_SECONDS):
                return
        if not is_over.wait(STOP_SECONDS):
            last_words(stopped(progress).message, settings.termination_log)
            leave(ExitCode.STOPPED)

    threading.Thread(target=leave_when_stopped, daemon=True, name="stopping").start()
    with serving(settings.port, lambda: progress.reading().document(), settings.host) as port:
        if port is not None:
            LOGGER.info("progress at port %d", port)
        failure = failure_of(settings, progress, stopping)
    is_over.set()
    if failure is None:
        return ExitCode.COMPLETE
    last_words(failure.message, settings.termination_log)
    LOGGER.error("memroute-fetch: %s", failure.message)
    return failure.code
