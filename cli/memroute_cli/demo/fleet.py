"""The demo's nodes: four with GPUs, one without."""

FLEET: list[dict[str, str]] = [
    {"name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
    {"name": "gpu-b", "machine": "l40s-1", "gpuSharing": "shared"},
    {"name": "gpu-c", "machine": "h100-2"},
    {"name": "gpu-d", "machine": "l4-2"},
    {"name": "plain", "machine": "plain"},
]
