"""The progress, noted where others look: on the disk for those who wait, and in the log."""

import json
import logging
import threading
import time
from pathlib import Path

from memroute_fetch.disk.cache import replace_text
from memroute_fetch.telling.progress import Progress, sentence

LOGGER = logging.getLogger(__name__)
# Seconds between two notes on the disk, and between two lines of the log.
NOTE_SECONDS, LOG_SECONDS = 1.0, 10.0


class Noting:
    """Notes the progress until the context ends, in a thread of its own."""

    def __init__(self, progress: Progress, path: Path) -> None:
        """``path``: the file that is replaced each time."""
        self._progress = progress
        self._path = path
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="noting")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        last_logged = time.monotonic()
        while True:
            reading = self._progress.reading()
            document = reading.document() | {"sentence": sentence(reading)}
            try:
                replace_text(self._path, json.dumps(document))
            except OSError as error:
                LOGGER.debug("the progress is not noted: %s", error)
            if time.monotonic() - last_logged >= LOG_SECONDS:
                last_logged = time.monotonic()
                LOGGER.info("%s", sentence(reading))
            if self._is_over.wait(NOTE_SECONDS):
                return
