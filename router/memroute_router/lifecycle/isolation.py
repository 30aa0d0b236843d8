"""Requests with which a replica has died: kept apart from each other, or refused.

``memroute.traffic.dispatch.suspects`` says which, and why. A request that is one has a ``Case``;
``Isolation`` owns those that wait for a replica without another one, in the order in which they
came, and what is remembered of all.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from memroute.traffic.dispatch import Suspects, request_name
from memroute.traffic.dispatch.suspects import MAX_APART_SECONDS
from memroute_router.http.deadlines import monotonic
from memroute_router.http.faults import OnFault
from memroute_router.lifecycle.failure import Failure
from memroute_router.lifecycle.refusal import Refusal, replicas_died
from memroute_router.replicas.pool import Pool

LOGGER = logging.getLogger(__name__)
# As ``--max-queued-requests``.
DEFAULT_MAX_WAITING: Final = 1024


class Isolated(Protocol):
    """A suspect that waits."""

    def try_again(self) -> None:
        """Something has changed: a replica may be free of suspects now."""
        ...

    def crashed(self) -> None:
        """The above has raised: end the request."""
        ...


class Case:
    """One request that is a suspect. Never changed; what is remembered is the isolation's."""

    __slots__ = ("_isolation", "_name", "_num_bytes", "_suspects")

    def __init__(self, isolation: "Isolation", name: bytes, num_bytes: int) -> None:
        self._isolation = isolation
        self._suspects = isolation.suspects
        self._name = name
        self._num_bytes = num_bytes

    @property
    def died_with_it(self) -> list[str]:
        """The replicas, in order."""
        return self._suspects.replicas(self._name)

    def refusal(self) -> Refusal | None:
        """Why it is sent nowhere; None: it may be."""
        seconds = self._suspects.blamed_for_seconds(self._name, now_seconds=monotonic())
        return replicas_died(self.died_with_it, seconds) if seconds else None

    def avoided(
        self, pool: Pool, failed_on: list[str], *, waited_seconds: float
    ) -> list[str] | None:
        """The replicas that it should not be sent to now; None: it should wait.

        ``failed_on``: replicas on which it has failed; they are always among them.
        """
        now = monotonic()
        busy = self._suspects.busy(now_seconds=now)
        if not busy or waited_seconds >= MAX_APART_SECONDS:
            return failed_on
        if self._suspects.is_out(self._name, now_seconds=now):
            return None
        has_others = False
        for key, replica in pool.replicas.items():
            if not replica.info.is_routable or replica.health.is_out or key in failed_on:
                continue
            if key not in busy:
                return [*failed_on, *busy]
            has_others = True
        # With none that could take it, admission says what becomes of it.
        return None if has_others else failed_on

    def sent(self, ticket: Isolated, replica: str) -> None:
        """It is sent to a replica."""
        self._suspects.entered(ticket, self._name, replica, now_seconds=monotonic())

    def left(self, ticket: Isolated) -> None:
        """Its answer has begun, or it is no longer there."""
        self._suspects.left(ticket)
        self._isolation.changed()

    def died(self, replica: str, failure: Failure, request_id: str) -> Refusal | None:
        """A replica has died with it; the refusal if it is to blame."""
        is_to_blame = self._suspects.died(
            self._name,
            replica,
            num_bytes=self._num_bytes,
            lived_seconds=failure.lived_seconds,
            now_seconds=monotonic(),
        )
        if not is_to_blame:
            return None
        LOGGER.error(
            "replicas died with it request=%s replicas=%s", request_id, ",".join(self.died_with_it)
        )
        refusal = self.refusal()
        return None if refusal is None else replace(refusal, cause=failure.cause.value)

    def errored(self, replica: str) -> None:
        """A replica has answered by an error of its own, which may be its last word."""
        self._suspects.errored(
            self._name, replica, num_bytes=self._num_bytes, now_seconds=monotonic()
        )

    def ends(self, ticket: Isolated, *, is_answered: bool) -> None:
        """It is over; where it was answered, it kills no replica."""
        if is_answered:
            self._suspects.answered(self._name)
        self._isolation.withdraw(ticket)
        self.left(ticket)


class Isolation:
    """The suspects of a router, and those of them that wait."""

    def __init__(
        self,
        call_soon: Callable[..., object],
        on_fault: OnFault,
        *,
        max_waiting: int = DEFAULT_MAX_WAITING,
    ) -> None:
        """``max_waiting``: of one model, together with those that wait for room."""
        self.suspects = Suspects()
        self._call_soon = call_soon
        self._on_fault = on_fault
        self._max_waiting = max_waiting
        self._waiting: dict[Isolated, Pool] = {}
        self._will_advance = False

    def waiting(self) -> list[Isolated]:
        """Those that wait, in the order in which they are asked to try again."""
        return list(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Suspects that wait for a replica without another one."""
        return len(self._waiting)

    def recognize(self, target: bytes, body: bytes) -> "Case | None":
        """The case of a request that comes; None, as of nearly all: no replica has died with it."""
        if len(body) not in self.suspects.lengths:
            return None
        name = request_name(target, body)
        return Case(self, name, len(body)) if self.suspects.is_suspect(name) else None

    def open_case(self, target: bytes, body: bytes) -> "Case":
        """The case of a request with which a replica has died now, or may have."""
        return Case(self, request_name(target, body), len(body))

    def unreachable(self, replica: str) -> None:
        """No connection to the replica could be opened."""
        self.suspects.unreachable(replica, now_seconds=monotonic())

    def may_wait(self, pool: Pool) -> bool:
        """Whether one more of the model's requests may wait, here or for room."""
        return pool.num_held + pool.dispatcher.num_apart < self._max_waiting

    def wait(self, request: Isolated, pool: Pool) -> None:
        """It is asked to try again, soon. The caller has asked ``may_wait``."""
        self._waiting[request] = pool
        pool.dispatcher.num_apart += 1

    def withdraw(self, request: Isolated) -> None:
        """It waits no more."""
        pool = self._waiting.pop(request, None)
        if pool is not None:
            pool.dispatcher.num_apart -= 1

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
        waiting, self._waiting = self._waiting, {}
        for request, pool in waiting.items():
            pool.dispatcher.num_apart -= 1
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
