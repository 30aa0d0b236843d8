"""The newest known version of every object that placement depends on, as far as it is read.

Fed by kopf's events, by full lists, and by the answers to our own writes, so that what was
just created is counted before its event arrives. Objects are kept by projection (what that
drops is never seen by anybody: ``projections``). Owns the objects; readers get references that
they must not change.
"""

import asyncio
import logging
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_operator.store.projections import (
    MODEL_DEPLOYMENT_PROJECTION,
    NODE_PROJECTION,
    POD_PROJECTION,
    Projection,
)

LOGGER = logging.getLogger(__name__)
_GONE: KubeObject = {}


class Collection:
    """Objects of one kind by ``namespace/name``. Every writer says whether a plan may change."""

    def __init__(self, projection: Projection, namespaces: Container[str] | None = None) -> None:
        """``namespaces``: those whose objects are kept; None for all."""
        self._projection = projection
        self._namespaces = namespaces
        self._objects: dict[str, KubeObject] = {}
        self._versions: dict[str, int] = {}
        self._deleted_versions: dict[str, int] = {}
        self._listed_version = -1
        self._num_changes = 0

    @property
    def num_changes(self) -> int:
        """How often an object has come, changed or gone so far: what was found may be kept."""
        return self._num_changes

    def __len__(self) -> int:
        return len(self._objects)

    def values(self) -> Iterable[KubeObject]:
        """All objects, in no particular order."""
        return self._objects.values()

    def get(self, key: str) -> KubeObject | None:
        """One object."""
        return self._objects.get(key)

    def snapshot(self) -> "Snapshot":
        """All objects as they are now. Later versions do not show in it."""
        return Snapshot(self._objects)

    def upsert(self, obj: KubeObject) -> bool:
        """Take a version unless a newer one is known; whether what is planned on has changed.

        An object without a name or a version is left out, and said: it can be nobody's.
        """
        try:
            key, version = _key(obj), _version(obj)
        except (KeyError, TypeError, ValueError, AttributeError):
            LOGGER.warning("object without name or version left out object=%.200r", obj)
            return False
        if self._namespaces is not None and namespace_of(key) not in self._namespaces:
            return False
        if key in self._objects and self._versions[key] >= version:
            return False
        if self._deleted_versions.get(key, -1) >= version:
            return False
        kept = self._projection.project(obj)
        before = self._objects.get(key, _GONE)
        self._objects[key], self._versions[key] = kept, version
        self._num_changes += 1
        return self._projection.matters(before, kept)

    def delete(self, obj: KubeObject) -> bool:
        """Drop an object, unless a newer one of that name is known."""
        try:
            key, version = _key(obj), _version(obj)
        except (KeyError, TypeError, ValueError, AttributeError):
            LOGGER.warning("object without name or version left out object=%.200r", obj)
            return False
        if key in self._objects and self._versions[key] > version:
            return False
        self._deleted_versions[key] = version
        return self._drop(key)

    def forget(self, key: str, uid: str) -> bool:
        """Drop an object of which the API server says that it is gone, if it is that one."""
        known = self._objects.get(key)
        if known is None or known["metadata"].get("uid") != uid:
            return False
        self._deleted_versions[key] = self._versions[key]
        return self._drop(key)

    def replace(self, objects: Iterable[KubeObject], list_version: int) -> bool:
        """Take a full list at once: ``begin_list``, one page, ``end_list``."""
        listing = Listing(self, list_version)
        listing.take(objects)
        return listing.end()

    def _drop(self, key: str) -> bool:
        dropped = self._objects.pop(key, None)
        self._versions.pop(key, None)
        self._num_changes += 1
        return dropped is not None and self._projection.matters(dropped, _GONE)


class Snapshot:
    """The objects of one kind at one moment: what a thread may read while events come in.

    Cheap, because versions of objects replace each other in a collection and never change.
    """

    def __init__(self, objects: Mapping[str, KubeObject]) -> None:
        self._objects = dict(objects)

    def values(self) -> Iterable[KubeObject]:
        """All objects, in no particular order."""
        return self._objects.values()

    def get(self, key: str) -> KubeObject | None:
        """One object."""
        return self._objects.get(key)


class Objects(Protocol):
    """What readers need of a ``Collection`` or a ``Snapshot``."""

    def values(self) -> Iterable[KubeObject]:
        """All objects, in no particular order."""

    def get(self, key: str) -> KubeObject | None:
        """One object."""


class Known(Protocol):
    """What readers need of a ``Store`` or a ``StoreSnapshot``."""

    @property
    def model_deployments(self) -> Objects:
        """All ModelDeployments."""

    @property
    def pods(self) -> Objects:
        """All pods."""

    @property
    def nodes(self) -> Objects:
        """All nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSnapshot:
    """All objects at one moment."""

    model_deployments: Snapshot
    pods: Snapshot
    nodes: Snapshot


class Listing:
    """A full list on its way into a collection, page by page: it is never held whole.

    Objects that the list lacks and that are not newer are dropped at its end.
    """

    def __init__(self, collection: Collection, version: int) -> None:
        """``version``: of the list, from its first page."""
        self._collection = collection
        self._version = version
        self._listed: set[str] = set()
        self._changed = False
        if version < collection._listed_version:  # noqa: SLF001 - a part of the collection
            # Lists are quorum reads: versions go back only when etcd was restored from a backup.
            LOGGER.warning("versions went back: the store is read anew version=%d", version)
            collection._versions = dict.fromkeys(collection._objects, -1)  # noqa: SLF001
            collection._deleted_versions.clear()  # noqa: SLF001

    def take(self, objects: Iterable[KubeObject]) -> None:
        """A page of it, or a part of a page."""
        for obj in objects:
            self._changed |= self._collection.upsert(obj)
            try:
                self._listed.add(_key(obj))
            except (KeyError, TypeError, AttributeError):
                continue  # upsert has told

    def end(self) -> bool:
        """All pages are in; whether what is planned on has changed."""
        collection = self._collection
        for key, version in list(collection._versions.items()):  # noqa: SLF001
            if key not in self._listed and version <= self._version:
                self._changed |= collection._drop(key)  # noqa: SLF001
        # Events older than the list cannot bring anything back any more.
        collection._deleted_versions = {  # noqa: SLF001
            key: version
            for key, version in collection._deleted_versions.items()  # noqa: SLF001
            if version > self._version
        }
        collection._listed_version = self._version  # noqa: SLF001
        return self._changed


class Store:
    """ModelDeployments, pods and nodes, and the mark that something has changed."""

    def __init__(self, watched: Iterable[str] = ()) -> None:
        """``watched``: namespaces whose ModelDeployments are looked after; none for all.

        Pods are kept of all namespaces: a device is taken, whoever has it.
        """
        self.model_deployments = Collection(MODEL_DEPLOYMENT_PROJECTION, frozenset(watched) or None)
        self.pods = Collection(POD_PROJECTION)
        self.nodes = Collection(NODE_PROJECTION)
        self._dirty = asyncio.Event()

    def snapshot(self) -> StoreSnapshot:
        """Everything as it is now: some milliseconds for 20,000 objects."""
        return StoreSnapshot(
            model_deployments=self.model_deployments.snapshot(),
            pods=self.pods.snapshot(),
            nodes=self.nodes.snapshot(),
        )

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


def namespace_of(key: str) -> str:
    """The namespace in a key."""
    return key.partition("/")[0]


def _key(obj: KubeObject) -> str:
    """The object's key. Raises unless its name and namespace are names."""
    metadata = obj["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace")
    if not isinstance(name, str) or not name or not isinstance(namespace, str | None):
        message = f"no name: {namespace!r:.80} {name!r:.80}"
        raise TypeError(message)
    return object_key(obj)


def _version(obj: KubeObject) -> int:
    # Comparable as integers by the API conventions since Kubernetes 1.35.
    version = obj["metadata"]["resourceVersion"]
    if not isinstance(version, str):
        message = f"no version: {version!r:.80}"
        raise TypeError(message)
    return int(version)
