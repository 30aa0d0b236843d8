"""Each constant halved and doubled, one at a time; what every run attained is kept in a file.

Compiled modules hold constants as literals, so the study compiles a copy of its own in which each
is asked of the environment at import. One process runs the scenarios of one changed constant; its
results are appended at once, and a run that was interrupted goes on where it ended.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.native import NativeBuildError
from bench.routing.constants.roles import FROM_ONE, groups
from bench.routing.constants.scenarios import SCENARIOS
from bench.routing.constants.source import PACKAGE, ROOT, Constant, find_constants
from bench.routing.progress import IncompleteError

FACTORS = (0.5, 2.0)
RESULTS = Path(__file__).with_name("measured.jsonl")
BUILD = ROOT / ".constants"
# Moved by thousandths, this constant changes a tie now and then, and nothing else: how far two runs
# differ that should not is the noise.
NEUTRAL = "routing.cost.SAME_SECONDS"
NUM_NEUTRAL = 8
NUM_SEEDS = 1
Row = dict[str, Any]

_ASKED = '''"""The constant that a study changes: its name and value, as the environment says."""

import os

_NAME, _, _VALUE = os.environ.get("MEMROUTE_CONSTANT", "").partition("=")


def asked_float(name: str, value: float) -> float:
    """The value, or the study's."""
    return float(_VALUE) if name == _NAME else value


def asked_int(name: str, value: int) -> int:
    """The value, or the study's."""
    return int(_VALUE) if name == _NAME else value
'''
# What the virtual routers and engines run of what is compiled.
_MODULES = ("memroute/traffic/", "memroute_simulator/engine/model/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One constant, for one process."""

    constant: str
    factor: float
    value: float
    groups: tuple[str, ...]


def changed(constant: Constant, factor: float) -> float:
    """The value at ``factor``; where its distance from 1 is what counts, that is scaled."""
    if constant.path in FROM_ONE:
        return 1.0 + factor * (constant.value - 1.0)
    if isinstance(constant.value, int):
        return max(1, round(factor * constant.value))
    return factor * constant.value


def changes(constants: list[Constant]) -> list[Change]:
    """What is to be measured, the noise first."""
    neutral = next(constant for constant in constants if constant.path == NEUTRAL)
    every = tuple(dict.fromkeys(scenario.group for scenario in SCENARIOS))
    listed = [
        Change(constant=NEUTRAL, factor=factor, value=factor * neutral.value, groups=every)
        for factor in (1.0 + 0.001 * number for number in range(NUM_NEUTRAL))
    ]
    for constant in constants:
        own = groups(constant.path)
        listed += [
            Change(
                constant=constant.path,
                factor=factor,
                value=changed(constant, factor),
                groups=own,
            )
            for factor in FACTORS
            if own
        ]
    return listed


def read_results(path: Path = RESULTS) -> list[Row]:
    """What was measured so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def measure_constants(jobs: int, path: Path = RESULTS) -> list[Row]:
    """Measure what ``path`` does not have; all rows. Raises ``IncompleteError``, on an interrupt.

    Delete the file, or lines of it, to measure again.
    """
    known = {(row["constant"], row["factor"], row["value"]) for row in read_results(path)}
    work = [
        change
        for change in changes(find_constants())
        if (change.constant, change.factor, change.value) not in known
    ]
    if not work:
        return read_results(path)
    build = build_changeable()
    pool = ThreadPoolExecutor(jobs)
    try:
        for number, row in enumerate(pool.map(lambda change: _run(change, build), work), 1):
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"constants: {number} of {len(work)} ({row['constant']})", file=sys.stderr)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        msg = "interrupted; run again to go on"
        raise IncompleteError(msg, read_results(path)) from None
    return read_results(path)


def build_changeable(folder: Path = BUILD) -> Path:
    """Compile a copy whose constants can be set; the folder to put first on ``PYTHONPATH``.

    What was compiled of the same source is used again. Raises ``NativeBuildError``.
    """
    source, native, stamp = folder / "source", folder / "native", folder / "stamp"
    shutil.rmtree(source, ignore_errors=True)
    for package in ("core/memroute", "router/memroute_router", "simulator/memroute_simulator"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    (source / "core/memroute/asked.py").write_text(_ASKED)
    by_module: dict[str, list[Constant]] = {}
    for constant in find_constants():
        by_module.setdefault(constant.module, []).append(constant)
    for module, own in by_module.items():
        file = source / "core" / PACKAGE / (module.replace(".", "/") + ".py")
        file.write_text(made_changeable(file.read_text(), own))
    recipe = (ROOT / "hatch_build.py").read_text()
    recipe = recipe.replace(
        "modules=list(MODULES)",
        f"modules=[module for module in MODULES if module.startswith({_MODULES!r})]",
    ).replace('opt_level="2"', 'opt_level="1"')
    (source / "hatch_build.py").write_text(recipe)
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        digest.update(path.read_bytes())
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return native
    stamp.unlink(missing_ok=True)
    build = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "hatch_build.py", str(native)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if build.returncode:
        raise NativeBuildError(build.stdout + build.stderr)
    stamp.write_text(digest.hexdigest())
    return native


def made_changeable(text: str, constants: list[Constant]) -> str:
    """The module's text, with each constant asked of ``memroute.asked``."""
    lines = text.splitlines()
    for constant in constants:
        kind = "int" if isinstance(constant.value, int) else "float"
        lines[constant.line - 1] = (
            f'{constant.name}: Final = asked_{kind}("{constant.path}", {constant.expression})'
        )
    first = next(i for i, line in enumerate(lines) if line.startswith(("from ", "import ")))
    lines.insert(first, "from memroute.asked import asked_float, asked_int")
    return "\n".join(lines) + "\n"


def _run(change: Change, build: Path) -> Row:
    """One process. Raises ``CalledProcessError``, its message with what the process said."""
    told = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "bench.routing.constants", ",".join(change.groups), str(NUM_SEEDS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ
        | {
            "PYTHONPATH": str(build),
            "MEMROUTE_CONSTANT": f"{change.constant}={change.value!r}",
        },
    )  # fmt: skip
    row: Row = {"constant": change.constant, "factor": change.factor, "value": change.value}
    if told.returncode:
        # A value that the program cannot work with is a result too.
        return row | {"attained": {}, "error": told.stderr.strip().splitlines()[-1]}
    return row | {"attained": json.loads(told.stdout)}
