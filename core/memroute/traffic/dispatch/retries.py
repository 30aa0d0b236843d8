"""How often one request may be tried, and how many retries there may be in all.

Without a bound, a fleet that cannot bear its load would get up to ``max_attempts`` times as much.
"""

from typing import Final

# Retries that each new request pays for.
# Unit: retries per request. Source: Envoy's retry budget, 20 %.
RETRIES_PER_REQUEST: Final = 0.2
# Retries that are allowed in any case, so that a quiet router can retry at all.
# Unit: retries per second. Source: chosen by hand.
MIN_RETRIES_PER_SECOND: Final = 10.0
# Retries that may be saved up: a replica that dies with a hundred requests in prefill loses none
# of them.
# Unit: retries. Source: chosen by hand.
MAX_SAVED: Final = 100.0


class RetryRule:
    """Attempts per request, and the budget for retries. The caller brings the clock."""

    def __init__(self, max_attempts: int) -> None:
        """``max_attempts``: replicas that one request may be sent to, at least 1."""
        self.max_attempts = max_attempts
        self._balance = MAX_SAVED
        self._updated_at_seconds = 0.0

    def asked(self) -> None:
        """A new request has come."""
        if self._balance < MAX_SAVED:
            self._balance += RETRIES_PER_REQUEST

    def may_retry(self, *, num_attempts: int, now_seconds: float) -> bool:
        """Whether a request that has failed ``num_attempts`` times may be tried again.

        If so, the retry is taken from the budget.
        """
        if num_attempts >= self.max_attempts:
            return False
        elapsed = max(0.0, now_seconds - self._updated_at_seconds)
        self._updated_at_seconds = now_seconds
        self._balance = min(MAX_SAVED, self._balance + elapsed * MIN_RETRIES_PER_SECOND)
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
