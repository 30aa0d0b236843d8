"""The newest known version of every object that placement depends on.

Fed by kopf's events, by full lists, and by the answers to our own writes, so that what was
just created is counted before its event arrives. Owns the objects; readers get references
that they must not change.
"""

import asyncio
from collections.abc import Iterable

from memroute_kube import KubeObject
from memroute_kube.resources import object_key


class Collection:
    """Objects of one kind by ``namespace/name``."""

    def __init__(self) -> None:
        self._objects: dict[str, KubeObject] = {}
        self._deleted_versions: dict[str, int] = {}

    def values(self) -> Iterable[KubeObject]:
        """All objects, in no particular order."""
        return self._objects.values()

    def get(self, key: str) -> KubeObject | None:
        """One object."""
        return self._objects.get(key)

    def upsert(self, obj: KubeObject) -> bool:
        """Take a version unless a newer one is known; whether it was taken."""
        key = object_key(obj)
        version = _version(obj)
        known = self._objects.get(key)
        if known is not None and _version(known) >= version:
            return False
        if self._deleted_versions.get(key, -1) >= version:
            return False
        self._objects[key] = obj
        return True

    def delete(self, obj: KubeObject) -> bool:
        """Drop an object, unless a newer one of that name is known."""
        key = object_key(obj)
        version = _version(obj)
        known = self._objects.get(key)
        if known is not None and _version(known) > version:
            return False
        self._deleted_versions[key] = version
        return self._objects.pop(key, None) is not None

    def replace(self, objects: Iterable[KubeObject], list_version: int) -> bool:
        """Take a full list; objects that it lacks and that are not newer are dropped."""
        changed = False
        listed = set()
        for obj in objects:
            listed.add(object_key(obj))
            changed |= self.upsert(obj)
        for key, known in list(self._objects.items()):
            if key not in listed and _version(known) <= list_version:
                del self._objects[key]
                changed = True
        # Events older than the list cannot bring anything back any more.
        self._deleted_versions = {
            key: version
            for key, version in self._deleted_versions.items()
            if version > list_version
        }
        return changed


class Store:
    """ModelDeployments, pods and nodes, and the mark that something has changed."""

    def __init__(self) -> None:
        self.model_deployments = Collection()
        self.pods = Collection()
        self.nodes = Collection()
        self._dirty = asyncio.Event()

    def mark_dirty(self) -> None:
        """Something has changed: reconcile."""
        self._dirty.set()

    async def wait_dirty(self, timeout_seconds: float) -> None:
        """Wait until something has changed, or for so long; the mark is taken."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._dirty.wait()
        except TimeoutError:
            pass
        self._dirty.clear()


def _version(obj: KubeObject) -> int:
    # Comparable as integers by the API conventions since Kubernetes 1.35.
    return int(obj["metadata"]["resourceVersion"])
