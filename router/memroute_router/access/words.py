"""The refusals of this package, in the words of OpenAI's API (Anthropic's, where its clients ask).

What the clients' libraries look at is the status and ``code``: 401 ``invalid_api_key``, 403
``model_not_found``, 429 ``rate_limit_exceeded`` with ``Retry-After``. ``x-memroute-reason`` tells
the rest. No refusal quotes a key, and none tells of models that the key may not use.
"""

from typing import Final

from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.refusal import INVALID_REQUEST, Refusal

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
    return _no_model(
        Outcome.FORBIDDEN,
        403,
        MODEL_FORBIDDEN,
        f"You do not have access to the model {_told(model)}.",
    )


def no_such_model(model: str) -> Refusal:
    """For who asks what a model is: it is not there, or is not theirs to see."""
    return _no_model(
        Outcome.UNKNOWN_MODEL,
        404,
        Outcome.UNKNOWN_MODEL.value,
        f"The model {_told(model)} does not exist or you do not have access to it.",
    )


def _no_model(outcome: Outcome, status: int, reason: str, message: str) -> Refusal:
    return Refusal(
        outcome=outcome,
        status=status,
        message=message,
        parameter="model",
        reason=reason,
        cause=reason if outcome is Outcome.FORBIDDEN else "",
        code="model_not_found",
        kind=INVALID_REQUEST,
    )


def _told(model: str) -> str:
    return repr(model[:_MAX_TOLD_CHARACTERS])


def over_limit(
    reason: str,
    what: str,
    whose: str,
    *,
    limit: int,
    used: int,
    requested: int,
    retry_after_seconds: int | None,
    more_lines: bytes = b"",
) -> Refusal:
    """More was asked for than the tenant or the key may have now, in the words of OpenAI's API.

    ``what`` is limited, as "tokens per min (TPM)"; ``whose`` limit it is, as "m in search".
    ``retry_after_seconds``: None: never, it is larger than the limit itself.
    """
    kind = "tokens" if what.startswith("tokens") else "requests"
    told = f"on {what}: Limit {limit}, Used {used}, Requested {requested}."
    if retry_after_seconds is None:
        message = (
            f"Request too large for {whose} {told} The input or output tokens must be reduced."
        )
    else:
        message = (
            f"Rate limit reached for {whose} {told} Please try again in {retry_after_seconds}s."
        )
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
