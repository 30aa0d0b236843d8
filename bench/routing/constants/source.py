"""The constants of ``memroute.traffic``, as its source has them: a name, a value, what it is."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = "memroute/traffic"
CORE = ROOT / "core"
_UNIT_AND_SOURCE = re.compile(r"Unit: (?P<unit>[^.]+)\. Source: (?P<source>.+)\.$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One module-level ``Final`` number. (Private ones are masks and kinds of a format.)"""

    module: str
    """Below ``memroute.traffic``."""
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
        if node.target.id.startswith("_"):
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
    if isinstance(node, ast.Constant):
        is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return node.value if is_number else None  # type: ignore[return-value]
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _number(node.operand, values)
        return None if operand is None else -operand
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left, values), _number(node.right, values)
        if left is None or right is None:
            return None
        match node.op:
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
            case ast.Pow():
                return float(left**right) if isinstance(left, float) else left**right
            case ast.LShift() if isinstance(left, int) and isinstance(right, int):
                return left << right
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
    return None


def _comment_above(lines: list[str], line: int) -> str:
    """The comment that ends right above the line (from 1), as one line."""
    parts: list[str] = []
    index = line - 2
    while index >= 0 and lines[index].startswith("#"):
        parts.insert(0, lines[index].removeprefix("#").strip())
        index -= 1
    return " ".join(parts)
