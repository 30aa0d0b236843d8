"""Whether any replica may take a request now.

```text
no replica is ready                     → Reject(no-ready-replica)
no replica could ever hold it           → Reject(never-fits), with the numbers
some replica has room under watermark   → Admit(those replicas)
else                                    → Hold, with how long it may take
```

A held request waits in a bounded queue (``queue.py``); one that may not wait is rejected as
saturated, with when to come back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from memroute.footprint.request import RequestProfile
from memroute.pressure.ledger import ReplicaSnapshot
from memroute.pressure.rate import RateMeter
from memroute.pressure.reading import MAX_AGE_SECONDS

DEFAULT_RETRY_AFTER_SECONDS = 2
# When no token was ever freed there is no rate to compute from; most answers end sooner.
MAX_RETRY_AFTER_SECONDS = 60
# Clients that are told to wait longer give up, or ask again anyway.


class RejectReason(StrEnum):
    """Why no replica may take the request; the value is a metric label and a header."""

    NEVER_FITS = "never-fits"
    SATURATED = "saturated"
    QUEUE_TIMEOUT = "queue-timeout"
    SHUTTING_DOWN = "shutting-down"
    NO_READY_REPLICA = "no-ready-replica"


class Admit:
    """The replicas that may take the request now."""

    __slots__ = ("candidates",)

    def __init__(self, candidates: Sequence[ReplicaSnapshot]) -> None:
        self.candidates = candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Why not, in a sentence with numbers, and when to come back."""

    reason: RejectReason
    message: str
    retry_after_seconds: int | None
    """None when coming back will not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """It would fit, not now: why, in a sentence with numbers, and how long it may take."""

    message: str
    expected_wait_seconds: float | None
    """None when no token was ever freed: nobody knows."""

    def reject(
        self, *, because: str, reason: RejectReason = RejectReason.SATURATED, waited: float = 0.0
    ) -> Reject:
        """The refusal of a request that may not wait, or has waited ``waited`` s in vain."""
        seconds = self.expected_wait_seconds
        retry_after = DEFAULT_RETRY_AFTER_SECONDS
        if seconds is not None:
            retry_after = min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(seconds)))
        told = f"{self.message}; {because}"
        if waited:
            told += f" ({waited:.1f} s)"
        return Reject(reason=reason, message=told, retry_after_seconds=retry_after)


def decide(
    profile: RequestProfile,
    replicas: Sequence[ReplicaSnapshot],
    *,
    watermark_ratio: float,
    freed: RateMeter,
    now_seconds: float,
) -> Admit | Hold | Reject:
    """Admit, hold or reject one request.

    ``watermark_ratio``: projected KV use that an admission may reach, 0 to 1.
    ``freed``: how fast the pool frees tokens.
    ``now_seconds``: on the clock of the readings.
    """
    expected_tokens, least_tokens = profile.expected_tokens, profile.least_tokens
    oldest = now_seconds - MAX_AGE_SECONDS
    fresh: list[ReplicaSnapshot] = []
    stale: list[ReplicaSnapshot] = []
    possible: list[ReplicaSnapshot] = []
    for replica in replicas:
        limit = replica.limit_tokens
        if limit is not None and least_tokens > limit:
            continue
        possible.append(replica)
        capacity, projected = replica.capacity_tokens, replica.projected_tokens
        # An idle replica takes anything that it can hold: waiting would not make more room.
        if capacity and projected and projected + expected_tokens > watermark_ratio * capacity:
            continue
        read_at = replica.read_at_seconds
        if read_at is not None and read_at >= oldest:
            fresh.append(replica)
        else:
            # It stopped reporting and may be hung: used only when no other has room.
            stale.append(replica)
    if fresh or stale:
        return Admit(fresh or stale)
    if possible:
        rate = freed.per_second(now_seconds=now_seconds)
        return _not_now(profile, possible, watermark_ratio, rate)
    if replicas:
        return _never_fits(profile, replicas)
    return Reject(
        reason=RejectReason.NO_READY_REPLICA,
        message="no replica of this model is ready",
        retry_after_seconds=DEFAULT_RETRY_AFTER_SECONDS,
    )


def _never_fits(profile: RequestProfile, replicas: Sequence[ReplicaSnapshot]) -> Reject:
    limit = max(replica.limit_tokens or 0 for replica in replicas)
    output = f" and {profile.max_output_tokens} output" if profile.max_output_tokens else ""
    return Reject(
        reason=RejectReason.NEVER_FITS,
        message=(
            f"the request needs at least {profile.min_prompt_tokens} prompt{output} tokens; the "
            f"largest replica of this model holds {limit} tokens per request"
        ),
        retry_after_seconds=None,
    )


def _not_now(
    profile: RequestProfile,
    replicas: Sequence[ReplicaSnapshot],
    watermark_ratio: float,
    freed_tokens_per_second: float | None,
) -> Hold:
    shortfalls = [
        replica.projected_tokens
        + profile.expected_tokens
        - watermark_ratio * replica.capacity_tokens
        for replica in replicas
        if replica.capacity_tokens is not None
    ]
    shortfall = max(0.0, min(shortfalls, default=0.0))
    return Hold(
        message=(
            f"the request is expected to hold {profile.expected_tokens} tokens; the emptiest of "
            f"{len(replicas)} replica(s) is {math.ceil(shortfall)} tokens short of that under its "
            f"watermark of {watermark_ratio:.0%}"
        ),
        expected_wait_seconds=(
            shortfall / freed_tokens_per_second if freed_tokens_per_second else None
        ),
    )
