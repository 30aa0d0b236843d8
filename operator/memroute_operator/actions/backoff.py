"""What failed, of which object, why, and when it is tried again: one place for all of them.

Each thing that can fail has a key: the object, and what was tried. The wait doubles with each
failure and is told as it was drawn up, so that a status message that names it changes only when
something has failed again:

```text
told wait  = min(max_seconds, first_seconds * 2 ** (failures - 1)), at least Retry-After
due        = now + told wait * (1 - jitter .. 1)
```

Pure: time and chance are arguments. Owns nothing but its entries.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# How much of a wait chance may take away, so that what failed together is not tried together.
JITTER_RATIO = 0.2
# A key that has been due for this long, in seconds, without failing again is forgotten, and its
# next failure is its first: chosen by hand, longer than the longest wait.
FORGET_SECONDS = 900.0

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last failure of one key."""

    reason: str
    """One word, ready to be a condition's reason."""
    message: str
    count: int
    retry_seconds: float
    """The wait as it is told: what chance took away is not in it."""
    due_seconds: float

    @property
    def told(self) -> str:
        """The sentence with the time of the next try."""
        return f"{self.message}; tried again in {self.retry_seconds:.0f} s"


@dataclass(slots=True, kw_only=True)
class Backoff(Generic[Key]):
    """Failures by key, each with its own growing wait."""

    first_seconds: float
    max_seconds: float
    _failures: dict[Key, Failure] = field(default_factory=dict)

    def failed(
        self,
        key: Key,
        *,
        reason: str,
        message: str,
        now_seconds: float,
        chance: float,
        retry_after_seconds: float | None = None,
    ) -> Failure:
        """Note a failure. ``chance``: 0 to 1; ``retry_after_seconds``: what the server asks."""
        before = self._failures.get(key)
        count = 1 if before is None else before.count + 1
        # The exponent is bounded, because a float is.
        wait = min(self.max_seconds, self.first_seconds * 2.0 ** min(count - 1, 30))
        due = now_seconds + wait * (1.0 - JITTER_RATIO * chance)
        if retry_after_seconds is not None:
            wait = max(wait, retry_after_seconds)
            due = max(due, now_seconds + retry_after_seconds)
        failure = Failure(
            reason=reason, message=message, count=count, retry_seconds=wait, due_seconds=due
        )
        self._failures[key] = failure
        return failure

    def succeeded(self, key: Key) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    def last(self, key: Key) -> Failure | None:
        """The last failure of the key, due or not; None when it has not failed of late."""
        return self._failures.get(key)

    def all_known(self) -> list[tuple[Key, Failure]]:
        """Everything that has failed of late, due or not."""
        return list(self._failures.items())

    def waiting(self, key: Key, now_seconds: float) -> Failure | None:
        """The failure that the key still waits for; None when it may be tried."""
        failure = self._failures.get(key)
        return failure if failure is not None and failure.due_seconds > now_seconds else None

    def all_waiting(self, now_seconds: float) -> Iterator[tuple[Key, Failure]]:
        """Every key that may not be tried yet."""
        return ((k, f) for k, f in list(self._failures.items()) if f.due_seconds > now_seconds)

    def next_due_seconds(self, now_seconds: float) -> float | None:
        """When the first of those that wait may be tried; None when none waits."""
        return min((f.due_seconds for _, f in self.all_waiting(now_seconds)), default=None)

    def forget_old(self, now_seconds: float) -> None:
        """Drop what has been due for long without failing again."""
        self._failures = {
            key: failure
            for key, failure in self._failures.items()
            if now_seconds - failure.due_seconds < FORGET_SECONDS
        }
