"""How late the event loop runs what is due: a step that blocks it delays watches and the Lease."""

import asyncio
from collections.abc import Callable

# How often the loop is asked, in seconds: a block that is shorter is seen in part.
INTERVAL_SECONDS = 0.05


async def watch_loop_lag(observe: Callable[[float], None]) -> None:
    """Tell seconds of delay, again and again, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        observe(max(0.0, loop.time() - due))
