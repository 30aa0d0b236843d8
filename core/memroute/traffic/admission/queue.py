"""Requests that would fit, not now: who goes next, who will be late, and how many may wait.

**Order.** Priority first. Within a priority, tenants take turns by deficit round robin on tokens:
each may spend a quantum, then the next; one that comes anew goes first, so that a tenant who asks
seldom does not wait behind one who floods. Within a tenant, the earliest deadline.

**Late.** When not all can have their first token in time, the largest are the late ones: go
through them by deadline, and whenever one would be late, set aside the one that takes longest of
those so far. That makes the fewest of them late (Moore, Management Science 1968; here for machines
that share the work). It is set aside from the tenant that asks for most: a flood makes its own
requests late. Those set aside wait until nothing that can be in time is left.

**Bounded** in requests, in tokens and in time. When it is full, the tenant that has most waiting
makes room for the others.
"""

import heapq
from bisect import insort
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

T = TypeVar("T")
QUANTUM_TOKENS: Final = 8192
# One step's worth of prompts: turns are short, and nobody's usual prompt needs two.


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How much may wait, and for how long."""

    max_requests: int = 1024
    # Each holds a connection and its body: some 10 MB at usual sizes.
    max_tokens: int = 1_000_000
    # About what two replicas of 80 GB hold: more than that waits for minutes.
    max_seconds: float = 10.0
    # Interactive clients give up soon after; batch clients come back when they are told to.


class QueueRefusal(StrEnum):
    """Why a request may not wait; part of its refusal's message."""

    REQUESTS = "too many requests wait"
    TOKENS = "too many tokens wait"
    TIME = "it would wait for too long"


class QueuedRequest(Generic[T]):
    """One request that waits."""

    __slots__ = (
        "deadline_seconds", "expires_at_seconds", "is_late", "item", "num_tokens", "order",
        "priority", "tenant", "work_tokens",
    )  # fmt: skip

    def __init__(
        self,
        item: T,
        *,
        order: int,
        tenant: str,
        priority: int,
        num_tokens: int,
        work_tokens: int,
        deadline_seconds: float,
        expires_at_seconds: float,
    ) -> None:
        self.item = item
        self.order = order
        """When it came, among others."""
        self.tenant = tenant
        self.priority = priority
        self.num_tokens = num_tokens
        """What it is expected to hold."""
        self.work_tokens = work_tokens
        """Of its prompt, what its best replica would have to compute."""
        self.deadline_seconds = deadline_seconds
        self.expires_at_seconds = expires_at_seconds
        self.is_late = False
        """Whether it is set aside because it will be late, or others would."""

    def __lt__(self, other: "QueuedRequest[T]") -> bool:
        return (self.deadline_seconds, self.order) < (other.deadline_seconds, other.order)


class _Flow(Generic[T]):
    """One tenant's requests of one priority."""

    __slots__ = ("deficit_tokens", "held", "held_tokens")

    def __init__(self) -> None:
        self.deficit_tokens = QUANTUM_TOKENS
        self.held_tokens = 0
        self.held: list[QueuedRequest[T]] = []


class _Planned(Generic[T]):
    """One tenant's requests that can be in time, so far."""

    __slots__ = ("by_seconds", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.by_seconds: list[tuple[float, int, QueuedRequest[T]]] = []

    def add(self, held: QueuedRequest[T], seconds: float) -> None:
        self.seconds += seconds
        heapq.heappush(self.by_seconds, (-seconds, held.order, held))

    def set_longest_aside(self) -> float:
        """It will be late; returns the seconds that the others gain."""
        longest, _, held = heapq.heappop(self.by_seconds)
        held.is_late = True
        self.seconds += longest
        return -longest


class FairQueue(Generic[T]):
    """Owns who waits; the caller brings the clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.held_tokens = 0
        """Tokens that the held requests are expected to need."""
        self._by_item: OrderedDict[T, QueuedRequest[T]] = OrderedDict()
        self._bands: dict[int, OrderedDict[str, _Flow[T]]] = {}
        self._num_held = 0

    def __len__(self) -> int:
        return len(self._by_item)

    def refusal(
        self, num_tokens: int, *, expected_wait_seconds: float | None
    ) -> QueueRefusal | None:
        """Why one more of ``num_tokens`` may not wait; None when it may.

        ``expected_wait_seconds``: None when nobody knows, which is no reason to refuse.
        """
        if len(self._by_item) >= self.limits.max_requests:
            return QueueRefusal.REQUESTS
        if self.held_tokens + num_tokens > self.limits.max_tokens and self._by_item:
            return QueueRefusal.TOKENS
        if expected_wait_seconds is not None and expected_wait_seconds > self.limits.max_seconds:
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
        """Let it wait."""
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
        self._by_item[item] = held
        self.held_tokens += num_tokens
        band = self._bands.get(priority)
        if band is None:
            band = self._bands[priority] = OrderedDict()
        flow = band.get(tenant)
        if flow is None:
            flow = band[tenant] = _Flow()
            band.move_to_end(tenant, last=False)
        insort(flow.held, held)
        flow.held_tokens += num_tokens
        return held

    def tokens_ahead(self, *, tenant: str, priority: int) -> int:
        """Tokens that will be given room before one more of this tenant.

        Of greater priorities all, of its own priority its own, and as much of each other tenant,
        who take turns.
        """
        ahead = 0
        for other, band in self._bands.items():
            if other > priority:
                ahead += sum(flow.held_tokens for flow in band.values())
            elif other == priority:
                flow = band.get(tenant)
                own = flow.held_tokens if flow is not None else 0
                ahead += sum(
                    own if name == tenant else min(own + QUANTUM_TOKENS, flow.held_tokens)
                    for name, flow in band.items()
                )
        return ahead

    def victim(self, num_tokens: int, *, tenant: str, priority: int) -> QueuedRequest[T] | None:
        """Who would have to leave a full queue for one more of this tenant; None: nobody.

        The last of the tenant that has most waiting, of the least priority: a flood pushes out
        its own, never those who ask seldom.
        """
        for other in sorted(self._bands):
            band = self._bands[other]
            fattest = max(band.values(), key=_tokens_of)
            if other < priority and fattest.held:
                return fattest.held[-1]
            if other >= priority:
                flow = band.get(tenant) if other == priority else None
                own = flow.held_tokens if flow is not None else 0
                is_fatter = fattest.held_tokens > own + num_tokens
                return fattest.held[-1] if other == priority and is_fatter else None
        return None

    def remove(self, item: T) -> bool:
        """It waits no more; False when it did not wait."""
        held = self._by_item.pop(item, None)
        if held is None:
            return False
        self.held_tokens -= held.num_tokens
        flow = self._bands[held.priority][held.tenant]
        flow.held.remove(held)
        flow.held_tokens -= held.num_tokens
        if not self._by_item:
            # Nobody waits: nobody owes anybody a turn.
            self._bands.clear()
        return True

    def served(self, held: QueuedRequest[T]) -> None:
        """It has had its turn: its tenant has spent its tokens."""
        band = self._bands[held.priority]
        flow = band[held.tenant]
        flow.deficit_tokens -= held.num_tokens
        self.remove(held.item)
        if flow.deficit_tokens <= 0 and self._by_item:
            flow.deficit_tokens += QUANTUM_TOKENS * (1 - flow.deficit_tokens // QUANTUM_TOKENS)
            if flow.held:
                band.move_to_end(held.tenant)
            else:
                del band[held.tenant]

    def plan(
        self,
        *,
        prompt_seconds: float,
        token_seconds: float,
        num_replicas: int,
        backlog_seconds: float,
        now_seconds: float,
    ) -> None:
        """Say who will be late.

        A prompt takes ``prompt_seconds`` and ``token_seconds`` for each token of work on one of
        ``num_replicas``, which are busy for ``backlog_seconds`` already.
        """
        start = now_seconds + backlog_seconds
        for priority in sorted(self._bands, reverse=True):
            ordered: list[QueuedRequest[T]] = []
            for flow in self._bands[priority].values():
                ordered += flow.held
            ordered.sort()
            planned: dict[str, _Planned[T]] = {}
            for held in ordered:
                own = prompt_seconds + token_seconds * held.work_tokens
                held.is_late = held.deadline_seconds - now_seconds < own
                if held.is_late:
                    continue
                start += own / num_replicas
                tenant = planned.get(held.tenant)
                if tenant is None:
                    tenant = planned[held.tenant] = _Planned()
                tenant.add(held, own)
                if start + own * (1 - 1 / num_replicas) > held.deadline_seconds:
                    greatest = tenant
                    if len(planned) > 1:
                        greatest = max(planned.values(), key=_seconds_of)
                    start -= greatest.set_longest_aside() / num_replicas

    def in_turn(self, max_held: int) -> list[QueuedRequest[T]]:
        """Who goes next: the first of each tenant, then the second, at most ``max_held``.

        Of one priority those that can be in time come before those that are late, and late ones
        only when none of the others is left; then the next priority.
        """
        turns: list[QueuedRequest[T]] = []
        for priority in sorted(self._bands, reverse=True):
            flows = self._bands[priority].values()
            for is_late in (False, True):
                queues = [
                    [held for held in flow.held if held.is_late is is_late][:max_held]
                    for flow in flows
                ]
                depth = 0
                is_found = bool(turns)
                while len(turns) < max_held:
                    found = [queue[depth] for queue in queues if len(queue) > depth]
                    if not found:
                        break
                    turns += found
                    depth += 1
                if len(turns) >= max_held or (turns and not is_late and not is_found):
                    return turns[:max_held]
        return turns[:max_held]

    def expired(self, *, now_seconds: float) -> list[T]:
        """Those that have waited for their time, the longest first; they stay until removed."""
        late: list[T] = []
        for item, held in self._by_item.items():
            if held.expires_at_seconds > now_seconds:
                break
            late.append(item)
        return late

    def waiting(self) -> list[QueuedRequest[T]]:
        """All of them, in the order in which they came."""
        return list(self._by_item.values())


def _seconds_of(planned: _Planned[T]) -> float:
    return planned.seconds


def _tokens_of(flow: _Flow[T]) -> int:
    return flow.held_tokens
