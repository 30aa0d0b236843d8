"""What one replica holds: measured at the last scrape, and reserved since.

The two are kept apart and combined only when a decision is made:

```text
projected = measured at the scrape - what ended since
          + sum over leases of (reserved - what of it the scrape has seen)
```

A lease that had produced its first token by the time of a scrape is seen with its prompt and
the tokens so far; one that had not is taken as unseen, which errs towards counting a prefill
in progress twice rather than never.
"""

from dataclasses import dataclass

from memroute.footprint import RequestProfile
from memroute.pressure.reading import MAX_AGE_SECONDS, ReplicaReading


@dataclass(slots=True, kw_only=True)
class _Lease:
    prompt_tokens: int
    reserved_tokens: int
    generated_tokens: int = 0
    seen_tokens: int = 0
    """What of it the last scrape included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSnapshot:
    """What a decision knows of one replica."""

    replica: str
    capacity_tokens: int | None
    """Tokens that its KV cache holds; None when neither engine nor operator has said."""
    max_context_tokens: int | None
    projected_tokens: int
    num_in_flight: int
    """Requests that we hold a lease for."""
    reading_age_seconds: float | None
    """None when it was never read."""

    @property
    def is_fresh(self) -> bool:
        """Whether its reading is recent enough to trust."""
        return self.reading_age_seconds is not None and self.reading_age_seconds <= MAX_AGE_SECONDS

    def projected_ratio(self, additional_tokens: int = 0) -> float | None:
        """Projected KV use, 0 to 1 and above, once ``additional_tokens`` are added."""
        if not self.capacity_tokens:
            return None
        return (self.projected_tokens + additional_tokens) / self.capacity_tokens


class ReplicaLedger:
    """The leases and the last reading of one replica. Owns both."""

    def __init__(
        self,
        replica: str,
        *,
        promised_capacity_tokens: int | None = None,
        max_context_tokens: int | None = None,
    ) -> None:
        """``promised_capacity_tokens``: what the operator expects, used until the engine says."""
        self.replica = replica
        self.promised_capacity_tokens = promised_capacity_tokens
        self.max_context_tokens = max_context_tokens
        self.reading: ReplicaReading | None = None
        self._leases: dict[int, _Lease] = {}
        self._next_lease_id = 0
        self._unseen_tokens = 0
        self._ended_tokens = 0

    @property
    def num_in_flight(self) -> int:
        """Leases that are held."""
        return len(self._leases)

    @property
    def reserved_tokens(self) -> int:
        """Tokens of all leases that are held, seen or not."""
        return sum(lease.reserved_tokens for lease in self._leases.values())

    @property
    def capacity_tokens(self) -> int | None:
        """Tokens that the KV cache holds: the engine's word, else the operator's."""
        if self.reading is not None and self.reading.kv_capacity_tokens is not None:
            return self.reading.kv_capacity_tokens
        return self.promised_capacity_tokens

    def reserve(self, profile: RequestProfile) -> int:
        """Take a lease on the tokens that the request is expected to hold; returns its id."""
        lease_id = self._next_lease_id
        self._next_lease_id += 1
        lease = _Lease(
            prompt_tokens=profile.num_prompt_tokens, reserved_tokens=profile.expected_tokens
        )
        self._leases[lease_id] = lease
        self._unseen_tokens += lease.reserved_tokens
        return lease_id

    def progress(self, lease_id: int, *, generated_tokens: int) -> None:
        """The answer has ``generated_tokens`` tokens by now; more than assumed grows the lease."""
        lease = self._leases[lease_id]
        lease.generated_tokens = generated_tokens
        held = lease.prompt_tokens + generated_tokens
        if held > lease.reserved_tokens:
            self._unseen_tokens -= _unseen(lease)
            lease.reserved_tokens = held
            self._unseen_tokens += _unseen(lease)

    def release(self, lease_id: int) -> int:
        """Give the lease back; returns the tokens it held at its end.

        Raises ``KeyError`` when it was given back before: that is a bug of the caller.
        """
        lease = self._leases.pop(lease_id)
        self._unseen_tokens -= _unseen(lease)
        self._ended_tokens += lease.seen_tokens
        return lease.prompt_tokens + lease.generated_tokens

    def apply_reading(self, reading: ReplicaReading) -> None:
        """Take a new reading: from here on it includes every lease that has answered."""
        self.reading = reading
        self._ended_tokens = 0
        self._unseen_tokens = 0
        for lease in self._leases.values():
            if lease.generated_tokens:
                lease.seen_tokens = lease.prompt_tokens + lease.generated_tokens
            self._unseen_tokens += _unseen(lease)

    def projected_tokens(self) -> int:
        """Tokens that the KV cache will hold once everything reserved has grown."""
        measured = 0
        reading = self.reading
        if reading is not None and reading.kv_cache_utilization_ratio is not None:
            measured = int(reading.kv_cache_utilization_ratio * (self.capacity_tokens or 0))
        return max(0, measured - self._ended_tokens) + self._unseen_tokens

    def snapshot(self, *, now_seconds: float) -> ReplicaSnapshot:
        """What a decision may know, at ``now_seconds`` of the reader's clock."""
        age = None if self.reading is None else now_seconds - self.reading.taken_at_seconds
        return ReplicaSnapshot(
            replica=self.replica,
            capacity_tokens=self.capacity_tokens,
            max_context_tokens=self.max_context_tokens,
            projected_tokens=self.projected_tokens(),
            num_in_flight=len(self._leases),
            reading_age_seconds=age,
        )


def _unseen(lease: _Lease) -> int:
    return max(0, lease.reserved_tokens - lease.seen_tokens)
