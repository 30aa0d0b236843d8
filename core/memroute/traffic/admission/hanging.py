"""Whether a replica hangs: requests of this router are there, and nothing comes back.

A stream that waits for its first token shows the hang by itself. An answer that is not streamed
shows nothing until it ends, so one more sign is needed. Either the engine's own counters of
computed tokens stand still over readings that still come, or the answer should have ended long ago.
"""

from typing import Final

from memroute.traffic.admission.settings import AdmissionSettings
from memroute.traffic.replica.ledger import ReplicaLedger

# Silence, over what the prompts that wait there should take, from which on a replica hangs.
# Unit: ratio. Source: chosen by hand.
LATE_RATIO: Final = 4.0
# Patience over the usual one where the engine's speed is unknown: the first request of an engine
# that compiles takes half a minute.
# Unit: ratio. Source: chosen by hand.
UNKNOWN_SPEED_RATIO: Final = 6.0
# Length, over the expected one, that a whole answer without a limit may have.
# Unit: ratio. Source: chosen by hand.
LONGEST_RATIO: Final = 8.0


def hangs(
    ledger: ReplicaLedger,
    *,
    settings: AdmissionSettings,
    is_on_trial: bool,
    now_seconds: float,
) -> bool:
    """Whether the unanswered requests at the replica should go elsewhere.

    ``is_on_trial``: the replica has failed lately, and one request finds out whether it is back.
    """
    silent = ledger.silent_seconds(now_seconds)
    if silent <= 0.0:
        return False
    are_streams = ledger.has_streams_only
    patience = settings.trial_seconds if is_on_trial and are_streams else settings.stuck_seconds
    if not ledger.speed.is_known:
        patience = UNKNOWN_SPEED_RATIO * settings.stuck_seconds
    expected = ledger.speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
    patience = max(patience, LATE_RATIO * expected)
    if silent <= patience:
        return False
    if are_streams:
        return any(lease.is_pending for lease in ledger.leases)
    if ledger.tells_life:
        # Only counters that were read since then are a sign: a scrape that fails says nothing.
        since = now_seconds - silent
        if ledger.read_at_seconds - since > patience:
            return True
    return silent > patience + LATE_RATIO * _longest_answer_seconds(ledger, settings)


def _longest_answer_seconds(ledger: ReplicaLedger, settings: AdmissionSettings) -> float:
    """Seconds that the longest unanswered request may take to end, by what is known of lengths."""
    tick = ledger.steps.mean_seconds or ledger.steps.reported_seconds
    if tick <= 0.0:
        tick = settings.tpot_target_seconds
    longest = 0
    for lease in ledger.unanswered:
        limit = lease.profile.max_output_tokens
        each = int(LONGEST_RATIO * lease.expected_output_tokens / lease.num_sequences)
        longest = max(longest, each if limit is None else min(limit, each))
    return tick * longest
