"""The release before this one, out of the history: its chart, its CRD and its code."""

import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

# What was shown as 0.1, before releases had tags: the last commit of it.
UNTAGGED = "3c01ecec4995a56205cff0898c53986d610484c8"
PACKAGES = ("core", "kube", "operator", "router")
# Where a template of the chart lists the variables of its program.
VARIABLES = "          env:\n"


@dataclass(frozen=True)
class Release:
    """An unpacked release."""

    name: str
    """Which one it is, for the one who reads the test's output."""
    directory: Path

    @property
    def chart(self):
        return self.directory / "helm" / "memroute"


def unpack_previous_release(repository, directory):
    """The newest tag before this commit; else 0.1; else, in a clone without either, this tree.

    Emulated nodes run an image's program from the Python path. So the chart gets one variable
    more: where that release's code is.
    """
    directory.mkdir(parents=True)
    name = _commit(repository)
    archive = directory / "release.tar"
    if name is None:
        name = "this tree, because there is no history here (git fetch --unshallow --tags)"
        files = [*PACKAGES, "helm"]
        with tarfile.open(archive, "w") as made:
            for file in files:
                made.add(repository / file, arcname=file)
    else:
        git(repository, "archive", f"--output={archive}", name, *PACKAGES, "helm")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    paths = ":".join(str(directory / package) for package in PACKAGES)
    for template in (directory / "helm" / "memroute" / "templates").glob("*.yaml"):
        text = template.read_text()
        more = f"            - {{name: PYTHONPATH, value: {paths}}}\n"
        template.write_text(text.replace(VARIABLES, VARIABLES + more))
    return Release(name=name, directory=directory)


def git(repository, *arguments):
    return subprocess.run(
        ["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _commit(repository):
    for ask in (("describe", "--tags", "--abbrev=0", "HEAD^"), ("rev-parse", f"{UNTAGGED}^0")):
        try:
            return git(repository, *ask)
        except (subprocess.CalledProcessError, FileNotFoundError):
            continue
    return None
