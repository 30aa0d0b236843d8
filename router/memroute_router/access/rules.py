"""What a tenant and a key may do: the file of keys, as values."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Final

from memroute.traffic.request import RequestProfile
from memroute_router.access.media_hosts import MediaHosts

# Characters of a model's name that are compared with an allow-list: names that exist have fewer
# than 100, and the client chooses what is sent. Chosen by hand.
MAX_MODEL_CHARACTERS: Final = 512
_GLOB: Final = frozenset("*?[")


class ModelNames:
    """An allow-list: names, and patterns with ``*``, ``?`` and ``[…]``; never changed."""

    __slots__ = ("_exact", "_pattern", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._exact = frozenset(name for name in names if not _GLOB & set(name))
        globs = [translate(name) for name in names if _GLOB & set(name)]
        self._pattern: re.Pattern[str] | None = re.compile("|".join(globs)) if globs else None

    def allow(self, model: str) -> bool:
        """Whether the model is on the list."""
        if model in self._exact:
            return True
        pattern = self._pattern
        if pattern is None or len(model) > MAX_MODEL_CHARACTERS:
            return False
        return pattern.match(model) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much in any minute, and at once; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and answer together, as engines count them."""
    max_requests: int | None = None
    """Under way at once, those that wait included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    """How urgent a tenant's requests are, and how urgent they may say they are."""

    priority: int = 0
    """Of a request that says nothing of it; greater is served first."""
    max_priority: int | None = None
    """What ``x-memroute-priority`` may ask for at the most; None: the field is not read."""
    min_ttft_seconds: float | None = None
    """What ``x-memroute-ttft-ms`` may ask for at the least; None: the field is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Somebody who shares the fleet with others, by however many keys."""

    name: str
    models: ModelNames
    service: ServiceClass = field(default_factory=ServiceClass)
    limits: Limits = field(default_factory=Limits)
    share_weight: float = 1.0
    """Of its share where tenants compete, relative to the others'."""
    max_kv_share_ratio: float | None = None
    """Of the KV tokens that a model's replicas hold: the most it may have under way."""
    media_hosts: MediaHosts | None = None
    """From where requests of its keys may have engines fetch."""
    may_explain: bool = False
    """Whether it is told by ``x-memroute-explain`` where its requests go, and why."""
    cache_salt: str = ""
    """What engines are asked to keep its cached prompts apart by; empty: they share them."""

    @property
    def prefix_salt(self) -> int:
        """What the keys of its prompts' blocks are told apart from the others' by: 64 bits."""
        return prefix_salt(f"{self.name}\0{self.cache_salt}")


class Grant:
    """What one key, or token, may do; never changed. A plain class: every request reads it."""

    __slots__ = (
        "expires_at", "key_id", "limits", "media_hosts", "models", "prefix_salt", "tenant",
    )  # fmt: skip

    def __init__(
        self,
        tenant: Tenant,
        key_id: str,
        *,
        models: ModelNames | None = None,
        limits: Limits | None = None,
        expires_at: float | None = None,
        media_hosts: MediaHosts | None = None,
    ) -> None:
        """``models``, ``limits``: of this key alone, beside its tenant's.

        ``media_hosts``: instead of its tenant's, which may have some of its own.
        """
        self.tenant = tenant
        self.key_id = key_id
        """What the key is called in the file; no secret."""
        self.models = models
        self.limits = limits
        self.expires_at = expires_at
        """Seconds since the epoch; None: never."""
        self.prefix_salt = tenant.prefix_salt
        self.media_hosts = tenant.media_hosts if media_hosts is None else media_hosts
        """From where its requests may have engines fetch; None: as the router's own list says."""

    def allows(self, model: str) -> bool:
        """Whether requests may name the model: by its name alone, whether it exists or not."""
        if not self.tenant.models.allow(model):
            return False
        return self.models is None or self.models.allow(model)

    @property
    def has_token_limit(self) -> bool:
        """Whether its tokens are counted, so that engines are asked how many there were."""
        limits = self.limits
        return self.tenant.limits.tokens_per_minute is not None or (
            limits is not None and limits.tokens_per_minute is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuer:
    """Who signs JSON Web Tokens that are believed."""

    issuer: str
    audience: str
    jwks_file: str
    tenant_claim: str
    algorithms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """All that a file of keys says."""

    tenants: dict[str, Tenant]
    by_digest: dict[bytes, Grant]
    """By the SHA-256 of the key."""
    issuers: tuple[TokenIssuer, ...] = ()


def may_explain(grant: Grant | None, profile: RequestProfile, *, has_keys: bool) -> bool:
    """Whether a client may know where its request went, and how much of its prompt is cached there.

    ``grant``: of its key; None where it has none. ``has_keys``: whether the router asks for keys.
    Where tenants are told apart by their words alone, engines that report their blocks would tell
    one what the others have sent.
    """
    if grant is not None:
        return grant.tenant.may_explain
    return not has_keys and not (profile.tenant and profile.blocks)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. SHA-256: docs/how-to/give-out-keys.md says why nothing slower."""
    return hashlib.sha256(key).digest()


def prefix_salt(name: str) -> int:
    """64 bits for a tenant, the same in every router."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
