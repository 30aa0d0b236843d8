"""What is written down of a model in the cache, as JSON: which files, of which bytes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memroute_fetch.checksums import CheckKind

# Of the marker: another version is not read.
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """A file on the disk whose bytes were right when it was written."""

    path: str
    size_bytes: int
    sha256: str
    mtime_ns: int
    """Of the file then: a file that was touched since is hashed again."""
    identity: str
    checked: CheckKind
    """What the source gave to compare with."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "path": self.path,
            "size": self.size_bytes,
            "sha256": self.sha256,
            "mtime_ns": self.mtime_ns,
            "identity": self.identity,
            "checked": self.checked.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A whole model: what ``.memroute-complete.json`` says."""

    source: str
    commit: str | None
    file: str | None
    """The pattern that chose the GGUF file."""
    files: tuple[KeptFile, ...]
    finished_at: str
    """RFC 3339, UTC."""

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def text(self) -> str:
        """What the marker holds."""
        document = {
            "version": VERSION,
            "source": self.source,
            "commit": self.commit,
            "file": self.file,
            "bytes": self.num_bytes,
            "finished_at": self.finished_at,
            "files": [file.document() for file in self.files],
        }
        return json.dumps(document, indent=1) + "\n"


def marker_of(text: str) -> Marker | None:
    """What a marker says; None for what is none, or of another version."""
    document = _object(text)
    files = kept_files(document)
    texts = [document.get(name) for name in ("source", "finished_at")]
    commit, file = document.get("commit"), document.get("file")
    is_marker = (
        document.get("version") == VERSION
        and files is not None
        and all(isinstance(one, str) for one in texts)
        and all(one is None or isinstance(one, str) for one in (commit, file))
    )
    if not is_marker or files is None:
        return None
    return Marker(
        source=str(texts[0]), finished_at=str(texts[1]), commit=commit, file=file, files=files
    )


def journal_text(files: Iterable[KeptFile]) -> str:
    """What is kept of a model that is not whole yet."""
    return json.dumps({"version": VERSION, "files": [file.document() for file in files]})


def journal_of(text: str) -> tuple[KeptFile, ...]:
    """What ``journal_text`` wrote; nothing for anything else: files are then hashed again."""
    return kept_files(_object(text)) or ()


def kept_files(document: Mapping[str, Any]) -> tuple[KeptFile, ...] | None:
    """The files of a marker or journal; None when the list is none."""
    listed = document.get("files")
    if document.get("version") != VERSION or not isinstance(listed, list):
        return None
    files = [_file(one) for one in listed]
    whole = tuple(one for one in files if one is not None)
    return whole if len(whole) == len(files) else None


def _file(one: object) -> KeptFile | None:
    if not isinstance(one, dict):
        return None
    texts = [one.get(name) for name in ("path", "sha256", "identity")]
    numbers = [one.get(name) for name in ("size", "mtime_ns")]
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(number, int) and not isinstance(number, bool) for number in numbers
    ):
        return None
    try:
        checked = CheckKind(str(one.get("checked")))
    except ValueError:
        return None
    return KeptFile(
        path=str(texts[0]),
        sha256=str(texts[1]),
        identity=str(texts[2]),
        size_bytes=int(numbers[0] or 0),
        mtime_ns=int(numbers[1] or 0),
        checked=checked,
    )


def _object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
