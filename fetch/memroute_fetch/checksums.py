"""What bytes hash to, while they pass by."""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# Bytes that are read, hashed and written at once: 1 MiB, past which nothing gets faster.
CHUNK_BYTES = 2**20


class CheckKind(StrEnum):
    """What a source says of a file's bytes; the value is in the marker."""

    SHA256 = "sha256"
    GIT_SHA1 = "git-sha1"
    """Of small files of a hub: SHA-1 over a header with the size and the bytes."""
    MD5 = "md5"
    """S3's ETag of what was uploaded in one piece, without a key of one's own."""
    CRC32 = "crc32"
    SIZE = "size"
    """Nothing but the size was compared."""


@dataclass(frozen=True, slots=True)
class Check:
    """One checksum, in lower-case hexadecimal digits."""

    kind: CheckKind
    value: str


class Hashing:
    """Hashes of a file that is read from its beginning. SHA-256 is always among them."""

    def __init__(self, size_bytes: int, checks: tuple[Check, ...]) -> None:
        """``size_bytes``: of the whole file; git hashes it first."""
        self._checks = checks
        self._size_bytes = size_bytes
        self.restart()

    def restart(self) -> None:
        """From the beginning of the file again."""
        self.num_bytes = 0
        self._crc32 = 0
        self._sha256 = hashlib.sha256()
        kinds = {check.kind for check in self._checks}
        self._has_crc32 = CheckKind.CRC32 in kinds
        self._sha1 = self._md5 = None
        if CheckKind.GIT_SHA1 in kinds:
            self._sha1 = hashlib.sha1(b"blob %d\0" % self._size_bytes, usedforsecurity=False)
        if CheckKind.MD5 in kinds:
            self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """The next bytes of the file."""
        self.num_bytes += len(data)
        self._sha256.update(data)
        if self._sha1 is not None:
            self._sha1.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        if self._has_crc32:
            self._crc32 = zlib.crc32(data, self._crc32)

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return self._sha256.hexdigest()

    @property
    def checked(self) -> CheckKind:
        """The strongest that is compared."""
        return min((check.kind for check in self._checks), key=_strength, default=CheckKind.SIZE)

    def problem(self) -> str | None:
        """What is wrong with the bytes, as the end of a sentence; None when nothing is."""
        if self.num_bytes != self._size_bytes:
            return f"it has {self.num_bytes:,} bytes where {self._size_bytes:,} are listed"
        for check in self._checks:
            found = self._found(check.kind)
            if found != check.value:
                return f"its {check.kind} is {found} where {check.value} is listed"
        return None

    def _found(self, kind: CheckKind) -> str:
        if kind is CheckKind.GIT_SHA1 and self._sha1 is not None:
            return self._sha1.hexdigest()
        if kind is CheckKind.MD5 and self._md5 is not None:
            return self._md5.hexdigest()
        if kind is CheckKind.CRC32:
            return f"{self._crc32:08x}"
        return self.sha256


def _strength(kind: CheckKind) -> int:
    return list(CheckKind).index(kind)


def hash_prefix(
    path: Path, hashing: Hashing, size_bytes: int, on_chunk: Callable[[int], None]
) -> None:
    """Hash up to ``size_bytes`` of a file. Raises ``OSError``, and what ``on_chunk`` does."""
    with path.open("rb", buffering=0) as file:
        left = size_bytes
        while left and (chunk := file.read(min(CHUNK_BYTES, left))):
            on_chunk(len(chunk))
            hashing.update(chunk)
            left -= len(chunk)
