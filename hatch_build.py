"""The hot modules, compiled, for a wheel (``MEMROUTE_NATIVE=1``) or beside the source.

``python hatch_build.py FOLDER`` compiles a copy of them in ``FOLDER``; with ``--for-tests`` so that
the C compiler takes a fraction of the time and the result is not to be measured.

The source stays the only source: mypyc compiles the same typed modules that run uncompiled, into
extension modules that lie beside them and are imported first (docs/adr/0010-compiled-or-not.md).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
TRAFFIC = ROOT / "core/memroute/traffic"
REQUESTS = ROOT / "router/memroute_router/requests"
PACKAGES = (
    "core/memroute", "router/memroute_router", "picker/memroute_picker",
    "simulator/memroute_simulator",
)  # fmt: skip
# Where the types of what they import come from: a fresh venv, as an image's, has none of memroute.
TYPES = tuple(ROOT / name for name in ("kube", "hub"))
MODULES = (
    *sorted(
        f"memroute/traffic/{path.relative_to(TRAFFIC)}"
        for path in TRAFFIC.rglob("*.py") if path.name != "__init__.py"
    ),
    *sorted(
        f"memroute_router/requests/{path.relative_to(REQUESTS)}"
        for path in REQUESTS.rglob("*.py") if path.name != "__init__.py"
    ),
    *(f"memroute_router/{name}.py" for name in (
        "access/gate", "access/newcomers", "access/quotas", "access/rules", "access/usage_asked",
        "access/verdicts", "access/windows", "access/words", "engines/adapters", "engines/loads",
        "engines/others", "engines/vllm", "http/budget", "http/client", "http/clients",
        "http/connection", "http/deadlines", "http/engine_pool", "http/errors", "http/exchange",
        "http/fields", "http/framing", "http/listening", "http/outbox", "http/reading",
        "http/server_state", "lifecycle/account", "lifecycle/allowance", "lifecycle/answers",
        "lifecycle/attempt", "lifecycle/claims", "lifecycle/events", "lifecycle/failure",
        "lifecycle/forwarded", "lifecycle/forwarding", "lifecycle/in_flight", "lifecycle/intake",
        "lifecycle/isolation", "lifecycle/lifecycle", "lifecycle/outcomes", "lifecycle/phases",
        "lifecycle/proxy", "lifecycle/refusal", "lifecycle/reporting", "lifecycle/seeking",
        "lifecycle/usage", "log/journal", "log/log_lines", "metrics/exported", "metrics/families",
        "metrics/pools", "metrics/process", "metrics/replicas", "metrics/statistics",
        "pages/exposition", "replicas/pool", "replicas/pool_settings", "replicas/pools",
        "replicas/replica", "replicas/scrape", "services", "surface", "tracing/context",
        "tracing/trace",
    )),
    *(f"memroute_picker/{name}.py" for name in (
        "grpc/call", "grpc/connection", "grpc/frames", "grpc/hpack", "grpc/huffman",
        "grpc/reading", "grpc/sending", "grpc/side", "grpc/waste", "health", "picking/asking",
        "picking/attempt", "picking/claims", "picking/exchange", "picking/fallbacks",
        "picking/heads", "picking/passing", "picking/process", "picking/request", "picking/side",
        "picking/telling", "protocol/answers", "protocol/incoming", "protocol/names",
        "protocol/wire",
    )),
    *(f"memroute_simulator/engine/model/{name}.py" for name in (
        "content", "kv_cache", "queue", "request", "scheduler", "sglang", "vllm",
    )),
)  # fmt: skip
"""What every request goes through, and every step of the simulated engine."""
_SETUP = """
import os

from mypyc.build import mypycify
from setuptools import setup

flags = ["--python-version=3.11", "--ignore-missing-imports"]
modules = mypycify([*flags, *{modules!r}], opt_level={opt_level!r}, debug_level="0",
                   group_name={library!r})
if os.name == "posix":
    for module in modules:
        # mypyc indents by hundreds of blanks (nine tenths of 168 MB), and gcc's -Wall goes through
        # them for this one warning, for minutes: 9 s of a core for all of its parser without.
        module.extra_compile_args = [*module.extra_compile_args, "-Wno-misleading-indentation"]
        # Functions that no other library can replace are called directly, and inlined: 5 %.
        module.extra_compile_args = [*module.extra_compile_args, "-fvisibility=hidden"]
setup(name="memroute-native", packages=[], ext_modules=modules)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """How the C compiler is to go about it; what mypyc makes of the source is the same."""

    library: str
    """The start of the name of the library that holds the code: it says which one is loaded."""
    opt_level: str


OPTIMISED = Flavour(library="memroute_native", opt_level="2")
"""For wheels, and for all that is measured."""
FOR_TESTS = Flavour(library="memroute_native_tests", opt_level="0")
"""For ``make native-test``."""


class NativeError(RuntimeError):
    """The modules cannot be compiled; the message has the compiler's last words."""


def compile_modules(target: Path, flavour: Flavour = OPTIMISED) -> list[Path]:
    """Copy the packages to ``target`` and compile them there; the extension modules' paths.

    Raises ``NativeError``.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, target / Path(package).name, ignore=shutil.ignore_patterns("*.so")
        )
    (target / "setup.py").write_text(
        _SETUP.format(modules=list(MODULES), opt_level=flavour.opt_level, library=flavour.library)
    )
    build = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=target, capture_output=True, text=True, check=False,
        env=os.environ | {"MYPYPATH": os.pathsep.join(map(str, TYPES))},
    )  # fmt: skip
    if build.returncode:
        last = "\n".join((build.stdout + build.stderr).strip().splitlines()[-15:])
        msg = f"compiling failed (are a C compiler, mypy and setuptools there?):\n{last}"
        raise NativeError(msg)
    shutil.rmtree(target / "build")
    return sorted(target.rglob("*.so"))


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the extension modules into wheels, where they are asked for."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the wheel is to be a plain one or an editable one."""
        if os.environ.get("MEMROUTE_NATIVE") != "1" or version == "editable":
            return
        self._folder = Path(tempfile.mkdtemp(prefix="memroute-native-"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in compile_modules(self._folder / "tree"):
            inside = path.relative_to(self._folder / "tree")
            build_data["force_include"][str(path)] = str(inside)

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact: str) -> None:
        """Remove what was only needed on the way."""
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--for-tests", action="store_true")
    chosen = parser.parse_args()
    try:
        for compiled in compile_modules(
            chosen.folder, FOR_TESTS if chosen.for_tests else OPTIMISED
        ):
            print(compiled)
    except NativeError as error:
        sys.exit(f"hatch_build: {error}")
