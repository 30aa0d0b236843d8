"""The requests that wait for room: which goes next, which will be late, and how many may wait.

**Order.** Priority first. Within a priority, tenants take turns by deficit round robin on tokens:
each may spend a quantum (times its weight), then the next. A tenant that had nothing waiting goes
first, so that a tenant that asks seldom does not wait behind a flood. Within a tenant, the earliest
deadline.

**Late.** Those that will be late, or would make others late, are set aside (``lateness``). They
wait until nothing that can be in time is left.

**Bounded** in requests, in tokens and in time. When it is full, the tenant that has most waiting
(for its weight) makes room for the others. A request that is larger than the whole bound never
waits.
"""

import heapq
from bisect import insort
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from memroute.traffic.admission.lateness import (
    PrefillRate,
    QueuedRequest,
    mark_late,
)
from memroute.traffic.admission.settings import OverloadObjective

T = TypeVar("T")
# Tokens that a tenant may spend in its turn, one step's worth of prompts: turns are short, and
# nobody's usual prompt needs two.
# Unit: tokens. Source: engines' usual step budget.
QUANTUM_TOKENS: Final = 8192
# Tenants without a waiting request whose place among the turns is remembered: a tenant that comes
# back soon is no newcomer. The one that left longest ago is forgotten first.
# Unit: tenants. Source: a bound of memory, chosen by hand.
MAX_ABSENT_TENANTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How much may wait, and for how long."""

    max_requests: int = 1024
    # Each holds a connection and its body: some 10 MB at usual sizes.
    max_tokens: int = 1_000_000
    # About what two replicas of 80 GB hold: more than that waits for minutes.
    max_seconds: float = 10.0
    # Interactive clients give up soon after; batch clients come back when they are told to.
    max_replica_seconds: float | None = None
    """For a replica that is being started, where requests are held for one; None: as for room."""
    max_wake_seconds: float | None = None
    """For a replica that sleeps; None: as for room."""

    def for_replicas(self) -> "QueueLimits":
        """The limits of what waits for a replica."""
        return self._lasting(self.max_replica_seconds)

    def for_wake(self) -> "QueueLimits":
        """The limits of what waits for a replica to wake."""
        return self._lasting(self.max_wake_seconds)

    def _lasting(self, seconds: float | None) -> "QueueLimits":
        return QueueLimits(
            max_requests=self.max_requests,
            max_tokens=self.max_tokens,
            max_seconds=self.max_seconds if seconds is None else seconds,
        )


class QueueRefusal(StrEnum):
    """Why a request may not wait; part of its refusal's message."""

    REQUESTS = "too many requests wait"
    TOKENS = "too many tokens wait"
    TIME = "it would wait for too long"
    SIZE = "it is larger than all that may wait together"


class _Flow(Generic[T]):
    """One tenant's requests of one priority."""

    __slots__ = ("deficit_tokens", "held", "held_tokens", "quantum_tokens", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        """Of the tenant's turns, relative to the others'."""
        self.quantum_tokens = max(1, int(QUANTUM_TOKENS * weight))
        self.deficit_tokens = self.quantum_tokens
        self.held_tokens = 0
        self.held: list[QueuedRequest[T]] = []


class FairQueue(Generic[T]):
    """Owns who waits; the caller brings the clock."""

    def __init__(
        self, limits: QueueLimits, tenant_weights: Mapping[str, float] | None = None
    ) -> None:
        """``tenant_weights``: of tenants' turns, kept up by their owner; None: all have 1."""
        self.limits = limits
        self._tenant_weights = tenant_weights
        self.held_tokens = 0
        """Tokens that the held requests are expected to need."""
        self._by_item: dict[T, QueuedRequest[T]] = {}
        self._by_expiry: list[tuple[float, int, QueuedRequest[T]]] = []
        self._bands: dict[int, OrderedDict[str, _Flow[T]]] = {}
        self._absent: OrderedDict[tuple[int, str], None] = OrderedDict()
        self._num_held = 0

    def __len__(self) -> int:
        return len(self._by_item)

    def refusal(
        self,
        num_tokens: int,
        *,
        expected_wait_seconds: float | None,
        other_requests: int = 0,
        other_tokens: int = 0,
    ) -> QueueRefusal | None:
        """Why one more of ``num_tokens`` may not wait; None when it may.

        ``expected_wait_seconds``: None when nobody knows, which is no reason to refuse.
        ``other_requests``, ``other_tokens``: what waits elsewhere under the same limits.
        """
        limits = self.limits
        if num_tokens > limits.max_tokens:
            return QueueRefusal.SIZE
        if len(self._by_item) + other_requests >= limits.max_requests:
            return QueueRefusal.REQUESTS
        if self.held_tokens + other_tokens + num_tokens > limits.max_tokens:
            return QueueRefusal.TOKENS
        if expected_wait_seconds is not None and expected_wait_seconds > limits.max_seconds:
            return QueueRefusal.TIME
        return None

    def hold(
        self,
        item: T,
        *,
        num_tokens: int,
        work_tokens: int,
        deadline_seconds: float,
        now_seconds: float,
        tenant: str = "",
        priority: int = 0,
    ) -> QueuedRequest[T]:
        """Hold the request."""
        self._num_held += 1
        held = QueuedRequest(
            item,
            order=self._num_held,
            tenant=tenant,
            priority=priority,
            num_tokens=num_tokens,
            work_tokens=work_tokens,
            deadline_seconds=deadline_seconds,
            expires_at_seconds=now_seconds + self.limits.max_seconds,
        )
        self.move_in(held)
        return held

    def move_in(self, held: QueuedRequest[T]) -> None:
        """Take in a request that has waited elsewhere: its deadline and expiry stay."""
        self._by_item[held.item] = held
        heapq.heappush(self._by_expiry, (held.expires_at_seconds, held.order, held))
        self.held_tokens += held.num_tokens
        band = self._bands.get(held.priority)
        if band is None:
            band = self._bands[held.priority] = OrderedDict()
        flow = band.get(held.tenant)
        if flow is None:
            flow = band[held.tenant] = _Flow(self._weight(held.tenant))
            band.move_to_end(held.tenant, last=False)
        self._absent.pop((held.priority, held.tenant), None)
        insort(flow.held, held)
        flow.held_tokens += held.num_tokens

    def tokens_ahead(self, *, tenant: str, priority: int) -> int:
        """Tokens that will be given room before one more of this tenant.

        That is all of greater priorities; of the same priority the tenant's own, and about as much
        (for its weight) of each other tenant, because tenants take turns.
        """
        ahead = 0
        for other, band in self._bands.items():
            if other > priority:
                ahead += sum(flow.held_tokens for flow in band.values())
            elif other == priority:
                flow = band.get(tenant)
                own = flow.held_tokens if flow is not None else 0
                turns = (own + QUANTUM_TOKENS) / self._weight(tenant)
                ahead += sum(
                    own if name == tenant else min(int(turns * flow.weight), flow.held_tokens)
                    for name, flow in band.items()
                )
        return ahead

    def victim(self, num_tokens: int, *, tenant: str, priority: int) -> QueuedRequest[T] | None:
        """The request that leaves a full queue for one more of this tenant; None: no request does.

        It is the last request of the tenant with most waiting, of the least priority. So a flood
        pushes out its own requests, never those of tenants that ask seldom.
        """
        for other in sorted(self._bands):
            if other > priority:
                return None
            band = self._bands[other]
            present = [flow for flow in band.values() if flow.held]
            if not present:
                continue
            fattest = max(present, key=_tokens_of)
            if other < priority:
                return fattest.held[-1]
            flow = band.get(tenant)
            own = flow.held_tokens if flow is not None else 0
            needed = (own + num_tokens) / self._weight(tenant)
            return fattest.held[-1] if _tokens_of(fattest) > needed else None
        return None

    def last(self, *, max_priority: int) -> QueuedRequest[T] | None:
        """The last of the least priority and of the tenant that has most waiting, or None."""
        for priority in sorted(self._bands):
            if priority > max_priority:
                return None
            present = [flow for flow in self._bands[priority].values() if flow.held]
            if present:
                return max(present, key=_tokens_of).held[-1]
        return None

    def get(self, item: T) -> QueuedRequest[T] | None:
        """The item's place in the queue; None when it does not wait."""
        return self._by_item.get(item)

    def remove(self, item: T) -> bool:
        """Take the item out of the queue; False when it did not wait."""
        held = self._by_item.pop(item, None)
        if held is None:
            return False
        self.held_tokens -= held.num_tokens
        flow = self._bands[held.priority][held.tenant]
        flow.held.remove(held)
        flow.held_tokens -= held.num_tokens
        if not self._by_item:
            # The queue is empty: no tenant owes another a turn.
            self._bands.clear()
            self._absent.clear()
            self._by_expiry.clear()
        elif not flow.held:
            self._leaves(held.priority, held.tenant)
        return True

    def served(self, held: QueuedRequest[T]) -> None:
        """The request has had its turn: its tokens are taken from its tenant's deficit."""
        band = self._bands[held.priority]
        flow = band[held.tenant]
        flow.deficit_tokens -= held.num_tokens
        self.remove(held.item)
        if flow.deficit_tokens <= 0 and self._by_item:
            quantum = flow.quantum_tokens
            flow.deficit_tokens += quantum * (1 - flow.deficit_tokens // quantum)
            if flow.held:
                band.move_to_end(held.tenant)
            else:
                self._forget(held.priority, held.tenant)

    def _weight(self, tenant: str) -> float:
        weights = self._tenant_weights
        return weights.get(tenant, 1.0) if weights else 1.0

    def _leaves(self, priority: int, tenant: str) -> None:
        """The tenant has nothing waiting any more: its place is remembered for a while."""
        self._absent[(priority, tenant)] = None
        if len(self._absent) > MAX_ABSENT_TENANTS:
            (oldest_priority, oldest), _ = self._absent.popitem(last=False)
            self._forget(oldest_priority, oldest)

    def _forget(self, priority: int, tenant: str) -> None:
        self._absent.pop((priority, tenant), None)
        band = self._bands[priority]
        del band[tenant]
        if not band:
            del self._bands[priority]

    def plan(
        self,
        rate: PrefillRate,
        *,
        objective: OverloadObjective,
        now_seconds: float,
    ) -> bool:
        """Say who will be late, by the pool's objective; returns whether anybody will."""
        is_any_late = False
        start = now_seconds + rate.backlog_seconds
        for priority in sorted(self._bands, reverse=True):
            ordered: list[QueuedRequest[T]] = []
            for flow in self._bands[priority].values():
                ordered += flow.held
            ordered.sort()
            start = mark_late(
                ordered,
                rate,
                objective=objective,
                start_seconds=start,
                now_seconds=now_seconds,
                tenant_weights=self._tenant_weights,
            )
            if not is_any_late:
                is_any_late = any(held.is_late for held in ordered)
        return is_any_late

    def in_order(self) -> list[QueuedRequest[T]]:
        """All requests in the order in which they would go.

        The first of each tenant, then the second of each. Within a priority, requests that can be
        in time come before those that are late.
        """
        order: list[QueuedRequest[T]] = []
        for priority in sorted(self._bands, reverse=True):
            flows = [flow.held for flow in self._bands[priority].values() if flow.held]
            for is_late in (False, True):
                queues = [[held for held in flow if held.is_late is is_late] for flow in flows]
                if len(queues) == 1:
                    order += queues[0]
                    continue
                depth = 0
                while queues:
                    queues = [queue for queue in queues if len(queue) > depth]
                    order += [queue[depth] for queue in queues]
                    depth += 1
        return order

    def take_expired(self, *, now_seconds: float) -> list[T]:
        """Requests whose time is over, the longest wait first; they leave the queue."""
        expired: list[T] = []
        while self._by_expiry and self._by_expiry[0][0] <= now_seconds:
            held = heapq.heappop(self._by_expiry)[2]
            if self._by_item.get(held.item) is held:
                expired.append(held.item)
                self.remove(held.item)
        return expired

    def waiting(self) -> list[QueuedRequest[T]]:
        """All requests, in the order in which they came."""
        return list(self._by_item.values())


def _tokens_of(flow: _Flow[T]) -> float:
    """What it has waiting, for its weight."""
    return flow.held_tokens / flow.weight
