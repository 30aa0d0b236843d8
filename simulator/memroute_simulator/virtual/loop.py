"""Virtual time: a heap of what happens when. Owns the clock of one simulation."""

import heapq
from collections.abc import Callable


class VirtualLoop:
    """Runs callbacks in the order of their times; equal times in the order they were set."""

    def __init__(self) -> None:
        self.now_seconds = 0.0
        self.num_events = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._num_set = 0

    def at(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call at a time; one that has passed is now."""
        self._num_set += 1
        heapq.heappush(self._heap, (max(seconds, self.now_seconds), self._num_set, callback))

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call after a while."""
        self.at(self.now_seconds + seconds, callback)

    def run(
        self,
        until_seconds: float | None = None,
        *,
        is_running: Callable[[], bool] = lambda: True,
    ) -> None:
        """Run until nothing is left to happen, a time is reached, or ``is_running`` says no."""
        heap = self._heap
        while heap and is_running():
            if until_seconds is not None and heap[0][0] > until_seconds:
                break
            self.now_seconds, _, callback = heapq.heappop(heap)
            self.num_events += 1
            callback()
