"""Whether a replica hangs: prompts wait there, and nothing comes back.

Answers that are not streamed show nothing until they end: with one of them there, only an engine
that reports how much it computes can be told to hang.
"""

from typing import Final

from memroute.traffic.admission.policy import AdmissionSettings
from memroute.traffic.replica.ledger import ReplicaLedger

LATE_RATIO: Final = 4.0
# Silent for so many times what the prompts that wait there should take.
UNKNOWN_SPEED_RATIO: Final = 6.0
# So much longer than usual where nobody knows yet how fast such engines are: the first request of
# an engine that compiles takes half a minute.


def hangs(
    ledger: ReplicaLedger,
    *,
    settings: AdmissionSettings,
    is_on_trial: bool,
    now_seconds: float,
) -> bool:
    """Whether what waits there should go elsewhere.

    ``is_on_trial``: it has failed of late, and a request finds out whether it is back.
    """
    if not ledger.num_own_pending:
        return False
    are_streams = ledger.has_streams_only
    if not are_streams and not ledger.tells_life:
        return False
    patience = settings.trial_seconds if is_on_trial and are_streams else settings.stuck_seconds
    if not ledger.speed.is_known:
        patience = UNKNOWN_SPEED_RATIO * settings.stuck_seconds
    expected = ledger.speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
    return ledger.silent_seconds(now_seconds) > max(patience, LATE_RATIO * expected)
