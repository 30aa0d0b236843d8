"""What a checkout says of itself, by git; and a copy of its files."""

import subprocess
from pathlib import Path

from release.changelog import section_of
from release.refusals import Checkout
from release.versions import mentions, version_of


class GitError(RuntimeError):
    """git cannot say; the message is git's."""


def gather(root: Path) -> Checkout:
    """The facts. Raises ``GitError``, and ``ValueError`` where no version is said."""
    version = version_of(root)
    status = git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
    return Checkout(
        version=version,
        commit=git(root, "rev-parse", "HEAD").strip(),
        epoch=int(git(root, "log", "-1", "--format=%ct")),
        changed=tuple(entry[3:] for entry in status.split("\0") if entry),
        tagged=_commit_of_tag(root, f"v{version}"),
        mentions=tuple(mentions(root)),
        section=section_of((root / "CHANGELOG.md").read_text(), version),
    )


def copy_tree(root: Path, target: Path) -> None:
    """Copy what git would commit, as it lies there: ignored files stay behind.

    Only whether a file is executable is kept of its mode; the rest is the umask's.
    """
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(listed.split("\0")) - {""}):
        source, copy = root / name, target / name
        if not source.exists():
            continue  # removed, and not committed yet
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
        if source.stat().st_mode & 0o100:
            copy.chmod(copy.stat().st_mode | 0o100)


def git(root: Path, *arguments: str) -> str:
    """What git prints. Raises ``GitError``."""
    result = subprocess.run(  # noqa: S603 - our own arguments
        ["git", "-C", str(root), *arguments],  # noqa: S607 - the git of whoever releases
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        msg = f"git {arguments[0]}: {result.stderr.strip()}"
        raise GitError(msg)
    return result.stdout


def _commit_of_tag(root: Path, tag: str) -> str | None:
    listed = git(root, "for-each-ref", "--format=%(objectname) %(*objectname)", f"refs/tags/{tag}")
    # An annotated tag is an object of its own: the commit is the second word.
    return listed.split()[-1] if listed.split() else None
