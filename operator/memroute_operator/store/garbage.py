"""Keeps Python's garbage collector from walking through the whole store again and again.

A full collection visits every container there is and holds the interpreter meanwhile: 130 ms of
CPU for 14,000 pods, again and again while objects come in, and twice as long where others want
the core. What a full collection has found alive is therefore frozen at once: the next one visits
what has come since, and no object is visited by two of them. What is frozen is freed as ever
when nobody refers to it any more.

Frozen objects that refer to each other in a circle stay. Few do: what is frozen in the middle of
a call, and what lives for long. For these, everything is thawed and collected once a day, or once
twice as much is frozen as the last time, and then at a moment when nothing is under way.
"""

import gc
import time
from collections.abc import Callable, Mapping

# How often everything is collected, in seconds: a pause of some 200 ms at 14,000 pods.
THAW_SECONDS = 86_400.0
# How often what is frozen is counted, in seconds: it takes some 50 ms. Chosen by hand.
COUNT_SECONDS = 3600.0
# How much more must be frozen than the last time before a day has passed, as a factor: a fleet
# that has doubled pays for one pause too many, and what leaks is never more than what is used.
GROWTH = 2
# The generation that a full collection visits.
OLDEST = 2
# After how many collections of the middle generation a full one follows, each of which leaves it
# some 7,000 objects at most. Python's 10 make it a pause of 30 ms; as no object is visited twice,
# more of them cost no more together.
MIDDLE_THRESHOLD = 3


class Garbage:
    """Freezes what has lived for long. Owns when everything was last thawed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thawed_at = self._counted_at = clock()
        self._thresholds = gc.get_threshold()
        self._num_frozen: int | None = None
        """Objects that were frozen when they were first counted after the last time."""

    def watch(self) -> None:
        """From now on full collections are short, and what one leaves is frozen."""
        if self._on_collection not in gc.callbacks:
            self._thresholds = gc.get_threshold()
            young, middle, _ = self._thresholds
            gc.set_threshold(young, middle, MIDDLE_THRESHOLD)
            gc.callbacks.append(self._on_collection)
            gc.freeze()  # 140,000 objects of all modules, which stay

    def unwatch(self) -> None:
        """Leave the collector alone again."""
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)
            gc.set_threshold(*self._thresholds)

    def _on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        # In whichever thread has collected. To freeze is to hang two lists together.
        if phase == "stop" and info["generation"] == OLDEST:
            gc.freeze()

    def after_step(self) -> None:
        """Thaw and collect everything if that is due. For a moment when nothing is under way."""
        now = self._clock()
        if now - self._thawed_at < THAW_SECONDS and not self._has_grown(now):
            return
        self._thawed_at = self._counted_at = now
        self._num_frozen = None
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _has_grown(self, now: float) -> bool:
        if now - self._counted_at < COUNT_SECONDS:
            return False
        self._counted_at = now
        count = gc.get_freeze_count()
        if self._num_frozen is None:
            self._num_frozen = count
        return count > GROWTH * self._num_frozen
