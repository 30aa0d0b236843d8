"""Dashboards through the types of Grafana's own SDK and back: what is lost is no field of them.

Run by a Python that has ``grafana-foundation-sdk`` (``make prometheus``): prints what was lost or
changed, one line each, and ends with 1 if anything was.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

EMPTY = (None, [], {}, "", False, 0)


def lost(given, back, path):
    """Where two documents differ; what is empty may be left out."""
    if isinstance(given, dict) and isinstance(back, dict):
        for key, value in given.items():
            if key in back:
                yield from lost(value, back[key], f"{path}.{key}")
            elif value not in EMPTY:
                yield f"{path}.{key} = {value!r} is no field"
    elif isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        for place, (one, other) in enumerate(zip(given, back, strict=True)):
            yield from lost(one, other, f"{path}[{place}]")
    elif given != back:
        yield f"{path}: {given!r} became {back!r}"


def main():
    """Every file that is named."""
    register_default_plugins()
    found = []
    for name in sys.argv[1:]:
        document = json.loads(Path(name).read_text())
        back = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
        found += lost(document, back, Path(name).stem)
    print("\n".join(found))  # noqa: T201 - a program's output
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
