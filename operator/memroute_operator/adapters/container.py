"""Names of what a pod has for its adapters, and how it is found in one."""

from collections.abc import Mapping

from memroute_kube import KubeObject
from memroute_kube.shapes import listed, mapping

ADAPTERS_CONTAINER = "memroute-adapters"
"""The container that fetches adapters while the engine runs."""
ADAPTERS_VOLUME = "memroute-adapters"
"""The volume that it fetches into; those that have adapters already begin with this name too."""
ADAPTERS_PORT = 8082


def has_adapters_container(pod: KubeObject) -> bool:
    """Whether its engine was started with slots for adapters."""
    containers = listed(mapping(pod.get("spec")).get("containers"))
    return any(
        isinstance(one, Mapping) and one.get("name") == ADAPTERS_CONTAINER for one in containers
    )
