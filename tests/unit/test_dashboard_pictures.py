"""Pictures of dashboards: right numbers, round marks, and a legend that can be read."""

import math

import pytest

from monitoring import pictures
from monitoring.__main__ import DASHBOARDS
from monitoring.panels import Dashboard, Row, Unit, lines, number, table
from monitoring.quantities import tick, worded
from monitoring.series import Series, Source, named

MAX_BYTES = 300_000


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (79.2 * 2**30, Unit.BYTES, "79.2 GiB"),
        (0.0, Unit.BYTES, "0 B"),
        (0.0051, Unit.SECONDS, "5.1 ms"),
        (90.0, Unit.SECONDS, "90 s"),
        (600.0, Unit.SECONDS, "10 min"),
        (0.367, Unit.RATIO, "36.7 %"),
        (12.34, Unit.PER_SECOND, "12.3 req/s"),
        (20480.0, Unit.COUNT, "20.5 k"),
        (1.0, Unit.YES_NO, "yes"),
        (math.nan, Unit.COUNT, "-"),
    ],
)
def test_a_value_is_said_with_its_unit(value, unit, text):
    """A ratio that is read as a number, or bytes in powers of ten, misleads."""
    assert worded(value, unit) == text


@pytest.mark.parametrize(
    ("span", "unit", "distance"),
    [
        (79 * 2**30, Unit.BYTES, 20 * 2**30),
        (8.0, Unit.COUNT, 2.0),
        (1.0, Unit.RATIO, 0.5),
        (0.06, Unit.SECONDS, 0.02),
    ],
)
def test_marks_of_an_axis_are_round_in_its_own_unit(span, unit, distance):
    """7.45 GiB is what an axis says that was cut at eight milliards."""
    assert tick(span, unit) == pytest.approx(distance)


def test_a_legend_has_the_labels_of_its_series():
    """As Grafana writes it; what a series does not have is empty, as there."""
    labels = {"model_namespace": "team-a", "replica": "chat-1"}
    assert named("{{model_namespace}}/{{ replica }} p99", labels) == "team-a/chat-1 p99"
    assert named("{{nobody}} x", labels) == "x"
    assert named("", labels) == "model_namespace=team-a, replica=chat-1"


class Recorded(Source):
    """A Prometheus that has these series for every question."""

    def __init__(self, series):
        super().__init__("http://nobody", minutes=1)
        self._series = series

    def lines(self, expr):
        return self._series

    def now(self, expr):
        return self._series


@pytest.mark.slow
def test_every_kind_of_panel_is_drawn_with_and_without_data(tmp_path, monkeypatch):
    """A gap in a line, a stat without points and an empty table are what a young fleet has."""
    panels = (
        number("n", "d", Unit.BYTES, "x"),
        lines("l", "d", Unit.SECONDS, ("x", "{{node_name}}")),
        table("t", "d", Unit.COUNT, ("x", "now")),
    )
    small = Dashboard(
        uid="small", title="s", description="d", rows=(Row(title="r", panels=panels),)
    )
    monkeypatch.setattr(pictures, "DASHBOARDS", (small,))
    many = [
        Series({"node_name": f"n{number}"}, ((0.0, math.nan), (1.0, float(number)), (2.0, 0.0)))
        for number in range(9)
    ]
    for series in ([], many):
        (path,) = pictures.draw_all(Recorded(series), tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_page_has_a_picture_of_every_dashboard(repository):
    """A new dashboard is drawn by `make pictures`."""
    for one in DASHBOARDS:
        path = repository / pictures.FOLDER / f"{one.uid}.png"
        assert 10_000 < path.stat().st_size < MAX_BYTES, path
