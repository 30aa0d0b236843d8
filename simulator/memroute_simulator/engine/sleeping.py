"""How an engine falls asleep and wakes, as vLLM 0.32 does it (``v1/engine/core.py``).

```text
sleep    scheduler: new requests wait; running ones are ended as they are (abort: that is their
         finish reason), finished (wait) or kept
         caches: all forgotten          memory: to the host, off the devices (level 1 and 2)
wake_up  memory of the tags that are named, of all where none is; steps begin again only when no
         tag sleeps any more
```

| what is odd | so it is in vLLM |
| --- | --- |
| without ``--enable-sleep-mode`` it pauses, answers as if it slept, and frees nothing | yes |
| ``engine_sleep_state`` says *awake* after a partial wake, ``/is_sleeping`` does not | yes |
| after level 2 the weights are noise until ``reload_weights`` | a fault here: answers are ``!`` |
| weights reloaded where none are mapped | a fatal error of CUDA: the engine dies |

One thing at a time: a wake that comes while it falls asleep waits for that.
"""

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from typing import Any

from memroute.hierarchy import SleepLevel
from memroute_simulator.engine.memory import TAGS, WEIGHTS, EngineMemory
from memroute_simulator.engine.pacing import PacedEngine
from memroute_simulator.engine.startup import EngineStartError

SLEEP_STATES = {0: "awake", 1: "weights_offloaded", 2: "discard_all"}
MODES = ("abort", "wait", "keep")
SCHEDULING = "scheduling"


class WakeError(Exception):
    """The engine has not the memory to wake, or was told nonsense: it has died of it."""


class Sleeper:
    """The sleep of one engine. Owns its level, and what of it still sleeps."""

    def __init__(
        self, engine: PacedEngine, memory: EngineMemory | None, *, time_scale: float
    ) -> None:
        """``memory`` None: started without ``--enable-sleep-mode``."""
        self._engine = engine
        self._memory = memory
        self._time_scale = time_scale
        self._level = 0
        self._sleeping_tags: set[str] = set()
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def is_sleeping(self) -> bool:
        """What ``/is_sleeping`` says: also while it is paused, or partly awake."""
        return bool(self._sleeping_tags) or self._engine.is_paused

    async def sleep(self, level: int, mode: str) -> None:
        """Fall asleep; returns when it sleeps. A caller that leaves does not stop it."""
        await self._whole(self._sleep(level, mode))

    async def wake_up(self, tags: Iterable[str]) -> None:
        """Wake what is named, or all; returns when that is awake. Raises ``WakeError``."""
        await self._whole(self._wake_up(list(tags)))

    async def reload_weights(self) -> None:
        """Read the weights from storage again. Raises ``WakeError``."""
        await self._whole(self._reload())

    # Inside.

    async def _whole(self, operation: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(operation)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _sleep(self, level: int, mode: str) -> None:
        async with self._turn:
            engine = self._engine
            if mode == "keep":
                engine.pause()
            else:
                engine.hold_new()
                if mode == "abort":
                    engine.abort_taken()
                await engine.until_drained()
                engine.pause()
            if not level:
                return
            # Steps that are under way end: a cache is forgotten between two of them.
            await engine.until_between_steps()
            for scheduler in engine.schedulers:
                scheduler.forget_prefixes()
            engine.metrics.set_sleep_state(SLEEP_STATES[level])
            if self._sleeping_tags:
                print("WARNING Executor is already sleeping.", flush=True)
                return
            seconds = 0.0
            if self._memory is not None:
                deep = SleepLevel(level)
                seconds = await self._memory.back_up(deep)
                await asyncio.sleep(seconds * self._time_scale)
                await self._memory.free_devices()
                if deep is SleepLevel.NOTHING_KEPT:
                    engine.faults.are_weights_missing = True
            self._level = level
            self._sleeping_tags = set(TAGS)
            print(f"INFO It took {seconds:.6f} seconds to fall asleep.", flush=True)

    async def _wake_up(self, tags: list[str]) -> None:
        async with self._turn:
            named = {tag for tag in tags if tag != SCHEDULING}
            if named or not tags:
                await self._wake_memory(named or set(self._sleeping_tags))
            self._engine.metrics.set_sleep_state(SLEEP_STATES[0])
            if not self._sleeping_tags:
                self._engine.resume()

    async def _wake_memory(self, tags: set[str]) -> None:
        if not self._sleeping_tags:
            print("WARNING Executor is not sleeping.", flush=True)
            return
        if unknown := tags - self._sleeping_tags:
            print(f"WARNING Tag {min(unknown)} is not in sleeping tags", flush=True)
            return
        seconds = 0.0
        if self._memory is not None:
            try:
                await self._memory.take_devices(tags)
            except EngineStartError as error:
                raise self._died(str(error)) from error
            memory, level = self._memory, SleepLevel(self._level)
            seconds = sum(memory.wake_seconds(level, tag) for tag in tags)
            await asyncio.sleep(seconds * self._time_scale)
        self._sleeping_tags -= tags
        print(f"INFO It took {seconds:.6f} seconds to wake up tags {tags}.", flush=True)

    async def _reload(self) -> None:
        async with self._turn:
            if self._memory is None:
                return
            if WEIGHTS in self._sleeping_tags:
                msg = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
                raise self._died(msg)
            await asyncio.sleep(self._memory.reload_seconds * self._time_scale)
            self._engine.faults.are_weights_missing = False

    def _died(self, message: str) -> WakeError:
        print(f"ERROR EngineCore encountered a fatal error. {message}", file=sys.stderr, flush=True)
        self._engine.last_words = message
        # After the answer: the process ends with the engine.
        asyncio.get_running_loop().call_later(0.05, self._engine.die)
        return WakeError(message)
