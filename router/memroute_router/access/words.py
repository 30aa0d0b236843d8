"""The refusals of this package, in the words of OpenAI's API (Anthropic's, where its clients ask).

What the clients' libraries look at is the status and ``code``: 401 ``invalid_api_key``, 403
``model_not_found``, 429 ``rate_limit_exceeded`` with ``Retry-After``. ``x-memroute-reason`` tells
the rest. No refusal quotes a key, and none tells of models that the key may not use.
"""

from typing import Final

from memroute_router.outcomes import Outcome
from memroute_router.refusal import INVALID_REQUEST, Refusal

# Characters of a model's name in a message.
_MAX_TOLD_CHARACTERS: Final = 128
MODEL_FORBIDDEN: Final = "model-forbidden"
REASONS: Final = (
    "no-key", "unknown-key", "short-key", "expired-key", "invalid-token", "expired-token",
    MODEL_FORBIDDEN, "requests-per-minute", "tokens-per-minute",
    "request-too-large", "requests-in-flight", "kv-share",
)  # fmt: skip
"""Every word that ``x-memroute-reason`` can have from here; labels of a metric, too."""
_CHALLENGE: Final = b"www-authenticate: Bearer\r\n"


def _unauthorized(reason: str, message: str) -> Refusal:
    return Refusal(
        outcome=Outcome.UNAUTHORIZED,
        status=401,
        message=message,
        reason=reason,
        cause=reason,
        code="invalid_api_key",
        kind=INVALID_REQUEST,
        more_lines=_CHALLENGE,
    )


NO_KEY: Final = _unauthorized(
    "no-key",
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
)
UNKNOWN_KEY: Final = _unauthorized("unknown-key", "Incorrect API key provided.")
SHORT_KEY: Final = _unauthorized(
    "short-key", "Incorrect API key provided: keys of fewer than 22 characters are not accepted."
)
EXPIRED_KEY: Final = _unauthorized("expired-key", "Incorrect API key provided: it has expired.")
INVALID_TOKEN: Final = _unauthorized(
    "invalid-token", "Incorrect API key provided: the token is not valid."
)
INVALID_TIMES: Final = _unauthorized(
    "invalid-token",
    "Incorrect API key provided: exp, nbf and iat of a token must be seconds since 1970.",
)
EARLY_TOKEN: Final = _unauthorized(
    "invalid-token", "Incorrect API key provided: the token is not valid yet."
)
EXPIRED_TOKEN: Final = _unauthorized(
    "expired-token", "Incorrect API key provided: the token has expired."
)


def forbidden(model: str) -> Refusal:
    """The key may not use a model of that name, whether there is one or not."""
    return Refusal(
        outcome=Outcome.FORBIDDEN,
        status=403,
        message=f"You do not have access to the model {model[:_MAX_TOLD_CHARACTERS]!r}.",
        parameter="model",
        reason=MODEL_FORBIDDEN,
        cause=MODEL_FORBIDDEN,
        code="model_not_found",
        kind=INVALID_REQUEST,
    )


def no_such_model(model: str) -> Refusal:
    """For who asks what a model is: it is not there, or is not theirs to see."""
    return Refusal(
        outcome=Outcome.UNKNOWN_MODEL,
        status=404,
        message=f"The model {model[:_MAX_TOLD_CHARACTERS]!r} does not exist or you do not have "
        "access to it.",
        parameter="model",
        reason=Outcome.UNKNOWN_MODEL.value,
        code="model_not_found",
        kind=INVALID_REQUEST,
    )


def rate_limited(
    reason: str,
    message: str,
    *,
    kind: str,
    retry_after_seconds: int | None,
    more_lines: bytes = b"",
) -> Refusal:
    """More was asked for than the tenant or the key may have now."""
    return Refusal(
        outcome=Outcome.RATE_LIMITED,
        status=429,
        message=message,
        reason=reason,
        cause=reason,
        code="rate_limit_exceeded",
        kind=kind,
        retry_after_seconds=retry_after_seconds,
        more_lines=more_lines,
    )
