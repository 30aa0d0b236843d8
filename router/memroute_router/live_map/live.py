"""What changes from second to second, as JSON: of this router, its replicas, its queue.

Made piece by piece, so that requests go on in between. What is long is bounded: the page of a
router under attack is as long as that of one that rests.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import orjson

from memroute_router.access.share_line import ShareLines
from memroute_router.lifecycle.isolation import Isolation
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.live_map.fleet import FleetReader
from memroute_router.log.journal import FAILED_ENDS, REFUSED, Journal, Record
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.pages import debug
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica

# Of one document: what a person can look through. Units: requests, decisions of each kind of
# ending. Source: chosen by hand; /debug/queue and /debug/decisions have more of them.
MAX_QUEUED: Final = 100
MAX_QUEUED_OF_MODEL: Final = 20
NUM_DECISIONS: Final = 25
# Of a document. Units: replicas, models. Source: bounds, by hand; what the map is made for is 400.
MAX_REPLICAS: Final = 2_048
MAX_MODELS: Final = 512
_FAILED: Final = FAILED_ENDS | {Outcome.REPLICAS_DIED}
REPLICA_COLUMNS: Final = (
    "replica", "model", "deployment", "version", "isRoutable", "isOut", "capacityTokens",
    "heldTokens", "projectedTokens", "ceilingRatio", "numInFlight", "numThere", "numPending",
    "readingAgeSeconds", "sleep",
)  # fmt: skip
"""A row for each replica, and not its names again: a third of the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """Where a document comes from."""

    router: str
    """What this router is called: its pod."""
    release: str
    pools: Pools
    metrics: RouterMetrics
    journal: Journal
    isolation: Isolation
    lines: ShareLines | None
    fleet: FleetReader


def live_pieces(facts: LiveFacts, *, clock: float | None = None) -> Iterator[bytes]:
    """The document, piece by piece. ``clock``: seconds since the epoch."""
    at = datetime.fromtimestamp(time.time() if clock is None else clock, UTC)
    pools = facts.pools
    yield b'{"router":' + orjson.dumps(
        {
            "name": facts.router,
            "release": facts.release,
            "at": at.isoformat(timespec="milliseconds"),
            "numPeers": pools.peers.others.num,
            "numPeersHeard": pools.peers.others.num_heard,
        }
    )
    yield b',"fleet":' + orjson.dumps(facts.fleet.document())
    yield b',"ended":' + orjson.dumps(_ended(facts))
    shown = list(pools.by_model.values())
    yield b',"numModels":%d' % len(shown)
    yield from _listed(b"models", (_model(one) for one in shown[:MAX_MODELS]))
    yield b',"numReplicas":%d,"replicaColumns":' % sum(len(one.replicas) for one in shown)
    yield orjson.dumps(REPLICA_COLUMNS)
    yield from _listed(b"replicas", islice(_replicas(shown, pools.now_seconds()), MAX_REPLICAS))
    apart = len(facts.isolation.waiting())
    shares = 0 if facts.lines is None else len(facts.lines.waiting())
    num_waiting = apart + shares + sum(one.num_held for one in shown)
    yield b',"numWaiting":%d' % num_waiting
    waiting = debug.queue(pools, facts.isolation, facts.lines, max_shown=MAX_QUEUED_OF_MODEL)
    yield from _listed(b"queue", map(_waiting, islice(waiting, MAX_QUEUED)))
    latest = facts.journal.latest(NUM_DECISIONS)
    yield from _listed(b"decisions", (_decision(kind, record) for kind, record in latest))
    yield b"}"


def _listed(name: bytes, documents: Iterable[object]) -> Iterator[bytes]:
    before = b',"%b":[' % name
    for document in documents:
        yield before + orjson.dumps(document)
        before = b","
    yield before + b"]" if before != b"," else b"]"


def _ended(facts: LiveFacts) -> dict[str, int]:
    """Requests by the kind of their ending, since this router began."""
    counts = {"served": 0, "refused": 0, "failed": 0, "mistaken": 0}
    for pool in (None, *facts.pools.by_model.values()):
        for outcome, count in facts.metrics.of(pool).requests.items():
            counts[_kind(outcome)] += count
    return counts


def _kind(outcome: Outcome) -> str:
    """As the journal tells kinds apart; ``mistaken``: the client got it wrong, or left."""
    if outcome is Outcome.SERVED:
        return "served"
    if outcome in REFUSED:
        return "refused"
    return "failed" if outcome in _FAILED else "mistaken"


def _model(pool: Pool) -> dict[str, object]:
    settings = pool.settings
    replicas = pool.replicas.values()
    return {
        "model": pool.model,
        "deployment": "/".join(pool.labels) if pool.labels[1] else None,
        "numReplicas": len(replicas),
        "numRoutable": sum(one.info.is_routable and not one.health.is_out for one in replicas),
        "sleep": None if (phase := pool.sleep) is None else phase.value,
        "numWaiting": pool.num_held,
        "waitingTokens": pool.held_tokens,
        "unreadyReason": None if settings is None else settings.unready_reason,
    }


def _replicas(pools: Iterable[Pool], now_seconds: float) -> Iterator[list[object]]:
    for pool in pools:
        watermark = pool.dispatcher.settings.limits.watermark_ratio
        for replica in list(pool.replicas.values()):
            yield replica_row(pool.model, replica, watermark, now_seconds)


def replica_row(
    model: str, replica: Replica, watermark_ratio: float, now_seconds: float
) -> list[object]:
    """One replica by ``REPLICA_COLUMNS``; what nobody knows is None.

    ``watermark_ratio``: of its pool; ``ceilingRatio`` is where it is closed to new requests.
    """
    ledger, info = replica.ledger, replica.info
    read_at, reading = ledger.read_at_seconds, ledger.reading
    is_read = read_at >= 0
    is_kv_known = reading is not None and reading.kv_cache_utilization_ratio is not None
    return [
        info.key,
        model,
        f"{info.namespace}/{info.deployment}",
        info.version,
        info.is_routable,
        replica.health.is_out,
        ledger.capacity_tokens,
        ledger.held_tokens if is_kv_known else None,
        ledger.projected_tokens() if is_kv_known else None,
        round(min(ledger.limits.ceiling_ratio, watermark_ratio), 3),
        ledger.num_in_flight,
        ledger.num_there if is_read else None,
        ledger.num_pending,
        round(now_seconds - read_at, 1) if is_read else None,
        None if replica.backend.sleep is None else replica.backend.sleep.phase.value,
    ]


_QUEUE_FIELDS: Final = (
    "request_id", "served_by", "model", "tenant", "priority", "waits_for", "replica", "closed",
    "why", "expected_tokens", "waited_seconds", "deadline_in_seconds",
)  # fmt: skip


def _waiting(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in _QUEUE_FIELDS if request.get(name) is not None}


def _decision(kind: str, record: Record) -> dict[str, object]:
    """The end of one request: no prompt, no key, and no address of a client."""
    choice = record.choice
    return {
        "kind": kind,
        "id": record.request_id.decode(),
        "at": round(record.ended_at, 3),
        "model": record.model,
        "tenant": record.tenant,
        "outcome": record.outcome.value,
        "status": record.status,
        "cause": record.cause,
        "replica": record.replica,
        "why": record.refusal or (choice.why if choice else ""),
        "attempts": record.attempts,
        "expectedTokens": record.expected_tokens,
        "queueSeconds": record.queue_seconds,
        "firstByteSeconds": record.first_byte_seconds,
        "seconds": round(record.seconds, 3),
    }
