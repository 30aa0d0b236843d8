"""How late the event loop runs what is due: a step that blocks it delays watches and the Lease."""

import asyncio
import time
from collections.abc import Callable

# How often the loop is asked, in seconds: a block is seen but for this much of it at most. Twice as
# often was a third of what an idle operator does.
INTERVAL_SECONDS = 0.1
# How long one task works on the loop before others have their turn, in seconds: a tenth of what
# anybody may notice, and a hundred times what the turn costs.
TURN_SECONDS = 0.01


class Turns:
    """Gives others their turn on the loop, in the middle of work that cannot be in a thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began_at = clock()

    async def give(self) -> None:
        """Let others run, if this task has worked for ``TURN_SECONDS``."""
        if self._clock() - self._began_at >= TURN_SECONDS:
            await asyncio.sleep(0)
            self._began_at = self._clock()


async def watch_loop_lag(observe: Callable[[float], None]) -> None:
    """Tell seconds of delay, again and again, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        observe(max(0.0, loop.time() - due))
