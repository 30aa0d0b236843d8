"""Whether a replica may be tried: faults in a row take it out, time and one trial bring it back.

```text
in ── a fault, or 5 errors in a row ──► out, for 5 s, then 10, 20 … 60 s
in ◄── a request is answered ────────── on trial: one request at a time may try it
                                        (a fault puts it out again, for twice as long)
```

A fault is a connection refused, reset or silent; an error is an answer of 500 to 599 that is no
push-back. Push-back (429, 503 of a full queue) is an answer. Only what happened to *requests*
counts: an engine that answers its metrics page and no request stays out.
"""

from typing import Final

# Errors in a row that take a replica out: one request that an engine cannot digest must not take
# it from all others.
# Unit: errors. Source: Envoy's default (consecutive_5xx).
MAX_ERRORS_IN_A_ROW: Final = 5
# Time that a replica is out after its first fault; each further one doubles it.
# Unit: seconds. Source: chosen by hand.
FIRST_OUT_SECONDS: Final = 5.0
# Most that a replica is out before the next trial.
# Unit: seconds. Source: a bound, chosen by hand.
MAX_OUT_SECONDS: Final = 60.0


class ReplicaHealth:
    """Faults of one replica. Owns its own state; the caller brings the clock."""

    def __init__(self) -> None:
        self._errors_in_a_row = 0
        self._out_seconds = FIRST_OUT_SECONDS
        self._out_until_seconds: float | None = None
        self._trial_ends_at_seconds: float | None = None

    @property
    def is_out(self) -> bool:
        """Whether the replica was taken out and has not answered since."""
        return self._out_until_seconds is not None

    def may_try(self, *, now_seconds: float) -> bool:
        """Whether a request may be sent to the replica now."""
        until = self._out_until_seconds
        if until is None:
            return True
        if now_seconds < until:
            return False
        trial = self._trial_ends_at_seconds
        return trial is None or now_seconds >= trial

    def trying(self, *, now_seconds: float) -> None:
        """A request is sent. On trial, no other may be for as long as the replica was out."""
        if self._out_until_seconds is not None:
            self._trial_ends_at_seconds = now_seconds + self._out_seconds

    def answered(self) -> None:
        """A request was answered: earlier faults count no more."""
        if self._errors_in_a_row or self._out_until_seconds is not None:
            self._errors_in_a_row = 0
            self._out_seconds = FIRST_OUT_SECONDS
            self._out_until_seconds = None
            self._trial_ends_at_seconds = None

    def error(self, *, now_seconds: float) -> bool:
        """A request was answered by an error of the engine; True if that takes it out."""
        self._errors_in_a_row += 1
        on_trial = self._out_until_seconds is not None
        if on_trial or self._errors_in_a_row >= MAX_ERRORS_IN_A_ROW:
            return self.fault(now_seconds=now_seconds)
        return False

    def fault(self, *, now_seconds: float) -> bool:
        """A request found no connection, lost it or was left waiting; True if that takes it out."""
        until = self._out_until_seconds
        if until is not None:
            if now_seconds < until:
                return False  # a request that was under way when the replica was taken out
            self._out_seconds = min(MAX_OUT_SECONDS, 2 * self._out_seconds)
        self._out_until_seconds = now_seconds + self._out_seconds
        self._trial_ends_at_seconds = None
        return True
