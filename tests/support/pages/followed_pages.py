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

from fake_hub import GOOD_TOKEN
from page_blocks import ELSEWHERE, REPOSITORY, Yaml, blocks, kind_of
from page_program import PROGRAMS as STAND_INS

PROGRAM = Path(__file__).with_name("page_program.py")
# What a page leaves to the reader, in capitals, and what the tests' fleet has for it.
PLACEHOLDERS = {
    "NODE": "gpu-d", "TEAM": "team-a", "NAME": "chat", "REGISTRY": "registry.example",
    "PROFILE": "1g.10gb",
}  # fmt: skip
# Enough of a vLLM's start for `memroute plan --start-log`.
START_LOG = """\
INFO [gpu_model_runner.py] Model loading took 15.27 GiB memory and 3.1 seconds
INFO [gpu_worker.py] peak activation memory takes 1.18 GiB
INFO [gpu_worker.py] Available KV cache memory: 55.03 GiB
INFO [kv_cache_utils.py] GPU KV cache size: 400,720 tokens
"""
# What a page calls the file that it shows; one that begins with `# NAME.yaml` is called so.
FILES = {
    Yaml.VALUES: "values.yaml", Yaml.KEY_FILE: "keys.yaml", Yaml.ROUTER_FILE: "router.yaml",
    Yaml.SCENARIO: "scenario.yaml",
}  # fmt: skip
FILE_NAME = re.compile(r"# ([\w-]+\.yaml)\b")
# A scenario of thousands of requests takes minutes: what it says is read, and a part of it run.
PART = (re.compile(r"requests: \d+"), "requests: 60")
STOP = "set -euo pipefail\n"
TIMEOUT_SECONDS = 600


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
        for name in {*STAND_INS, *ELSEWHERE}:
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
        shutil.copy(min(configs.glob("*.json")), model / "config.json")
        index = {"metadata": {"total_size": 16_000_000_000}, "weight_map": {"a": "a.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        (self.home / "token").write_text(GOOD_TOKEN)
        (self.home / "engine.log").write_text(START_LOG)
        (self.home / "fleet.json").write_text(json.dumps({"kind": "List", "items": []}))

    def _keep_files(self, page):
        """What the page shows as a file, the reader has written down."""
        for block in blocks(page):
            if block.language != "yaml":
                continue
            named = FILE_NAME.match(block.text)
            name = named[1] if named else FILES.get(kind_of(block.documents[0]))
            if name:
                (self.home / name).write_text(PART[0].sub(PART[1], block.text))

    def script(self, blocks):
        """The blocks, with the reader's words in the place of the page's."""
        text = STOP
        for block in blocks:
            typed = block.script.replace(".venv/bin/", "")
            for word, mine in (PLACEHOLDERS | self.words).items():
                typed = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w])", mine, typed)
            text += f": {block}\n{typed}\n"
        return text

    def follow(self, blocks, *, page=None, changes=False):
        """Run blocks of a page; what went wrong, or an empty text.

        ``page``: whose files the reader has. ``changes``: what is to change the cluster does.
        """
        if page:
            self._keep_files(page)
        environment = os.environ | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PAGE_MAKE": shutil.which("make") or "make",
            "PAGE_CURL": shutil.which("curl") or "curl",
            "PAGE_JQ": shutil.which("jq") or "",
            "PAGE_REPOSITORY": str(REPOSITORY),
            "COLUMNS": "80",
            "HOME": str(self.home),
            "PAGE_CHANGES": "1" if changes else "",
            "PAGE_SEEN": str(self.folder),
        }
        with (self.folder / "shown").open("w") as shown:
            result = subprocess.run(
                ["bash", "-x", "-c", self.script(blocks)], cwd=self.home, check=False, text=True,
                env=environment | self.environment, timeout=TIMEOUT_SECONDS,
                stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.PIPE,
            )  # fmt: skip
        if result.returncode == 0:
            return ""
        return f"exit status {result.returncode}, after:\n" + "\n".join(
            result.stderr.splitlines()[-12:]
        )
