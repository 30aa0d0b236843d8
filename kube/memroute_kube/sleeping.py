"""A replica whose engine sleeps, as the operator tells routers of it.

```text
(awake) ──► FallingAsleep ──► Asleep ──► Waking ──► (awake)
              │                            ▲
              └──── a request came ────────┘
```

A router sends nothing to a replica that is in one of these, and holds what waits for it: that is
the demand by which the operator wakes it.
"""

from enum import StrEnum

# No wake is believed to take longer: a bound on what is read.
MAX_WAKE_SECONDS = 3_600


class SleepState(StrEnum):
    """The value is in ``status.routing.replicas[].sleep``; an awake replica has none."""

    FALLING_ASLEEP = "FallingAsleep"
    """Nothing new is sent to it; what it has begun is finished, then its engine is told."""
    ASLEEP = "Asleep"
    """Its device's memory is lent to others; its weights are on the host, or gone."""
    WAKING = "Waking"
    """Its room is reserved again, and its engine has been told."""


def sleep_state_of(word: object) -> SleepState | None:
    """What a status says; None for a replica that is awake.

    A word that a newer operator has is none of these: such a replica is not awake either.
    """
    if word is None:
        return None
    known = {state.value: state for state in SleepState}
    return known.get(word, SleepState.ASLEEP) if isinstance(word, str) else SleepState.ASLEEP


def wake_seconds_of(number: object) -> int | None:
    """How long a wake takes; None where nobody knows."""
    if isinstance(number, bool) or not isinstance(number, int):
        return None
    return number if 0 <= number <= MAX_WAKE_SECONDS else None
