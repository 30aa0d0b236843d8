"""``python -m monitoring``: write dashboards, rules, and the pages of alerts and of dashboards."""

import json
from pathlib import Path

import yaml

from monitoring.alerts import groups, page
from monitoring.dashboards_page import dashboards_page
from monitoring.fleet import FLEET
from monitoring.model import MODEL
from monitoring.model_alerts import MODEL_ALERTS
from monitoring.operator import OPERATOR
from monitoring.platform_alerts import PLATFORM_ALERTS
from monitoring.router import ROUTER

ROOT = Path(__file__).parents[1]
CHART = Path("helm") / "memroute" / "monitoring"
DASHBOARDS = (FLEET, MODEL, ROUTER, OPERATOR)
GROUPS = (("memroute models", MODEL_ALERTS), ("memroute platform", PLATFORM_ALERTS))
ALERTS = (*MODEL_ALERTS, *PLATFORM_ALERTS)


def files() -> dict[Path, str]:
    """What is written, by its path in the repository."""
    written = {
        CHART / "dashboards" / f"{one.uid}.json": json.dumps(one.document(), indent=1) + "\n"
        for one in DASHBOARDS
    }
    written[CHART / "alerts.yaml"] = "# Written by `python -m monitoring`.\n" + yaml.safe_dump(
        groups(GROUPS), sort_keys=False, width=110, allow_unicode=True
    )
    written[Path("docs") / "reference" / "alerts.md"] = page(GROUPS)
    written[Path("docs") / "reference" / "dashboards.md"] = dashboards_page(DASHBOARDS)
    return written


def main() -> None:
    """Write them all."""
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
