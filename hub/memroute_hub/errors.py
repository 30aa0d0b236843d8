"""Why a hub gives no facts of a model: one reason each, one sentence that says what to do."""

from enum import StrEnum


class HubReason(StrEnum):
    """What is in the way; the value is the reason of a condition."""

    MODEL_NAME_INVALID = "ModelNameInvalid"
    """Neither ``owner/name`` nor a revision could be called that."""
    REPOSITORY_NOT_FOUND = "RepositoryNotFound"
    """There is none of that name, or it is private: a hub does not say which."""
    REVISION_NOT_FOUND = "RevisionNotFound"
    TOKEN_REQUIRED = "TokenRequired"  # noqa: S105 - a word, not a token
    """The model is gated, and no token was sent."""
    ACCESS_NOT_GRANTED = "AccessNotGranted"
    """The model is gated, and the token's account may not read it."""
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105 - a word, not a token
    """The hub does not know the token, or its file cannot be read."""
    REPOSITORY_DISABLED = "RepositoryDisabled"
    CONFIG_MISSING = "ConfigMissing"
    """The repository has no ``config.json``: an adapter, a pipeline."""
    FILE_NEEDED = "FileNeeded"
    """It has GGUF files, and nobody has said which; or not the one that was asked for."""
    CONFIG_UNREADABLE = "ConfigUnreadable"
    """A file of the repository is no JSON object, or far too large for one."""
    NOT_A_HUB = "NotAHub"
    """What answers at the endpoint does not speak as a hub does: a login page, a proxy."""
    RATE_LIMITED = "RateLimited"
    HUB_UNREACHABLE = "HubUnreachable"
    HUB_TIMEOUT = "HubTimeout"
    HUB_FAILING = "HubFailing"
    """The hub answers with an error of its own."""
    HUB_OFFLINE = "HubOffline"
    """Offline by choice, and nothing is cached."""


TRANSIENT = frozenset(
    {
        HubReason.RATE_LIMITED,
        HubReason.HUB_UNREACHABLE,
        HubReason.HUB_TIMEOUT,
        HubReason.HUB_FAILING,
    }
)
"""What passes without anybody doing anything."""


class HubError(Exception):
    """The hub gives no facts of a model. Nothing else is raised by this package on purpose."""

    def __init__(
        self, reason: HubReason, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        """A sentence for the person who asked, without a full stop."""
        self.retry_after_seconds = retry_after_seconds
        """How long the hub asks to wait; None when it does not say."""

    @property
    def is_transient(self) -> bool:
        """Whether the same question may be answered later, without anybody's doing."""
        return self.reason in TRANSIENT
