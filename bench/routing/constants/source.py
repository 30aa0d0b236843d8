"""The constants of ``memroute.traffic``, as its source has them: a name, a value, what it is."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PACKAGE = "memroute/traffic"
CORE = ROOT / "core"
FORMATS = ("peers.wire", "prefixes.rendezvous")
"""Modules whose private numbers are kinds, flags and masks of a format: no quantities."""
_UNIT_AND_SOURCE = re.compile(r"Unit: (?P<unit>[^.]+)\. Source: (?P<source>.+)\.$")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One module-level ``Final`` number."""

    module: str
    """Its name below ``memroute.traffic``."""
    name: str
    line: int
    """Where it is set, from 1."""
    expression: str
    """As it is written."""
    value: float
    comment: str
    """The comment right above it, as one line; empty where there is none."""

    @property
    def path(self) -> str:
        """``admission.gates.MAX_UNPROVEN``."""
        return f"{self.module}.{self.name}"

    @property
    def about(self) -> str:
        """What it is, without its unit and source."""
        return _UNIT_AND_SOURCE.sub("", self.comment).strip()

    @property
    def unit(self) -> str | None:
        """None where the comment does not say."""
        found = _UNIT_AND_SOURCE.search(self.comment)
        return None if found is None else found["unit"]

    @property
    def source(self) -> str | None:
        """None where the comment does not say."""
        found = _UNIT_AND_SOURCE.search(self.comment)
        return None if found is None else found["source"]


def find_constants(core: Path = CORE) -> list[Constant]:
    """All of them, by module and line."""
    folder = core / PACKAGE
    return [
        constant
        for path in sorted(folder.rglob("*.py"))
        for constant in _of_module(
            ".".join(path.relative_to(folder).with_suffix("").parts), path.read_text()
        )
    ]


def _of_module(module: str, text: str) -> list[Constant]:
    lines = text.splitlines()
    values: dict[str, float] = {}
    found: list[Constant] = []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.value is None or not ast.unparse(node.annotation).startswith("Final"):
            continue
        if node.target.id.startswith("_") and module in FORMATS:
            continue
        value = _number(node.value, values)
        if value is None:
            continue
        values[node.target.id] = value
        found.append(
            Constant(
                module=module,
                name=node.target.id,
                line=node.lineno,
                expression=ast.unparse(node.value),
                value=value,
                comment=_comment_above(lines, node.lineno),
            )
        )
    return found


def _number(node: ast.expr, values: dict[str, float]) -> float | None:
    """What a literal, or arithmetic on literals and earlier constants, comes to; None: neither."""
    found: float | None = None
    if isinstance(node, ast.Constant):
        # A flag is no number, though Python says so.
        if isinstance(node.value, int | float) and not isinstance(node.value, bool):
            found = node.value
    elif isinstance(node, ast.Name):
        found = values.get(node.id)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _number(node.left, values), _number(node.right, values)
        if left is not None and right is not None:
            found = _OPERATORS[type(node.op)](left, right)
    return found


def _comment_above(lines: list[str], line: int) -> str:
    """The comment that ends right above the line (from 1), as one line."""
    parts: list[str] = []
    index = line - 2
    while index >= 0 and lines[index].startswith("#"):
        parts.insert(0, lines[index].removeprefix("#").strip())
        index -= 1
    return " ".join(parts)
