"""How many retries there may be: a fifth of all requests, and ten per second in any case.

Without a bound a fleet that is short of room gets up to three times the load it cannot bear.
"""

RETRIES_PER_REQUEST = 0.2
MIN_RETRIES_PER_SECOND = 10.0
MAX_SAVED = 100.0
# A replica that dies with a hundred requests in prefill loses none of them.


class RetryBudget:
    """Tokens that retries are paid with. Owns its balance; the caller brings the clock."""

    def __init__(self) -> None:
        self._balance = MAX_SAVED
        self._updated_at_seconds = 0.0

    def request(self) -> None:
        """A new request has come."""
        if self._balance < MAX_SAVED:
            self._balance += RETRIES_PER_REQUEST

    def spend(self, *, now_seconds: float) -> bool:
        """Whether one more retry may be made; it is paid for if so."""
        elapsed = max(0.0, now_seconds - self._updated_at_seconds)
        self._updated_at_seconds = now_seconds
        self._balance = min(MAX_SAVED, self._balance + elapsed * MIN_RETRIES_PER_SECOND)
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
