"""``spec.adapters``: where the files of each adapter are, and where an engine finds them. Pure.

What a pod must have at its start, and cannot get later, is the same for all adapters of a
ModelDeployment: volumes, and the credentials of the container that fetches. All else is told while
the pod runs.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memroute_fetch import SourceError as UnfetchableError
from memroute_fetch import parse_source
from memroute_kube.shapes import listed, mapping, name_of
from memroute_operator.spec.hub_source import DEFAULT_TOKEN_KEY
from memroute_operator.weights.caches import WeightsSettings, check_allowed
from memroute_operator.weights.sources import (
    SourceError,
    host_path,
    inner_path,
    optional_text,
    text,
)

WHERE = "spec.adapters"
KINDS = ("hub", "s3", "persistentVolumeClaim", "hostPath")
# Where an engine sees adapters, and nothing else: what it has loaded from there is memroute's.
ADAPTERS_PATH = "/adapters"
FETCHED_PATH = f"{ADAPTERS_PATH}/fetched"
CLAIMS_PATH = f"{ADAPTERS_PATH}/claims"
FOLDERS_PATH = f"{ADAPTERS_PATH}/folders"
DEFAULT_REVISION = "main"
# As Kubernetes names claims: part of a path in pods, and of a list with commas.
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter, as its owner asks for it."""

    name: str
    """What clients send."""
    address: str | None = None
    """What is fetched (``hf://org/name@revision``, ``s3://bucket/prefix``); None: nothing is."""
    path: str | None = None
    """Where the engine finds what lies in a volume; None: nowhere, or where it is fetched to."""
    rank: int | None = None

    @property
    def is_managed(self) -> bool:
        """Whether memroute loads it."""
        return self.address is not None or self.path is not None

    @property
    def told_source(self) -> str | None:
        """Where it comes from, for people."""
        return self.address or self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterVolume:
    """A volume that pods need for adapters, read only."""

    name: str
    mount_path: str
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the container that fetches adapters is started with."""

    token_secret: str | None = None
    token_key: str = DEFAULT_TOKEN_KEY
    region: str | None = None
    endpoint: str | None = None
    store_secret: str | None = None

    def document(self) -> dict[str, Any] | None:
        """For a revision: a pod's environment is that of its start. None where nothing is said."""
        said = {
            "token": None if self.token_secret is None else [self.token_secret, self.token_key],
            "region": self.region,
            "endpoint": self.endpoint,
            "storeSecret": self.store_secret,
        }
        return {key: value for key, value in said.items() if value is not None} or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """All of ``spec.adapters``."""

    listed: tuple[Adapter, ...] = ()
    volumes: tuple[AdapterVolume, ...] = ()
    credentials: Credentials = Credentials()

    @property
    def managed(self) -> tuple[Adapter, ...]:
        """Those that memroute loads."""
        return tuple(one for one in self.listed if one.is_managed)


NO_ADAPTERS = Adapters()


def read_adapters(spec: Mapping[str, Any], settings: WeightsSettings | None = None) -> Adapters:
    """The list. Raises ``SourceError``. ``settings``: None asks nobody what is allowed."""
    hub = mapping(mapping(mapping(spec.get("model")).get("source")).get("hub"))
    found: list[Adapter] = []
    volumes: dict[str, AdapterVolume] = {}
    tokens: set[tuple[str, str]] = set()
    stores: set[tuple[str | None, str | None, str | None]] = set()
    for index, one in enumerate(map(mapping, listed(spec.get("adapters")))):
        where = f"{WHERE}[{index}]"
        name = name_of(one.get("name"))
        if name is None:
            continue
        kinds = [kind for kind in KINDS if mapping(one.get("source")).get(kind) is not None]
        if len(kinds) > 1:
            message = f"{where}.source has {' and '.join(kinds)}: write the one that it comes from"
            raise SourceError(message)
        if not kinds:
            found.append(Adapter(name=name))
            continue
        (kind,) = kinds
        fields, inside = mapping(mapping(one["source"])[kind]), f"{where}.source.{kind}"
        address = path = None
        match kind:
            case "hub":
                revision = optional_text(fields, "revision", inside) or DEFAULT_REVISION
                address = f"hf://{text(fields, 'repository', inside)}@{revision}"
                tokens |= _token(fields) or _token(hub)
            case "s3":
                address = _checked_uri(text(fields, "uri", inside), inside)
                stores.add(
                    (
                        optional_text(fields, "region", inside),
                        optional_text(fields, "endpoint", inside),
                        optional_text(fields, "secretName", inside),
                    )
                )
            case _:
                volume, path = _volume(kind, fields, inside, settings)
                volumes.setdefault(volume.name, volume)
        rank = one.get("rank")
        found.append(
            Adapter(
                name=name,
                address=address,
                path=path,
                rank=rank if isinstance(rank, int) else None,
            )
        )
    return Adapters(
        listed=tuple(found),
        volumes=tuple(volumes[name] for name in sorted(volumes)),
        # The model's own also while no adapter needs it: the first that does restarts nothing.
        credentials=_credentials(tokens or _token(hub), stores),
    )


def pod_part(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """What of the adapters a pod is started with, for its revision; None where it is nothing."""
    try:
        adapters = read_adapters(spec)
    except SourceError:
        return None  # nothing is started with it
    said = {
        "volumes": [dict(one.source) for one in adapters.volumes] or None,
        "credentials": adapters.credentials.document(),
    }
    return {key: value for key, value in said.items() if value is not None} or None


def _volume(
    kind: str, fields: Mapping[str, Any], inside: str, settings: WeightsSettings | None
) -> tuple[AdapterVolume, str]:
    """The volume of an adapter that lies in one, and its folder as an engine sees it."""
    if kind == "hostPath":
        path = host_path(fields, inside)
        if settings is not None:
            check_allowed(path, inside, settings)
        digest = _digest(path)
        volume = AdapterVolume(
            name=f"memroute-adapters-{digest}",
            mount_path=f"{FOLDERS_PATH}/{digest}",
            source={"hostPath": {"path": path, "type": "Directory"}},
        )
        return volume, volume.mount_path
    claim = text(fields, "claimName", inside)
    if _CLAIM.fullmatch(claim) is None:
        message = f"{inside}.claimName {claim!r:.80} is no claim's name: a-z, 0-9, - and . have one"
        raise SourceError(message)
    volume = AdapterVolume(
        name=f"memroute-adapters-{_digest(claim)}",
        mount_path=f"{CLAIMS_PATH}/{claim}",
        source={"persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
    )
    inner = inner_path(fields, inside)
    return volume, volume.mount_path if inner is None else posixpath.join(volume.mount_path, inner)


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:8]


def _checked_uri(uri: str, inside: str) -> str:
    try:
        parse_source(uri)
    except UnfetchableError as error:
        message = f"{inside}.uri: {error}"
        raise SourceError(message) from error
    return uri


def _token(fields: Mapping[str, Any]) -> set[tuple[str, str]]:
    secret = mapping(fields.get("tokenSecretRef"))
    name, key = secret.get("name"), secret.get("key") or DEFAULT_TOKEN_KEY
    return {(name, key)} if isinstance(name, str) and isinstance(key, str) else set()


def _credentials(
    tokens: Iterable[tuple[str, str]], stores: Iterable[tuple[str | None, str | None, str | None]]
) -> Credentials:
    """One token and one store: a container's environment has one of each."""
    token, store = sorted(tokens), sorted(stores, key=str)
    if len(token) > 1:
        names = ", ".join(name for name, _ in token)
        message = (
            f"{WHERE} name several tokens ({names}), and all adapters of a ModelDeployment are "
            f"fetched with one: use a token that may read all of them"
        )
        raise SourceError(message)
    if len(store) > 1:
        message = (
            f"{WHERE} name several S3 stores, regions or Secrets, and all adapters of a "
            f"ModelDeployment are fetched from one: write the same in each"
        )
        raise SourceError(message)
    secret, key = token[0] if token else (None, DEFAULT_TOKEN_KEY)
    region, endpoint, store_secret = store[0] if store else (None, None, None)
    return Credentials(
        token_secret=secret,
        token_key=key,
        region=region,
        endpoint=endpoint,
        store_secret=store_secret,
    )
