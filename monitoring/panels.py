"""Grafana dashboards: what is shown, and how Grafana writes it (schema 39, Grafana 10.4 and later).

Only what people set by hand in Grafana is a parameter here; all else is the same for every panel.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Of Grafana's grid: 24 columns; a panel of 8 rows is about 300 pixels high.
GRID_COLUMNS = 24


class Kind(StrEnum):
    """How a panel shows its queries; the value is Grafana's name of the panel."""

    LINES = "timeseries"
    NUMBER = "stat"
    TABLE = "table"


class Unit(StrEnum):
    """Of a panel's values; the value is Grafana's."""

    COUNT = "short"
    BYTES = "bytes"
    SECONDS = "s"
    RATIO = "percentunit"
    PER_SECOND = "reqps"
    EVENTS_PER_SECOND = "ops"
    BYTES_PER_SECOND = "Bps"
    YES_NO = "bool_yes_no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of a panel."""

    expr: str
    legend: str = ""
    """With labels in double braces. Of a table: the name of the column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: what it shows, and in one sentence what to make of it."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.COUNT
    kind: Kind = Kind.LINES
    width: int = 8
    height: int = 8
    is_stacked: bool = False
    max_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading, and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard."""

    name: str
    label: str
    query: str
    """``label_values(metric, label)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())

    def expressions(self) -> list[str]:
        """Every query of every panel."""
        return [q.expr for row in self.rows for panel in row.panels for q in panel.queries]

    def document(self) -> dict[str, Any]:
        """As Grafana reads it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "tags": ["memroute"],
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "annotations": {"list": []},
            "links": [
                {
                    "asDropdown": True, "icon": "external link", "includeVars": False,
                    "keepTime": True, "tags": ["memroute"], "targetBlank": False,
                    "title": "memroute", "tooltip": "", "type": "dashboards", "url": "",
                }
            ],
            "templating": {"list": [_DATASOURCE_CHOICE, *map(_variable, self.variables)]},
            "panels": _placed(self.rows),
        }  # fmt: skip


_DATASOURCE_CHOICE: dict[str, Any] = {
    "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
    "current": {}, "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1,
    "regex": "", "skipUrlSync": False,
}  # fmt: skip


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name, "label": variable.label, "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "current": {"text": ["All"], "value": ["$__all"]}, "allValue": ".*", "hide": 0,
        "includeAll": True, "multi": True, "options": [], "refresh": 2, "regex": "",
        "skipUrlSync": False, "sort": 1,
    }  # fmt: skip


def _placed(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """Rows and panels one after another, from left to right."""
    found: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        found.append(
            {
                "id": len(found) + 1, "type": "row", "title": row.title, "collapsed": False,
                "panels": [], "gridPos": {"x": 0, "y": top, "w": GRID_COLUMNS, "h": 1},
            }
        )  # fmt: skip
        top += 1
        left = lowest = 0
        for panel in row.panels:
            if left + panel.width > GRID_COLUMNS:
                top, left, lowest = top + lowest, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append(_panel(panel, len(found) + 1, place))
            left, lowest = left + panel.width, max(lowest, panel.height)
        top += lowest
    return found


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit.value, "min": 0}
    if panel.max_value is not None:
        defaults["max"] = panel.max_value
    if panel.kind is Kind.LINES:
        stacking = {"group": "A", "mode": "normal" if panel.is_stacked else "none"}
        defaults["custom"] = {
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": 40 if panel.is_stacked else 0,
            "showPoints": "never", "spanNulls": False, "stacking": stacking,
        }  # fmt: skip
    document: dict[str, Any] = {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "gridPos": place,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(query, place, panel.kind) for place, query in enumerate(panel.queries)],
    }
    if panel.kind is Kind.TABLE:
        names = {f"Value #{_ref(place)}": q.legend for place, q in enumerate(panel.queries)}
        document["transformations"] = [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {"excludeByName": {"Time": True}, "renameByName": names},
            },
        ]
    return document


_OPTIONS: dict[Kind, dict[str, Any]] = {
    Kind.LINES: {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "bottom",
                   "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    Kind.NUMBER: {
        "colorMode": "none", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    Kind.TABLE: {"cellHeight": "sm", "showHeader": True},
}  # fmt: skip


def _target(query: Query, place: int, kind: Kind) -> dict[str, Any]:
    target: dict[str, Any] = {
        "refId": _ref(place), "datasource": DATASOURCE, "expr": query.expr,
        "legendFormat": query.legend, "editorMode": "code", "range": kind is not Kind.TABLE,
        "instant": kind is Kind.TABLE,
    }  # fmt: skip
    if kind is Kind.TABLE:
        target["format"] = "table"
    return target


def _ref(place: int) -> str:
    return "ABCDEFGHIJKLMNOP"[place]


def lines(title: str, description: str, unit: Unit, *queries: tuple[str, str]) -> Panel:
    """A panel of lines; each query with its legend."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=tuple(Query(expr=expr, legend=legend) for expr, legend in queries),
    )


def number(title: str, description: str, unit: Unit, expr: str) -> Panel:
    """A panel of one number, a sixth of the width."""
    return Panel(
        title=title, description=description, unit=unit, kind=Kind.NUMBER, width=4, height=4,
        queries=(Query(expr=expr),),
    )  # fmt: skip


def table(title: str, description: str, unit: Unit, *queries: tuple[str, str]) -> Panel:
    """A panel over the whole width: one line for each set of labels, a column for each query."""
    return Panel(
        title=title, description=description, unit=unit, kind=Kind.TABLE, width=GRID_COLUMNS,
        queries=tuple(Query(expr=expr, legend=name) for expr, name in queries),
    )  # fmt: skip
