"""Everything that a release consists of, made from a copy of the tree into a folder."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from release.archives import FILE_MODE, normalise_chart
from release.changelog import notes
from release.refusals import Checkout

# What is installed without Helm → the folder that kustomize makes it of. Each is whole: whoever has
# applied one applies the other over it.
MANIFESTS = {
    "install.yaml": "deploy/base",
    "install-picker.yaml": "deploy/overlays/endpoint-picker",
}
# Lines of a program's output that its failure shows.
LAST_LINES = 15


class ArtifactError(RuntimeError):
    """Something could not be made; the message has the last words of what should have made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs that make artifacts."""

    python: Path
    """Of the venv of requirements/release.txt."""
    helm: Path
    kubectl: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What must not matter: where, by whom and when something is made."""

    folder: Path
    umask: int
    timezone: str
    locale: str


def make(
    tree: Path,
    out: Path,
    checkout: Checkout,
    tools: Tools,
    surroundings: Surroundings,
    *,
    native: bool,
) -> None:
    """Make all artifacts of ``tree`` in ``out``, SHA256SUMS excepted. Raises ``ArtifactError``."""
    out.mkdir(parents=True)
    version, scratch = checkout.version, surroundings.folder / "scratch"
    scratch.mkdir()

    def run(*command: str | Path, native: bool = False) -> str:
        return _run(command, tree, checkout.epoch, surroundings, native=native)

    build = (tools.python, "-m", "hatchling", "build", "--directory", out)
    run(*build, "--target", "sdist")
    run(*build, "--target", "wheel")
    if native:
        run(*build, "--target", "wheel", native=True)
    run(tools.helm, "package", tree / "helm" / "memroute", "--destination", scratch)
    chart = out / f"memroute-chart-{version}.tgz"
    shutil.move(scratch / f"memroute-{version}.tgz", chart)
    normalise_chart(chart, checkout.epoch)
    for name, folder in MANIFESTS.items():
        (out / name).write_text(
            f"# memroute {version}: kubectl apply --server-side -f {name}\n"
            + run(tools.kubectl, "kustomize", tree / folder)
        )
    (out / "crds.yaml").write_text(run(tools.kubectl, "kustomize", tree / "crds"))
    run(
        tools.python, "-m", "release.sbom", "--locks", tree / "requirements", "--out", out,
        "--version", version, "--epoch", str(checkout.epoch),
    )  # fmt: skip
    if checkout.section is not None:
        text = notes(checkout.section, version, checkout.commit, checkout.epoch)
        (out / "RELEASE_NOTES.md").write_text(text)
    for path in out.iterdir():
        path.chmod(FILE_MODE)


def _run(
    command: Sequence[str | Path],
    tree: Path,
    epoch: int,
    surroundings: Surroundings,
    *,
    native: bool,
) -> str:
    """What the command prints. It sees nothing of the caller's environment but PATH."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(surroundings.folder),
        "TMPDIR": str(surroundings.folder / "scratch"),
        "TZ": surroundings.timezone,
        "LC_ALL": surroundings.locale,
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MEMROUTE_NATIVE": "1" if native else "0",
    }
    words = [str(word) for word in command]
    result = subprocess.run(  # noqa: S603 - the tools of a release
        words, cwd=tree, env=environment, umask=surroundings.umask,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        last = "\n".join((result.stdout + result.stderr).strip().splitlines()[-LAST_LINES:])
        msg = f"{' '.join(words[:5])} … failed:\n{last}"
        raise ArtifactError(msg)
    return result.stdout
