"""The demo's nodes: four with GPUs, one without."""

from typing import Any

# How often the demo's exporters collect, in seconds. Real ones collect every 30 s by default, and
# so does an emulated one that is not told otherwise; a demo is watched.
EXPORTER_SECONDS = 1

FLEET: list[dict[str, Any]] = [
    {"exporterSeconds": EXPORTER_SECONDS} | node
    for node in (
        {"name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
        {"name": "gpu-b", "machine": "l40s-1", "gpuSharing": "shared"},
        {"name": "gpu-c", "machine": "h100-2"},
        {"name": "gpu-d", "machine": "l4-2"},
        {"name": "plain", "machine": "plain"},
    )
]
