"""One coarse clock for all connections: a timer per request would cost more than the request."""

import asyncio
import math
import time
from typing import Final, Protocol

from memroute_router.http.faults import DEADLINE, OnFault, log_fault

SWEEP_SECONDS: Final = 0.25
# Limits are seconds and more: a quarter late is nothing.
NEVER: Final = math.inf
monotonic: Final = time.monotonic
# Found once: to look for it in its module costs as much as the call.


class HasDeadline(Protocol):
    """Something that must have moved by a certain time."""

    deadline_at: float
    """On the monotonic clock; ``NEVER`` while nothing is awaited."""

    def deadline_passed(self) -> None:
        """It has not."""
        ...


class Deadlines:
    """Looks after open connections four times a second. Owns the set of them."""

    def __init__(self, on_fault: OnFault = log_fault) -> None:
        self._on_fault = on_fault
        self._watched: set[HasDeadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.now_seconds = monotonic()
        """At the last sweep: good enough for limits of a minute."""

    def watch(self, item: HasDeadline) -> None:
        """Look after it from now on."""
        self._watched.add(item)
        if self._timer is None and not self._is_closed:
            self.now_seconds = monotonic()
            self._schedule()

    def forget(self, item: HasDeadline) -> None:
        """It is gone."""
        self._watched.discard(item)

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self.now_seconds = monotonic()
        late = [item for item in self._watched if item.deadline_at <= now]
        for item in late:
            item.deadline_at = NEVER
            try:
                item.deadline_passed()
            except Exception as error:  # noqa: BLE001 - the others are late too
                self._on_fault(DEADLINE, error)
        if self._watched and not self._is_closed:
            self._schedule()
