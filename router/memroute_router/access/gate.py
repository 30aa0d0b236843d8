"""The gate: one object that a router asks who may have what. There is one where keys are on.

It owns the keys that are in force and what is used of them. Nothing is kept of a request before its
key is known.
"""

import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Final

from memroute.traffic.request import RequestProfile
from memroute_router.access.keyfile import KeysError, read_keys
from memroute_router.access.quotas import Permit, Quotas
from memroute_router.access.rules import Grant, KeyRing
from memroute_router.access.share_line import ShareLines, ShareWaiter
from memroute_router.access.tokens import TokenVerifier
from memroute_router.access.verdicts import (
    authenticate,
    is_token,
    presented_key,
    tokens_to_reserve,
    tokens_used,
)
from memroute_router.access.words import UNKNOWN_KEY
from memroute_router.http.deadlines import monotonic
from memroute_router.http.errors import ANTHROPIC_PATH
from memroute_router.http.faults import OnFault
from memroute_router.lifecycle.refusal import Refusal
from memroute_router.lifecycle.usage import Usage
from memroute_router.replicas.pool import Pool

# Quantile of the answers' lengths that a tenant's minute is charged with until they have ended.
RESERVED_QUANTILE: Final = 0.95
# How long the sum of a pool's capacities is taken for true.
CAPACITY_SECONDS: Final = 1.0
# Pools whose sum is kept: models come and go.
MAX_CAPACITIES: Final = 1024
# Bytes of the largest file of keys: a million keys have some 200 MB as JSON.
MAX_FILE_BYTES: Final = 512 * 1024**2
# Own paths that need no key: who asks for them is a kubelet or a load balancer.
OPEN_PATHS: Final = frozenset({b"/health", b"/ready"})
_FIRST_ERROR_STATUS: Final = 400

Keys = tuple[KeyRing, TokenVerifier | None]
"""What the files say: keys, and who checks tokens, where there are issuers."""


class Gate:
    """Owns the keys in force, and the quotas."""

    def __init__(
        self,
        path: Path,
        *,
        num_routers: Callable[[], int],
        weights: MutableMapping[str, float],
        call_soon: Callable[..., object],
        on_fault: OnFault,
        max_wait_seconds: float,
        max_waiting: int,
    ) -> None:
        """``num_routers``: that share the limits. ``weights``: of tenants' shares, kept up here.

        ``max_wait_seconds``, ``max_waiting``: of requests that wait for their tenant's share.
        """
        self.path = path
        self._num_routers = num_routers
        self._weights = weights
        self._ring = KeyRing(tenants={}, by_digest={})
        self._verifier: TokenVerifier | None = None
        self._capacities: dict[str, tuple[float, int | None]] = {}
        self.quotas = Quotas()
        self.lines = ShareLines(
            call_soon,
            on_fault,
            may_have=self._may_have,
            max_seconds=max_wait_seconds,
            max_waiting=max_waiting,
        )
        self.refused: dict[str, int] = {}
        """Refusals by their reason."""

    @property
    def num_keys(self) -> int:
        """Keys in force."""
        return len(self._ring.by_digest)

    # What is in force.

    def read(self) -> Keys:
        """What the files say; nothing changes. May run in a thread. Raises ``KeysError``."""
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                msg = f"it is larger than {MAX_FILE_BYTES} bytes"
                raise KeysError(msg)
            ring = read_keys(self.path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            msg = f"cannot read it: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
            raise KeysError(msg) from None
        return ring, TokenVerifier(ring, self.path.parent) if ring.issuers else None

    def apply(self, keys: Keys) -> tuple[Path, ...]:
        """These are in force from now on; returns the files of tokens' issuers."""
        ring, self._verifier = keys
        self._ring = ring
        self.quotas.configure(ring)
        self._weights.clear()
        for tenant in ring.tenants.values():
            if tenant.share_weight != 1.0:
                self._weights[tenant.name] = tenant.share_weight
        return tuple(self.path.parent / issuer.jwks_file for issuer in ring.issuers)

    # One request.

    def identify(self, fields: dict[bytes, bytes]) -> Grant | Refusal:
        """What the key that came with the fields may do; or why nothing."""
        key = presented_key(fields)
        now = time.time()
        found = authenticate(key, self._ring, unix_seconds=now)
        if found is UNKNOWN_KEY and self._verifier is not None and is_token(key):
            found = self._verifier.verify(key, unix_seconds=now)
        if isinstance(found, Refusal):
            self._count(found)
        return found

    def screen(
        self, target: bytes, fields: dict[bytes, bytes]
    ) -> tuple[int, str, str, bytes, bytes] | None:
        """The answer to a request whose large body need not come: its key is none of ours."""
        found = self.identify(fields)
        if not isinstance(found, Refusal):
            return None
        is_anthropic = target.startswith(ANTHROPIC_PATH)
        body = found.body(is_anthropic=is_anthropic)
        return found.status, found.message, found.cause, found.lines(), body

    def may_ask(self, path: bytes, fields: dict[bytes, bytes]) -> Refusal | None:
        """Why one of the router's own paths is not for whoever asks; None: it is."""
        if path in OPEN_PATHS:
            return None
        found = self.identify(fields)
        return found if isinstance(found, Refusal) else None

    def reserve(self, grant: Grant, profile: RequestProfile, pool: Pool) -> Permit | Refusal:
        """Take what the request needs of its quotas; or why it may not have it."""
        tenant = grant.tenant
        now = monotonic()
        num_tokens = profile.expected_tokens
        limit = tenant.limits.tokens_per_minute
        if grant.limits is not None and grant.limits.tokens_per_minute is not None:
            own = grant.limits.tokens_per_minute
            limit = own if limit is None else min(limit, own)
        if limit is not None:
            num_tokens = tokens_to_reserve(
                num_prompt_tokens=profile.num_prompt_tokens,
                max_output_tokens=profile.max_output_tokens,
                num_choices=profile.num_choices,
                likely_output_tokens=pool.dispatcher.lengths.quantile(
                    RESERVED_QUANTILE,
                    tenant=profile.tenant,
                    num_prompt_tokens=profile.num_prompt_tokens,
                    max_output_tokens=profile.max_output_tokens,
                ),
                assumed_output_tokens=profile.assumed_output_tokens,
                limit_tokens=limit,
            )
        has_share = tenant.max_kv_share_ratio is not None
        found = self.quotas.ask(
            grant,
            pool.model,
            num_tokens=num_tokens,
            kv_tokens=profile.expected_tokens if has_share else 0,
            capacity_tokens=self._capacity(pool, now) if has_share else None,
            num_routers=self._num_routers(),
            now_seconds=now,
            may_wait=has_share and self.lines.may_wait(pool),
            others_wait=has_share and self.lines.others_wait(tenant.name, pool.model),
        )
        if isinstance(found, Refusal):
            self._count(found)
            use = self.quotas.by_tenant.get(tenant.name)
            if use is not None:
                use.num_refused += 1
        return found

    def wait_for_share(
        self, request: ShareWaiter, permit: Permit, profile: RequestProfile, pool: Pool
    ) -> None:
        """Hold a request whose permit lacks its tenant's share of KV tokens."""
        now = monotonic()
        deadline = profile.deadline_seconds
        if deadline is None:
            deadline = now + pool.dispatcher.settings.limits.ttft_target_seconds
        self.lines.wait(
            request,
            permit,
            pool,
            priority=profile.priority,
            deadline_seconds=deadline,
            now_seconds=now,
        )

    def share_refusal(self, permit: Permit, pool: Pool) -> Refusal:
        """Why a request has waited for its tenant's share in vain."""
        most = self._share_tokens(permit, pool) or 0
        refusal = permit.tenant.share_refusal(permit.model, permit.kv_tokens, most)
        self._count(refusal)
        permit.tenant.num_refused += 1
        return refusal

    def tick(self) -> None:
        """Time passes for those that wait for a share."""
        if len(self.lines):
            self.lines.tick(now_seconds=monotonic())

    def settle(
        self,
        permit: Permit,
        profile: RequestProfile,
        *,
        usage: Usage | None,
        num_events: int,
        status: int,
        is_served: bool,
    ) -> None:
        """The request is over: what it has used counts instead of what was reserved.

        ``usage``: what its engine has said of it; None: no engine was asked. ``num_events``: with
        generated text, that its stream has shown. ``status``: of its answer; 0: there was none.
        """
        used = tokens_used(
            was_sent=usage is not None,
            is_error=status >= _FIRST_ERROR_STATUS,
            reserved_tokens=permit.num_tokens,
            estimated_prompt_tokens=profile.num_prompt_tokens,
            num_events=num_events,
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            output_tokens=None if usage is None else usage.output_tokens,
            is_served=is_served,
        )
        if permit.lacks_share:
            self.lines.withdraw(permit)
        permit.settle(used, now_seconds=monotonic())
        if permit.kv_tokens:
            self.lines.changed()

    def limit_lines(self, permit: Permit) -> bytes:
        """What is left of the limits, as header lines."""
        return permit.lines(num_routers=self._num_routers(), now_seconds=monotonic())

    def count_forbidden(self, refusal: Refusal) -> None:
        """A key has asked for a model that it may not use."""
        self._count(refusal)

    def _may_have(self, permit: Permit, pool: Pool) -> bool:
        """Whether so much of its tenant's share is free now."""
        most = self._share_tokens(permit, pool)
        used = permit.tenant.kv_tokens.get(permit.model, 0)
        return most is None or used + permit.kv_tokens <= most

    def _share_tokens(self, permit: Permit, pool: Pool) -> int | None:
        return permit.tenant.share_tokens(
            self._capacity(pool, monotonic()), num_routers=self._num_routers()
        )

    def _capacity(self, pool: Pool, now_seconds: float) -> int | None:
        """KV tokens that the pool's replicas hold together; None: nobody knows."""
        known = self._capacities.get(pool.model)
        if known is not None and now_seconds - known[0] < CAPACITY_SECONDS:
            return known[1]
        total: int | None = None
        for replica in pool.replicas.values():
            capacity = replica.ledger.capacity_tokens
            if capacity is not None:
                total = capacity + (total or 0)
        if len(self._capacities) >= MAX_CAPACITIES:
            self._capacities.clear()
        self._capacities[pool.model] = now_seconds, total
        return total

    def _count(self, refusal: Refusal) -> None:
        reason = refusal.reason or ""
        self.refused[reason] = self.refused.get(reason, 0) + 1
