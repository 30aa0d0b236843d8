"""The page of the dashboards: each as a picture, and what each of its panels answers."""

from collections.abc import Iterable

from monitoring.panels import Dashboard

HEAD = """# Dashboards

Written by `python -m monitoring`, from the same Python as the dashboards; a test compares them. How to install them:
[Prometheus and Grafana](../how-to/watch-with-prometheus.md). What each metric means: [metrics](metrics.md).

**The pictures are drawn by us, not by Grafana.** `make pictures` starts an emulated fleet and a real Prometheus that scrapes
it, runs the queries of every panel, and draws each by its type, unit and legend. Of a long legend the highest lines are
shown. In four minutes this happens: the second minute begins with 20 GiB of another tenant on gpu-a, the third with an
engine that takes thirty times as long for a step, and after that 24 clients ask for long answers. Of your own Prometheus:
`python -m monitoring.pictures http://localhost:9090 --minutes 60 --folder pictures`.
"""


def dashboards_page(dashboards: Iterable[Dashboard]) -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for one in dashboards:
        parts.append(f"\n## {one.title}\n\n{one.description}\n")
        parts.append(f"\n![{one.title}](dashboards/{one.uid}.png)\n")
        for row in one.rows:
            parts.append(f"\n### {one.title.rpartition('/ ')[2]}: {row.title.lower()}\n")
            parts.append("\n| panel | what it answers, and what to make of it |\n| --- | --- |\n")
            parts += [f"| {panel.title} | {panel.description} |\n" for panel in row.panels]
    return "".join(parts)
