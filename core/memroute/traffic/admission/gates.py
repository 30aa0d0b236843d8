"""Whether a replica takes a request now: one gate for each reason not to, in order.

An idle replica takes any request that it can hold: waiting would not make more room. A replica with
work of its own is open to a request unless a gate closes it. The first gate that does names the
reason. The reason is a metric label, a clause of the refusal's sentence, and a row of the table in
docs/explanation/routing.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from memroute.traffic.admission.settings import (
    FLOOR_RATIO,
    MAX_PACE_MARGIN_RATIO,
    PACE_MARGIN_RATIO,
    AdmissionSettings,
)
from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.replica.own_requests import SILENT_EVENTS
from memroute.traffic.replica.requests_there import STEP_TOKENS

# Requests that a replica gets which has not answered of late: they find out whether it lives.
# Unit: requests. Source: chosen by hand.
MAX_UNPROVEN: Final = 4
# How long a router holds a replica to the target before it knows what the replica does alone. Where
# peers' prompts leave no gap between them, it would never know.
# Unit: seconds. Source: chosen by hand.
MAX_UNKNOWN_SECONDS: Final = 5.0


class ClosedReason(StrEnum):
    """Why a replica does not take a request now; the value is a metric label."""

    PROOF = "proof"
    PREFILL = "prefill"
    SLOTS = "slots"
    PACE = "pace"
    MEMORY = "memory"
    ADAPTERS = "adapters"


# Looked up once, not for every replica.
_PROOF: Final = ClosedReason.PROOF
_PREFILL: Final = ClosedReason.PREFILL
_SLOTS: Final = ClosedReason.SLOTS
_PACE: Final = ClosedReason.PACE
_MEMORY: Final = ClosedReason.MEMORY


def reason_closed(
    ledger: ReplicaLedger,
    *,
    prompt_tokens: int,
    work_tokens: int,
    output_tokens: int,
    settings: AdmissionSettings,
    now_seconds: float,
    num_sequences: int = 1,
) -> ClosedReason | None:
    """Why the replica does not take such a request now; None when it does.

    ``work_tokens``: of the prompt, what the replica would have to compute. ``output_tokens``: of
    all its ``num_sequences`` together. (Adapters are looked at where the cost is: ``shortlist``.)
    """
    if ledger.is_idle:
        return None
    closed: ClosedReason | None = None
    if ledger.num_pending and _is_unproven(ledger, settings, now_seconds):
        closed = _PROOF
    elif ledger.num_pending and _has_prompts_enough(ledger, settings, now_seconds):
        closed = _PREFILL
    elif _has_no_slot(ledger):
        closed = _SLOTS
    elif ledger.num_streams and _slows_others(ledger, work_tokens, settings, now_seconds):
        closed = _PACE
    elif _has_no_memory(ledger, prompt_tokens, work_tokens, output_tokens, num_sequences, settings):
        closed = _MEMORY
    return closed


def _is_unproven(ledger: ReplicaLedger, settings: AdmissionSettings, now_seconds: float) -> bool:
    """Whether the replica has not answered for longer than it should take.

    Enough requests are there to find out whether it lives: one more would add nothing.
    """
    speed = ledger.speed
    silent = now_seconds - ledger.progressed_at_seconds
    event = ledger.event_seconds
    if ledger.num_pending >= MAX_UNPROVEN:
        queued = speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
        if silent > max(settings.unproven_seconds, SILENT_EVENTS * event) + queued:
            return True
    if ledger.num_shown and event > 0.0:
        step = speed.token_seconds * min(STEP_TOKENS, ledger.pending_tokens)
        return silent > max(settings.least_silent_seconds, SILENT_EVENTS * event) + step
    return False


def _has_prompts_enough(
    ledger: ReplicaLedger, settings: AdmissionSettings, now_seconds: float
) -> bool:
    """Whether the prompts that wait at the replica keep it busy for long enough already.

    Requests that wait in the router can still be put in order and go elsewhere. Requests that wait
    in an engine cannot.
    """
    speed = ledger.speed
    queued = speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
    return queued - (now_seconds - speed.busy_since_seconds) > settings.max_prefill_seconds


def _has_no_slot(ledger: ReplicaLedger) -> bool:
    """Whether the engine runs as many requests as it ever does at once, whatever its memory."""
    limit = ledger.limits.running_limit
    return limit is not None and ledger.num_there >= limit


def _slows_others(
    ledger: ReplicaLedger, work_tokens: int, settings: AdmissionSettings, now_seconds: float
) -> bool:
    """Whether the prompt would bring the time per token of the answers there over the target.

    ```text
    tick + a x (prompts that wait + its own) / length  >  max(target x (1 - margin), floor)
    ```

    The answers are those of all routers, by their reports. The seconds of a prompt are spread over
    all tokens of an answer, so short answers feel it first.

    The floor is ``FLOOR_RATIO`` times the time per token that the replica needs for one request
    alone, as slow as it is now: fewer requests make no throttled device faster. A replica that
    cannot meet the target is held to that floor instead. Until streams have shown a tick without a
    prompt, the replica is held to the target, for ``MAX_UNKNOWN_SECONDS`` at most: closed, it
    computes its prompts, and the next tick shows the floor. Where no answer is streamed, that may
    take a whole answer's time, so meanwhile the gate is open.
    """
    speed = ledger.speed
    share = ledger.sum_inverse_expected_lengths / ledger.num_streams
    coming = speed.token_seconds * (ledger.pending_tokens + work_tokens)
    tick = ledger.tick_seconds + coming * share
    margin = min(MAX_PACE_MARGIN_RATIO, PACE_MARGIN_RATIO * math.sqrt(share))
    if tick <= settings.tpot_target_seconds * (1 - margin):
        return False
    alone = ledger.steps.alone_now_seconds
    if alone is None:
        is_early = now_seconds - ledger.steps.led_since_seconds < MAX_UNKNOWN_SECONDS
        return is_early and ledger.leader is not None
    return tick > FLOOR_RATIO * alone


def _has_no_memory(
    ledger: ReplicaLedger,
    prompt_tokens: int,
    work_tokens: int,
    output_tokens: int,
    num_sequences: int,
    settings: AdmissionSettings,
) -> bool:
    """Whether projected KV use with the request would pass the watermark or the ceiling.

    The ceiling is what preemptions have taught (``LearnedLimits``).
    """
    capacity = ledger.capacity_tokens
    if capacity is None:
        return False
    allowed = min(settings.watermark_ratio, ledger.limits.ceiling_ratio) * capacity
    needed = ledger.needed_tokens(prompt_tokens, work_tokens)
    if ledger.projected_tokens() + needed + output_tokens <= allowed:
        return False
    each = output_tokens // num_sequences
    return ledger.projected_with(needed, each, num_sequences) > allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One reason in words: the row of the documentation, and a clause of a refusal's sentence."""

    reason: ClosedReason
    meaning: str
    """What such a replica does: "the replica …". docs/explanation/routing.md has the same words."""
    sentence: Callable[[int, AdmissionSettings], str]
    """The clause about this many replicas that are closed for this reason."""


GATES: Final = (
    Gate(
        reason=ClosedReason.PROOF,
        meaning=(
            "has unanswered requests and has sent nothing back for longer than they should take, "
            "so that it may hang"
        ),
        sentence=lambda count, _: f"{count} have not answered of late",
    ),
    Gate(
        reason=ClosedReason.PREFILL,
        meaning="has prompts waiting that take more than a quarter of the TTFT target to compute",
        sentence=lambda count, settings: (
            f"{count} have prompts for {settings.max_prefill_seconds:g} s waiting"
        ),
    ),
    Gate(
        reason=ClosedReason.SLOTS,
        meaning="runs as many requests as its engine ever runs at once",
        sentence=lambda count, _: f"{count} are at their concurrency limit",
    ),
    Gate(
        reason=ClosedReason.PACE,
        meaning=(
            "would answer slower per token than the TPOT target, and slower than twice what one "
            "request alone gets"
        ),
        sentence=lambda count, settings: (
            f"{count} would answer others slower than {1e3 * settings.tpot_target_seconds:.0f} "
            "ms/token"
        ),
    ),
    Gate(
        reason=ClosedReason.MEMORY,
        meaning=(
            "has no room in its KV cache: projected use would pass the watermark, or the ceiling "
            "that preemptions have set"
        ),
        sentence=lambda count, settings: (
            f"{count} have no room in their KV cache under the watermark of "
            f"{settings.watermark_ratio:.0%}"
        ),
    ),
    Gate(
        reason=ClosedReason.ADAPTERS,
        meaning=(
            "uses as many LoRA adapters as it can at once, and the one that is asked for is not "
            "among them"
        ),
        sentence=lambda count, _: f"{count} have no slot for its LoRA adapter",
    ),
)


def sentence(closed: dict[ClosedReason, int], settings: AdmissionSettings) -> str:
    """Why replicas are closed: a clause for each reason, in the order of the gates.

    ``closed``: replicas by reason.
    """
    return ", ".join(
        gate.sentence(closed[gate.reason], settings) for gate in GATES if gate.reason in closed
    )
