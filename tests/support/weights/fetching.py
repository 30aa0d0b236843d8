"""``memroute-fetch`` in this process: its options, its exit code, what it says at the end."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

import fake_hub
from memroute_fetch import MARKER_NAME, download, model_directory, program
from memroute_fetch.disk import eviction
from memroute_fetch.failures import ExitCode
from memroute_hub import transport


def without_waits(monkeypatch: Any) -> None:
    """Tries follow each other at once, and nobody's certificates are read for loopback."""
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.0,) * 3)
    monkeypatch.setattr(transport, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("memroute_fetch.fetching.new_client", loopback_client)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def loopback_client() -> httpx2.Client:
    """As the program's own, without the environment."""
    return httpx2.Client(
        verify=fake_hub.TLS, trust_env=False, follow_redirects=True, timeout=httpx2.Timeout(20.0)
    )


@dataclass
class Fetching:
    """A cache, and what the last run of the program said of it."""

    cache: Path
    endpoint: str
    environment: dict[str, str] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    said: str = ""

    def run(self, source: str, *options: str) -> ExitCode:
        """One start of the program."""
        words = self.cache.parent / "last-words"
        words.unlink(missing_ok=True)
        code = program.run(
            [
                source, "--cache", str(self.cache), "--endpoint", self.endpoint, "--port", "-1",
                "--keep-free-bytes", "0", "--termination-log", str(words), *options,
            ],
            self.environment, self.stopping,
        )  # fmt: skip
        self.said = words.read_text()
        return code

    @property
    def summary(self) -> dict[str, Any]:
        """What a run says that was no failure."""
        return json.loads(self.said)

    def folder(self, source: str, file: str | None = None) -> Path:
        """Where the model lies."""
        return self.cache / model_directory(source, file)

    def files(self, source: str, file: str | None = None) -> dict[str, bytes]:
        """What an engine would find; the marker left out."""
        return contents(self.folder(source, file))

    def is_whole(self, source: str, file: str | None = None) -> bool:
        """Whether there is a marker."""
        return (self.folder(source, file) / MARKER_NAME).exists()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by path; the marker left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER_NAME
    }


def free_bytes(monkeypatch: Any, num_bytes: int) -> None:
    """A volume with so much room, whatever is written to it."""
    monkeypatch.setattr(eviction, "free_bytes", lambda _cache: num_bytes)
