"""How much was used in the last minute, and when there is room again.

The last minute is kept in slots of half a second. What was used in a slot counts until the slot is
as a whole more than a minute old: so a limit is never exceeded in any minute, and what may be used
for ever is the limit in 60.5 s, 0.8 % less.
"""

import math
from typing import Final

WINDOW_SECONDS: Final = 60.0
SLOT_SECONDS: Final = 0.5
# The slots of a minute, and the one that has begun.
NUM_SLOTS: Final = 121


class MinuteWindow:
    """Owns what one tenant, or key, has used; the caller brings the clock."""

    __slots__ = ("_latest", "_slots", "total")

    def __init__(self) -> None:
        self._slots: list[int] = []
        """Empty while nothing counts: of a hundred thousand tenants few ask in one minute."""
        self._latest = 0
        """The number of the latest slot, since the clock began."""
        self.total = 0
        """Used in the last minute, as of the last ``advance``."""

    def advance(self, *, now_seconds: float) -> int:
        """Forget what is older than a minute; returns the number of the present slot."""
        now = int(now_seconds / SLOT_SECONDS)
        passed = now - self._latest
        if passed <= 0:
            return self._latest
        slots = self._slots
        if passed >= NUM_SLOTS or not slots:
            self._slots = []
            self.total = 0
        else:
            for slot in range(self._latest + 1, now + 1):
                index = slot % NUM_SLOTS
                self.total -= slots[index]
                slots[index] = 0
        self._latest = now
        return now

    def add(self, amount: int, *, now_seconds: float) -> int:
        """Use so much now; returns the number of the slot in which it counts."""
        slot = self.advance(now_seconds=now_seconds)
        if not self._slots:
            self._slots = [0] * NUM_SLOTS
        self._slots[slot % NUM_SLOTS] += amount
        self.total += amount
        return slot

    def correct(self, slot: int, amount: int, *, now_seconds: float) -> None:
        """What was used in the slot was ``amount`` more (or less) than was thought.

        More counts from now on, where it is seen; less is given back where it was taken.
        """
        if amount > 0:
            self.add(amount, now_seconds=now_seconds)
            return
        now = self.advance(now_seconds=now_seconds)
        if now - slot >= NUM_SLOTS or not self._slots:
            return
        index = slot % NUM_SLOTS
        given_back = min(self._slots[index], -amount)
        self._slots[index] -= given_back
        self.total -= given_back

    def seconds_until(self, free: int, limit: int, *, now_seconds: float) -> float | None:
        """When ``free`` more are within ``limit``; 0: now, None: never, it is more than that."""
        now = self.advance(now_seconds=now_seconds)
        excess = self.total + free - limit
        if excess <= 0:
            return 0.0
        if free > limit:
            return None
        for slot in range(now - NUM_SLOTS + 1, now + 1):
            excess -= self._slots[slot % NUM_SLOTS]
            if excess <= 0:
                return max(0.0, (slot + NUM_SLOTS) * SLOT_SECONDS - now_seconds)
        return None

    def seconds_until_empty(self, *, now_seconds: float) -> float:
        """When nothing that was used until now counts any more."""
        now = self.advance(now_seconds=now_seconds)
        for slot in range(now, now - NUM_SLOTS if self._slots else now, -1):
            if self._slots[slot % NUM_SLOTS]:
                return max(0.0, (slot + NUM_SLOTS) * SLOT_SECONDS - now_seconds)
        return 0.0


def whole_seconds(seconds: float) -> int:
    """For ``Retry-After``: never too early, never 0."""
    return max(1, math.ceil(seconds))
