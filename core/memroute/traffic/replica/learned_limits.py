"""How full a replica may be planned, and how many requests it runs at once: learned from readings.

**Ceiling.** Under preemptions the projected KV use that admission plans for is lowered, and raised
again while there are none: additive increase, multiplicative decrease, as TCP has it.

**Slots.** If two consecutive readings show the same number of running requests while requests wait
for room, that number is taken as the engine's concurrency limit. When no request waits at that
number, the limit is raised by one, which corrects a limit inferred by coincidence.
"""

from typing import Final

from memroute.traffic.replica.reading import ReplicaReading

# KV use below which requests that wait in the engine do not wait for blocks.
# Unit: ratio of the KV cache. Source: chosen by hand.
NEARLY_FULL_RATIO: Final = 0.8
# Floor of the ceiling: below half, the watermark is not what is wrong.
# Unit: ratio of the KV cache. Source: a bound, chosen by hand.
FLOOR_RATIO: Final = 0.5
# Factor by which a reading with preemptions lowers the ceiling.
# Unit: ratio. Source: chosen by hand.
LOWERED_RATIO: Final = 0.95
# Points by which a reading without preemptions raises the ceiling.
# Unit: ratio of the KV cache. Source: chosen by hand.
RAISED_RATIO: Final = 0.01


class LearnedLimits:
    """Owns the two limits of one replica."""

    __slots__ = ("ceiling_ratio", "running_limit")

    def __init__(self) -> None:
        self.ceiling_ratio = 1.0
        """How full the replica may be planned, 0.5 to 1, beside the watermark."""
        self.running_limit: int | None = None
        """Requests that the engine runs at once, whatever its memory; None: no limit seen."""

    def apply_reading(
        self, before: ReplicaReading | None, now: ReplicaReading, *, num_pending: int
    ) -> None:
        """Learn from two consecutive readings. ``num_pending``: our requests that wait there."""
        self._count_running(before, now)
        if before is None:
            return
        if before.num_preemptions_total is None or now.num_preemptions_total is None:
            return
        was_preempted = now.num_preemptions_total > before.num_preemptions_total
        # Waiting requests are a sign of a full cache only where they are ours (we expected them to
        # fit) and the cache is nearly full. Else they wait for their turn in a step.
        waits = (
            (now.num_waiting_for_capacity or 0) > 0
            and num_pending > 0
            and (now.kv_cache_utilization_ratio or 0.0) >= NEARLY_FULL_RATIO
        )
        if was_preempted or waits:
            self.ceiling_ratio = max(FLOOR_RATIO, self.ceiling_ratio * LOWERED_RATIO)
        else:
            self.ceiling_ratio = min(1.0, self.ceiling_ratio + RAISED_RATIO)

    def _count_running(self, before: ReplicaReading | None, now: ReplicaReading) -> None:
        """The engine's own word, or the number that stands still while others wait."""
        if now.max_running is not None:
            self.running_limit = now.max_running
            return
        running = now.num_requests_running
        if not running or before is None:
            return
        limit = self.running_limit
        if _waiting(now):
            stands_still = running == before.num_requests_running and _waiting(before)
            if stands_still or (limit is not None and running > limit):
                self.running_limit = running
        elif limit is not None and running >= limit:
            self.running_limit = running + 1


def _waiting(reading: ReplicaReading) -> bool:
    """Whether requests wait for room in the engine, as far as it says."""
    waiting = reading.num_waiting_for_capacity
    return ((reading.num_requests_waiting if waiting is None else waiting) or 0) > 0
