"""The one driver: what happens to a pool's requests between their arrival and their end.

```text
submit ──► Lease ───────── progress … release ──┐
       ──► Reject                               │ each of these may make room: advance
       ──► None: held ◄── advance, tick ◄───────┘
               └──► waiter.admitted(lease), waiter.refused(reject)
tick   ──► waiter.is_stuck(): its replica hangs and others do not
```

``Dispatcher`` says what to do with a request now; ``RequestPool`` says when to ask. The router and
the simulator run this very object, so a study has the router's turns, leases and retries. It has no
clock, timer or log of its own: ``clock``, ``call_soon`` and ``call_later`` are those of the event
loop, real or virtual. ``R`` is what the caller knows of a replica (its address, its engine).
"""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from memroute.traffic.admission import Reject
from memroute.traffic.dispatch.dispatcher import Assignment, Dispatcher
from memroute.traffic.dispatch.retries import RetryRule
from memroute.traffic.replica import ReplicaLedger, ReplicaReading, Reservation
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing.cost import Choice

R = TypeVar("R")

# Seconds between two looks at the queue when nothing else happens: the prompts that wait at
# replicas shrink with time alone. Chosen by hand; half an engine's shortest step.
HELD_TICK_SECONDS: Final = 0.01


class Waiter(Protocol[R]):
    """A request that asks a pool for room. Hashed by identity."""

    profile: RequestProfile
    tried: list[str]
    """Names of the replicas on which it has failed, in order."""

    def admitted(self, lease: "Lease[R]") -> None:
        """Room was reserved after it had to wait. The lease is the waiter's to release."""
        ...

    def refused(self, reject: Reject) -> None:
        """It has waited in vain."""
        ...

    def is_stuck(self) -> None:
        """Its replica hangs, and others do not."""
        ...


class Lease(Generic[R]):
    """Tokens reserved on one replica for one request. Release it exactly once."""

    __slots__ = ("_assignment", "_pool", "is_released", "replica")

    def __init__(self, pool: "RequestPool[R]", replica: R, assignment: Assignment) -> None:
        self._pool = pool
        self._assignment = assignment
        self.replica = replica
        self.is_released = False

    @property
    def choice(self) -> Choice:
        """Why this replica."""
        return self._assignment.choice

    @property
    def backend(self) -> Backend:
        """The replica as decisions know it: its ledger and its health."""
        return self._assignment.backend

    @property
    def is_pending(self) -> bool:
        """Whether nothing of the answer has been seen yet."""
        return self._assignment.reservation.is_pending

    @property
    def reserved_tokens(self) -> int:
        """Tokens that the request is expected to hold at its end."""
        return self._assignment.reservation.reserved_tokens

    def progress(self, num_events: int) -> None:
        """The stream has shown ``num_events`` events by now; the first may make room."""
        reservation = self._assignment.reservation
        was_pending = reservation.is_pending
        self._assignment.backend.ledger.streamed(
            reservation, num_events=num_events, now_seconds=self._pool.now_seconds()
        )
        if was_pending:
            self._pool.advance_soon()

    def paused(self) -> None:
        """The answer is not read for a while: its client is slow."""
        reservation = self._assignment.reservation
        self.backend.ledger.paused(reservation, now_seconds=self._pool.now_seconds())

    def resumed(self) -> None:
        """The answer is read again."""
        self.backend.ledger.resumed(self._assignment.reservation)

    @property
    def reservation(self) -> Reservation:
        """What the replica's ledger knows of the request."""
        return self._assignment.reservation

    def release(self, *, is_complete: bool = False, generated_tokens: int | None = None) -> None:
        """Give the tokens back. Raises ``RuntimeError`` the second time: that is a bug.

        ``is_complete``: it was answered, in ``generated_tokens`` where the engine has said so.
        """
        if self.is_released:
            msg = "lease released twice"
            raise RuntimeError(msg)
        self.is_released = True
        self._pool.ended(
            self._assignment, is_complete=is_complete, generated_tokens=generated_tokens
        )


class RequestPool(Generic[R]):
    """All requests of the replicas that serve one model. Owns its dispatcher and its leases."""

    def __init__(
        self,
        dispatcher: Dispatcher[Waiter[R]],
        *,
        retries: RetryRule,
        clock: Callable[[], float],
        call_soon: Callable[..., object],
        call_later: Callable[..., object],
    ) -> None:
        """``retries``: may be shared with other pools.

        ``clock``: seconds, only ever forward. ``call_soon(callback)`` calls once the step that runs
        now is over, ``call_later(seconds, callback)`` after a while.
        """
        self.dispatcher = dispatcher
        self.replicas: dict[str, R] = {}
        """By name: what the caller knows of each replica that is there."""
        self.now_seconds = clock
        self._retries = retries
        self._call_soon = call_soon
        self._call_later = call_later
        self._waiters: dict[Reservation, Waiter[R]] = {}
        self._will_advance = False
        self._will_tick = False

    @property
    def num_held(self) -> int:
        """Requests that wait for their turn."""
        return len(self.dispatcher.queue)

    @property
    def held_tokens(self) -> int:
        """Tokens that those are expected to need."""
        return self.dispatcher.queue.held_tokens

    # Replicas.

    def join(self, backend: Backend, replica: R) -> None:
        """A replica is there, its cache cold."""
        self.replicas[backend.ledger.replica] = replica
        self.dispatcher.add(backend)
        self.advance_soon()

    def leave(self, name: str) -> R | None:
        """A replica is gone. Leases on it stay valid until they are released."""
        self.dispatcher.remove(name)
        self.advance_soon()
        return self.replicas.pop(name, None)

    def apply_reading(self, ledger: ReplicaLedger, reading: ReplicaReading) -> None:
        """A replica was read: what it holds is known anew."""
        self.dispatcher.apply_reading(ledger, reading)
        self.advance_soon()

    # Requests.

    def submit(self, waiter: Waiter[R]) -> Lease[R] | Reject | None:
        """Room on the best replica, a refusal, or None: it waits, and will be told."""
        if not waiter.tried:
            self._retries.asked()
        verdict = self.dispatcher.submit(waiter, now_seconds=self.now_seconds())
        if isinstance(verdict, Assignment):
            return self._lease(waiter, verdict)
        if verdict is None:
            # The one that is held now may be cheaper to serve than those before it.
            self.advance_soon()
        return verdict

    def withdraw(self, waiter: Waiter[R]) -> None:
        """It waits no more: its client has gone."""
        if self.dispatcher.withdraw(waiter):
            self.advance_soon()

    def may_retry(self, waiter: Waiter[R]) -> bool:
        """Whether one that has failed may be submitted again; a retry is paid for if so.

        Its ``tried`` includes the replica on which it has failed now.
        """
        return self._retries.may_retry(
            num_attempts=len(waiter.tried), now_seconds=self.now_seconds()
        )

    def ended(
        self, assignment: Assignment, *, is_complete: bool, generated_tokens: int | None
    ) -> None:
        """A lease was released: what ``Lease.release`` calls."""
        now = self.now_seconds()
        reservation, ledger = assignment.reservation, assignment.backend.ledger
        if is_complete:
            ledger.completed(reservation, generated_tokens=generated_tokens, now_seconds=now)
        self._waiters.pop(reservation, None)
        self.dispatcher.ended(ledger, reservation, is_complete=is_complete, now_seconds=now)
        self.advance_soon()

    # Time.

    def advance_soon(self) -> None:
        """Something has changed: see whose turn it is, once this step is over."""
        if len(self.dispatcher.queue) and not self._will_advance:
            self._will_advance = True
            self._call_soon(self._advance)

    def tick(self) -> None:
        """Time has passed: unseen answers have begun, and replicas that hang are left."""
        now = self.now_seconds()
        for backend in self.dispatcher.backends.values():
            backend.ledger.settle(now_seconds=now)
        for reservation in self.dispatcher.stuck(now_seconds=now):
            waiter = self._waiters.get(reservation)
            if waiter is not None:
                waiter.is_stuck()

    def _advance(self) -> None:
        self._will_advance = False
        for waiter, verdict in self.dispatcher.turns(now_seconds=self.now_seconds()):
            if isinstance(verdict, Assignment):
                waiter.admitted(self._lease(waiter, verdict))
            else:
                waiter.refused(verdict)
        if len(self.dispatcher.queue) and not self._will_tick:
            self._will_tick = True
            self._call_later(HELD_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._will_tick = False
        if len(self.dispatcher.queue):
            self._advance()

    def _lease(self, waiter: Waiter[R], assignment: Assignment) -> Lease[R]:
        self._waiters[assignment.reservation] = waiter
        return Lease(self, self.replicas[assignment.choice.replica], assignment)
