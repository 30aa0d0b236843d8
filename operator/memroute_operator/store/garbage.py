"""Keeps Python's garbage collector from walking through the whole store again and again.

A full collection visits every container there is and holds the interpreter meanwhile: 200 ms for
14,000 pods, at every reconcile, and half of what that costs. What has lived for long is therefore
frozen: it is freed as ever when nobody refers to it any more, and is not visited.

Frozen objects that refer to each other in a circle stay. What is alive in a quiet moment hardly
does; for the rest, everything is thawed and collected once a day.
"""

import gc
import time
from collections.abc import Callable

# How many old objects may be visited in a full collection: chosen by hand, about 15 ms. Half as
# many freezes twice as often, which costs a millisecond and may keep a little more for a day.
MAX_VISITED = 50_000
# How often everything is collected, in seconds: a pause of some 200 ms at 14,000 pods.
THAW_SECONDS = 86_400.0


class Garbage:
    """Freezes what has lived for long. Owns when everything was last thawed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thawed_at = clock()

    def after_step(self) -> None:
        """Freeze if there is much, at a moment when nothing is under way."""
        now = self._clock()
        if now - self._thawed_at >= THAW_SECONDS:
            self._thawed_at = now
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        elif len(gc.get_objects(generation=2)) > MAX_VISITED:
            gc.freeze()
