"""A replica whose engine sleeps, and when it is expected to serve.

Nothing is sent to it. Requests that it alone could take are held: they are the demand by which the
operator wakes it. What was learned of it (speed, capacity, limits) stays true; its caches are gone.

```text
asleep    one look of the operator at its routers, and the wake
waking    what is left of the wake
```
"""

from enum import StrEnum
from typing import Final

# From the first request that waits until the engine is told to wake: the operator reads its
# routers every second, and reserves memory in the same step.
# Unit: seconds. Source: docs/adr/0055-models-that-sleep.md.
LOOK_SECONDS: Final = 1.0
# How long a wake takes that nobody has predicted: the upper end of what large models took at level
# 1 (3 to 6 s, vLLM's blog of 2025-10-26). Twice as much, and requests with the default time to wait
# are refused at once; half, and they may wait in vain.
# Unit: seconds. Source: as said.
UNKNOWN_WAKE_SECONDS: Final = 6.0
# What is expected of a wake that has taken longer than was predicted: it may serve at any moment.
# Unit: seconds. Source: chosen by hand; about two looks at a status.
OVERDUE_SECONDS: Final = 2.0


class SleepPhase(StrEnum):
    """What its engine does; the value is what pages show."""

    FALLING_ASLEEP = "falling-asleep"
    """It finishes what it has. A request that waits for it may still keep it awake."""
    ASLEEP = "asleep"
    WAKING = "waking"


class ReplicaSleep:
    """The sleep of one replica, as this router knows of it."""

    __slots__ = ("phase", "since_seconds", "wake_seconds")

    def __init__(
        self, phase: SleepPhase, *, since_seconds: float, wake_seconds: float | None
    ) -> None:
        self.phase = phase
        self.since_seconds = since_seconds
        """When this router heard of the phase."""
        self.wake_seconds = wake_seconds
        """From being told until it serves, as the operator predicts; None: unknown."""

    def expected_seconds(self, *, now_seconds: float) -> float:
        """Seconds until it serves, if somebody waits for it."""
        wake = self.wake_seconds
        if wake is None:
            wake = UNKNOWN_WAKE_SECONDS
        if self.phase is not SleepPhase.WAKING:
            return LOOK_SECONDS + wake
        left = self.since_seconds + wake - now_seconds
        return left if left > 0.0 else OVERDUE_SECONDS
