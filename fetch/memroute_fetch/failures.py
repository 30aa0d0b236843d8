"""Why a model is not in the cache: an exit code and one sentence each."""

from enum import IntEnum

from memroute_hub.errors import HubError, HubReason


class ExitCode(IntEnum):
    """What ``memroute-fetch`` ends with; numbers of sysexits.h where one fits."""

    COMPLETE = 0
    USAGE = 64
    """The source, a pattern or an option makes no sense."""
    CHECKSUM = 65
    """A file's bytes are wrong after a second try, or changed while it was fetched."""
    NOT_FOUND = 66
    """No such repository, revision, bucket or prefix; or nothing there that an engine loads."""
    NO_NETWORK = 69
    """The source cannot be reached, or fails, after all retries."""
    BUG = 70
    """An error of memroute's own."""
    NO_SPACE = 73
    CACHE_UNUSABLE = 74
    """The cache cannot be written, read or locked."""
    DENIED = 77
    """Gated, private, or the credentials are wrong."""
    STOPPED = 143
    """SIGTERM: what was fetched is kept, and the next start goes on."""


class FetchError(Exception):
    """The model cannot be brought into the cache. The message is one sentence, without a stop."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TransientError(Exception):
    """What may pass by itself: tried again. ``failure`` is what is told when it does not pass."""

    def __init__(self, failure: FetchError, retry_after_seconds: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after_seconds = retry_after_seconds


class StoppedError(Exception):
    """SIGTERM or SIGINT came."""


# Which code each reason of a hub ends with.
HUB_CODES = {
    HubReason.MODEL_NAME_INVALID: ExitCode.USAGE,
    HubReason.REPOSITORY_NOT_FOUND: ExitCode.NOT_FOUND,
    HubReason.REVISION_NOT_FOUND: ExitCode.NOT_FOUND,
    HubReason.TOKEN_REQUIRED: ExitCode.DENIED,
    HubReason.ACCESS_NOT_GRANTED: ExitCode.DENIED,
    HubReason.TOKEN_INVALID: ExitCode.DENIED,
    HubReason.REPOSITORY_DISABLED: ExitCode.DENIED,
    HubReason.CONFIG_MISSING: ExitCode.NOT_FOUND,
    HubReason.FILE_NEEDED: ExitCode.USAGE,
    HubReason.CONFIG_UNREADABLE: ExitCode.CHECKSUM,
    HubReason.NOT_A_HUB: ExitCode.NO_NETWORK,
    HubReason.RATE_LIMITED: ExitCode.NO_NETWORK,
    HubReason.HUB_UNREACHABLE: ExitCode.NO_NETWORK,
    HubReason.HUB_TIMEOUT: ExitCode.NO_NETWORK,
    HubReason.HUB_FAILING: ExitCode.NO_NETWORK,
    HubReason.HUB_OFFLINE: ExitCode.NO_NETWORK,
}


def from_hub(error: HubError) -> FetchError:
    """The same failure, with this program's code."""
    return FetchError(HUB_CODES[error.reason], error.message)
