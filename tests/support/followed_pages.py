"""Follow a page: its blocks as one shell script, with what the reader is expected to have."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from page_blocks import ELSEWHERE, PROGRAMS, REPOSITORY

PROGRAM = Path(__file__).with_name("page_program.py")
# What a page leaves to the reader, in capitals, and what the tests' fleet has for it.
PLACEHOLDERS = {
    "NODE": "gpu-a", "TEAM": "team-a", "NAME": "chat", "REGISTRY": "registry.example",
    "PROFILE": "1g.10gb",
}  # fmt: skip
STOP = "set -euo pipefail\n"
TIMEOUT_SECONDS = 120


@dataclass
class Reader:
    """Somebody with a checkout, a shell and these programs."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    """What is written in the place of a word of the page."""

    def __post_init__(self):
        self.bin = self.folder / "bin"
        self.bin.mkdir(parents=True)
        for name in {*PROGRAMS, *ELSEWHERE} - {"printf", "echo", "export", "cut", "sha256sum"}:
            if name in {"openssl", "cat"}:
                continue
            path = self.bin / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" {name} "$@"\n')
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.home = self.folder / "checkout"
        self.home.mkdir()
        for name in ("helm", "deploy", "crds", "docs", "Makefile"):
            (self.home / name).symlink_to(REPOSITORY / name)
        self._give_files()

    def _give_files(self):
        """What pages say that the reader has: a model's configuration, a fleet, a log."""
        configs = REPOSITORY / "tests" / "data" / "footprint" / "model-configs"
        model = self.home / "my-model"
        model.mkdir()
        shutil.copy(sorted(configs.glob("*.json"))[0], model / "config.json")
        index = {"metadata": {"total_size": 16_000_000_000}, "weight_map": {"a": "a.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))

    def script(self, blocks):
        """The blocks, with the reader's words in the place of the page's."""
        text = STOP
        for block in blocks:
            typed = block.script.replace(".venv/bin/", "")
            for word, mine in (PLACEHOLDERS | self.words).items():
                typed = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w])", mine, typed)
            text += f": {block}\n{typed}\n"
        return text

    def follow(self, blocks):
        """Run the blocks of a page; what went wrong, or an empty text."""
        environment = os.environ | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PAGE_MAKE": shutil.which("make") or "make",
            "PAGE_CURL": shutil.which("curl") or "curl",
            "PAGE_JQ": shutil.which("jq") or "",
            "PAGE_REPOSITORY": str(REPOSITORY),
            "COLUMNS": "80",
            "HOME": str(self.home),
        }
        result = subprocess.run(
            ["bash", "-x", "-c", self.script(blocks)], cwd=self.home, check=False, text=True,
            env=environment | self.environment, capture_output=True, timeout=TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if result.returncode == 0:
            return ""
        return f"exit status {result.returncode}, after:\n" + "\n".join(
            result.stderr.splitlines()[-12:]
        )
