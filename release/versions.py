"""The places that name the version of memroute; ``core/memroute/__init__.py`` is what counts.

The others are files that people use as they are (a chart, manifests, commands to copy), which
cannot ask a program. ``python -m release --set-version`` writes all; a test compares them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path("core") / "memroute" / "__init__.py"
# What a version of memroute looks like: numbers, and what PEP 440 and SemVer both take after them.
VERSION = r"\d+\.\d+\.\d+(?:rc\d+)?"
# Where to look, and after which words. History (CHANGELOG, docs/adr) names other versions, and
# helm/memroute/ci has values of people's own.
_PLACES = (
    ("core/memroute/__init__.py", rf'(?m)^(__version__ = ")({VERSION})'),
    ("helm/memroute/Chart.yaml", rf"(?m)^((?:appV|v)ersion: )({VERSION})$"),
    ("deploy/**/*", rf"(memroute/[a-z]+:|name: memroute/[^}}]*newTag: )({VERSION})\b"),
    ("README.md", rf"(memroute/[a-z$]+:)({VERSION})\b"),
    ("docs/[!a]*/*.md", rf"(memroute/[a-z$]+:|/operator:|as memroute )({VERSION})\b"),
    ("docs/[!a]*/*.md", rf"(memroute-)({VERSION})(?=[-.])"),
)


@dataclass(frozen=True, slots=True)
class Mention:
    """One place that names a version."""

    path: Path
    line: int
    version: str


def version_of(root: Path) -> str:
    """The version of the checkout. Raises ``ValueError`` where the source does not say one."""
    found = [mention.version for mention in mentions(root) if mention.path == SOURCE]
    if len(found) != 1:
        msg = f"{SOURCE} does not say one __version__ of the form 1.2.3 or 1.2.3rc4"
        raise ValueError(msg)
    return found[0]


def mentions(root: Path) -> list[Mention]:
    """Every place that names the version, in the order of paths and lines."""
    return sorted(
        (
            Mention(path, text.count("\n", 0, match.start(2)) + 1, match[2])
            for path, text, pattern in _texts(root)
            for match in re.finditer(pattern, text)
        ),
        key=lambda mention: (str(mention.path), mention.line),
    )


def set_version(root: Path, version: str) -> list[Path]:
    """Write ``version`` into every place; the files that changed. Raises ``ValueError``."""
    if not re.fullmatch(VERSION, version):
        msg = f"{version!r} is no version: write 1.2.3, or 1.2.3rc4"
        raise ValueError(msg)
    changed = []
    for path, text, pattern in _texts(root):
        written = re.sub(pattern, lambda match: match[1] + version, text)
        if written != text:
            (root / path).write_text(written)
            changed.append(path)
    return sorted(set(changed))


def _texts(root: Path) -> Iterator[tuple[Path, str, str]]:
    for places, pattern in _PLACES:
        for path in sorted(root.glob(places)):
            if path.is_file():
                yield path.relative_to(root), path.read_text(), pattern
