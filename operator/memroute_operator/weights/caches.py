"""``spec.model.cache``: where what was fetched is kept, and how much of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute.units import GIB, MIB
from memroute_kube.shapes import mapping
from memroute_operator.weights.sources import SourceError, host_path, is_within, text

WHERE = "spec.model.cache"
# What a fetcher writes beside the weights, at the most: the pod of an emptyDir that is larger than
# its limit is evicted, and the fetcher keeps to its own. Chosen by hand.
NOTES_BYTES = 256 * MIB
PLACES = ("hostPath", "persistentVolumeClaim", "emptyDir")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSettings:
    """What the operator was told of sources and caches; without it, as if nothing was."""

    cache_path: str | None = None
    """A folder of every node in which what replicas fetch is kept; None: engines fetch."""
    cache_bytes: int | None = None
    """How much is kept there at the most; None: as much as the disk holds."""
    host_paths: tuple[str, ...] = ()
    """Folders of nodes that ModelDeployments may name; none without it."""
    server_version: tuple[int, int] | None = None
    """Of Kubernetes, such as (1, 37); None when it is not known."""


NO_SETTINGS = WeightsSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Where fetched weights are kept. At most one of ``host_path`` and ``claim`` is set."""

    host_path: str | None = None
    """A folder of the node: its other replicas find there what one has fetched."""
    claim: str | None = None
    """A volume claim; with neither, an emptyDir that goes with the pod."""
    max_bytes: int | None = None

    def volume(self) -> dict[str, Any]:
        """The source of its volume in a pod."""
        if self.host_path is not None:
            return {"hostPath": {"path": self.host_path, "type": "DirectoryOrCreate"}}
        if self.claim is not None:
            return {"persistentVolumeClaim": {"claimName": self.claim}}
        if self.max_bytes is not None:
            return {"emptyDir": {"sizeLimit": str(self.max_bytes + NOTES_BYTES)}}
        return {"emptyDir": {}}


def read_cache(model: Mapping[str, Any], settings: WeightsSettings) -> Cache | None:
    """The cache that a model's spec names, else the operator's; None when there is none.

    Raises ``SourceError``.
    """
    said = model.get("cache")
    default = (
        None
        if settings.cache_path is None
        else Cache(host_path=settings.cache_path, max_bytes=settings.cache_bytes)
    )
    if said is None:
        return default
    fields = mapping(said)
    places = [place for place in PLACES if fields.get(place) is not None]
    if len(places) > 1:
        message = f"{WHERE} has {' and '.join(places)}: write the one place to keep weights in"
        raise SourceError(message)
    size = _size(fields)
    if not places:
        if default is None:
            message = (
                f"{WHERE} names no place, and this operator has none of its own "
                f"(--model-cache-path): write one of {', '.join(PLACES)}"
            )
            raise SourceError(message)
        return Cache(host_path=default.host_path, max_bytes=size or default.max_bytes)
    (place,) = places
    if place == "hostPath":
        path = host_path(mapping(fields[place]), f"{WHERE}.hostPath")
        if path == settings.cache_path:
            return Cache(host_path=path, max_bytes=size or settings.cache_bytes)
        check_allowed(path, f"{WHERE}.hostPath", settings)
        return Cache(host_path=path, max_bytes=size)
    if place == "persistentVolumeClaim":
        return Cache(claim=text(mapping(fields[place]), "claimName", f"{WHERE}.{place}"),
                     max_bytes=size)  # fmt: skip
    return Cache(max_bytes=size)


def check_allowed(path: str, where: str, settings: WeightsSettings) -> None:
    """Raises ``SourceError`` unless the operator lets ModelDeployments name that folder.

    The operator creates pods with its own rights: whoever may write a ModelDeployment would
    otherwise read any file of any node.
    """
    if settings.cache_path is not None and is_within(path, (settings.cache_path,)):
        message = (
            f"{where}.path {path} is in the cache of all namespaces ({settings.cache_path}), which "
            f"has models of others: leave it out, and weights are cached there"
        )
        raise SourceError(message)
    if is_within(path, settings.host_paths):
        return
    allowed = ", ".join(settings.host_paths)
    helps = (
        f"use one below {allowed}"
        if allowed
        else "use a persistentVolumeClaim, or have the operator started with --allowed-host-path"
    )
    message = (
        f"{where}.path {path} is not among the folders of nodes that this operator lets a "
        f"ModelDeployment name: {helps}"
    )
    raise SourceError(message)


def _size(fields: Mapping[str, Any]) -> int | None:
    size = fields.get("sizeGiB")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        message = f"{WHERE}.sizeGiB is a number of GiB from 1, not {size!r:.80}"
        raise SourceError(message)
    return size * GIB
