"""Why a request is refused: a reason, a sentence with numbers, and when to come back.

```text
never-fits         400   no known replica could ever hold the request; coming back does not help
saturated          429   the request may not wait, or waits in vain; Retry-After by the drain rate
queue-timeout      504   the request has waited for as long as requests may
no-ready-replica   503   no replica that could hold the request is ready
model-asleep       503   those that could hold it sleep, and it has no time for the wake that is
                         predicted: Retry-After
shutting-down      503   the router is stopping
```

docs/how-to/when-it-refuses.md has a row for every sentence; a test compares them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from memroute.traffic.admission.gates import ClosedReason, sentence
from memroute.traffic.admission.settings import AdmissionSettings
from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.request import RequestProfile

# Retry-After while there is no rate to compute it from: no request was given room since others
# wait. Most answers end sooner.
# Unit: seconds. Source: chosen by hand.
DEFAULT_RETRY_AFTER_SECONDS: Final = 2
# Longest Retry-After: clients that are told to wait longer give up, or ask again anyway.
# Unit: seconds. Source: a bound, chosen by hand.
MAX_RETRY_AFTER_SECONDS: Final = 60


class RejectReason(StrEnum):
    """Why no replica may take the request; the value is a metric label and a header."""

    NEVER_FITS = "never-fits"
    SATURATED = "saturated"
    QUEUE_TIMEOUT = "queue-timeout"
    SHUTTING_DOWN = "shutting-down"
    NO_READY_REPLICA = "no-ready-replica"
    MODEL_ASLEEP = "model-asleep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Why not, in a sentence with numbers, and when to come back."""

    reason: RejectReason
    message: str
    retry_after_seconds: int | None
    """None when coming back will not help."""
    because: str = ""
    """Why the request may not wait, or not longer: the end of the message, a value of
    ``QueueRefusal`` or ``EndOfWait``. Empty where waiting was not the question."""

    def ending(self, because: str) -> "Reject":
        """The same, and why the request may not wait, or not longer."""
        return replace(self, message=f"{self.message}; {because}", because=because)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNow:
    """Why a request that would fit may not go now, with numbers, and how long that may take."""

    message: str
    expected_wait_seconds: float | None
    """Seconds until the queue as it is now has been given room; None while there is no rate."""

    def reject(
        self, *, because: str, reason: RejectReason = RejectReason.SATURATED, waited: float = 0.0
    ) -> Reject:
        """The refusal of a request that may not wait, or has waited ``waited`` seconds in vain."""
        seconds = self.expected_wait_seconds
        retry_after = DEFAULT_RETRY_AFTER_SECONDS
        if seconds is not None:
            retry_after = min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(seconds)))
        message = f"{self.message}; {because}"
        if waited:
            message += f" ({waited:.1f} s)"
        return Reject(
            reason=reason, message=message, retry_after_seconds=retry_after, because=because
        )


def never_fits(profile: RequestProfile, replicas: Sequence[ReplicaLedger]) -> Reject:
    """The refusal of a request that no replica could ever hold. ``replicas``: not empty."""
    limit = max(replica.limit_tokens or 0 for replica in replicas)
    output = f" and {profile.max_output_tokens} output" if profile.max_output_tokens else ""
    num_sequences = profile.num_sequences
    subject = "the request" if num_sequences == 1 else f"the largest of {num_sequences} sequences"
    return Reject(
        reason=RejectReason.NEVER_FITS,
        message=(
            f"{subject} needs at least {profile.min_prompt_tokens} prompt{output} tokens; the "
            f"largest replica of this model holds {limit} tokens per request"
        ),
        retry_after_seconds=None,
    )


def no_ready_replica() -> Reject:
    """The refusal where no replica of the model is ready."""
    return Reject(
        reason=RejectReason.NO_READY_REPLICA,
        message="no replica of this model is ready",
        retry_after_seconds=DEFAULT_RETRY_AFTER_SECONDS,
    )


def model_asleep(num_replicas: int, expected_seconds: float) -> Reject:
    """The refusal where those that could hold the request sleep: ``num_replicas`` of them.

    ``expected_seconds``: until the first of them serves.
    """
    return Reject(
        reason=RejectReason.MODEL_ASLEEP,
        message=(
            f"{num_replicas} replica(s) of this model could hold the request and sleep; the first "
            f"is expected to serve in {expected_seconds:.1f} s"
        ),
        retry_after_seconds=min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(expected_seconds))),
    )


def adapter_not_loaded(adapter: str) -> Reject:
    """The refusal where replicas serve the model, and none has the LoRA adapter loaded."""
    return Reject(
        reason=RejectReason.NO_READY_REPLICA,
        message=f"no replica of this model has the LoRA adapter {adapter:.128} loaded now",
        retry_after_seconds=DEFAULT_RETRY_AFTER_SECONDS,
    )


def not_now(
    profile: RequestProfile,
    replicas: Sequence[ReplicaLedger],
    *,
    closed: dict[ClosedReason, int],
    settings: AdmissionSettings,
    expected_wait_seconds: float | None,
) -> NotNow:
    """Why a request that would fit may not go now. ``closed``: replicas by reason."""
    message = sentence(closed, settings) or "none takes it"
    if ClosedReason.MEMORY in closed:
        shortfalls = [
            replica.projected_tokens()
            + profile.expected_tokens
            - min(settings.watermark_ratio, replica.limits.ceiling_ratio) * replica.capacity_tokens
            for replica in replicas
            if replica.capacity_tokens is not None
        ]
        shortfall = math.ceil(max(1.0, min(shortfalls, default=1.0)))
        message += f" (the emptiest is {shortfall} tokens short)"
    return NotNow(
        message=(
            f"the request is expected to hold {profile.expected_tokens} tokens; of "
            f"{len(replicas)} replica(s) {message}"
        ),
        expected_wait_seconds=expected_wait_seconds,
    )
