"""The compiled modules, as ``make native`` leaves them: what is measured is what images carry."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / ".native"


class NativeBuildError(Exception):
    """They cannot be built; the message has what make said."""


def build_native() -> Path:
    """The folder to put first on ``PYTHONPATH``; built now where the source has changed."""
    build = subprocess.run(
        ["make", "--silent", "native"],  # noqa: S607 - whichever make there is
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if build.returncode:
        msg = f"make native failed:\n{build.stdout}{build.stderr}"
        raise NativeBuildError(msg)
    return NATIVE
