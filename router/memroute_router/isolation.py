"""Suspects that wait until a replica has no other suspect: see ``memroute...dispatch.suspects``.

Owns those that wait, in the order in which they came, and what is remembered of all.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from memroute.traffic.dispatch import Suspects
from memroute.traffic.dispatch.suspects import MAX_APART_SECONDS
from memroute_router.http.deadlines import monotonic
from memroute_router.http.faults import OnFault
from memroute_router.pools import Pool


class Isolated(Protocol):
    """A suspect that waits."""

    def try_again(self) -> None:
        """Something has changed: a replica may be free of suspects now."""
        ...

    def crashed(self) -> None:
        """The above has raised: end the request."""
        ...


class Isolation:
    """The suspects of a router, and those of them that wait."""

    def __init__(self, call_soon: Callable[..., object], on_fault: OnFault) -> None:
        self.suspects = Suspects()
        self._call_soon = call_soon
        self._on_fault = on_fault
        self._waiting: deque[Isolated] = deque()
        self._will_advance = False

    @property
    def num_waiting(self) -> int:
        """Suspects that wait for a replica without another one."""
        return len(self._waiting)

    def avoided(
        self,
        name: bytes,
        pool: Pool,
        failed_on: list[str],
        *,
        waited_seconds: float,
        now_seconds: float,
    ) -> list[str] | None:
        """The replicas that a suspect should not be sent to now; None: it should wait.

        ``failed_on``: replicas on which it has failed; they are always among them.
        """
        busy = self.suspects.busy(now_seconds=now_seconds)
        if not busy or waited_seconds >= MAX_APART_SECONDS:
            return failed_on
        if self.suspects.is_out(name, now_seconds=now_seconds):
            return None
        num_others = 0
        for key, replica in pool.replicas.items():
            if not replica.info.is_routable or replica.health.is_out or key in failed_on:
                continue
            if key not in busy:
                return [*failed_on, *busy]
            num_others += 1
        # With none that could take it, admission says what becomes of it.
        return None if num_others else failed_on

    def unreachable(self, replica: str) -> None:
        """No connection to the replica could be opened."""
        self.suspects.unreachable(replica, now_seconds=monotonic())

    def wait(self, request: Isolated) -> None:
        """It is asked to try again, soon."""
        self._waiting.append(request)

    def withdraw(self, request: Isolated) -> None:
        """It waits no more."""
        if request in self._waiting:
            self._waiting.remove(request)

    def changed(self) -> None:
        """A replica may be free of suspects now."""
        if self._waiting and not self._will_advance:
            self._will_advance = True
            self._call_soon(self._advance)

    def tick(self) -> None:
        """Time passes: suspects are forgotten, and some have waited for long enough."""
        self.suspects.tick(now_seconds=monotonic())
        self.changed()

    def _advance(self) -> None:
        self._will_advance = False
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            try:
                request.try_again()
            except Exception as error:  # noqa: BLE001 - the others have their turn
                self._on_fault("isolation", error)
                self._end(request)

    def _end(self, request: Isolated) -> None:
        try:
            request.crashed()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault("isolation", error)
