"""Which tenants have had more than their share of a pool while others wait."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from memroute.traffic.replica import RateMeter

# Tenants whose use is remembered; the one that asked longest ago is forgotten first.
# Unit: tenants. Source: a bound of memory, chosen by hand.
MAX_TENANTS: Final = 1000
# Tokens per second (over the last ten seconds, about) below which a tenant counts as absent when
# the equal share is computed.
# Unit: tokens per second. Source: chosen by hand.
LEAST_TOKENS_PER_SECOND: Final = 1.0
# Tokens that a tenant asks for, over its equal share, above which it leaves room for the others
# once it has had the share.
# Unit: ratio of the equal share. Source: chosen by hand.
OVER_SHARE_RATIO: Final = 1.5

_EQUAL: Final[dict[str, float]] = {}
"""Weights where all tenants have the same."""


class _Use:
    """Tokens that one tenant has asked for and was given, as rates of the last ten seconds."""

    __slots__ = ("asked", "given")

    def __init__(self) -> None:
        self.asked = RateMeter()
        self.given = RateMeter()


class FairShares:
    """Owns what each tenant has asked for and was given; the caller brings the clock."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """``weights``: of tenants' shares, kept up by their owner; tenants not in it have 1."""
        self._weights = _EQUAL if weights is None else weights
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._share_per_second = 0.0
        """Tokens per second of a share of weight 1, as of the last ``update``; 0 below two
        tenants."""

    def asked(self, tenant: str, num_tokens: int, *, now_seconds: float) -> None:
        """A request of the tenant came that is expected to hold ``num_tokens``."""
        self._use(tenant).asked.add(num_tokens, now_seconds=now_seconds)

    def given(self, tenant: str, num_tokens: int, *, now_seconds: float) -> None:
        """A request of the tenant that is expected to hold ``num_tokens`` was given room."""
        self._use(tenant).given.add(num_tokens, now_seconds=now_seconds)

    def update(self, *, now_seconds: float) -> None:
        """Compute the share again. With fewer than two active tenants there is none."""
        total = weight = 0.0
        num_active = 0
        for tenant, use in self._uses.items():
            rate = use.given.per_second(now_seconds=now_seconds) or 0.0
            if rate >= LEAST_TOKENS_PER_SECOND:
                total += rate
                weight += self._weights.get(tenant, 1.0)
                num_active += 1
        self._share_per_second = total / weight if num_active > 1 else 0.0

    def is_over(self, tenant: str, *, now_seconds: float) -> bool:
        """Whether the tenant asks for far more than its share, and has had the share."""
        share = self._share_per_second * self._weights.get(tenant, 1.0)
        use = self._uses.get(tenant)
        if share <= 0 or use is None:
            return False
        asked = use.asked.per_second(now_seconds=now_seconds) or 0.0
        given = use.given.per_second(now_seconds=now_seconds) or 0.0
        return asked > OVER_SHARE_RATIO * share and given > share

    def _use(self, tenant: str) -> _Use:
        use = self._uses.get(tenant)
        if use is None:
            if len(self._uses) >= MAX_TENANTS:
                self._uses.popitem(last=False)
            use = self._uses[tenant] = _Use()
        else:
            self._uses.move_to_end(tenant)
        return use
