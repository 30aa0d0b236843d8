"""A router to measure, described by a small YAML file.

```yaml
name: my-router
command: [my-router, --port, "{port}", --backends, "{engine_urls}"]   # one argument per engine
ready: /health            # answers 200 once it serves
address: 127.0.0.1:9000   # optional: where it listens, if it cannot be told a port
warm_seconds: 1           # optional: how long it needs after that
files:                    # optional: written to {folder} before it starts
  my.yaml: |
    - {engine_url}        # a line that names an engine is repeated for each
```

Placeholders: ``{port}``, ``{port+1}``, ``{folder}``, ``{python}``, ``{native}`` (our compiled
modules), ``{engine_urls}``, ``{first_engine_url}``; in files, for each of them,
``{engine_url}``, ``{engine_host}``, ``{engine_port}``.
"""

import os
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.native import NATIVE
from bench.server import Server, ServerError, Usage

START_SECONDS, STOP_SECONDS = 30.0, 3.0
_KNOWN = {"name", "command", "ready", "address", "warm_seconds", "files", "env"}


class PeerError(Exception):
    """A peer that cannot be started, with what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How a router is started."""

    name: str
    command: tuple[str, ...]
    ready: str
    address: str | None = None
    warm_seconds: float = 1.0
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def read_peer(path: Path) -> Peer:
    """A peer from its file. Raises ``PeerError``."""
    document: Any = yaml.safe_load(path.read_text())
    if not isinstance(document, dict) or not {"name", "command", "ready"} <= set(document):
        msg = f"{path}: name, command and ready are needed"
        raise PeerError(msg)
    unknown = set(document) - _KNOWN
    if unknown:
        msg = f"{path}: unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(_KNOWN))}"
        raise PeerError(msg)
    return Peer(**(document | {"command": tuple(map(str, document["command"]))}))


class RunningPeer:
    """A router that runs on one core. Owns its server."""

    def __init__(
        self, peer: Peer, *, engines: list[tuple[str, int]], port: int, core: int, folder: Path,
        search: list[Path],
    ) -> None:  # fmt: skip
        """``search``: folders of programs, before those of PATH. Raises ``PeerError``."""
        self.peer = peer
        host, _, own_port = (peer.address or f"127.0.0.1:{port}").rpartition(":")
        self.host, self.port = host, int(own_port)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        places = {
            "{port}": str(self.port), "{port+1}": str(self.port + 1), "{folder}": str(folder),
            "{python}": sys.executable, "{native}": str(NATIVE),
            "{first_engine_url}": f"http://{engines[0][0]}:{engines[0][1]}",
        }  # fmt: skip
        for name, text in peer.files.items():
            (folder / name).write_text(_fill_lines(text, places, engines))
        command = []
        for argument in peer.command:
            if argument == "{engine_urls}":
                command += [f"http://{host}:{port}" for host, port in engines]
            else:
                command.append(_fill(argument, places))
        path = os.pathsep.join([*map(str, search), os.environ.get("PATH", "")])
        program = shutil.which(command[0], path=path)
        if program is None:
            msg = f"{peer.name}: {command[0]} is not on PATH (python -m bench.datapath --install)"
            raise PeerError(msg)
        settings = {name: _fill(value, places) for name, value in peer.env.items()}
        self._server = Server(
            [program, *command[1:]],
            url=f"http://{self.host}:{self.port}",
            log=folder / "log",
            environment={"PATH": path} | settings,
            core=core,
        )
        try:
            self._server.start()
        except ServerError as error:
            msg = f"{peer.name}: {error}"
            raise PeerError(msg) from error

    def wait_until_ready(self) -> None:
        """Return when it serves. Raises ``PeerError``."""
        try:
            self._server.wait_until_ready(self.peer.ready, within_seconds=START_SECONDS)
        except ServerError as error:
            self.stop()
            msg = f"{self.peer.name} did not become ready: {error}"
            raise PeerError(msg) from error
        time.sleep(self.peer.warm_seconds)

    def usage(self) -> Usage:
        """CPU time and resident memory of it and its children, now."""
        return self._server.usage()

    def stop(self) -> None:
        """End it and its children."""
        self._server.stop(within_seconds=STOP_SECONDS)


def _fill(text: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def _fill_lines(text: str, places: dict[str, str], engines: list[tuple[str, int]]) -> str:
    lines = []
    for line in text.splitlines():
        if re.search(r"\{engine_(url|host|port)\}", line):
            for host, port in engines:
                own = {
                    "{engine_url}": f"http://{host}:{port}",
                    "{engine_host}": host,
                    '"{engine_port}"': str(port),
                    "{engine_port}": str(port),
                }
                lines.append(_fill(line, own | places))
        else:
            lines.append(_fill(line.replace('"{port}"', places["{port}"]), places))
    return "\n".join(lines) + "\n"
