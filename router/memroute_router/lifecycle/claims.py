"""Whose a request is, how urgent, and by when: claims, and which of them are believed.

A header is a claim that any client can make. It counts where the router was told that something
before it checks them (``--trust-headers``); where it was told to, the router tells tenants apart by
the key they authenticate with, of which only a hash is kept. Else all requests are alike.
"""

import hashlib
from enum import StrEnum
from typing import Final

from memroute_router.http.fields import PRIORITY, TENANT, TTFT_MILLISECONDS

MAX_TENANT_BYTES: Final = 64
MAX_PRIORITY: Final = 1000
MAX_TTFT_MILLISECONDS: Final = 3_600_000
_HASH_BYTES: Final = 6


class TenantSource(StrEnum):
    """What tells tenants apart."""

    NONE = "none"
    KEY = "key"
    HEADER = "header"


# Looked up once, not for every request.
_KEY: Final = TenantSource.KEY
_HEADER: Final = TenantSource.HEADER


class Claims:
    """What is believed of one request."""

    __slots__ = ("priority", "tenant", "ttft_seconds")

    def __init__(self, tenant: str, priority: int, ttft_seconds: float | None) -> None:
        self.tenant = tenant
        self.priority = priority
        self.ttft_seconds = ttft_seconds
        """When its first token is wanted, from its arrival; None: as soon as everybody's."""


NO_CLAIMS: Final = Claims("", 0, None)


def read_claims(
    fields: dict[bytes, bytes], *, tenants: TenantSource, trusts_headers: bool
) -> Claims:
    """What is believed; a claim that cannot be read is none."""
    tenant = ""
    if tenants is _KEY:
        key = fields.get(b"authorization") or fields.get(b"x-api-key")
        if key is not None:
            tenant = hashlib.blake2b(key, digest_size=_HASH_BYTES).hexdigest()
    elif tenants is _HEADER:
        tenant = fields.get(TENANT, b"")[:MAX_TENANT_BYTES].decode("ascii", "replace")
    if not trusts_headers:
        return Claims(tenant, 0, None) if tenant else NO_CLAIMS
    priority = _integer(fields.get(PRIORITY)) or 0
    milliseconds = _integer(fields.get(TTFT_MILLISECONDS))
    ttft = None
    if milliseconds is not None and 0 < milliseconds <= MAX_TTFT_MILLISECONDS:
        ttft = milliseconds / 1e3
    return Claims(tenant, max(-MAX_PRIORITY, min(MAX_PRIORITY, priority)), ttft)


def _integer(value: bytes | None) -> int | None:
    if value is None or len(value) > 9:  # noqa: PLR2004 - more digits than any claim needs
        return None
    digits = value[1:] if value.startswith(b"-") else value
    return int(value) if digits.isdigit() else None
