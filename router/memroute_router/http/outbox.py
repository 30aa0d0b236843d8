"""Writes are made together, when everything that has arrived in a turn of the loop is dealt with.

A write wakes whoever reads. Made one by one between other work, each finds its reader asleep again
and pays for waking it (half of the cost of a small request, where cores are virtual); made in a row
they find it awake. What one connection gets in a turn also becomes one write.
"""

import asyncio
from typing import Final, Protocol

from memroute_router.http.faults import WRITE, OnFault, log_fault

MAX_HELD: Final = 64
# Connections that wait at most: the first of a very long turn would be late.


class HasWrites(Protocol):
    """A connection with bytes to hand to its transport."""

    def flush(self) -> None:
        """Hand them over."""
        ...


class Outbox:
    """Owns the list of connections that have something to write in this turn of the loop."""

    __slots__ = ("_call_soon", "_on_fault", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_fault: OnFault = log_fault) -> None:
        self._call_soon = loop.call_soon
        self._on_fault = on_fault
        self._waiting: list[HasWrites] = []

    def add(self, connection: HasWrites) -> None:
        """Flush it at the end of this turn; once is enough until then."""
        waiting = self._waiting
        waiting.append(connection)
        if len(waiting) == 1:
            self._call_soon(self._flush)
        elif len(waiting) >= MAX_HELD:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            try:
                connection.flush()
            except Exception as error:  # noqa: BLE001 - the others' bytes leave
                self._on_fault(WRITE, error)
