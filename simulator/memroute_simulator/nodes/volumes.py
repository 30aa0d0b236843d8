"""Volumes of an emulated pod: folders of this machine in the place of mounts.

Processes share this machine's files, so nothing is mounted: a word of a command line or of an
environment that begins with a mount's path begins with that mount's folder instead.

| volume | folder |
| --- | --- |
| ``hostPath`` | of the node: it outlives pods, and other pods of the node see it |
| ``persistentVolumeClaim`` | of the cluster: every node sees it |
| ``emptyDir`` | of the pod |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from memroute_kube import KubeObject

MOUNTS_VARIABLE = "MEMROUTE_SIMULATOR_MOUNTS"
"""In every container: a JSON object, mount paths to folders, for paths that it is told later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Where a container sees a volume, and what folder that is."""

    path: str
    folder: Path


def mounts_of(
    pod: KubeObject, container: KubeObject, *, root: Path, node: str, pod_directory: Path
) -> list[Mount]:
    """The mounts of a container that are folders, the longest path first; each is made.

    ``root``: of all files of the emulated cluster.
    """
    namespace = pod["metadata"]["namespace"]
    folders: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or ():
        name = volume["name"]
        if host := volume.get("hostPath"):
            folders[name] = root / "nodes" / node / host["path"].lstrip("/")
        elif claim := volume.get("persistentVolumeClaim"):
            folders[name] = root / "claims" / namespace / claim["claimName"]
        elif "emptyDir" in volume and not (volume["emptyDir"] or {}).get("medium"):
            folders[name] = pod_directory / "volumes" / name
    found = []
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in folders:
            continue
        folder = folders[mount["name"]] / mount.get("subPath", "")
        folder.mkdir(parents=True, exist_ok=True)
        found.append(Mount(path=mount["mountPath"].rstrip("/"), folder=folder))
    return sorted(found, key=lambda mount: -len(mount.path))


def in_folders(word: str, mounts: list[Mount]) -> str:
    """A word with the folder of a mount in the place of its path (also in ``--flag=PATH``)."""
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    for mount in mounts:
        if value == mount.path or value.startswith(f"{mount.path}/"):
            return f"{flag}{equals}{mount.folder}{value[len(mount.path) :]}"
    return word


def environment_in_folders(environment: Mapping[str, str], mounts: list[Mount]) -> dict[str, str]:
    """The same for the values of variables."""
    return {name: in_folders(value, mounts) for name, value in environment.items()}
