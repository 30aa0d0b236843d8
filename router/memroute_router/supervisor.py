"""Loops that live as long as the router: one that ends or raises is started again.

The router serves on meanwhile: what a loop keeps true is a little old, and nothing else. A loop
that fails at once is started again after a growing pause.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from memroute_router.http.faults import OnFault

LOGGER = logging.getLogger(__name__)
# Before a loop that has failed is started again; each further failure doubles it.
# Unit: seconds. Source: chosen by hand.
FIRST_PAUSE_SECONDS: Final = 0.1
# Most of it. Unit: seconds. Source: chosen by hand.
MAX_PAUSE_SECONDS: Final = 30.0
# A loop that has run for so long has not failed at once: the pause is short again.
# Unit: seconds. Source: chosen by hand.
SOUND_SECONDS: Final = 60.0

Loop = Callable[[], Awaitable[None]]


class EndedError(RuntimeError):
    """A loop that should run for ever has returned."""


class Supervisor:
    """Owns the tasks of the loops; close it."""

    def __init__(self, on_fault: OnFault) -> None:
        """``on_fault``: told a loop's name and why it has ended; logs and counts it."""
        self._on_fault = on_fault
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, name: str, loop: Loop) -> None:
        """Run it until the supervisor is closed."""
        self._tasks.append(asyncio.create_task(self._keep(name, loop), name=name))

    async def close(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, loop: Loop) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            try:
                await loop()
                self._on_fault(name, EndedError(f"the loop {name} has ended"))
            except Exception as error:  # noqa: BLE001 - whatever it was, the loop goes on
                self._on_fault(name, error)
            if clock() - begun >= SOUND_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
            LOGGER.warning("loop starts again name=%s after_seconds=%.1f", name, pause_seconds)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)
