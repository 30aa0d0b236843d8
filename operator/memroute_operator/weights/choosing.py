"""From a spec and the operator's settings to where a replica's weights are: pure.

**Who may share what is cached.** A node's cache is one folder for all namespaces. What anybody may
fetch without a token lies in ``public``. What a Secret was needed for, and what comes from a
store that a namespace has named, lies in a folder of that namespace: nobody gets by a cache what
the source would not have given, and nobody can put under a name what others load.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute.errors import MemrouteError
from memroute_fetch import model_directory
from memroute_hub import is_commit
from memroute_operator.spec.hub_source import HubSource
from memroute_operator.weights.caches import (
    Cache,
    WeightsSettings,
    check_allowed,
    read_cache,
)
from memroute_operator.weights.sources import (
    ClaimSource,
    HostPathSource,
    ImageSource,
    S3Source,
    Source,
    SourceError,
    read_source,
)

MODEL_PATH = "/model"
"""The folder in which an engine finds its model, whichever volume it is."""
# The first Kubernetes that knows OCI images as volumes with a folder in them (KEP-4639, beta).
IMAGE_VOLUMES_SINCE = (1, 33)
# A GGUF file in several parts is named by its first.
_PART = re.compile(r"-\d{5}(-of-\d{5}\.gguf)$")
# Engines that load one file of several.
_OF_ONE_FILE = ("LlamaCPP", "Custom")


class CommitUnknownError(MemrouteError):
    """What is cached is named by its commit, and no hub was asked for it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume that has the weights."""

    volume: Mapping[str, Any]
    """Its source, as a pod's volume has it."""
    path: str | None
    """The folder in it; None for all of it."""
    is_read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Weights that an init container fetches into a cache, unless they are there."""

    address: str
    """What ``memroute-fetch`` is asked for: ``hf://org/model@commit``."""
    cache: Cache
    scope: str
    """The folder of the cache in which those lie that the same people may load."""
    file: str | None = None
    """A pattern of the files that are wanted; None for all."""
    variables: tuple[tuple[str, str], ...] = ()
    """Of the fetcher, beside the hub's."""
    secret: str | None = None
    """With the keys of an S3 store."""

    @property
    def directory(self) -> str:
        """The folder of the model in the cache."""
        return f"{self.scope}/{model_directory(self.address, self.file)}"

    @property
    def key(self) -> str | None:
        """Equal for what lies in the same folder of a node's disk; None where no node keeps it."""
        if self.cache.host_path is None:
            return None
        said = [self.cache.host_path, self.directory]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


Weights = Mounted | Fetched


def needs_commit(model: Mapping[str, Any], settings: WeightsSettings) -> bool:
    """Whether weights of a hub are fetched, so that their commit has to be known."""
    return read_source(model) is None and read_cache(model, settings) is not None


def choose(
    spec: Mapping[str, Any],
    *,
    namespace: str,
    hub: HubSource,
    commit: str | None,
    settings: WeightsSettings,
) -> Weights | None:
    """Where the weights of a replica are; None when its engine fetches them by itself.

    ``commit``: of the hub's repository, where it is known. Raises ``SourceError`` and
    ``CommitUnknownError``.
    """
    model = spec["model"]
    source, cache = read_source(model), read_cache(model, settings)
    if isinstance(source, ClaimSource | HostPathSource | ImageSource):
        if model.get("cache") is not None:
            message = (
                "spec.model.cache is for weights that are fetched (hub, s3), and these are read "
                "where they are: leave it out"
            )
            raise SourceError(message)
        return _mounted(source, settings)
    file = model.get("file") if spec["engine"].get("type") in _OF_ONE_FILE else None
    pattern = None if file is None else _PART.sub(r"-?????\1", str(file))
    if isinstance(source, S3Source):
        return Fetched(
            address=source.uri,
            cache=cache or Cache(),
            scope=_scope_of_store(namespace, source),
            file=pattern,
            variables=_variables_of(source),
            secret=source.secret,
        )
    if cache is None:
        return None
    known = commit or hub.revision
    if known is None or not is_commit(known):
        message = (
            f"the commit of {model['name']} has to be known before it can be cached: without a "
            f"hub that the operator may ask, set it as spec.model.source.hub.revision"
        )
        raise CommitUnknownError(message)
    scope = "public" if hub.token_secret is None else f"namespace-{namespace}"
    return Fetched(address=f"hf://{model['name']}@{known}", cache=cache, scope=scope, file=pattern)


def server_version(answer: Mapping[str, Any]) -> tuple[int, int] | None:
    """The version in an answer to ``GET /version`` (``{"major": "1", "minor": "37+"}``)."""
    found = [re.match(r"\d{1,4}", str(answer.get(name))) for name in ("major", "minor")]
    if found[0] is None or found[1] is None:
        return None
    return int(found[0][0]), int(found[1][0])


def _mounted(source: Source, settings: WeightsSettings) -> Mounted:
    match source:
        case ClaimSource():
            claim = {"claimName": source.claim, "readOnly": source.is_read_only}
            return Mounted(
                volume={"persistentVolumeClaim": claim},
                path=source.path,
                is_read_only=source.is_read_only,
            )
        case HostPathSource():
            check_allowed(source.path, "spec.model.source.hostPath", settings)
            return Mounted(
                volume={"hostPath": {"path": source.path, "type": "Directory"}}, path=None
            )
        case ImageSource():
            version = settings.server_version
            if version is not None and version < IMAGE_VOLUMES_SINCE:
                message = (
                    f"spec.model.source.image needs image volumes (Kubernetes "
                    f"{_spelled(IMAGE_VOLUMES_SINCE)}), and this one is {_spelled(version)}: use "
                    f"hub or s3 with a cache, or a persistentVolumeClaim"
                )
                raise SourceError(message)
            image = {"reference": source.reference}
            if source.pull_policy is not None:
                image["pullPolicy"] = source.pull_policy
            return Mounted(volume={"image": image}, path=source.path)
    message = f"{type(source).__name__} is no volume"
    raise TypeError(message)


def _spelled(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _scope_of_store(namespace: str, source: S3Source) -> str:
    """Two stores may have a bucket of one name."""
    scope = f"namespace-{namespace}"
    if source.endpoint is None:
        return scope
    return f"{scope}-{hashlib.sha256(source.endpoint.encode()).hexdigest()[:8]}"


def _variables_of(source: S3Source) -> tuple[tuple[str, str], ...]:
    said = {"AWS_REGION": source.region, "AWS_ENDPOINT_URL": source.endpoint}
    return tuple((name, value) for name, value in said.items() if value is not None)
