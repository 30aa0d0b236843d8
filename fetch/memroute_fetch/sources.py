"""Where a model comes from, and what its directory in a cache is called. Pure.

A directory's name is a function of the source alone, so that the operator knows it before anything
is fetched. Two sources never share a directory: wherever a name had to be shortened or rewritten,
a hash of the whole source ends it.
"""

import hashlib
import re
from dataclasses import dataclass

from memroute_hub.errors import HubError
from memroute_hub.names import ModelName, checked_name, is_commit

# The file whose presence says that a directory holds a whole model.
MARKER_NAME = ".memroute-complete.json"
# Adapters lie in a folder of their own, so that models and adapters are told apart by their paths.
ADAPTERS_FOLDER = "adapters"
# Digits of a commit in a directory's name: as many as git shows people.
COMMIT_DIGITS = 12
# Digits of the hash that ends a name which is not the source letter by letter.
HASH_DIGITS = 8
# Characters of a directory's name, chosen by hand: file systems allow 255 bytes.
MAX_NAME_CHARACTERS = 160
# Characters of an object's key in S3 (AWS: 1,024 bytes).
MAX_KEY_CHARACTERS = 1024
# S3's own rule for buckets; underscores and capitals are those of old buckets and other stores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_HUB, _S3 = "hf://", "s3://"


class SourceError(ValueError):
    """No source; the message is a sentence for whoever wrote it, without a full stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """One commit of a repository of a hub."""

    repository: str
    commit: str

    def __str__(self) -> str:
        return f"{_HUB}{self.repository}@{self.commit}"

    @property
    def name(self) -> ModelName:
        """As the hub's client takes it."""
        return ModelName(repository=self.repository, revision=self.commit)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    """Everything below a prefix of a bucket."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for a whole bucket."""
    version: str | None = None
    """A word of the user's: another one is another directory. S3 itself is not asked for it."""

    def __str__(self) -> str:
        text = f"{_S3}{self.bucket}/{self.prefix}"
        return text if self.version is None else f"{text}@{self.version}"


Source = HubSource | S3Source


def parse_source(text: str) -> Source:
    """``hf://ORG/MODEL@COMMIT`` or ``s3://BUCKET/PREFIX[@VERSION]``. Raises ``SourceError``."""
    if any(not character.isprintable() for character in text):
        message = f"{text!r:.120} is no source: it has characters that cannot be printed"
        raise SourceError(message)
    if text.startswith(_HUB):
        return _hub_source(text)
    if text.startswith(_S3):
        return _s3_source(text)
    message = f"{text!r:.120} is no source: give hf://ORG/MODEL@COMMIT or s3://BUCKET/PREFIX"
    raise SourceError(message)


def model_directory(source: Source | str, file: str | None = None) -> str:
    """The name of a model's directory in any cache, such as ``hub--Qwen--Qwen3-8B--0123456789ab``.

    ``file``: the pattern that chooses among several GGUF files, where one is given: another file
    of the same repository is another model. Raises ``SourceError``.
    """
    source = parse_source(source) if isinstance(source, str) else source
    is_exact = file is None
    if isinstance(source, HubSource):
        is_exact = is_exact and "--" not in source.repository
        name = f"hub--{source.repository.replace('/', '--')}--{source.commit[:COMMIT_DIGITS]}"
    else:
        # A prefix has slashes, which no name may have: its hash is always there.
        is_exact = False
        parts = ("s3", source.bucket, source.prefix.replace("/", "--"), source.version or "")
        name = _UNSAFE.sub("-", "--".join(part for part in parts if part))
    if is_exact and len(name) <= MAX_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(f"{source}\0{file or ''}".encode()).hexdigest()[:HASH_DIGITS]
    return f"{name[: MAX_NAME_CHARACTERS - HASH_DIGITS - 2]}--{digest}"


def adapter_directory(source: Source | str) -> str:
    """The path of an adapter's directory, from the cache's own. Raises ``SourceError``."""
    return f"{ADAPTERS_FOLDER}/{model_directory(source)}"


def _hub_source(text: str) -> HubSource:
    repository, _, commit = text.removeprefix(_HUB).partition("@")
    try:
        checked_name(repository, None)
    except HubError as error:
        raise SourceError(error.message) from error
    if not is_commit(commit):
        message = (
            f"{text!r:.160} names no commit: give all 40 digits of one, because a branch moves and "
            f"a cache does not"
        )
        raise SourceError(message)
    return HubSource(repository=repository, commit=commit)


def _s3_source(text: str) -> S3Source:
    bucket, _, rest = text.removeprefix(_S3).partition("/")
    prefix, version = rest, None
    folder, slash, last = rest.rpartition("/")
    if "@" in last:
        last, _, version = last.rpartition("@")
        prefix = f"{folder}{slash}{last}"
    prefix = prefix.strip("/")
    if _BUCKET.fullmatch(bucket) is None or ".." in bucket:
        message = (
            f"{bucket!r:.80} is no name of a bucket (three characters or more): give "
            f"s3://BUCKET/PREFIX"
        )
        raise SourceError(message)
    if version is not None and _VERSION.fullmatch(version) is None:
        message = (
            f"{version!r:.80} is no version of {_S3}{bucket}/{prefix}: after the last @ there are "
            f"up to 64 letters, digits, dots, dashes and underscores"
        )
        raise SourceError(message)
    if len(prefix) > MAX_KEY_CHARACTERS or any(
        part in {"", ".", ".."} for part in prefix.split("/") if prefix
    ):
        message = f"{prefix!r:.120} is no prefix of a bucket that holds a model"
        raise SourceError(message)
    return S3Source(bucket=bucket, prefix=prefix, version=version)
