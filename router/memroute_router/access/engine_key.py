"""The router's own credential towards engines, instead of the clients'."""

import string
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 8192
_CHARACTERS: Final = frozenset((string.ascii_letters + string.digits + string.punctuation).encode())


class EngineKeyError(Exception):
    """The file cannot be used; the message says why, and never quotes it."""


class EngineKey:
    """Owns the credential, as it is now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = b""
        """The header line of requests to engines."""

    def read(self) -> bytes:
        """What the file says. Raises ``EngineKeyError``."""
        try:
            key = self.path.read_bytes().strip()
        except OSError as error:
            msg = f"cannot read it: {error.strerror}"
            raise EngineKeyError(msg) from error
        if not key or len(key) > _MAX_BYTES or not _CHARACTERS.issuperset(key):
            msg = "it must be one word of printable characters"
            raise EngineKeyError(msg)
        return key

    def apply(self, key: bytes) -> tuple[Path, ...]:
        """It is this one from now on."""
        self.line = b"authorization: Bearer %b\r\n" % key
        return ()
