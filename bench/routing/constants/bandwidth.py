"""The constants of ``core/memroute/bandwidth`` as the page of constants tells them.

They have no effect on attainment that could be measured in runs: they are rates of hardware and of
engines, each with its source, and what they predict is compared with recorded runs
(``python -m bench.simulator``) and published tables (``python -m bench.sharing``).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from bench.routing.constants.source import ROOT
from memroute.bandwidth.links import LINK_CLASSES

FOLDER = ROOT / "core/memroute/bandwidth"
_HEAD = """
# Step times, links and shared cards

Constants of `core/memroute/bandwidth`, from the source, with the comment that stands above each.
They are rates of hardware and engines, so they are not tuned: what they predict is compared with
recorded runs (`python -m bench.simulator`), with a published table of sharing (`python -m
bench.sharing`) and, for kernels, with the databases that `kernels.py` names.
[How they are used](../explanation/bandwidth.md).
"""
_COLUMNS = "| constant | value | what it is |\n| --- | --- | --- |\n"
_LINKS = """
## Classes of links

One all-reduce of n bytes takes the latency and n over the rate; messages beyond 8 MiB go by NCCL.
`links.py` says which rows are fitted to measured tables, and which are estimated.

| link | ranks | latency, us | GB/s | GB/s beyond 8 MiB |
| --- | --- | --- | --- | --- |
"""


def section() -> str:
    """Module by module: name, value, and what the source says of it."""
    parts = [_HEAD, _LINKS]
    for name, rates in LINK_CLASSES.items():
        for ranks, rate in rates.items():
            large = rate.large_bytes_per_second or rate.bytes_per_second
            parts.append(
                f"| `{name}` | {ranks} | {rate.latency_seconds * 1e6:g} | "
                f"{rate.bytes_per_second / 1e9:g} | {large / 1e9:g} |\n"
            )
    for path in sorted(FOLDER.glob("*.py")):
        rows = list(_rows(path))
        if rows:
            parts.append(f"\n## bandwidth.{path.stem}\n\n{_COLUMNS}")
            parts += [f"| {name} | {value} | {said} |\n" for name, value, said in rows]
    return "".join(parts)


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    text = path.read_text()
    lines = text.splitlines()
    said = ""
    before = 0
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign):
            before = 0
            continue
        names = [one for one in _names(node.targets[0]) if one.isupper() and one[0] != "_"]
        comment = _comment_above(lines, node.lineno)
        # Constants without a line between them share the comment of the first.
        if comment or node.lineno != before + 1:
            said = comment
        before = node.end_lineno or node.lineno
        if names and isinstance(node.value, ast.Constant | ast.Tuple | ast.BinOp):
            value = " ".join(ast.unparse(node.value).split())
            yield ", ".join(f"`{name}`" for name in names), value, said


def _names(target: ast.expr) -> Iterator[str]:
    elements = target.elts if isinstance(target, ast.Tuple) else [target]
    yield from (one.id for one in elements if isinstance(one, ast.Name))


def _comment_above(lines: list[str], line: int) -> str:
    found: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.startswith("# "):
            break
        found.append(text.removeprefix("# ").strip())
    return " ".join(reversed(found)).replace("|", "\\|")
