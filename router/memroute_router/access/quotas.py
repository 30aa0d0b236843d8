"""What tenants and keys have used in the last minute, and what they have under way.

A tenant is known by its name, so that a file that is read again changes its limits and not what it
has used. Only tenants and keys of the file are here: nothing that a client sends makes an entry.
"""

from typing import Final

from memroute_router.access.rules import Grant, KeyRing, Limits
from memroute_router.access.windows import MinuteWindow, whole_seconds
from memroute_router.access.words import over_limit
from memroute_router.lifecycle.refusal import Refusal

# When to come back where room depends on the tenant's own requests, not on a clock. Chosen by hand.
BUSY_RETRY_SECONDS: Final = 1
_NO_LIMITS: Final = Limits()


class Use:
    """What one tenant, or one key, uses. Windows are made where there is a limit to hold."""

    __slots__ = ("limits", "name", "num_requests", "requests", "tokens")

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        """For messages."""
        self.limits = limits
        self.num_requests = 0
        """Under way."""
        self.requests: MinuteWindow | None = None
        self.tokens: MinuteWindow | None = None
        self.limit_to(limits)

    def limit_to(self, limits: Limits) -> None:
        """These are its limits from now on."""
        self.limits = limits
        if limits.requests_per_minute is None:
            self.requests = None
        elif self.requests is None:
            self.requests = MinuteWindow()
        if limits.tokens_per_minute is None:
            self.tokens = None
        elif self.tokens is None:
            self.tokens = MinuteWindow()

    def refusal(
        self, model: str, num_tokens: int, *, num_routers: int, now_seconds: float
    ) -> Refusal | None:
        """Why one more request of ``num_tokens`` may not be taken; None: it may.

        ``num_routers``: that share the limits, each an equal part.
        """
        limits = self.limits
        most = limits.max_requests
        if most is not None and self.num_requests >= max(1, most // num_routers):
            return over_limit(
                "requests-in-flight", "requests at once", f"{model} in {self.name}",
                limit=most, used=self.num_requests, requested=1,
                retry_after_seconds=BUSY_RETRY_SECONDS,
                more_lines=self.lines(num_routers=num_routers, now_seconds=now_seconds),
            )  # fmt: skip
        refusal: Refusal | None = None
        window, limit = self.requests, limits.requests_per_minute
        if window is not None and limit is not None:
            refusal = self._over(
                "requests-per-minute", "requests per min (RPM)", window, limit, 1, model,
                num_routers=num_routers, now_seconds=now_seconds,
            )  # fmt: skip
        window, limit = self.tokens, limits.tokens_per_minute
        if refusal is None and window is not None and limit is not None:
            refusal = self._over(
                "tokens-per-minute", "tokens per min (TPM)", window, limit, num_tokens, model,
                num_routers=num_routers, now_seconds=now_seconds,
            )  # fmt: skip
        return refusal

    def _over(
        self,
        reason: str,
        what: str,
        window: MinuteWindow,
        limit: int,
        requested: int,
        model: str,
        *,
        num_routers: int,
        now_seconds: float,
    ) -> Refusal | None:
        """Why so much more is not within a limit of the minute; None: it is."""
        own = max(1, limit // num_routers)
        wait = window.seconds_until(requested, own, now_seconds=now_seconds)
        if wait == 0.0:
            return None
        return over_limit(
            "request-too-large" if wait is None else reason,
            what,
            f"{model} in {self.name}",
            limit=own if wait is None else limit,
            used=window.total,
            requested=requested,
            retry_after_seconds=None if wait is None else whole_seconds(wait),
            more_lines=self.lines(num_routers=num_routers, now_seconds=now_seconds),
        )

    def lines(self, *, num_routers: int, now_seconds: float) -> bytes:
        """What OpenAI's clients read of their limits, as header lines; empty without limits."""
        told = b""
        for what, window, limit in (
            (b"requests", self.requests, self.limits.requests_per_minute),
            (b"tokens", self.tokens, self.limits.tokens_per_minute),
        ):
            if window is not None and limit is not None:
                reset = window.seconds_until_empty(now_seconds=now_seconds)
                told += (
                    b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\n"
                    b"x-ratelimit-reset-%b: %.1fs\r\n"
                ) % (
                    what, limit,
                    what, max(0, limit // num_routers - window.total),
                    what, reset,
                )  # fmt: skip
        return told


class TenantUse(Use):
    """What one tenant uses, by all of its keys."""

    __slots__ = (
        "kv_tokens", "max_kv_share_ratio", "num_refused", "settled_requests", "settled_tokens",
    )  # fmt: skip

    def __init__(self, name: str, limits: Limits, max_kv_share_ratio: float | None) -> None:
        super().__init__(name, limits)
        self.max_kv_share_ratio = max_kv_share_ratio
        self.kv_tokens: dict[str, int] = {}
        """Expected to be held by its requests under way, by served model; never 0."""
        self.settled_requests = 0
        self.num_refused = 0
        """Requests that its quotas have refused."""
        self.settled_tokens = 0
        """Of requests that have ended, since the router began."""

    def share_tokens(self, capacity_tokens: int | None, *, num_routers: int) -> int | None:
        """KV tokens of a model that it may have under way here; None: as many as there are.

        ``capacity_tokens``: of all replicas of the model; None: nobody knows, nothing is refused.
        """
        ratio = self.max_kv_share_ratio
        if ratio is None or capacity_tokens is None:
            return None
        return int(ratio * capacity_tokens / num_routers)

    def share_refusal(self, model: str, num_tokens: int, most: int) -> Refusal:
        """Why it may not have so many more KV tokens of the model, of which it may have ``most``.

        None waits for a share that it is larger than.
        """
        ratio = self.max_kv_share_ratio or 0.0
        return over_limit(
            "kv-share",
            f"tokens at once ({ratio:.0%} of what the model's replicas hold)",
            f"{model} in {self.name}",
            limit=most,
            used=self.kv_tokens.get(model, 0),
            requested=num_tokens,
            retry_after_seconds=BUSY_RETRY_SECONDS if num_tokens <= most else None,
        )


class Permit:
    """What one request has taken of its quotas, until it is settled; exactly once."""

    __slots__ = (
        "_key", "_slots", "_tenant", "is_settled", "kv_tokens", "lacks_share", "model",
        "num_tokens",
    )  # fmt: skip

    def __init__(
        self,
        tenant: TenantUse,
        key: Use | None,
        model: str,
        *,
        num_tokens: int,
        kv_tokens: int,
        lacks_share: bool = False,
        now_seconds: float,
    ) -> None:
        """``num_tokens``: of the minute; ``kv_tokens``: held at once, 0 where nothing asks.

        ``lacks_share``: the latter are not taken yet (``take_share``).
        """
        self._tenant = tenant
        self._key = key
        self.kv_tokens = kv_tokens
        self.lacks_share = True
        """Whether it waits for its tenant's share of the KV tokens."""
        self._slots: list[tuple[MinuteWindow, int]] = []
        self.model = model
        self.num_tokens = num_tokens
        self.is_settled = False
        self._take(tenant, now_seconds)
        if key is not None:
            self._take(key, now_seconds)
        if not lacks_share:
            self.take_share()

    @property
    def tenant(self) -> TenantUse:
        """What its tenant uses."""
        return self._tenant

    @property
    def tenant_name(self) -> str:
        """Whose it is."""
        return self._tenant.name

    def take_share(self) -> None:
        """Its KV tokens count in its tenant's share from now on."""
        self.lacks_share = False
        if self.kv_tokens:
            held = self._tenant.kv_tokens
            held[self.model] = held.get(self.model, 0) + self.kv_tokens

    def settle(self, num_tokens: int, *, now_seconds: float) -> None:
        """The request is over, and has used so many. Raises ``RuntimeError`` the second time."""
        if self.is_settled:
            msg = "permit settled twice"
            raise RuntimeError(msg)
        self.is_settled = True
        for window, slot in self._slots:
            window.correct(slot, num_tokens - self.num_tokens, now_seconds=now_seconds)
        tenant = self._tenant
        tenant.num_requests -= 1
        tenant.settled_requests += 1
        tenant.settled_tokens += num_tokens
        if self._key is not None:
            self._key.num_requests -= 1
        if self.kv_tokens and not self.lacks_share:
            left = tenant.kv_tokens.get(self.model, 0) - self.kv_tokens
            if left > 0:
                tenant.kv_tokens[self.model] = left
            else:
                tenant.kv_tokens.pop(self.model, None)

    def lines(self, *, num_routers: int, now_seconds: float) -> bytes:
        """What is left of its limits: of the key's where it has its own, else of the tenant's."""
        told = b""
        if self._key is not None:
            told = self._key.lines(num_routers=num_routers, now_seconds=now_seconds)
        return told or self._tenant.lines(num_routers=num_routers, now_seconds=now_seconds)

    def _take(self, use: Use, now_seconds: float) -> None:
        use.num_requests += 1
        if use.requests is not None:
            use.requests.add(1, now_seconds=now_seconds)
        if use.tokens is not None:
            slot = use.tokens.add(self.num_tokens, now_seconds=now_seconds)
            self._slots.append((use.tokens, slot))


class Quotas:
    """Owns what every tenant and key of the file uses."""

    def __init__(self) -> None:
        self.by_tenant: dict[str, TenantUse] = {}
        self._by_key: dict[str, Use] = {}
        """Keys that have limits of their own."""

    def configure(self, ring: KeyRing) -> None:
        """These are the tenants and keys from now on; what they have used stays."""
        before, before_keys = self.by_tenant, self._by_key
        self.by_tenant = {}
        for name, tenant in ring.tenants.items():
            use = before.get(name)
            if use is None:
                use = TenantUse(name, tenant.limits, tenant.max_kv_share_ratio)
            use.limit_to(tenant.limits)
            use.max_kv_share_ratio = tenant.max_kv_share_ratio
            self.by_tenant[name] = use
        self._by_key = {}
        for grant in ring.by_digest.values():
            if grant.limits is not None:
                own = before_keys.get(grant.key_id) or Use(grant.key_id, grant.limits)
                own.limit_to(grant.limits)
                self._by_key[grant.key_id] = own

    def ask(
        self,
        grant: Grant,
        model: str,
        *,
        num_tokens: int,
        kv_tokens: int,
        capacity_tokens: int | None,
        num_routers: int,
        now_seconds: float,
        may_wait: bool = False,
        others_wait: bool = False,
    ) -> Permit | Refusal:
        """Take what one request needs, all of it or nothing.

        ``may_wait``: for its tenant's share of KV tokens, which it then lacks; ``others_wait``:
        requests of the tenant do, and it comes behind them.
        """
        tenant = self.by_tenant.get(grant.tenant.name)
        if tenant is None:
            # Its tenant has left the file since the request came.
            tenant = TenantUse(grant.tenant.name, _NO_LIMITS, None)
        key = None if grant.limits is None else self._by_key.get(grant.key_id)
        refusal = tenant.refusal(
            model, num_tokens, num_routers=num_routers, now_seconds=now_seconds
        )
        if refusal is None and key is not None:
            refusal = key.refusal(
                model, num_tokens, num_routers=num_routers, now_seconds=now_seconds
            )
        if refusal is not None:
            return refusal
        most = tenant.share_tokens(capacity_tokens, num_routers=num_routers)
        lacks_share = False
        if most is not None:
            lacks_share = others_wait or tenant.kv_tokens.get(model, 0) + kv_tokens > most
            if lacks_share and (kv_tokens > most or not may_wait):
                return tenant.share_refusal(model, kv_tokens, most)
        return Permit(
            tenant,
            key,
            model,
            num_tokens=num_tokens,
            kv_tokens=kv_tokens,
            lacks_share=lacks_share,
            now_seconds=now_seconds,
        )
