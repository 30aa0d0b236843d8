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

An exception in one waiter's callback goes to ``on_error`` and ends that waiter alone. The other
verdicts of the same turn have their reservations already, and are delivered.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, Generic, Protocol, TypeVar

from memroute.traffic.admission import Reject
from memroute.traffic.dispatch.dispatcher import Dispatcher
from memroute.traffic.dispatch.retries import RetryRule
from memroute.traffic.dispatch.selection import Assignment
from memroute.traffic.replica import ReplicaLedger, ReplicaReading, Reservation
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing.cost import Choice

R = TypeVar("R")

# Time between two looks at the queue when nothing else happens: prompts that wait at replicas
# shrink with time alone.
# Unit: seconds. Source: chosen by hand; half of an engine's shortest step.
HELD_TICK_SECONDS: Final = 0.01


class Waiter(Protocol[R]):
    """A request that asks a pool for room. Hashed by identity."""

    profile: RequestProfile
    tried: list[str]
    """Names of the replicas on which it has failed, in order."""

    def admitted(self, lease: "Lease[R]") -> None:
        """Room was reserved after a wait. The lease is the waiter's to release."""
        ...

    def refused(self, reject: Reject) -> None:
        """The request was refused after a wait."""
        ...

    def is_stuck(self) -> None:
        """The request's replica hangs, and others do not."""
        ...

    def crashed(self) -> None:
        """One of the three above has raised: end the request, if it has not ended."""
        ...


class Lease(Generic[R]):
    """Tokens reserved on one replica for one request. Release it exactly once."""

    __slots__ = ("_assignment", "_pool", "is_released", "is_unseen", "replica")

    def __init__(self, pool: "RequestPool[R]", replica: R, assignment: Assignment) -> None:
        self._pool = pool
        self._assignment = assignment
        self.replica = replica
        self.is_released = False
        self.is_unseen = False
        """Whether the answer streams and cannot be read: it shows its end alone."""

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

    @property
    def num_choices(self) -> int:
        """Answers that were asked for (``n``, and one for each prompt of a list)."""
        return self._assignment.reservation.profile.num_choices

    def paused(self) -> None:
        """The answer is not read for a while: its client is slow."""
        reservation = self._assignment.reservation
        self.backend.ledger.paused(reservation, now_seconds=self._pool.now_seconds())

    def resumed(self) -> None:
        """The answer is read again; what has piled up comes at once."""
        if not self.is_unseen:
            self.backend.ledger.resumed(self._assignment.reservation)

    def move(self, replica: str) -> bool:
        """The request is on another replica than the chosen one: what is reserved moves there.

        Its answer has not begun. False: the pool has no such replica, and nothing has changed.
        """
        found = self._pool.moved(self._assignment, replica)
        if found is None:
            return False
        self._assignment = found
        self.replica = self._pool.replicas[replica]
        return True

    def unseen(self) -> None:
        """The answer streams, and its progress cannot be read: it is compressed."""
        self.is_unseen = True
        self.progress(1)
        self.paused()

    @property
    def reservation(self) -> Reservation:
        """What the replica's ledger knows of the request."""
        return self._assignment.reservation

    def release(
        self,
        *,
        is_complete: bool = False,
        generated_tokens: int | None = None,
        num_events: int = 0,
    ) -> None:
        """Give the tokens back. Raises ``RuntimeError`` the second time: that is a bug.

        ``is_complete``: it was answered, in ``generated_tokens`` where the engine has said so.
        ``num_events``: events with generated text that its stream has shown; 0 for a whole answer.
        """
        if self.is_released:
            msg = "lease released twice"
            raise RuntimeError(msg)
        self.is_released = True
        try:
            if num_events:
                self.progress(num_events)
        finally:
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
        on_error: Callable[[Exception], None],
    ) -> None:
        """``retries``: may be shared with other pools. ``on_error``: logs and counts a bug.

        ``clock``: seconds, only ever forward. ``call_soon(callback)`` calls once the step that runs
        now is over, ``call_later(seconds, callback)`` after a while.
        """
        self.dispatcher = dispatcher
        self.replicas: dict[str, R] = {}
        """By name: what the caller knows of each replica that is there."""
        self.now_seconds = clock
        self.num_arrivals = 0
        """Requests that have asked the pool for room, whatever became of them; a retry is none."""
        self._retries = retries
        self._call_soon = call_soon
        self._call_later = call_later
        self._on_error = on_error
        self._waiters: dict[Reservation, Waiter[R]] = {}
        self._leaving: list[Backend] = []
        """Replicas that have gone, whose requests have not ended."""
        self._will_advance = False
        self._will_tick = False

    @property
    def num_held(self) -> int:
        """Requests that wait for their turn."""
        return self.dispatcher.num_held

    @property
    def num_leaving(self) -> int:
        """Replicas that have gone while requests ran on them, and still do."""
        return len(self._leaving)

    @property
    def held_tokens(self) -> int:
        """Tokens that the held requests are expected to need."""
        return self.dispatcher.held_tokens

    # Replicas.

    def join(self, backend: Backend, replica: R) -> None:
        """A replica has come, its cache cold."""
        self.replicas[backend.ledger.replica] = replica
        self.dispatcher.add(backend)
        self.advance_soon()

    def leave(self, name: str) -> R | None:
        """A replica has gone. Leases on it stay valid, and are looked after, until they end."""
        backend = self.dispatcher.remove(name)
        if backend is not None and backend.ledger.num_in_flight:
            self._leaving.append(backend)
        self.advance_soon()
        return self.replicas.pop(name, None)

    def apply_reading(self, ledger: ReplicaLedger, reading: ReplicaReading) -> None:
        """A scrape of a replica has come."""
        self.dispatcher.apply_reading(ledger, reading)
        self.advance_soon()

    # Requests.

    def submit(self, waiter: Waiter[R]) -> Lease[R] | Reject | None:
        """Room on the best replica, a refusal, or None: the waiter is held and called back."""
        if not waiter.tried:
            self.num_arrivals += 1
            self._retries.asked()
            only = waiter.profile.only
            if only is not None:
                self.asked_of(only)
        verdict = self.dispatcher.submit(waiter, now_seconds=self.now_seconds())
        if isinstance(verdict, Assignment):
            return self._lease(waiter, verdict)
        # A request that is held may go before others, and may have displaced one.
        self.advance_soon()
        return verdict

    def asked_of(self, only: AbstractSet[str]) -> None:
        """A request has come that may go to these replicas alone: for whoever counts those."""

    def withdraw(self, waiter: Waiter[R]) -> None:
        """The waiter's client has gone: it waits no more."""
        if self.dispatcher.withdraw(waiter):
            self.advance_soon()

    def may_retry(self, waiter: Waiter[R]) -> bool:
        """Whether a failed request may be submitted again; if so, the retry is paid for.

        The waiter's ``tried`` includes the replica on which it has failed now.
        """
        return self._retries.may_retry(
            num_attempts=len(waiter.tried), now_seconds=self.now_seconds()
        )

    def moved(self, assignment: Assignment, replica: str) -> Assignment | None:
        """The same request on another replica: what ``Lease.move`` calls."""
        found = self.dispatcher.moved(assignment, replica, now_seconds=self.now_seconds())
        if found is None:
            return None
        waiter = self._waiters.pop(assignment.reservation, None)
        if waiter is not None:
            self._waiters[found.reservation] = waiter
        self.advance_soon()
        return found

    def ended(
        self, assignment: Assignment, *, is_complete: bool, generated_tokens: int | None
    ) -> None:
        """A lease was released: what ``Lease.release`` calls."""
        now = self.now_seconds()
        reservation, ledger = assignment.reservation, assignment.backend.ledger
        if is_complete:
            ledger.completed(reservation, generated_tokens=generated_tokens, now_seconds=now)
        self._waiters.pop(reservation, None)
        self.dispatcher.ended(assignment, is_complete=is_complete, now_seconds=now)
        self.advance_soon()

    # Time.

    def advance_soon(self) -> None:
        """Something has changed: give out turns once this step is over."""
        if self.dispatcher.has_turns and not self._will_advance:
            self._will_advance = True
            self._call_soon(self._advance)

    def tick(self) -> None:
        """Judge predictions, let whole answers begin, and leave replicas that hang."""
        now = self.now_seconds()
        self.dispatcher.predictions.judge(now_seconds=now)
        if self._leaving:
            self._leaving = [gone for gone in self._leaving if gone.ledger.num_in_flight]
        for backend in [*self.dispatcher.backends.values(), *self._leaving]:
            try:
                backend.ledger.settle(now_seconds=now)
            except Exception as error:  # noqa: BLE001 - a bug in one ledger is not the others'
                self._on_error(error)
        for reservation in self.dispatcher.stuck(self._leaving, now_seconds=now):
            waiter = self._waiters.get(reservation)
            if waiter is not None:
                try:
                    waiter.is_stuck()
                except Exception as error:  # noqa: BLE001 - nor is one in a request
                    self._crashed(waiter, None, error)

    def _advance(self) -> None:
        self._will_advance = False
        if not self._will_tick:
            self._will_tick = True
            self._call_later(HELD_TICK_SECONDS, self._tick)
        for waiter, verdict in self.dispatcher.turns(now_seconds=self.now_seconds()):
            lease: Lease[R] | None = None
            try:
                if isinstance(verdict, Assignment):
                    lease = self._lease(waiter, verdict)
                    waiter.admitted(lease)
                else:
                    waiter.refused(verdict)
            except Exception as error:  # noqa: BLE001 - the others' verdicts are delivered
                self._crashed(waiter, lease, error)

    def _crashed(self, waiter: Waiter[R], lease: Lease[R] | None, error: Exception) -> None:
        """A waiter has raised: end it, and give back what was reserved for it."""
        self._on_error(error)
        try:
            waiter.crashed()
        except Exception as another:  # noqa: BLE001
            self._on_error(another)
        if lease is not None and not lease.is_released:
            lease.release()

    def _tick(self) -> None:
        self._will_tick = False
        if self.dispatcher.has_turns:
            self._advance()

    def _lease(self, waiter: Waiter[R], assignment: Assignment) -> Lease[R]:
        self._waiters[assignment.reservation] = waiter
        return Lease(self, self.replicas[assignment.choice.replica], assignment)
