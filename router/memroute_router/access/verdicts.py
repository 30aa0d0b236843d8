"""May this request? Pure decisions: facts in, a verdict out."""

from typing import Final

from memroute_router.access.keyfile import MIN_KEY_CHARACTERS
from memroute_router.access.rules import Grant, KeyRing, digest_of
from memroute_router.access.words import EXPIRED_KEY, NO_KEY, SHORT_KEY, UNKNOWN_KEY
from memroute_router.http.fields import PRIORITY
from memroute_router.lifecycle.claims import Claims, TenantSource, read_claims
from memroute_router.lifecycle.refusal import Refusal

# Bytes of a key or token that are looked at: tokens of identity providers have up to some 4,000.
MAX_KEY_BYTES: Final = 16 * 1024
_BEARER: Final = b"bearer "
_NONE: Final = TenantSource.NONE
_PARTS_OF_TOKEN: Final = 3
# Part of an answer's tokens: a request of few beside its limit may as well be counted at its most.
_SMALL_RATIO: Final = 0.1
# Times what the pool assumes of answers of which nothing is known. Chosen by hand.
_UNKNOWN_ANSWER_RATIO: Final = 4


def presented_key(fields: dict[bytes, bytes]) -> bytes:
    """The key or token that came with a request; empty: none.

    ``Authorization: Bearer`` goes before ``x-api-key``, which Anthropic's clients send.
    """
    given = fields.get(b"authorization")
    if given is not None and given[:7].lower() == _BEARER:
        key = given[7:].strip()
        if key:
            return key[:MAX_KEY_BYTES]
    return fields.get(b"x-api-key", b"")[:MAX_KEY_BYTES]


def is_token(key: bytes) -> bool:
    """Whether it looks like a JSON Web Token: three parts of base64, the first one JSON."""
    return key.startswith(b"eyJ") and key.count(b".") == _PARTS_OF_TOKEN - 1


def authenticate(key: bytes, ring: KeyRing, *, unix_seconds: float) -> Grant | Refusal:
    """What the key may do; or why nothing. One digest, one look."""
    if not key:
        return NO_KEY
    grant = ring.by_digest.get(digest_of(key))
    if grant is None:
        return UNKNOWN_KEY
    if len(key) < MIN_KEY_CHARACTERS:
        return SHORT_KEY
    if grant.expires_at is not None and unix_seconds >= grant.expires_at:
        return EXPIRED_KEY
    return grant


def granted_claims(grant: Grant, fields: dict[bytes, bytes], *, trusts_headers: bool) -> Claims:
    """Whose a request is, how urgent, and by when: what its key allows it to say.

    ``trusts_headers``: something before the router has checked them; nothing bounds them then.
    """
    service = grant.tenant.service
    if not trusts_headers and service.max_priority is None and service.min_ttft_seconds is None:
        return Claims(grant.tenant.name, service.priority, None)
    asked = read_claims(fields, tenants=_NONE, trusts_headers=True)
    priority, ttft = service.priority, None
    if PRIORITY in fields and (trusts_headers or service.max_priority is not None):
        priority = asked.priority
        if not trusts_headers and service.max_priority is not None:
            priority = min(priority, service.max_priority)
    if asked.ttft_seconds is not None:
        ttft = asked.ttft_seconds
        if not trusts_headers:
            least = service.min_ttft_seconds
            ttft = None if least is None else max(ttft, least)
    return Claims(grant.tenant.name, priority, ttft)


def tokens_to_reserve(
    *,
    num_prompt_tokens: int,
    max_output_tokens: int | None,
    num_choices: int,
    likely_output_tokens: int | None,
    assumed_output_tokens: int,
    limit_tokens: int,
) -> int:
    """Tokens that a request counts for in its tenant's minute, until its engine has said how many.

    ``max_output_tokens``: the client's limit of one answer, None without one; ``likely``: what
    nearly all answers of its kind stay under, None where too few have ended; ``assumed``: of all
    its answers together, what the pool plans for. That is more than the mean, so that a tenant has
    not used more than its limit when its answers have ended. A limit that is small beside the
    tenant's is taken as it is.
    """
    if likely_output_tokens is None:
        likely = _UNKNOWN_ANSWER_RATIO * assumed_output_tokens
    else:
        likely = likely_output_tokens * num_choices
    if max_output_tokens is None:
        return num_prompt_tokens + likely
    most = num_prompt_tokens + max_output_tokens * num_choices
    if most <= _SMALL_RATIO * limit_tokens:
        return most
    return min(most, num_prompt_tokens + likely)


def tokens_used(
    *,
    was_sent: bool,
    is_error: bool,
    reserved_tokens: int,
    estimated_prompt_tokens: int,
    num_events: int,
    prompt_tokens: int | None,
    output_tokens: int | None,
    is_served: bool,
) -> int:
    """Tokens that a request has used, once it is over.

    By the engine's own count where there is one. Else: nothing for a request that no engine has
    worked on; its prompt and the events that came for one that was broken off; what was reserved
    for a whole answer that says nothing of it.
    """
    if not was_sent:
        return 0
    if prompt_tokens is None and output_tokens is None:
        if is_error and not num_events:
            return 0
        if is_served and not num_events:
            return reserved_tokens
    prompt = estimated_prompt_tokens if prompt_tokens is None else prompt_tokens
    return prompt + (num_events if output_tokens is None else output_tokens)
