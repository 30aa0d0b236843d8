"""What the API server refuses, and what comes of a call that it does not answer."""

import json
import math
from collections.abc import Mapping

BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, CONFLICT, GONE = 400, 401, 404, 409, 410
FORBIDDEN, UNPROCESSABLE, INTERNAL_ERROR = 403, 422, 500
REQUEST_TIMEOUT = 408
# Reasons of errors with status 0.
UNREACHABLE, TIMEOUT, BAD_ANSWER = "Unreachable", "Timeout", "BadAnswer"
# No error answer may make anybody wait longer than this for the next try, in seconds: chosen by
# hand, above what API priority and fairness asks for (1 s) and below what looks like a hang.
MAX_RETRY_AFTER_SECONDS = 120.0
# How much of an answer that is no Status object is told.
MAX_ERROR_TEXT = 500


class ApiError(Exception):
    """The API server refused, or could not be reached (``status`` 0)."""

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        """The machine-readable reason, such as ``NotFound`` or ``AlreadyExists``."""
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        """How long the server asks us to wait; None when it does not say."""

    @property
    def is_global(self) -> bool:
        """Whether every other call would fail as well: no connection, or no valid credentials.

        A call that took too long says nothing of others: an admission webhook may hang.
        """
        return self.status in (0, UNAUTHORIZED) and self.reason not in (TIMEOUT, BAD_ANSWER)

    @property
    def is_outcome_known(self) -> bool:
        """Whether nothing was done for sure; else a write may have come through."""
        return BAD_REQUEST <= self.status < INTERNAL_ERROR and self.status != REQUEST_TIMEOUT


class NotConfiguredError(Exception):
    """Nothing says where a cluster is, or with which credentials; the message is what is wrong."""


def error_from(status: int, text: str, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer tells. The wait is told by the header, else in the Status."""
    reason, message, wait = "", text[:MAX_ERROR_TEXT], headers.get("Retry-After")
    try:
        parsed = json.loads(text)
        reason, message = str(parsed.get("reason") or ""), str(parsed.get("message") or text)
        wait = wait or (parsed.get("details") or {}).get("retryAfterSeconds")
    except (ValueError, AttributeError):
        pass  # not a Status object: a proxy's page
    return ApiError(status, reason, message, retry_after_seconds=_seconds(wait))


def _seconds(text: object) -> float | None:
    """A ``Retry-After`` in seconds, within bounds; None for a date or nonsense."""
    try:
        seconds = float(str(text))
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
