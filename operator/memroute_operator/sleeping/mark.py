"""What is written on a pod of how its engine sleeps: ``memroute.dev/sleep``, as JSON.

```text
{"state":"Asleep","since":"2026-11-29T14:05:09.120Z","restarts":0,"for":"models/big"}
```

The operator alone writes it. A container that was started anew is awake, whatever was written of
the one before it: ``restarts`` says of which one this is.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from memroute.hierarchy.sleep import SleepLevel
from memroute_kube.resources import GROUP
from memroute_kube.sleeping import SleepState

ANNOTATION_SLEEP = f"{GROUP}/sleep"
ANNOTATION_SLEEPS = f"{GROUP}/sleeps"
"""How deep its engine can sleep, as ``spec.sleep.level`` spells it; absent where it never does."""
ANNOTATION_WAKE_SECONDS = f"{GROUP}/wake-seconds"
"""How long a wake is expected to take, in whole seconds."""
SLEEP_LEVELS = {
    "WeightsOnHost": SleepLevel.WEIGHTS_ON_HOST,
    "NothingKept": SleepLevel.NOTHING_KEPT,
}
"""Levels as they are written on pods."""
# A bound on what is read, in characters: two names and a time have far less.
MAX_CHARACTERS = 1_000


class MarkedState(StrEnum):
    """As it is written. ``AWAKE``: of one that has slept before."""

    FALLING_ASLEEP = "FallingAsleep"
    ASLEEP = "Asleep"
    WAKING = "Waking"
    AWAKE = "Awake"

    @property
    def told(self) -> SleepState | None:
        """As routers are told; None for one that is awake."""
        return None if self is MarkedState.AWAKE else SleepState(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepMark:
    """How an engine sleeps."""

    state: MarkedState
    since: str
    """By the clock of the operator that wrote it (RFC 3339)."""
    restarts: int
    """Of its container, at that time."""
    makes_room_for: str | None = None
    """``namespace/name`` of the ModelDeployment that it sleeps for; None where it was idle."""

    def text(self) -> str:
        """The annotation."""
        said: dict[str, object] = {
            "state": self.state.value, "since": self.since, "restarts": self.restarts,
        }  # fmt: skip
        if self.makes_room_for is not None:
            said["for"] = self.makes_room_for
        return json.dumps(said, separators=(",", ":"))


def mark_now(
    state: MarkedState, now: datetime, restarts: int, makes_room_for: str | None = None
) -> SleepMark:
    """The mark of this moment."""
    since = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
    return SleepMark(state=state, since=since, restarts=restarts, makes_room_for=makes_room_for)


def read_mark(text: object) -> SleepMark | None:
    """The mark; None where there is none that can be read: such an engine counts as awake."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    state, since, restarts = said.get("state"), said.get("since"), said.get("restarts")
    known = {one.value: one for one in MarkedState}
    if not isinstance(state, str) or state not in known or not isinstance(since, str):
        return None
    if isinstance(restarts, bool) or not isinstance(restarts, int):
        return None
    room = said.get("for")
    return SleepMark(
        state=known[state],
        since=since,
        restarts=restarts,
        makes_room_for=room if isinstance(room, str) else None,
    )
