"""Names of what a pod has for its adapters, and how it is known from its annotations."""

from memroute_kube import KubeObject
from memroute_kube.resources import GROUP
from memroute_kube.shapes import mapping

ADAPTERS_CONTAINER = "memroute-adapters"
"""The container that fetches adapters while the engine runs."""
ADAPTERS_VOLUME = "memroute-adapters"
"""The volume that it fetches into; those that have adapters already begin with this name too."""
ADAPTERS_PORT = 8082
ANNOTATION_ADAPTERS = f"{GROUP}/adapters"
"""On replica pods: where the engine sees adapters, with commas; absent where it takes none."""


def mount_paths_of(pod: KubeObject) -> tuple[str, ...] | None:
    """Where the engine of a pod sees adapters; None where it has no slots for any."""
    annotations = mapping(mapping(pod.get("metadata")).get("annotations"))
    paths = annotations.get(ANNOTATION_ADAPTERS)
    return tuple(paths.split(",")) if isinstance(paths, str) else None
