"""``python -m release``: a dry run. It writes ``dist/`` and publishes nothing."""

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from memroute_simulator.controlplane import BinaryError, find_binaries
from release.archives import differences
from release.artifacts import ArtifactError, Surroundings, Tools, make
from release.gather import GitError, copy_tree, gather
from release.refusals import Checkout, refusals
from release.versions import set_version

ROOT = Path(__file__).parents[1]
SUMS = "SHA256SUMS"


def main() -> None:
    """Check, build twice, compare, and move the artifacts to where they were asked for."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also from a tree that differs from its commit"
    )
    parser.add_argument(
        "--without-native", action="store_true", help="no wheel with compiled modules"
    )
    parser.add_argument(
        "--set-version", metavar="VERSION", help="write the version everywhere, and do no more"
    )
    options = parser.parse_args()
    try:
        if options.set_version:
            for path in set_version(ROOT, options.set_version):
                print(path)
            return
        checkout = gather(ROOT)
        if found := refusals(checkout, allow_dirty=options.allow_dirty):
            sys.exit("release: nothing was built:\n" + "\n".join(f"* {each}" for each in found))
        _release(checkout, options.out, native=not options.without_native)
    except (ArtifactError, BinaryError, GitError, ValueError) as error:
        sys.exit(f"release: {error}")


def _release(checkout: Checkout, out: Path, *, native: bool) -> None:
    tools = Tools(
        python=ROOT / ".venv-release" / "bin" / "python",
        helm=find_binaries(["helm"])["helm"],
        kubectl=Path(sys.executable).parent / "kubectl",
    )
    if not tools.python.exists():
        msg = "the venv of requirements/release.txt is not there: make release makes it"
        raise ArtifactError(msg)
    with tempfile.TemporaryDirectory(prefix="memroute-release-") as scratch:
        # As different as two people's machines that have the same tools.
        folders = [Path(scratch, "a"), Path(scratch, "somewhere-else", "b")]
        made: list[Path] = []
        for folder, umask, timezone, locale in (
            (folders[0], 0o022, "UTC", "C"),
            (folders[1], 0o077, "Asia/Kolkata", "C.UTF-8"),
        ):
            folder.mkdir(parents=True)
            tree = folder / "tree"
            copy_tree(ROOT, tree)
            around = Surroundings(folder=folder, umask=umask, timezone=timezone, locale=locale)
            print(f"building memroute {checkout.version}: {len(made) + 1} of 2", flush=True)
            make(tree, folder / "out", checkout, tools, around, native=native)
            made.append(folder / "out")
        if found := differences(*made):
            msg = "the same commit did not make the same bytes:\n" + "\n".join(
                f"* {each}" for each in found
            )
            raise ArtifactError(msg)
        _deliver(made[0], out)
    print(f"two builds in different folders, umasks and time zones made the same bytes; in {out}:")
    print((out / SUMS).read_text(), end="")
    if checkout.changed:
        print("the tree was dirty: not for publishing")
    print(f"nothing is published; the tag would be v{checkout.version} on {checkout.commit[:12]}")


def _deliver(made: Path, out: Path) -> None:
    """Replace what an earlier run left; other files in the folder stay."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / SUMS).exists():
        for line in (out / SUMS).read_text().splitlines():
            (out / Path(line.split(maxsplit=1)[1]).name).unlink(missing_ok=True)
    lines = []
    for path in sorted(made.iterdir()):
        shutil.copy2(path, out / path.name)
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (out / SUMS).write_text("".join(lines))


if __name__ == "__main__":
    main()
