"""The requests of one version of a model that wait, indexed by what they wait for.

Most requests wait for *room*: they compete for the replicas in one fair queue, and the line counts
for each replica how many would go there. Three kinds of requests wait apart, in queues of their
own: requests for a LoRA adapter that no replica has a slot for, requests that no usable replica
could hold, and requests that only sleeping replicas could. They delay no other request: they are
not in the order, not in the plan of what will be late, and not in the expected wait of one more.
All requests count against the same limits.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final, Generic

from memroute.traffic.admission import (
    ClosedReason,
    FairQueue,
    OverloadObjective,
    PrefillRate,
    QueuedRequest,
    QueueLimits,
)
from memroute.traffic.admission import QueueRefusal as Refusal
from memroute.traffic.dispatch.ask import REPLICA, ROOM, WAKE, Ask, T
from memroute.traffic.dispatch.drain import DrainMeter
from memroute.traffic.dispatch.overload import OverloadDetector
from memroute.traffic.replica.backend import Backend

# Time between two plans of which requests will be late.
# Unit: seconds. Source: chosen by hand; a bound of the work, as often as the queue is looked at.
PLAN_SECONDS: Final = 0.01
# Time by which first tokens are planned before they are due: two or three steps of an engine,
# which the router cannot see.
# Unit: seconds. Source: chosen by hand.
EARLY_SECONDS: Final = 0.1


class WaitingLine(Generic[T]):
    """Owns the queues of one version and what is measured of them; the caller brings the clock."""

    def __init__(
        self, limits: QueueLimits, tenant_weights: Mapping[str, float] | None = None
    ) -> None:
        """``tenant_weights``: of tenants' turns, kept up by their owner; None: all have 1."""
        self.limits = limits
        self._tenant_weights = tenant_weights
        self.drain = DrainMeter()
        self.overload = OverloadDetector()
        self._room: FairQueue[Ask[T]] = FairQueue(limits, tenant_weights)
        self._queues: dict[str, FairQueue[Ask[T]]] = {ROOM: self._room}
        self._num_wanting: dict[str, int] = {}
        self._wakes: dict[int, list[int]] = {}
        """By priority: how many wait for a wake, and the tokens of their prompts."""
        self._planned_at_seconds = -1.0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    @property
    def held_tokens(self) -> int:
        """Tokens that all requests of the line are expected to need."""
        return sum(queue.held_tokens for queue in self._queues.values())

    # Which requests wait, and for what.

    def refusal(
        self, ask: Ask[T], *, expected_wait_seconds: float | None, num_apart: int = 0
    ) -> Refusal | None:
        """Why one more request may not wait; None when it may.

        ``num_apart``: requests that wait elsewhere, under the same limit.
        """
        queue = self._queue(ask.waits_for)
        return queue.refusal(
            ask.num_tokens,
            expected_wait_seconds=expected_wait_seconds,
            other_requests=len(self) - len(queue) + num_apart,
            other_tokens=self.held_tokens - queue.held_tokens,
        )

    def hold(self, ask: Ask[T], *, work_tokens: int, now_seconds: float) -> None:
        """Hold the request. The caller has asked ``refusal`` whether it may wait."""
        if ask.waits_for == ROOM:
            self.drain.waits(is_first=not len(self._room), now_seconds=now_seconds)
        profile = ask.profile
        self._queue(ask.waits_for).hold(
            ask,
            num_tokens=ask.num_tokens,
            work_tokens=work_tokens,
            deadline_seconds=ask.deadline_seconds,
            now_seconds=now_seconds,
            tenant=profile.tenant,
            priority=profile.priority,
        )
        self._count(ask, 1)

    def remove(self, ask: Ask[T]) -> QueuedRequest[Ask[T]] | None:
        """Take the request out of the line; returns its place, None when it was not there."""
        queue = self._queue(ask.waits_for)
        held = queue.get(ask)
        if held is not None:
            queue.remove(ask)
            self._left(ask)
        return held

    def wait_anew(self, held: QueuedRequest[Ask[T]], *, now_seconds: float) -> None:
        """Take in a request that waits for something else now, and has its full time for that."""
        limits = self._queue(held.item.waits_for).limits
        held.expires_at_seconds = now_seconds + limits.max_seconds
        self.move_in(held)

    def move_in(self, held: QueuedRequest[Ask[T]]) -> None:
        """Take in a request that has waited in another line, or for something else."""
        ask = held.item
        self._queue(ask.waits_for).move_in(held)
        self._count(ask, 1)

    def turn_taken(
        self, held: QueuedRequest[Ask[T]], *, is_placed: bool, now_seconds: float
    ) -> None:
        """The request leaves the line: it was given room, or refused."""
        if held.is_late and is_placed:
            self.overload.served_late(now_seconds=now_seconds)
        self._room.served(held)
        self._left(held.item)

    def wants(self, ask: Ask[T], wanted: Backend | None, closed: ClosedReason | None) -> None:
        """The result of a look: the replica that the request would go to, and why it is closed."""
        held = self._queue(ask.waits_for).get(ask)
        if held is not None:
            self._count(ask, -1)
        ask.wanted, ask.closed = wanted, closed
        if held is not None:
            self._count(ask, 1)

    def is_wanted(self, replica: str) -> bool:
        """Whether a request that waits for room would go to the replica."""
        return replica in self._num_wanting or "" in self._num_wanting

    def victim(self, ask: Ask[T]) -> Ask[T] | None:
        """The request that leaves a full line for one more; None: no request does.

        If requests that wait for something else hold more tokens, it is the last of those. Else it
        is the one that ``FairQueue.victim`` names.
        """
        own = self._queue(ask.waits_for)
        profile = ask.profile
        greatest = max(self._queues.values(), key=_tokens_of)
        if greatest is not own and greatest.held_tokens > own.held_tokens + ask.num_tokens:
            found = greatest.last(max_priority=profile.priority)
        else:
            found = own.victim(ask.num_tokens, tenant=profile.tenant, priority=profile.priority)
        return None if found is None else found.item

    def apart(self) -> list[str]:
        """The things other than room that requests wait for."""
        return [what for what in self._queues if what != ROOM]

    def waiting_for(self, what: str) -> list[QueuedRequest[Ask[T]]]:
        """The requests that wait for ``what``, in the order in which they came there."""
        return self._queue(what).waiting()

    def waiting(self) -> list[QueuedRequest[Ask[T]]]:
        """All requests of the line."""
        return [held for queue in self._queues.values() for held in queue.waiting()]

    def in_order(self) -> list[QueuedRequest[Ask[T]]]:
        """The requests that wait for room, in the order in which they would go."""
        return self._room.in_order()

    def take_expired(self, *, now_seconds: float) -> list[Ask[T]]:
        """Requests whose time is over; they leave the line."""
        expired: list[Ask[T]] = []
        for what in list(self._queues):
            for ask in self._queues[what].take_expired(now_seconds=now_seconds):
                self._left(ask)
                expired.append(ask)
        return expired

    # How long the wait is, and for which requests it is of no use.

    def expected_wait_seconds(self, ask: Ask[T], *, now_seconds: float) -> float | None:
        """Seconds that one more of this tenant and priority would wait; None: unknown."""
        if ask.waits_for != ROOM:
            return None
        profile = ask.profile
        ahead = self._room.tokens_ahead(tenant=profile.tenant, priority=profile.priority)
        return self.drain.seconds_to_place(ahead, now_seconds=now_seconds)

    def ahead_at_wake(self, *, priority: int) -> tuple[int, int]:
        """Requests that wait for a wake and go before one more of this priority.

        How many, and the tokens of their prompts.
        """
        count, tokens = 0, 0
        for other, there in self._wakes.items():
            if other >= priority:
                count += there[0]
                tokens += there[1]
        return count, tokens

    def seconds_to_drain(self, *, now_seconds: float) -> float | None:
        """Seconds until all that waits for room now has been given room; None: unknown."""
        return self.drain.seconds_to_place(self._room.held_tokens, now_seconds=now_seconds)

    def placed(self, num_tokens: int, *, now_seconds: float) -> None:
        """A request of ``num_tokens`` was given room, whether it had to wait or not."""
        self.overload.placed(now_seconds=now_seconds)
        if len(self._room):
            self.drain.still_waits(now_seconds=now_seconds)
        if self.drain.placed(num_tokens, now_seconds=now_seconds):
            self.overload.turn_taken(now_seconds=now_seconds)

    def hopeless(self, *, now_seconds: float) -> list[Ask[T]]:
        """Late requests, where waiting is of no use to them; else none."""
        if not self.overload.is_hopeless(
            since_seconds=self.drain.since_seconds,
            max_seconds=self.limits.max_seconds,
            now_seconds=now_seconds,
        ):
            return []
        return [held.item for held in self._room.waiting() if held.is_late]

    def plan(
        self, backends: Iterable[Backend], objective: OverloadObjective, *, now_seconds: float
    ) -> bool:
        """Work out who will be late; False where that was done a moment ago.

        ``backends``: those that may be tried now, of this version.
        """
        if now_seconds - self._planned_at_seconds < PLAN_SECONDS:
            return False
        self._planned_at_seconds = now_seconds
        if not len(self._room):
            self._tell_late(is_any=False, now_seconds=now_seconds)
            return True
        self.drain.still_waits(now_seconds=now_seconds)
        prompt, token, backlog, count = 0.0, 0.0, 0.0, 0
        least_prompt = least_token = math.inf
        for backend in backends:
            ledger = backend.ledger
            ledger.settle(now_seconds=now_seconds)
            own_prompt, own_token = ledger.speed.prompt_seconds, ledger.speed.token_seconds
            prompt += own_prompt
            token += own_token
            if own_token < least_token:
                least_prompt, least_token = own_prompt, own_token
            backlog += ledger.speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
            count += 1
        if count:
            is_any = self._room.plan(
                PrefillRate(
                    num_replicas=count,
                    prompt_seconds=prompt / count,
                    token_seconds=token / count,
                    least_prompt_seconds=least_prompt,
                    least_token_seconds=least_token,
                    backlog_seconds=backlog / count,
                ),
                objective=objective,
                now_seconds=now_seconds + EARLY_SECONDS,
            )
            self._tell_late(is_any=is_any, now_seconds=now_seconds)
        return True

    # Inside.

    def _tell_late(self, *, is_any: bool, now_seconds: float) -> None:
        limit = self.limits.max_seconds
        self.overload.late_wait(is_any=is_any, max_seconds=limit, now_seconds=now_seconds)

    def _queue(self, what: str) -> FairQueue[Ask[T]]:
        queue = self._queues.get(what)
        if queue is None:
            limits = self.limits
            if what == REPLICA:
                limits = limits.for_replicas()
            elif what == WAKE:
                limits = limits.for_wake()
            queue = self._queues[what] = FairQueue(limits, self._tenant_weights)
        return queue

    def _left(self, ask: Ask[T]) -> None:
        self._count(ask, -1)
        queue = self._queues.get(ask.waits_for)
        if queue is not None and queue is not self._room and not len(queue):
            del self._queues[ask.waits_for]

    def _count(self, ask: Ask[T], change: int) -> None:
        """Count a request that waits for room at the replica that it would go to, or for a wake."""
        if ask.waits_for == WAKE:
            profile = ask.profile
            there = self._wakes.setdefault(profile.priority, [0, 0])
            there[0] += change
            there[1] += change * profile.num_prompt_tokens
            if not there[0]:
                del self._wakes[profile.priority]
        if ask.waits_for != ROOM:
            return
        name = "" if ask.wanted is None else ask.wanted.ledger.replica
        count = self._num_wanting.get(name, 0) + change
        if count:
            self._num_wanting[name] = count
        else:
            del self._num_wanting[name]


def _tokens_of(queue: FairQueue[Ask[T]]) -> int:
    return queue.held_tokens
