"""``spec.model.source`` beside the hub: where weights lie that nobody has to ask a hub for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from memroute.errors import MemrouteError
from memroute_fetch import SourceError as UnfetchableError
from memroute_fetch import parse_source
from memroute_kube.shapes import mapping

WHERE = "spec.model.source"
# The fields of ``spec.model.source``, of which one may be set.
KINDS = ("hub", "persistentVolumeClaim", "hostPath", "s3", "image")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


class SourceError(MemrouteError):
    """Source or cache cannot be as they are written; the message says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSource:
    """A volume claim of the deployment's namespace that has the weights."""

    claim: str
    path: str | None
    """The folder in it; None for all of it."""
    is_read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPathSource:
    """A folder of the node."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    """What lies under a prefix of a bucket."""

    uri: str
    region: str | None = None
    endpoint: str | None = None
    """Of a store that is not Amazon's; None for that."""
    secret: str | None = None
    """With the keys of ``AWS_*``; None: the pod's own identity, or a public bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """An OCI image that kubelet mounts."""

    reference: str
    pull_policy: str | None = None
    path: str | None = None
    """The folder in it; None for all of it."""


Source = ClaimSource | HostPathSource | S3Source | ImageSource


def read_source(model: Mapping[str, Any]) -> Source | None:
    """The source in ``spec.model``; None for the hub. Raises ``SourceError``."""
    said = mapping(model.get("source"))
    kinds = [kind for kind in KINDS if said.get(kind) is not None]
    if len(kinds) > 1:
        message = f"{WHERE} has {' and '.join(kinds)}: write the one that the weights come from"
        raise SourceError(message)
    kind = kinds[0] if kinds else "hub"
    fields = mapping(said.get(kind))
    match kind:
        case "persistentVolumeClaim":
            return ClaimSource(
                claim=text(fields, "claimName", f"{WHERE}.{kind}"),
                path=inner_path(fields, f"{WHERE}.{kind}"),
                is_read_only=fields.get("readOnly") is not False,
            )
        case "hostPath":
            return HostPathSource(path=host_path(fields, f"{WHERE}.{kind}"))
        case "s3":
            return _s3(fields)
        case "image":
            return ImageSource(
                reference=text(fields, "reference", f"{WHERE}.{kind}"),
                pull_policy=_pull_policy(fields),
                path=inner_path(fields, f"{WHERE}.{kind}"),
            )
    return None


def text(fields: Mapping[str, Any], name: str, where: str) -> str:
    """A text that has to be there. Raises ``SourceError``."""
    found = optional_text(fields, name, where)
    if not found:
        message = f"{where}.{name} must be set"
        raise SourceError(message)
    return found


def optional_text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    """A text, or None where it is not set. Raises ``SourceError``."""
    found = fields.get(name)
    if not isinstance(found, str | None):
        message = f"{where}.{name} must be a text, not {found!r:.80}"
        raise SourceError(message)
    return found or None


def inner_path(fields: Mapping[str, Any], where: str) -> str | None:
    """A folder in a volume: relative, and within it. Raises ``SourceError``."""
    found = optional_text(fields, "path", where)
    if found is None:
        return None
    path = PurePosixPath(found)
    if path.is_absolute() or ".." in path.parts:
        message = f"{where}.path is a folder in the volume, without / at its begin and without .."
        raise SourceError(message)
    return None if str(path) == "." else str(path)


def host_path(fields: Mapping[str, Any], where: str) -> str:
    """A folder of the node: absolute, and just that. Raises ``SourceError``."""
    found = text(fields, "path", where)
    path = PurePosixPath(found)
    if not path.is_absolute() or ".." in path.parts or str(path) in ("/", "//"):
        message = f"{where}.path is a folder of the node that begins with /, without .."
        raise SourceError(message)
    return str(path)


def is_within(path: str, roots: tuple[str, ...]) -> bool:
    """Whether a path is one of the roots, or in one."""
    return any(PurePosixPath(path).is_relative_to(root) for root in roots)


def _s3(fields: Mapping[str, Any]) -> S3Source:
    where = f"{WHERE}.s3"
    uri = text(fields, "uri", where)
    if not uri.startswith("s3://"):
        message = f"{where}.uri is s3://BUCKET/PREFIX, such as s3://models/qwen3-8b"
        raise SourceError(message)
    try:
        parse_source(uri)
    except UnfetchableError as error:
        message = f"{where}.uri: {error}"
        raise SourceError(message) from error
    endpoint = optional_text(fields, "endpoint", where)
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        message = f"{where}.endpoint begins with https:// or http://"
        raise SourceError(message)
    return S3Source(
        uri=uri,
        region=optional_text(fields, "region", where),
        endpoint=endpoint,
        secret=optional_text(fields, "secretName", where),
    )


def _pull_policy(fields: Mapping[str, Any]) -> str | None:
    found = optional_text(fields, "pullPolicy", f"{WHERE}.image")
    if found is not None and found not in PULL_POLICIES:
        message = f"{WHERE}.image.pullPolicy is one of {', '.join(PULL_POLICIES)}"
        raise SourceError(message)
    return found
