"""The one shape of an error: OpenAI's, with Anthropic's outer field where its clients ask."""

from typing import Final

import orjson

# How the paths of Anthropic's API begin.
ANTHROPIC_PATH: Final = b"/v1/messages"
TYPES = {
    404: "NotFoundError", 408: "RequestTimeoutError", 429: "RateLimitError",
    500: "InternalServerError", 502: "ServiceUnavailableError", 503: "ServiceUnavailableError",
    504: "ServiceUnavailableError",
}  # fmt: skip
_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def error_body(
    status: int,
    message: str,
    *,
    parameter: str | None = None,
    reason: str | None = None,
    kind: str | None = None,
    is_anthropic: bool = False,
) -> bytes:
    """An error as JSON. ``reason``: our own word for why, which becomes the ``code``.

    ``kind``: its ``type`` for OpenAI's clients; None: by the status.
    """
    kind = kind or TYPES.get(status, "BadRequestError")
    if is_anthropic:
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
    error = {"message": message, "type": kind, "param": parameter, "code": reason or status}
    return orjson.dumps({"type": "error", "error": error} if is_anthropic else {"error": error})
