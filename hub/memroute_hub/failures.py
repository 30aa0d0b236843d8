"""From what a hub answers, or does not, to the reason and the sentence that a person gets. Pure."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from memroute_hub.documents import printable
from memroute_hub.errors import HubError, HubReason
from memroute_hub.names import ModelName

# No hub makes anybody wait longer than this, in seconds: chosen by hand, above the five minutes
# of the public hub's windows.
MAX_RETRY_AFTER_SECONDS = 3600.0
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY, SERVER_ERROR = 401, 403, 404, 429, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request was about: sentences name it."""

    name: ModelName
    endpoint: str
    has_token: bool
    token_hint: str
    timeout_seconds: float

    @property
    def page(self) -> str:
        """Where a person asks for access."""
        return f"{self.endpoint}/{self.name.repository}"


def refused(error: HfHubHTTPError, asked: Asked, now: datetime) -> HubError:
    """What an answer with an error status means. ``now``: for a ``Retry-After`` that is a date."""
    repository = asked.name.repository
    # Order counts: GatedRepoError is a RepositoryNotFoundError.
    if isinstance(error, DisabledRepoError):
        message = f"{repository} is disabled on {asked.endpoint}: nobody can read it any more"
        return HubError(HubReason.REPOSITORY_DISABLED, message)
    if isinstance(error, RevisionNotFoundError):
        message = (
            f"{repository} has no revision {asked.name.wanted_revision} on {asked.endpoint}: give "
            f"a branch, a tag or a whole commit of {asked.page}"
        )
        return HubError(HubReason.REVISION_NOT_FOUND, message)
    if isinstance(error, GatedRepoError):
        return _gated(error.response.status_code, asked)
    return _by_status(error, asked, now)


def _by_status(error: HfHubHTTPError, asked: Asked, now: datetime) -> HubError:
    status, headers = error.response.status_code, error.response.headers
    if status == TOO_MANY:
        return _rate_limited(headers, asked, now)
    if status >= SERVER_ERROR:
        message = f"{asked.endpoint} answered {status}{_said(error)}: it has trouble of its own"
        wait = retry_after_seconds(headers, now)
        return HubError(HubReason.HUB_FAILING, message, retry_after_seconds=wait)
    if status == UNAUTHORIZED and asked.has_token and "X-Error-Code" not in headers:
        message = (
            f"{asked.endpoint} does not accept the token{_said(error)}: it may have expired or "
            f"belong to another hub; give a valid one ({asked.token_hint})"
        )
        return HubError(HubReason.TOKEN_INVALID, message)
    if isinstance(error, RepositoryNotFoundError) or status in {UNAUTHORIZED, NOT_FOUND}:
        return _no_repository(asked)
    if status == FORBIDDEN:
        return _forbidden(error, asked)
    message = f"{asked.endpoint} answered {status}{_said(error)} when asked for {asked.name}"
    return HubError(HubReason.NOT_A_HUB, message)


def is_absent_file(error: HfHubHTTPError) -> bool:
    """Whether the repository is there and only the file is not."""
    return isinstance(error, RemoteEntryNotFoundError)


def unanswered(error: Exception, asked: Asked) -> HubError:
    """What it means that no answer came, or none that is HTTP."""
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return HubError(
            HubReason.HUB_TIMEOUT,
            f"{asked.endpoint} did not answer within {asked.timeout_seconds:g} s when asked for "
            f"{asked.name}: it is slow, or a firewall drops what goes there",
        )
    if isinstance(error, httpx2.TooManyRedirects | httpx2.DecodingError | httpx2.InvalidURL):
        return no_hub(asked, f"its answer leads nowhere ({printable(str(error), 120)})")
    cause = printable(_innermost(error), 160)
    hint = (
        "give the authority that signed its certificate in SSL_CERT_FILE"
        if "CERTIFICATE" in cause.upper()
        else "see to the network (HTTPS_PROXY is honoured), or choose another hub (HF_ENDPOINT or "
        "--hub-endpoint)"
    )
    message = f"{asked.endpoint} cannot be reached for {asked.name} ({cause}): {hint}"
    return HubError(HubReason.HUB_UNREACHABLE, message)


def _innermost(error: BaseException) -> str:
    """The operating system's own words where there are any: "Connection refused"."""
    words, one = str(error) or type(error).__name__, error
    for _ in range(8):
        if isinstance(one, BaseExceptionGroup):
            one = one.exceptions[0]
        if isinstance(one, OSError) and one.errno is not None:
            words = one.strerror or str(one)
        following = one.__cause__ or one.__context__
        if following is None:
            break
        one = following
    return words


def no_hub(asked: Asked, what: str) -> HubError:
    """What answers is no hub."""
    message = (
        f"{asked.endpoint} does not answer as a hub does: {what}; check the endpoint, and "
        f"whether a proxy in between wants somebody to log in"
    )
    return HubError(HubReason.NOT_A_HUB, message)


def offline(asked: Asked) -> HubError:
    """Nothing may be asked, and nothing is known."""
    message = (
        f"{asked.name} is not in the cache, and this is offline: read it once online, or give its "
        f"config.json"
    )
    return HubError(HubReason.HUB_OFFLINE, message)


def too_large(what: str, max_bytes: int, asked: Asked) -> HubError:
    """A file that no program should read for a few numbers."""
    message = (
        f"{what} of {asked.name} has more than {max_bytes // 2**20} MiB: that is no such file; "
        f"tell its owner, or give a config.json of your own"
    )
    return HubError(HubReason.CONFIG_UNREADABLE, message)


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long an answer asks to wait: by the hub's own windows, else by ``Retry-After``."""
    with contextlib.suppress(ValueError, OverflowError):
        window = parse_ratelimit_headers(headers)
        if window is not None and window.remaining == 0:
            return min(float(window.reset_in_seconds), MAX_RETRY_AFTER_SECONDS)
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        if text.isascii() and text.isdigit():
            seconds = float(text)
        else:
            date = parsedate_to_datetime(text)
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _gated(status: int, asked: Asked) -> HubError:
    repository = asked.name.repository
    if status == UNAUTHORIZED and not asked.has_token:
        message = (
            f"{repository} is gated and no token was sent: accept its terms at {asked.page}, then "
            f"give a token of that account ({asked.token_hint})"
        )
        return HubError(HubReason.TOKEN_REQUIRED, message)
    if status == UNAUTHORIZED:
        message = (
            f"{repository} is gated, and {asked.endpoint} does not accept the token: give a valid "
            f"one ({asked.token_hint})"
        )
        return HubError(HubReason.TOKEN_INVALID, message)
    message = (
        f"{repository} is gated, and the token's account has not been granted access: ask for it "
        f"at {asked.page}; a fine-grained token must also allow gated repositories"
    )
    return HubError(HubReason.ACCESS_NOT_GRANTED, message)


def _forbidden(error: HfHubHTTPError, asked: Asked) -> HubError:
    """403 without a word of gates: a proxy, an organization's rule, a token of few rights."""
    what = f"{asked.endpoint} refuses to show {asked.name.repository} (403{_said(error)})"
    if asked.has_token:
        message = f"{what}: the token's account may not read it; ask for access at {asked.page}"
        return HubError(HubReason.ACCESS_NOT_GRANTED, message)
    message = f"{what}: give a token that may ({asked.token_hint}), or see what stands between"
    return HubError(HubReason.TOKEN_REQUIRED, message)


def _no_repository(asked: Asked) -> HubError:
    private = (
        "or it is private and the token's account may not see it"
        if asked.has_token
        else f"or it is private and no token was sent ({asked.token_hint})"
    )
    message = f"{asked.endpoint} knows no model {asked.name.repository}, {private}"
    return HubError(HubReason.REPOSITORY_NOT_FOUND, message)


def _rate_limited(headers: Mapping[str, str], asked: Asked, now: datetime) -> HubError:
    wait = retry_after_seconds(headers, now)
    when = f"try again in {wait:.0f} s" if wait else "try again later"
    more = "" if asked.has_token else f"; a token raises the limit ({asked.token_hint})"
    message = f"{asked.endpoint} takes no more requests for now (429): {when}{more}"
    return HubError(HubReason.RATE_LIMITED, message, retry_after_seconds=wait)


def _said(error: HfHubHTTPError) -> str:
    """What the hub itself says, in quotes; a page of HTML says nothing."""
    text = error.response.headers.get("X-Error-Message") or ""
    return f" ({printable(text, 120)!r})" if text.strip() else ""
