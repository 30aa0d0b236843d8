"""One lane per ModelDeployment: its calls go one after the other, and nobody waits for them.

A call to the API server may take half a minute: a fail-closed admission webhook that hangs
lets it. A step gives its lanes a moment to finish and goes on without the slow ones, for which
later steps wait only shortly. A lane that is busy takes no new work, and what it is about to
create is counted as if it existed.

Calls into one namespace are bounded, because webhooks and quotas are mostly of a namespace;
all calls together are bounded for the API server's sake. Owns the running tasks.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

LOGGER = logging.getLogger(__name__)
# Lanes of one namespace that run at once: chosen by hand. A namespace whose webhook hangs holds
# up no other; eight calls of 5 ms each are 1,600 a second.
MAX_PER_NAMESPACE = 8
# Lanes that run at once: chosen by hand, a quarter of what API priority and fairness gives one
# flow of the level "workload-low" by default.
MAX_AT_ONCE = 64
# How long a step waits for its lanes, in seconds: below the 5 s in which others' changes are
# promised, above any answer of a healthy API server.
SETTLE_SECONDS = 2.0
# How long a step waits once for lanes that earlier steps have waited for, in seconds. Without it
# a cold start, whose lanes queue for many seconds, would plan without a pause. Chosen by hand.
LATE_SECONDS = 1.0


class Lanes:
    """Runs one coroutine per key at a time."""

    def __init__(
        self,
        on_error: Callable[[str, Exception], None],
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_error``: told of an exception that a lane did not expect, with its key.

        ``on_late``: called when a lane has ended that nobody waited for any more.
        """
        self._on_error = on_error
        self._on_late = on_late
        self._num_waiting = 0
        self.settle_seconds = SETTLE_SECONDS
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._late: set[str] = set()
        """Lanes that had their moment."""
        self._unawaited: set[str] = set()
        self._all = asyncio.Semaphore(MAX_AT_ONCE)
        self._by_namespace: dict[str, asyncio.Semaphore] = {}

    @property
    def busy(self) -> frozenset[str]:
        """The keys whose last work still runs."""
        return frozenset(self._tasks)

    def start(
        self,
        key: str,
        work: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_awaited: bool = True,
        on_end: Callable[[], None] = lambda: None,
    ) -> bool:
        """Run work for a key (``namespace/name``); whether its lane was free to take it.

        ``is_awaited``: False for what no step depends on: nobody waits, and its end is no news.
        ``on_end``: called when it has ended, also when it was cancelled before its turn came.
        """
        if key in self._tasks:
            return False
        if not is_awaited:
            self._unawaited.add(key)
        task = asyncio.create_task(self._run(key, work), name=f"lane {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done, on_end))
        return True

    def _ended(self, key: str, task: "asyncio.Task[None]", on_end: Callable[[], None]) -> None:
        self._tasks.pop(key, None)
        on_end()
        is_late = key in self._late or not self._num_waiting
        is_news = is_late and key not in self._unawaited
        self._late.discard(key)
        self._unawaited.discard(key)
        if is_news and not task.cancelled():
            self._on_late()

    async def settle(self, *, late_seconds: float = 0.0) -> None:
        """Wait until the lanes are free that nobody has waited for, or for ``settle_seconds``.

        ``late_seconds``: how long to wait for the others when there are none of these.
        """
        awaited = {key: task for key, task in self._tasks.items() if key not in self._unawaited}
        fresh = {key: task for key, task in awaited.items() if key not in self._late}
        waited, seconds = (fresh, self.settle_seconds) if fresh else (awaited, late_seconds)
        if not waited or not seconds:
            return
        self._num_waiting += 1
        try:
            _, running = await asyncio.wait(waited.values(), timeout=seconds)
        finally:
            self._num_waiting -= 1
        self._late |= {key for key, task in fresh.items() if task in running}

    async def stop(self) -> None:
        """Cancel what runs: from now on nothing is written."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        namespace = key.partition("/")[0]
        own = self._by_namespace.setdefault(namespace, asyncio.Semaphore(MAX_PER_NAMESPACE))
        # The namespace's own bound first: what waits for it must hold none of the common ones.
        async with own, self._all:
            try:
                await work()
            except Exception as error:
                # A named boundary: a bug in one lane is that object's alone.
                LOGGER.exception("lane failed key=%s", key)
                self._on_error(key, error)
