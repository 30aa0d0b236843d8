"""Whether a replica may take a request now, and what to say when none may.

```text
no replica is ready                       → Reject(no-ready-replica)
no replica could ever hold it             → Reject(never-fits), with the numbers
a replica is open to it                   → it may be sent there
else                                      → NotNow, with how long it may take
```

A replica is open to a request unless

* **memory**: projected KV use with it would pass the watermark, or the lower ceiling that its
  preemptions have set;
* **slots**: it runs as many requests as it ever does at once, whatever memory it has;
* **adapters**: it uses as many LoRA adapters as it can at once, and not the one that is asked for;
* **pace**: the seconds that its prompt takes, shared by the answers that decode there, would
  bring their time per token over the target: short answers are the first to feel it;
* **prefill**: the prompts that wait there keep it busy for long enough already. What waits here
  can still be put in order, and go elsewhere; what waits there cannot;
* **proof**: it has not answered of late, and a handful of requests is under way to find out; one,
  where answers that should get a token with every step have had none for longer than that.

An idle replica takes anything that it can hold: waiting would not make more room.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.request import RequestProfile

DEFAULT_RETRY_AFTER_SECONDS: Final = 2
# When no token was ever freed there is no rate to compute from; most answers end sooner.
MAX_RETRY_AFTER_SECONDS: Final = 60
# Clients that are told to wait longer give up, or ask again anyway.
PACE_MARGIN_RATIO: Final = 0.35
MAX_PACE_MARGIN_RATIO: Final = 0.15
# Of the target, over the square root of how long answers are: the mean of few steps varies more.
MAX_PREFILL_RATIO: Final = 0.25
CLOSED_RATIO: Final = 0.3
MISS_RATIO: Final = 1.0
STUCK_RATIO: Final = 5.0
TRIAL_RATIO: Final = 0.6
# Of the target for the first token.
MAX_TTFT_SECONDS: Final = 12.0
MAX_TPOT_SECONDS: Final = 1.0
# Of longer targets no more counts: a batch that may take an hour need not find out in five of them
# that a replica hangs.
MIN_STUCK_SECONDS: Final = 5.0
MIN_TRIAL_SECONDS: Final = 0.3
# Of shorter ones no less: engines pause for a second now and then.
MAX_UNPROVEN: Final = 4
UNPROVEN_STEPS: Final = 10.0
# A replica that hangs gets four requests, not all of them. It is given what its prompts should
# take and ten steps of answers that are as slow as they may be.
SILENT_STEPS: Final = 8.0
LEAST_SILENT_STEPS: Final = 2.0
# Eight of its own steps, and two of answers that are as slow as they may be.
STEP_TOKENS: Final = 8192
# Of prompts in one step: engines' usual budget, after which even a busy one shows a token. (A
# client that reads slowly may hide them: so one request at a time goes there still.)


class RejectReason(StrEnum):
    """Why no replica may take the request; the value is a metric label and a header."""

    NEVER_FITS = "never-fits"
    SATURATED = "saturated"
    QUEUE_TIMEOUT = "queue-timeout"
    SHUTTING_DOWN = "shutting-down"
    NO_READY_REPLICA = "no-ready-replica"


class ClosedReason(StrEnum):
    """Why a replica does not take a request now; the value is a metric label."""

    NOT = "open"
    MEMORY = "memory"
    SLOTS = "slots"
    ADAPTERS = "adapters"
    PACE = "pace"
    PREFILL = "prefill"
    PROOF = "proof"


# Looked up once, not for every replica.
_OPEN: Final = ClosedReason.NOT
_MEMORY: Final = ClosedReason.MEMORY
_SLOTS: Final = ClosedReason.SLOTS
_ADAPTERS: Final = ClosedReason.ADAPTERS
_PACE: Final = ClosedReason.PACE
_PREFILL: Final = ClosedReason.PREFILL
_PROOF: Final = ClosedReason.PROOF


class AdmissionSettings:
    """What a pool admits by; never changed. A plain class: it is read for every replica.

    Every time that requests are given here is a share of the targets: engines that are ten times
    slower have targets that are ten times longer, and nothing else to set.
    """

    __slots__ = (
        "closed_seconds", "least_silent_seconds", "max_prefill_seconds", "miss_seconds",
        "stuck_seconds", "tpot_target_seconds", "trial_seconds", "ttft_target_seconds",
        "unproven_seconds", "watermark_ratio",
    )  # fmt: skip

    def __init__(
        self,
        *,
        watermark_ratio: float = 0.95,
        ttft_target_seconds: float = 1.0,
        tpot_target_seconds: float = 0.05,
        max_prefill_seconds: float | None = None,
    ) -> None:
        self.watermark_ratio = watermark_ratio
        """Projected KV use that an admission may reach, 0 to 1."""
        self.ttft_target_seconds = ttft_target_seconds
        self.tpot_target_seconds = tpot_target_seconds
        """The latency that answers are meant to have: what makes a replica full in time."""
        ttft = min(MAX_TTFT_SECONDS, ttft_target_seconds)
        tpot = min(MAX_TPOT_SECONDS, tpot_target_seconds)
        if max_prefill_seconds is None:
            max_prefill_seconds = MAX_PREFILL_RATIO * ttft
        self.max_prefill_seconds = max_prefill_seconds
        """Prompts that may wait at a replica: enough that its steps are full, little enough that
        what comes later and is more urgent does not wait behind them."""
        self.closed_seconds = CLOSED_RATIO * ttft
        """What waiting for a replica that is closed is worth: some prompts of some thousand tokens.
        When the one that has the prefix is busy for a moment, waiting for it is cheaper than
        computing it again elsewhere."""
        self.miss_seconds = MISS_RATIO * ttft
        """What a first token in time is worth: with no time left to wait for the cheapest replica,
        a request takes another that costs less than this more. Beyond, it would take from many
        what it gains itself: a long prefix computed twice is held twice, too."""
        self.stuck_seconds = max(MIN_STUCK_SECONDS, STUCK_RATIO * ttft)
        """A replica that shows nothing for so long hangs."""
        self.trial_seconds = max(MIN_TRIAL_SECONDS, TRIAL_RATIO * ttft)
        """The same for one on trial: its request can still be in time elsewhere."""
        self.unproven_seconds = UNPROVEN_STEPS * tpot
        self.least_silent_seconds = LEAST_SILENT_STEPS * tpot

    def reduced(self, ratio: float) -> "AdmissionSettings":
        """The same, for requests that have to leave room for others' (0 to 1 of each limit)."""
        return AdmissionSettings(
            watermark_ratio=ratio * self.watermark_ratio,
            ttft_target_seconds=self.ttft_target_seconds,
            tpot_target_seconds=ratio * self.tpot_target_seconds,
            max_prefill_seconds=ratio * self.max_prefill_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Why not, in a sentence with numbers, and when to come back."""

    reason: RejectReason
    message: str
    retry_after_seconds: int | None
    """None when coming back will not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNow:
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


def reason_closed(
    ledger: ReplicaLedger,
    *,
    prompt_tokens: int,
    work_tokens: int,
    output_tokens: int,
    settings: AdmissionSettings,
    now_seconds: float,
) -> ClosedReason:
    """Why the replica does not take such a request now; ``NOT`` when it does.

    ``work_tokens``: of the prompt, what the replica would have to compute.
    """
    if not ledger.leases and not ledger.foreign_tokens and not ledger.num_pending:
        return _OPEN
    if ledger.num_pending:
        closed = _behind_others(ledger, settings, now_seconds)
        if closed is not _OPEN:
            return closed
    limit = ledger.running_limit
    if limit is not None and ledger.num_there >= limit:
        return _SLOTS
    if ledger.num_streams and _slows_others(ledger, work_tokens, settings):
        return _PACE
    capacity = ledger.capacity_tokens
    if capacity is not None:
        allowed = min(settings.watermark_ratio, ledger.ceiling_ratio) * capacity
        needed = ledger.needed_tokens(prompt_tokens, work_tokens)
        if (
            ledger.projected_tokens() + needed + output_tokens > allowed
            and ledger.projected_with(needed, output_tokens) > allowed
        ):
            return _MEMORY
    return _OPEN


def _behind_others(
    ledger: ReplicaLedger, settings: AdmissionSettings, now_seconds: float
) -> ClosedReason:
    """Whether the prompts that wait there are enough, or wait for longer than they should."""
    speed = ledger.speed
    queued = speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
    silent = now_seconds - ledger.progressed_at_seconds
    if silent > settings.unproven_seconds + queued and ledger.num_pending >= MAX_UNPROVEN:
        return _PROOF
    if ledger.num_shown and speed.mean_step_seconds > 0.0:
        step = speed.token_seconds * min(STEP_TOKENS, ledger.pending_tokens)
        steps = max(settings.least_silent_seconds, SILENT_STEPS * speed.mean_step_seconds)
        if silent > steps + step:
            return _PROOF
    queued -= now_seconds - speed.busy_since_seconds
    return _PREFILL if queued > settings.max_prefill_seconds else _OPEN


def _slows_others(ledger: ReplicaLedger, work_tokens: int, settings: AdmissionSettings) -> bool:
    """Whether the prompt would make the answers there slower than they may be."""
    speed = ledger.speed
    share = ledger.sum_inverse_expected_lengths / ledger.num_streams
    stall = speed.token_seconds * (ledger.pending_tokens + work_tokens)
    margin = min(MAX_PACE_MARGIN_RATIO, PACE_MARGIN_RATIO * math.sqrt(share))
    return speed.mean_step_seconds + stall * share > settings.tpot_target_seconds * (1 - margin)


def never_fits(profile: RequestProfile, replicas: Sequence[ReplicaLedger]) -> Reject:
    """The refusal of a request that no replica could ever hold. ``replicas``: not empty."""
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


def no_ready_replica() -> Reject:
    """The refusal where there is nobody to ask."""
    return Reject(
        reason=RejectReason.NO_READY_REPLICA,
        message="no replica of this model is ready",
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
    """What is said of a request that would fit, not now. ``closed``: replicas by reason."""
    told = []
    if ClosedReason.MEMORY in closed:
        shortfalls = [
            replica.projected_tokens()
            + profile.expected_tokens
            - min(settings.watermark_ratio, replica.ceiling_ratio) * replica.capacity_tokens
            for replica in replicas
            if replica.capacity_tokens is not None
        ]
        shortfall = math.ceil(max(1.0, min(shortfalls, default=1.0)))
        told.append(
            f"{closed[_MEMORY]} have no room in their KV cache (the emptiest is {shortfall} "
            f"tokens short under its watermark of {settings.watermark_ratio:.0%})"
        )
    if ClosedReason.SLOTS in closed:
        told.append(f"{closed[_SLOTS]} run as many requests as they do at once")
    if ClosedReason.ADAPTERS in closed:
        told.append(f"{closed[_ADAPTERS]} have no slot for its LoRA adapter")
    if ClosedReason.PACE in closed:
        target = 1e3 * settings.tpot_target_seconds
        told.append(f"{closed[_PACE]} would answer others slower than {target:.0f} ms/token")
    if ClosedReason.PREFILL in closed:
        told.append(
            f"{closed[_PREFILL]} have prompts for {settings.max_prefill_seconds:g} s waiting"
        )
    if ClosedReason.PROOF in closed:
        told.append(f"{closed[_PROOF]} have not answered of late")
    return NotNow(
        message=(
            f"the request is expected to hold {profile.expected_tokens} tokens; of "
            f"{len(replicas)} replica(s) {', '.join(told) or 'none takes it'}"
        ),
        expected_wait_seconds=expected_wait_seconds,
    )
