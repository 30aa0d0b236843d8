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

from memroute.footprint.request import RequestProfile
from memroute.pressure.reading import MAX_AGE_SECONDS, ReplicaReading


class Reservation:
    """Tokens that one request is expected to hold; its ledger alone changes it."""

    __slots__ = ("generated_tokens", "prompt_tokens", "reserved_tokens", "seen_tokens")

    def __init__(self, prompt_tokens: int, reserved_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.reserved_tokens = reserved_tokens
        self.generated_tokens = 0
        self.seen_tokens = 0
        """What of it the last scrape included."""


class ReplicaSnapshot:
    """What a decision knows of one replica; never changed, and made anew for most decisions."""

    __slots__ = (
        "capacity_tokens", "limit_tokens", "max_context_tokens", "num_in_flight",
        "projected_tokens", "read_at_seconds", "replica",
    )  # fmt: skip

    def __init__(
        self,
        *,
        replica: str,
        capacity_tokens: int | None,
        max_context_tokens: int | None,
        projected_tokens: int,
        num_in_flight: int,
        read_at_seconds: float | None,
    ) -> None:
        self.replica = replica
        self.capacity_tokens = capacity_tokens
        """Tokens that its KV cache holds; None when neither engine nor operator has said."""
        self.max_context_tokens = max_context_tokens
        self.projected_tokens = projected_tokens
        self.num_in_flight = num_in_flight
        """Requests that we hold a lease for."""
        self.read_at_seconds = read_at_seconds
        """When it was last read, on the reader's clock; None when it never was."""
        self.limit_tokens = capacity_tokens
        """The most that one request may hold; None when unknown."""
        if max_context_tokens is not None and (
            capacity_tokens is None or max_context_tokens < capacity_tokens
        ):
            self.limit_tokens = max_context_tokens

    def is_fresh(self, *, now_seconds: float) -> bool:
        """Whether its reading is recent enough to trust."""
        read_at = self.read_at_seconds
        return read_at is not None and now_seconds - read_at <= MAX_AGE_SECONDS

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
        self._promised_capacity_tokens = promised_capacity_tokens
        self._max_context_tokens = max_context_tokens
        self.reading: ReplicaReading | None = None
        self._leases: set[Reservation] = set()
        self._unseen_tokens = 0
        self._ended_tokens = 0
        self._snapshot: ReplicaSnapshot | None = None

    def promise(self, *, capacity_tokens: int | None, max_context_tokens: int | None) -> None:
        """What the operator says now; the engine's own word goes before it."""
        self._promised_capacity_tokens = capacity_tokens
        self._max_context_tokens = max_context_tokens
        self._snapshot = None

    @property
    def num_in_flight(self) -> int:
        """Leases that are held."""
        return len(self._leases)

    @property
    def reserved_tokens(self) -> int:
        """Tokens of all leases that are held, seen or not."""
        return sum(lease.reserved_tokens for lease in self._leases)

    @property
    def capacity_tokens(self) -> int | None:
        """Tokens that the KV cache holds: the engine's word, else the operator's."""
        if self.reading is not None and self.reading.kv_capacity_tokens is not None:
            return self.reading.kv_capacity_tokens
        return self._promised_capacity_tokens

    def reserve(self, profile: RequestProfile) -> Reservation:
        """Take a lease on the tokens that the request is expected to hold."""
        lease = Reservation(profile.num_prompt_tokens, profile.expected_tokens)
        self._leases.add(lease)
        self._unseen_tokens += lease.reserved_tokens
        self._snapshot = None
        return lease

    def progress(self, lease: Reservation, *, generated_tokens: int) -> None:
        """The answer has ``generated_tokens`` tokens by now; more than assumed grows the lease."""
        lease.generated_tokens = generated_tokens
        held = lease.prompt_tokens + generated_tokens
        if held > lease.reserved_tokens:
            self._unseen_tokens -= _unseen(lease)
            lease.reserved_tokens = held
            self._unseen_tokens += _unseen(lease)
            self._snapshot = None

    def release(self, lease: Reservation) -> int:
        """Give the lease back; returns the tokens it held at its end.

        Raises ``KeyError`` when it was given back before: that is a bug of the caller.
        """
        self._leases.remove(lease)
        self._unseen_tokens -= _unseen(lease)
        self._ended_tokens += lease.seen_tokens
        self._snapshot = None
        return lease.prompt_tokens + lease.generated_tokens

    def apply_reading(self, reading: ReplicaReading) -> None:
        """Take a new reading: from here on it includes every lease that has answered."""
        self.reading = reading
        self._ended_tokens = 0
        self._unseen_tokens = 0
        self._snapshot = None
        for lease in self._leases:
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

    def snapshot(self) -> ReplicaSnapshot:
        """What a decision may know; the same object until something changes."""
        snapshot = self._snapshot
        if snapshot is None:
            snapshot = self._snapshot = ReplicaSnapshot(
                replica=self.replica,
                capacity_tokens=self.capacity_tokens,
                max_context_tokens=self._max_context_tokens,
                projected_tokens=self.projected_tokens(),
                num_in_flight=len(self._leases),
                read_at_seconds=None if self.reading is None else self.reading.taken_at_seconds,
            )
        return snapshot


def _unseen(lease: Reservation) -> int:
    return max(0, lease.reserved_tokens - lease.seen_tokens)
