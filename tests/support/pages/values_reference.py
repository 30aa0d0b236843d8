"""The page of the chart's values: ``python tests/support/pages/values_reference.py`` makes it."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[3]
CHART = REPOSITORY / "helm" / "memroute"
PAGE = REPOSITORY / "docs" / "reference" / "values.md"
HEAD = """# Values of the chart

Made from the comments of `helm/memroute/values.yaml`; a test compares them, and
`values.schema.json`, which refuses what is not here. `helm show values helm/memroute` prints the
same. What a flag means in full: [settings](settings.md). How to: [upgrade](../how-to/upgrade.md),
[uninstall](../how-to/uninstall.md), [several releases](../how-to/several-releases.md).
"""


@dataclass(frozen=True)
class Value:
    """One value of the chart."""

    path: tuple[str, ...]
    default: object
    comment: str
    is_group: bool
    """Whether its keys are values of their own."""


def values():
    """Every value, in the order of the file."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    return list(_walk(yaml.compose(text, yaml.CSafeLoader), schema, text.splitlines(), ()))


def _walk(node, schema, lines, path):
    for key, value in node.value:
        where = (*path, key.value)
        inner = schema.get("properties", {}).get(key.value, {})
        is_group = isinstance(value, yaml.MappingNode) and "properties" in inner and value.value
        default = yaml.SafeLoader("").construct_document(value)
        comment = _comment_above(lines, key.start_mark.line)
        yield Value(where, default, comment, bool(is_group))
        if is_group:
            yield from _walk(value, inner, lines, where)


def _comment_above(lines, number):
    found = []
    while number and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        found.insert(0, lines[number].lstrip().lstrip("#").strip())
    return " ".join(found)


def page():
    """The whole page."""
    parts, found = [HEAD], values()
    of_all = [one for one in found if len(one.path) == 1 and not one.is_group]
    parts.append("## Of the whole release\n\n" + _table(of_all))
    for group in (one for one in found if one.is_group and len(one.path) == 1):
        inner = [one for one in found if one.path[0] == group.path[0] and len(one.path) > 1]
        parts.append(f"## {group.path[0]}\n\n{group.comment}\n\n" + _table(inner))
    return "\n".join(parts)


def _table(rows):
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for one in rows:
        name = f"`{'.'.join(one.path)}`"
        default = "" if one.is_group else f"`{json.dumps(one.default)}`"
        lines.append(f"| {name} | {default} | {_escaped(one.comment)} |")
    return "\n".join(lines) + "\n"


def _escaped(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*.", "\\*.")


if __name__ == "__main__":
    PAGE.write_text(page())
