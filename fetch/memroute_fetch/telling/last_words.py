"""What the kubelet shows of a container that has ended (its termination message)."""

import logging
from pathlib import Path

LOGGER = logging.getLogger(__name__)
# Bytes of a termination message that the kubelet reads.
MAX_LAST_WORDS_BYTES = 4096


def last_words(text: str, path: Path | None) -> None:
    """Write them; nothing where there is no such place, or it cannot be written."""
    if path is None:
        return
    data = text.encode()[:MAX_LAST_WORDS_BYTES].decode("utf-8", "ignore").encode()
    try:
        with path.open("wb") as file:
            file.write(data)
    except OSError as error:
        LOGGER.debug("no last words: %s", error)
