"""What the debug pages say: of each replica, of each request that waits, of the last decisions."""

from collections.abc import Iterator
from typing import Any, Final

from memroute.traffic.dispatch.ask import REPLICA, ROOM, WAKE, Ask
from memroute.traffic.dispatch.request_pool import Waiter
from memroute.traffic.prefixes import Tier
from memroute.traffic.replica import ReplicaSleep, SleepPhase
from memroute_router.access.share_line import PLACE, ShareLines
from memroute_router.lifecycle.isolation import Isolation
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.log.journal import Journal
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

# Requests that are shown of one model; the metric ``memroute_router_queue_requests`` has them all.
# Unit: requests. Source: a bound, chosen by hand; as many as a line may hold by default.
MAX_SHOWN: Final = 1024
_APART: Final = "a replica has died with it: it waits for one that has no other such request"
_SHARE: Final = "its tenant has its share of the model's KV tokens under way (maxKVShareRatio)"


def decisions(journal: Journal) -> Iterator[dict[str, Any]]:
    """The last requests, the latest first."""
    for record in reversed(journal.recent):
        yield record.document()


def replicas(pools: Pools) -> Iterator[dict[str, Any]]:
    """What each replica is believed to hold."""
    for pool in list(pools.by_model.values()):
        for replica in list(pool.replicas.values()):
            yield _replica(pool, replica, pools.now_seconds())


def queue(
    pools: Pools,
    isolation: Isolation,
    lines: ShareLines | None = None,
    *,
    max_shown: int = MAX_SHOWN,
) -> Iterator[dict[str, Any]]:
    """The requests that wait: whose, for which replica, why, since when.

    ``lines``: of those that wait for their tenant's share; None: no tenant has one.
    ``max_shown``: of each model.
    """
    for suspect in isolation.waiting()[:max_shown]:
        if isinstance(suspect, Lifecycle):
            yield _elsewhere(suspect, pools.now_seconds(), "apart", _APART)
    for place in [] if lines is None else lines.waiting()[:max_shown]:
        if isinstance(place.request, Lifecycle):
            yield _elsewhere(place.request, pools.now_seconds(), PLACE, _SHARE)
    for pool in list(pools.by_model.values()):
        for ask in pool.dispatcher.waiting()[:max_shown]:
            yield _waiting(pool, ask, pools.now_seconds())


def _elsewhere(request: Lifecycle, now_seconds: float, waits_for: str, why: str) -> dict[str, Any]:
    """A request that waits, and that no line of its pool has."""
    profile = request.profile
    return request.waits(now_seconds) | {
        "tenant": profile.tenant,
        "priority": profile.priority,
        "waits_for": waits_for,
        "why": why,
        "expected_tokens": profile.expected_tokens,
        "tried": list(request.tried),
    }


def _waiting(pool: Pool, ask: Ask[Waiter[Replica]], now_seconds: float) -> dict[str, Any]:
    profile, waiter = ask.profile, ask.ticket
    wanted = None if ask.wanted is None else ask.wanted.ledger.replica
    first = None
    if ask.waits_for == WAKE:
        first = pool.dispatcher.first_awake(ask, now_seconds=now_seconds)
    facts: dict[str, Any] = {"served_by": pool.model}
    if isinstance(waiter, Lifecycle):
        facts |= waiter.waits(now_seconds)
    return facts | {
        "tenant": profile.tenant,
        "priority": profile.priority,
        "version": ask.version,
        "waits_for": _what(ask, first),
        "replica": wanted if ask.waits_for == ROOM else None,
        "closed": ask.closed.value if ask.closed is not None and ask.waits_for == ROOM else None,
        "why": _why(ask, wanted, first, now_seconds),
        "expected_tokens": ask.num_tokens,
        "deadline_in_seconds": round(ask.deadline_seconds - now_seconds, 3),
        "tried": list(waiter.tried),
    }


def _what(ask: Ask[Waiter[Replica]], first: ReplicaSleep | None) -> str:
    """In a word. ``first``: the sleep of the replica that should be the first awake."""
    if ask.waits_for == ROOM:
        return "room"
    if ask.waits_for == WAKE:
        is_waking = first is not None and first.phase is SleepPhase.WAKING
        return "waking" if is_waking else "asleep"
    return "replica" if ask.waits_for == REPLICA else "adapter-slot"


def _why(
    ask: Ask[Waiter[Replica]], wanted: str | None, first: ReplicaSleep | None, now_seconds: float
) -> str:
    """In a sentence."""
    if ask.waits_for == WAKE:
        return _asleep(first, now_seconds)
    if ask.waits_for == REPLICA:
        return "no replica that could hold it is ready"
    if ask.waits_for != ROOM:
        return f"no replica has a slot for its LoRA adapter {ask.profile.adapter!r}"
    if wanted is None:
        return "any replica that opens will do; others are before it"
    if ask.closed is None:
        return f"{wanted} is the cheapest; others are before it"
    return f"{wanted} is the cheapest, and closed to it: {ask.closed.value}"


def _asleep(first: ReplicaSleep | None, now_seconds: float) -> str:
    text = "all replicas that could hold it sleep"
    if first is None:
        return text
    return (
        f"{text}; the first should serve in {first.expected_seconds(now_seconds=now_seconds):.1f} s"
    )


def _replica(pool: Pool, replica: Replica, now_seconds: float) -> dict[str, Any]:
    ledger, blocks = replica.ledger, pool.dispatcher.cached.blocks
    tpot = ledger.alone_tpot_seconds
    age = now_seconds - ledger.read_at_seconds if ledger.read_at_seconds >= 0 else None
    return {
        "replica": replica.info.key,
        "model": pool.model,
        "address": replica.info.endpoint.authority.decode(),
        "is_routable": replica.info.is_routable,
        "version": replica.info.version,
        "weight_ratio": replica.info.weight_ratio,
        "is_out": replica.health.is_out,
        "sleep": None if replica.backend.sleep is None else replica.backend.sleep.phase.value,
        "missing_metrics": sorted(replica.missing_metrics),
        "capacity_tokens": ledger.capacity_tokens,
        "held_tokens": ledger.held_tokens,
        "projected_tokens": ledger.projected_tokens(),
        "reserved_tokens": ledger.reserved_tokens,
        "foreign_tokens": ledger.foreign_tokens,
        "sharing_ratio": round(ledger.sharing_ratio, 3),
        "ceiling_ratio": round(ledger.limits.ceiling_ratio, 3),
        "kv_event_blocks": (
            blocks.num_blocks(replica.info.key) if blocks.follows(replica.info.key) else None
        ),
        "kv_event_host_blocks": (
            blocks.num_blocks(replica.info.key, Tier.HOST)
            if blocks.offloaded.tells(replica.info.key)
            else None
        ),
        "running_limit": ledger.limits.running_limit,
        "num_in_flight": ledger.num_in_flight,
        "num_pending": ledger.num_pending,
        "pending_tokens": ledger.pending_tokens,
        "prefill_tokens_per_second": round(1 / ledger.speed.token_seconds),
        "tpot_alone_seconds": None if tpot is None else round(tpot, 5),
        "step_seconds": round(ledger.steps.mean_seconds, 5),
        "slowdown_ratio": round(ledger.steps.slowdown.ratio, 2),
        "reading_age_seconds": None if age is None else round(age, 3),
    }
