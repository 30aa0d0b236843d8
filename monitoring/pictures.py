"""``python -m monitoring.pictures URL``: every dashboard as a picture, from a running Prometheus.

Each panel is drawn by its own queries, type, unit and legend, as the document says that Grafana
gets. Grafana itself draws nothing here: colours, rounding and fonts are ours.
"""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitoring.__main__ import DASHBOARDS, ROOT
from monitoring.panels import GRID_COLUMNS, Kind, Unit
from monitoring.quantities import tick, worded
from monitoring.series import Source, named

FOLDER = Path("docs") / "reference" / "dashboards"

# Inches of a column and of a row of Grafana's grid, and pixels of an inch: text of 7 points is
# read without zooming, and a dashboard stays under 300 kB. Chosen by hand.
COLUMN_INCHES = 0.62
ROW_INCHES = 0.36
DOTS_PER_INCH = 100

# Lines of a legend, and of a table; what is more is counted. A panel of 8 rows has room for so many.
MAX_LEGEND = 5
MAX_TABLE = 8

# Of a panel's height: a line of its legend, the middle of the lowest line, and what is below the
# chart beside the legend (the times).
LEGEND_LINE_SHARE, LEGEND_BOTTOM_SHARE, LEGEND_TOP_SHARE = 0.062, 0.06, 0.12

# The top of a chart in which all is 0: one of whatever is counted, or a hundredth.
LEAST = {False: 1.0, True: 0.01}

# Letters of a name in a legend of a third of the width.
MAX_NAME = 46

# Colours of a picture (PNG with a palette): a third of the bytes, and no difference to the eye.
NUM_COLOURS = 128

INK, FAINT, PAPER, CARD = "#1f2933", "#7b8794", "#eef1f4", "#ffffff"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all dashboards into a folder."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.pictures")
    parser.add_argument("url", help="a Prometheus that scrapes memroute: http://localhost:9090")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (60)")
    parser.add_argument("--folder", type=Path, default=ROOT / FOLDER)
    options = parser.parse_args(arguments)
    draw_all(Source(options.url, minutes=options.minutes), options.folder)


def draw_all(source: Source, folder: Path) -> list[Path]:
    """The pictures that were written, one for each dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dashboard in DASHBOARDS:
        path = folder / f"{dashboard.uid}.png"
        _draw(dashboard.document(), source, path)
        written.append(path)
    return written


def _draw(document: dict[str, Any], source: Source, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a picture pays

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels = document["panels"]
    num_rows = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in panels) + 2
    size = (GRID_COLUMNS * COLUMN_INCHES, num_rows * ROW_INCHES)
    figure = plt.figure(figsize=size, dpi=DOTS_PER_INCH, facecolor=PAPER)
    figure.text(0.006, 1 - 1.1 / num_rows, document["title"], fontsize=14, color=INK, weight="bold")
    figure.text(0.994, 1 - 1.1 / num_rows, document["description"], fontsize=9, color=FAINT,
                ha="right")  # fmt: skip
    for panel in panels:
        place = panel["gridPos"]
        bottom = 1 - (place["y"] + place["h"] + 2) / num_rows
        box = (place["x"] / GRID_COLUMNS, bottom, place["w"] / GRID_COLUMNS, place["h"] / num_rows)
        if panel["type"] == "row":
            figure.text(0.006, bottom + 0.25 / num_rows, panel["title"], fontsize=10, color=INK,
                        weight="bold")  # fmt: skip
        else:
            _panel(figure, panel, source, box)
    figure.savefig(path)
    plt.close(figure)
    _shrink(path)


def _shrink(path: Path) -> None:
    from PIL import Image  # noqa: PLC0415 - only a picture pays

    with Image.open(path) as image:
        image.convert("RGB").quantize(NUM_COLOURS).save(path, optimize=True)


def _panel(figure: Any, panel: dict[str, Any], source: Source, box: Sequence[float]) -> None:
    left, bottom, width, height = box
    margin_x, margin_y = 0.05 / GRID_COLUMNS, 0.05 * height
    card = figure.add_axes((left + margin_x, bottom + margin_y / 2, width - 2 * margin_x,
                            height - margin_y))  # fmt: skip
    card.set_facecolor(CARD)
    card.set_xticks([])
    card.set_yticks([])
    for side in card.spines.values():
        side.set_color("#d5dbe1")
    kind = Kind(panel["type"])
    # From the top edge of the card, in shares of its height: the same distance in every panel.
    line = 0.5 / panel["gridPos"]["h"]
    card.text(0.012, 1 - 0.95 * line, panel["title"], fontsize=8.5, color=INK, weight="bold",
              transform=card.transAxes, va="center") if kind is not Kind.NUMBER else None  # fmt: skip
    _DRAWN[kind](figure, card, panel, source)


def _number(figure: Any, card: Any, panel: dict[str, Any], source: Source) -> None:
    found = source.lines(panel["targets"][0]["expr"])
    unit = panel["fieldConfig"]["defaults"]["unit"]
    text = worded(found[0].last, unit) if found else "No data"
    card.text(0.5, 0.86, panel["title"], fontsize=8.5, color=INK, weight="bold", ha="center",
              va="center")  # fmt: skip
    card.text(0.5, 0.5, text, fontsize=19, color=INK, ha="center", va="center")
    if found and len(found[0].points) > 1:
        box = card.get_position()
        spark = figure.add_axes((box.x0, box.y0, box.width, box.height * 0.22))
        spark.axis("off")
        times, values = zip(*found[0].points, strict=True)
        spark.plot(times, values, color="#2f6fb2", linewidth=0.8)
        spark.fill_between(times, values, color="#2f6fb2", alpha=0.15)
        spark.set_ylim(0, max(filter(math.isfinite, (*values, 1e-9))) * 1.05)


def _table(figure: Any, card: Any, panel: dict[str, Any], source: Source) -> None:  # noqa: ARG001
    unit = panel["fieldConfig"]["defaults"]["unit"]
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for target in panel["targets"]:
        for series in source.now(target["expr"]):
            key = tuple(sorted(series.labels.items()))
            rows.setdefault(key, {})[target["legendFormat"]] = worded(series.last, unit)
    if not rows:
        _nothing(card)
        return
    names = [name for name, _ in next(iter(rows))]
    columns = [*names, *(target["legendFormat"] for target in panel["targets"])]
    text = [[*(value for _, value in key), *(cells.get(one, "") for one in columns[len(names):])]
            for key, cells in sorted(rows.items())]  # fmt: skip
    shown = text[:MAX_TABLE]
    widths = [
        max(len(str(line[at])) for line in [columns, *shown]) + 2 for at in range(len(columns))
    ]
    starts = [sum(widths[:at]) / sum(widths) for at in range(len(columns))]
    height = 0.8 / (MAX_TABLE + 1)
    for number, line in enumerate([columns, *shown]):
        for at, cell in enumerate(line):
            card.text(0.012 + 0.976 * starts[at], 0.85 - number * height, cell, fontsize=7.5,
                      color=FAINT if number == 0 else INK, va="center")  # fmt: skip
    if len(text) > len(shown):
        card.text(0.988, 0.94, f"{len(text) - len(shown)} more", fontsize=7.5, color=FAINT,
                  ha="right", va="center")  # fmt: skip


def _lines(figure: Any, card: Any, panel: dict[str, Any], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    found = [
        (named(target["legendFormat"], series.labels), series)
        for target in panel["targets"]
        for series in source.lines(target["expr"])
    ]
    if not found:
        _nothing(card)
        return
    # What moved most, or is highest, is named first; Grafana lists all and scrolls.
    found.sort(key=lambda one: -max((v for _, v in one[1].points if math.isfinite(v)), default=-1))
    box = card.get_position()
    below = LEGEND_TOP_SHARE + min(len(found), MAX_LEGEND) * LEGEND_LINE_SHARE
    chart = figure.add_axes((box.x0 + 0.036, box.y0 + box.height * below, box.width - 0.046,
                             box.height * (0.88 - below)))  # fmt: skip
    colours = [f"C{number % 10}" for number in range(len(found))]
    largest = max((v for _, one in found for _, v in one.points if math.isfinite(v)), default=0.0)
    if defaults["custom"]["stacking"]["mode"] == "normal":
        times = sorted({at for _, series in found for at, _ in series.points})
        layers = [[dict(series.points).get(at, 0.0) for at in times] for _, series in found]
        largest = max(map(sum, zip(*layers, strict=True)), default=0.0)
        chart.stackplot([_time(at) for at in times], layers, colors=colours, alpha=0.5)
    else:
        for colour, (_, series) in reversed(list(zip(colours, found, strict=True))):
            chart.plot([_time(at) for at, _ in series.points], [v for _, v in series.points],
                       color=colour, linewidth=1.1)  # fmt: skip
    chart.set_xlim(_time(source.since), _time(source.until))
    _axes(chart, unit, defaults.get("max"), largest)
    _legend(card, [(name, worded(series.last, unit)) for name, series in found], colours)


def _axes(chart: Any, unit: str, highest: float | None, largest: float) -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter  # noqa: PLC0415
    from matplotlib.ticker import MultipleLocator  # noqa: PLC0415

    lowest, top = min(0.0, chart.get_ylim()[0]), (highest or largest * 1.08) * 1.02
    top = top or LEAST[unit == Unit.RATIO]
    chart.set_ylim(lowest, top)
    chart.yaxis.set_major_locator(MultipleLocator(tick(top - lowest, unit)))
    chart.yaxis.set_major_formatter(lambda value, _: worded(value, unit))
    chart.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=6))
    chart.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    chart.tick_params(labelsize=6.5, colors=FAINT, length=2)
    chart.grid(visible=True, color="#e4e8ec", linewidth=0.6)
    for side in chart.spines.values():
        side.set_visible(False)


def _legend(card: Any, entries: list[tuple[str, str]], colours: list[str]) -> None:
    shown = entries if len(entries) <= MAX_LEGEND else entries[: MAX_LEGEND - 1]
    height = LEGEND_LINE_SHARE
    top = LEGEND_BOTTOM_SHARE + (min(len(entries), MAX_LEGEND) - 1) * height
    for number, ((name, value), colour) in enumerate(zip(shown, colours, strict=False)):
        at = top - number * height
        card.plot([0.012, 0.032], [at, at], color=colour, linewidth=2)
        card.text(0.04, at, _cut(name), fontsize=7, color=INK, va="center")
        card.text(0.988, at, value, fontsize=7, color=INK, va="center", ha="right")
    if len(entries) > len(shown):
        at = top - len(shown) * height
        card.text(0.04, at, f"{len(entries) - len(shown)} more, lower ones", fontsize=7,
                  color=FAINT, va="center")  # fmt: skip
    card.set_xlim(0, 1)
    card.set_ylim(0, 1)


def _cut(name: str) -> str:
    name = re.sub(r"(GPU-[0-9a-f]{8})[0-9a-f-]+", r"\1…", name)
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _nothing(card: Any) -> None:
    card.text(0.5, 0.5, "No data", fontsize=11, color=FAINT, ha="center", va="center")


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


_DRAWN: dict[Kind, Callable[[Any, Any, dict[str, Any], Source], None]] = {
    Kind.LINES: _lines,
    Kind.NUMBER: _number,
    Kind.TABLE: _table,
}


if __name__ == "__main__":
    main()
