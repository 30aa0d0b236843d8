"""Golden layouts and sizes, as vLLM and transformers computed them."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "data" / "footprint"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of one fixture, each with its configuration in place."""
    found = json.loads((FOLDER / name).read_text())
    for row in found:
        config = row.get("config") or f"{row['model'].replace('/', '--')}.json"
        if isinstance(config, str):
            config = json.loads((FOLDER / "model-configs" / config).read_text())
        row["config"] = config
    return found
