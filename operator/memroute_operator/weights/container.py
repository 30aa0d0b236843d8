"""What a pod's status says of the init container that fetches its weights."""

from collections.abc import Mapping
from typing import Any

from memroute_fetch.failures import ExitCode
from memroute_kube import KubeObject
from memroute_kube.resources import GROUP
from memroute_kube.shapes import mapping

FETCH_CONTAINER = "memroute-fetch"
"""The init container that fetches weights; the program in it has the same name."""
WEIGHTS_VOLUME = "memroute-weights"
LABEL_AHEAD = f"{GROUP}/fetches-ahead-for"
"""On pods that fetch before a rollout needs it (``ahead``): their ModelDeployment's name."""


def status_of(pod: KubeObject) -> Mapping[str, Any]:
    """The container's status; empty where the pod has none."""
    listed = mapping(pod.get("status")).get("initContainerStatuses")
    for container in listed if isinstance(listed, list) else ():
        if isinstance(container, Mapping) and container.get("name") == FETCH_CONTAINER:
            return container
    return {}


def is_fetching(pod: KubeObject) -> bool:
    """Whether it runs now."""
    return mapping(status_of(pod).get("state")).get("running") is not None


def has_fetched(pod: KubeObject) -> bool:
    """Whether it has ended well: the weights are in the cache."""
    ended = mapping(mapping(status_of(pod).get("state")).get("terminated"))
    return ended.get("exitCode") == 0


def last_end(pod: KubeObject) -> Mapping[str, Any]:
    """How it has ended last; empty where it has not."""
    container = status_of(pod)
    for name in ("state", "lastState"):
        ended = mapping(mapping(container.get(name)).get("terminated"))
        if ended:
            return ended
    return {}


def is_out_of_disk(pod: KubeObject) -> bool:
    """Whether the node's own disk had no space for them: another node may have some.

    A volume claim is as full on any node.
    """
    if last_end(pod).get("exitCode") != ExitCode.NO_SPACE or is_fetching(pod):
        return False
    volumes = mapping(pod.get("spec")).get("volumes")
    return any(
        volume.get("name") == WEIGHTS_VOLUME and "persistentVolumeClaim" not in volume
        for volume in (volumes if isinstance(volumes, list) else ())
        if isinstance(volume, Mapping)
    )
