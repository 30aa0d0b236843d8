"""Facts of models on disk: by commit, with what each revision was last seen to mean.

```text
FOLDER/v1/<hash of the endpoint>/<owner>--<name>/<commit>.json       facts: never change
                                                 <commit>.<hash of the file>.json  of a GGUF file
FOLDER/v1/<hash of the endpoint>/<owner>--<name>/refs/<revision>.json  {"commit": …}
```

A cache is a convenience: what cannot be read of it is not there, what cannot be written is not
kept. Files are replaced whole, so that two programs can share a folder.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from memroute_hub.documents import UnreadableDocumentError, parse_object
from memroute_hub.facts import HubModel, model_from_document
from memroute_hub.names import ModelName, is_commit

LOGGER = logging.getLogger(__name__)
# Of what is written: another version is another folder, so that none reads the other's.
VERSION = "v1"
# Bytes of one file that are read back: twice the largest config.json that is taken.
MAX_FILE_BYTES = 16 * 1024 * 1024


class DiskCache:
    """Facts in a folder. Owns nothing in memory."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self._folder = folder / VERSION / _hash(endpoint)

    def commit_of(self, name: ModelName) -> str | None:
        """The commit that the revision was last seen to be; None when it was never seen."""
        revision = name.wanted_revision
        if is_commit(revision):
            return revision
        commit = (self._read(self._ref(name)) or {}).get("commit")
        return commit if isinstance(commit, str) and is_commit(commit) else None

    def model(self, name: ModelName, commit: str) -> HubModel | None:
        """The facts of a commit; None when they are not kept."""
        document = self._read(self._facts(name, commit))
        if document is None:
            return None
        try:
            found = model_from_document(document)
        except ValueError:
            return None
        if (found.repository, found.commit) != (name.repository, commit):
            return None
        return replace(found, revision=name.wanted_revision)

    def keep(self, name: ModelName, model: HubModel) -> None:
        """Keep facts, and what the revision means."""
        self._write(self._facts(name, model.commit), model.document())
        if not is_commit(name.wanted_revision):
            self._write(self._ref(name), {"commit": model.commit})

    def _of(self, name: ModelName) -> Path:
        return self._folder / name.repository.replace("/", "--")

    def _facts(self, name: ModelName, commit: str) -> Path:
        digest = "" if name.file is None else f".{_hash(name.file)}"
        return self._of(name) / f"{commit}{digest}.json"

    def _ref(self, name: ModelName) -> Path:
        return self._of(name) / "refs" / f"{quote(name.wanted_revision, safe='')}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            with path.open("rb") as file:
                return parse_object(file.read(MAX_FILE_BYTES))
        except (OSError, UnreadableDocumentError):
            return None

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(document, file)
                Path(temporary).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError as error:
            LOGGER.warning("facts of a model are not kept folder=%s error=%s", path.parent, error)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
