"""What the tenth tenant does: ways of asking for more than a share, each through the router's gate.

Each request of a workload comes with a key. The router's own verdicts say whose it is, how urgent
it may be, or that it is 401; what is refused never reaches the pool.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from memroute_router.access.newcomers import KnownWords
from memroute_router.access.rules import Grant, KeyRing, ModelNames, Tenant, digest_of
from memroute_router.access.verdicts import authenticate, granted_claims, presented_key
from memroute_router.http.fields import PRIORITY
from memroute_router.lifecycle.claims import TenantSource, read_claims
from memroute_simulator.workloads import WorkloadRequest

KEYS_OF_FLOOD = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """One way to ask for more."""

    name: str
    has_keys: bool = True
    """Whether the router has ``--keys``; else it tells tenants apart by what they say."""
    key: Callable[[int], str] = lambda _: "tenant-0/0"
    """What the tenth's n-th request comes with."""
    prompt_ratio: float = 1.0
    """Length of its prompts, relative to the others'."""
    rate_ratio: float = 1.0
    """Its requests, relative to the flood's."""


FLOODS = (
    Flood(name="by key"),
    Flood(name="by key; the tenth has ten", key=lambda n: f"tenant-0/{n % KEYS_OF_FLOOD}"),
    Flood(name="by key; the tenth has none, a new one each", key=lambda n: f"nobody/{n}"),
    Flood(name="by key; the tenth sends four times as long", prompt_ratio=4.0, rate_ratio=0.5),
    Flood(
        name="by word (--tenants key); a new one each", has_keys=False, key=lambda n: f"word/{n}"
    ),
)


def through_the_gate(
    asked: Iterable[tuple[float, WorkloadRequest]],
    flood: Flood,
    *,
    flooder: str,
    num_tenants: int,
) -> list[tuple[float, WorkloadRequest]]:
    """The requests that reach the pool, of the tenants that the router takes them for.

    ``asked``: with the times of their arrival. Everybody claims the greatest priority: no key
    allows it.
    """
    ring = _ring(num_tenants)
    words = KnownWords()
    kept: list[tuple[float, WorkloadRequest]] = []
    count = 0
    for at, request in sorted(asked, key=lambda pair: pair[0]):
        key = f"{request.tenant}/0"
        if request.tenant == flooder:
            key = flood.key(count)
            count += 1
        fields = {b"authorization": b"Bearer " + _key(key), PRIORITY: b"1000"}
        if flood.has_keys:
            found = authenticate(presented_key(fields), ring, unix_seconds=at)
            if not isinstance(found, Grant):
                continue
            claims = granted_claims(found, fields, trusts_headers=False)
            tenant = claims.tenant
        else:
            claims = read_claims(fields, tenants=TenantSource.KEY, trusts_headers=False)
            tenant = words.tenant(claims.tenant, now_seconds=at)
        kept.append((at, replace(request, tenant=tenant, priority=-claims.priority)))
    return kept


def _ring(num_tenants: int) -> KeyRing:
    tenants = {
        f"tenant-{n}": Tenant(name=f"tenant-{n}", models=ModelNames(["*"]))
        for n in range(num_tenants)
    }
    by_digest = {
        digest_of(_key(f"{tenant.name}/{n}")): Grant(tenant, f"{tenant.name}/{n}")
        for tenant in tenants.values()
        for n in range(KEYS_OF_FLOOD)
    }
    return KeyRing(tenants=tenants, by_digest=by_digest)


def _key(name: str) -> bytes:
    return f"mr-{name}-0123456789abcdefghij".encode()
