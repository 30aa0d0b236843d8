"""Names of models and revisions as hubs have them: ``owner/name``, ``owner/name@revision``."""

import re
from dataclasses import dataclass

from memroute_hub.errors import HubError, HubReason

# What a revision is when nothing is said: huggingface_hub's own default.
DEFAULT_REVISION = "main"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# A branch, a tag, a pull request (refs/pr/3) or a commit.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
# 40 digits with git's SHA-1, 64 with its SHA-256.
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Characters of a repository's name and of a revision: what ModelDeployments allow, and above
# what hubs do (96 for each half of a name).
MAX_CHARACTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A repository and the revision that is asked for."""

    repository: str
    revision: str | None = None
    """None: the default branch, and nobody has insisted on it."""
    file: str | None = None
    """Which GGUF file is meant, where a repository has nothing else; None where nobody has said."""

    def __str__(self) -> str:
        """``owner/name`` or ``owner/name@revision``."""
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @property
    def wanted_revision(self) -> str:
        """What the hub is asked for."""
        return self.revision or DEFAULT_REVISION


def is_commit(revision: str) -> bool:
    """Whether the revision is a whole commit, which cannot move."""
    return _COMMIT.fullmatch(revision) is not None


def parse_name(text: str) -> ModelName:
    """``owner/name`` or ``owner/name@revision``. Raises ``HubError`` (``ModelNameInvalid``)."""
    repository, at, revision = text.partition("@")
    return checked_name(repository, revision if at else None)


def checked_name(repository: str, revision: str | None) -> ModelName:
    """The name, when it can be one. Raises ``HubError`` (``ModelNameInvalid``)."""
    if _REPOSITORY.fullmatch(repository) is None or len(repository) > MAX_CHARACTERS:
        message = (
            f"{repository!r:.120} is no name of a model: a hub has owner/name, such as "
            f"Qwen/Qwen3-8B, and owner/name@revision for one of its versions"
        )
        raise HubError(HubReason.MODEL_NAME_INVALID, message)
    if revision is not None and (
        _REVISION.fullmatch(revision) is None or ".." in revision or len(revision) > MAX_CHARACTERS
    ):
        message = f"{revision!r:.120} is no revision: give a branch, a tag or a commit"
        raise HubError(HubReason.MODEL_NAME_INVALID, message)
    return ModelName(repository=repository, revision=revision)
