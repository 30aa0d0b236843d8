"""What an alert is, and how Prometheus and people read it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

RUNBOOK_URL = "docs/reference/alerts.md"
"""Where the runbooks are, unless the chart's ``monitoring.rules.runbookUrl`` says otherwise."""


class Severity(StrEnum):
    """Who is told: critical wakes somebody, warning is a ticket."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert and its runbook."""

    name: str
    value: str
    """What is measured: has series at all times while memroute is scraped."""
    condition: str
    """What of it is wrong, as PromQL that follows the value: ``> 0.05``."""
    minutes: int
    """For how long it must be so."""
    severity: Severity
    summary: str
    """One line, with labels of the value."""
    meaning: str
    impact: str
    look: str
    """What to look at, in the order in which it helps."""
    do: str
    drill: str
    """How it was made to fire and to resolve: a fault on the emulated fleet, or series."""

    @property
    def expr(self) -> str:
        """The rule's expression."""
        return f"({self.value}) {self.condition}"

    @property
    def anchor(self) -> str:
        """Of its runbook on the page."""
        return self.name.lower()

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{self.minutes}m",
            "labels": {"severity": self.severity.value},
            "annotations": {
                "summary": self.summary,
                "description": self.meaning,
                "runbook_url": f"{RUNBOOK_URL}#{self.anchor}",
            },
        }

    def page(self) -> str:
        """Its runbook."""
        return f"""### {self.name}

`{self.expr}` for {self.minutes} min; {self.severity.value}.

* **Meaning.** {self.meaning}
* **Impact.** {self.impact}
* **Look at.** {self.look}
* **Do.** {self.do}
* **Drill.** {self.drill}
"""


def groups(by_name: Iterable[tuple[str, tuple[Alert, ...]]]) -> dict[str, Any]:
    """The rules as a file of Prometheus, and as the ``spec`` of a PrometheusRule."""
    return {
        "groups": [
            {"name": name, "rules": [alert.rule() for alert in alerts]} for name, alerts in by_name
        ]
    }


def page(by_name: Iterable[tuple[str, tuple[Alert, ...]]]) -> str:
    """``docs/reference/alerts.md``."""
    listed = list(by_name)
    rows = [
        f"| [{one.name}](#{one.anchor}) | {one.severity.value} | {one.minutes} min |"
        for _, alerts in listed
        for one in alerts
    ]
    sections = [
        f"## {name}\n\n" + "\n".join(one.page() for one in alerts) for name, alerts in listed
    ]
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


_HEAD = """# Alerts

Written by `python -m monitoring`; a test compares. The rules are in
[helm/memroute/monitoring/alerts.yaml](../../helm/memroute/monitoring/alerts.yaml): `monitoring.rules.enabled` of the chart
makes a PrometheusRule of them, and `rule_files` of a Prometheus reads them as they are. How to have the metrics scraped:
[watch with Prometheus and Grafana](../how-to/watch-with-prometheus.md). What each metric says: [metrics](metrics.md).

`critical` is for waking somebody, `warning` for a ticket. Thresholds are chosen by hand; leave one out
(`monitoring.rules.disabled`) and write your own where another fits better. Under **Drill**, *fault on the emulated fleet*
was made to fire and to resolve with a real Prometheus (`make prometheus`); *series* in `promtool test rules`, as
all of them (`tests/contract/test_alerts.py`).

| alert | severity | after |
| --- | --- | --- |
"""
