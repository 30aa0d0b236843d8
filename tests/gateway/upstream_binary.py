"""Which conformance suite is run, and whether it can be: asked before anything is started.

The suite is a Go test program (``go test -c``). One that its caller has built may be of another
version, know other flags, or be no such program at all: it is told so within a second, and not
after minutes in which a cluster was started.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from upstream_report import LATER_TESTS, TESTS, TOP

from memroute.closeness import did_you_mean

HOW_TO_BUILD = (
    "build one with `go test -c -vet=off -o suite .` in the folder conformance of a checkout of "
    "kubernetes-sigs/gateway-api-inference-extension (that of 18 August 2026, 84436a9, was "
    "run: its 14 tests are expected)"
)
# A program that answers what tests it has does so at once. Unit: seconds. Chosen by hand.
ANSWER_SECONDS = 120.0
# Of what the suite says of itself. Unit: characters. Chosen by hand.
MAX_SAID = 500


class SuiteError(ValueError):
    """The suite, or the test that was asked for, cannot be run; the message says what to do."""


def given_suite(path: Path, out: Path) -> Path:
    """The suite that the caller has built. ``out``: where results are written, over older ones.

    Raises ``SuiteError``.
    """
    suite = path.expanduser()
    if not suite.exists():
        message = f"--suite: there is no file {suite}: {HOW_TO_BUILD}"
        raise SuiteError(message)
    if not suite.is_file() or not os.access(suite, os.X_OK):
        message = f"--suite: {suite} is no program: {HOW_TO_BUILD}"
        raise SuiteError(message)
    if out.resolve() in suite.resolve().parents:
        message = f"--suite: {suite} is in {out}, where results are written over: move it"
        raise SuiteError(message)
    return suite.resolve()


def check_suite(suite: Path, flags: Sequence[str]) -> None:
    """Ask the program which tests it has, with the flags that it is run with.

    Raises ``SuiteError`` where it is no conformance suite, or knows one of the flags not.
    """
    command = [str(suite), f"-test.list=^{TOP}$", *flags]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{suite} cannot be run ({error}): {HOW_TO_BUILD}"
        raise SuiteError(message) from error
    if answer.returncode or TOP not in answer.stdout.split():
        said = next(iter((answer.stderr or answer.stdout).strip().splitlines()), "nothing")
        message = (
            f"{suite} is no conformance suite that can be run here, it says {said[:MAX_SAID]!r}: "
            f"{HOW_TO_BUILD}"
        )
        raise SuiteError(message)


def check_test(name: str) -> None:
    """Raises ``SuiteError`` where the pinned suite has no test of that name."""
    if name in TESTS:
        return
    if name in LATER_TESTS:
        message = (
            f"--run-test: {name} is newer than the pinned suite; --suite BINARY: {HOW_TO_BUILD}"
        )
    else:
        message = f"--run-test: there is no test {name}{did_you_mean(name, TESTS)}"
    raise SuiteError(message)
