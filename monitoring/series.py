"""What a Prometheus answers to the queries of a panel."""

import json
import re
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass

Labels = dict[str, str]

# Points of a line: as many as a panel of a third of the width can show.
NUM_POINTS = 180

# Grafana's variables, as they stand when "All" is chosen.
ALL = ".*"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its labels, and its points as (Unix seconds, value)."""

    labels: Labels
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value that is a number; NaN where there is none."""
        return next((v for _, v in reversed(self.points) if v == v), float("nan"))  # noqa: PLR0124


class Source:
    """A Prometheus, asked for the last minutes until now."""

    def __init__(self, url: str, *, minutes: float, rate_interval: str = "1m") -> None:
        """``rate_interval``: Grafana's ``$__rate_interval``, four scrapes."""
        self._url = url.rstrip("/")
        self._minutes = minutes
        self._rate_interval = rate_interval
        self.until = time.time()
        self.since = self.until - minutes * 60

    def lines(self, expr: str) -> list[Series]:
        """Every series of an expression over the time."""
        step = max(1.0, self._minutes * 60 / NUM_POINTS)
        answer = self._ask("query_range", expr, start=self.since, end=self.until, step=step)
        return [_series(one["metric"], one["values"]) for one in answer]

    def now(self, expr: str) -> list[Series]:
        """Every series of an expression at the end of the time."""
        answer = self._ask("query", expr, time=self.until)
        return [_series(one["metric"], [one["value"]]) for one in answer]

    def _ask(self, path: str, expr: str, **parameters: float) -> list[dict[str, object]]:
        query = urllib.parse.urlencode({"query": self._settled(expr), **parameters})
        url = f"{self._url}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - typed by whoever runs it
            result: list[dict[str, object]] = json.load(answer)["data"]["result"]
        return result

    def _settled(self, expr: str) -> str:
        whole = expr.replace("$__rate_interval", self._rate_interval)
        return re.sub(r"\$\w+", ALL, whole)


def _series(labels: object, points: object) -> Series:
    of = dict(labels) if isinstance(labels, dict) else {}
    values = points if isinstance(points, list) else []
    return Series(of, tuple((float(at), float(value)) for at, value in values))


def named(legend: str, labels: Labels) -> str:
    """A legend with its labels in the place of ``{{label}}``, as Grafana writes it."""
    if not legend:
        return ", ".join(f"{name}={value}" for name, value in labels.items())
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend).strip()
