"""The card's time as an engine of an emulated node gets it: its driver knows who else is busy.

An engine tells the driver for which share of the last second a step of it was under way, and
hears how many engines had work on its devices, itself included. Its steps take as long from
then on as the two laws of ``memroute.bandwidth.sharing`` say: as hard as a real card.
"""

import asyncio
import time

import aiohttp

from memroute.bandwidth import SharingMechanism, shared_step_seconds
from memroute_simulator.engine.pacing import PacedEngine

# How often an engine asks with others on its devices, and without. Chosen by hand: a neighbour
# that gets its first requests slows the engine within a second.
REPORT_SECONDS = 0.5
ALONE_REPORT_SECONDS = 3.0
TIMEOUT_SECONDS = 2.0


class CardTime:
    """What an engine's steps take beside its neighbours'. Owns what the driver said last."""

    def __init__(self) -> None:
        self.num_busy = 1.0
        """Engines that have work on its devices, a mean; itself counts as one."""
        self.mechanism = SharingMechanism.TIME_SLICES

    def step_seconds(self, step_seconds: float, idle_seconds: float) -> float:
        """Seconds of a step that would take so long on a card of its own."""
        return shared_step_seconds(step_seconds, idle_seconds, self.num_busy, self.mechanism)


async def follow(url: str, engine: PacedEngine, card: CardTime) -> None:
    """Tell the driver, and hear from it, until cancelled; a driver that is silent slows nobody."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        told, busy = time.monotonic(), engine.busy_seconds
        pause = REPORT_SECONDS
        while True:
            await asyncio.sleep(pause)
            now, done = time.monotonic(), engine.busy_seconds
            share = min(1.0, max(0.0, (done - busy) / (now - told)))
            told, busy = now, done
            try:
                async with session.post(f"{url}/busy", json={"busy_ratio": share}) as response:
                    response.raise_for_status()
                    said = await response.json()
                card.mechanism = SharingMechanism(said["mechanism"])
                card.num_busy = max(1.0, float(said["num_busy"]))
                pause = REPORT_SECONDS if said["is_shared"] else ALONE_REPORT_SECONDS
            except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError):
                card.num_busy, pause = 1.0, ALONE_REPORT_SECONDS
