"""What other routers say they have sent to one replica: waiting there, or seen by no reading yet.

A scrape shows other routers' requests up to a scrape period late, and of their prompts that wait
only how many there are. What those routers say themselves is some milliseconds old:

```text
sent      its prompt waits there: counted beside our own, until
answered  its first token came: it holds its prompt, and counts as foreign until the first reading
          that can have seen it
ended     what it held is free, whatever the last reading says
```

Times are of the router that hears it, when it hears it: no two clocks are compared.
"""

from memroute.traffic.replica.decoding import Reservation


class PeerRequest:
    """One request of another router; the ledger of its replica alone changes it."""

    __slots__ = (
        "answered_at_seconds", "expected_output_tokens", "needed_tokens", "prompt_tokens",
        "sent_at_seconds", "work_tokens",
    )  # fmt: skip

    def __init__(
        self,
        *,
        prompt_tokens: int,
        work_tokens: int,
        expected_output_tokens: int,
        now_seconds: float,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.work_tokens = work_tokens
        """Of the prompt, what the replica has to compute."""
        self.needed_tokens = prompt_tokens
        """Of the prompt, what is not held there already by others that share it."""
        self.expected_output_tokens = expected_output_tokens
        self.sent_at_seconds = now_seconds
        self.answered_at_seconds = -1.0
        """When its first token came; -1 before."""

    @property
    def is_pending(self) -> bool:
        """Whether its prompt still waits or is computed."""
        return self.answered_at_seconds < 0


class LeaseObserver:
    """Who is told of what this router sends, and what becomes of it; does nothing by itself."""

    def sent(self, replica: str, lease: Reservation) -> None:
        """A request is on its way to the replica."""

    def answered(self, lease: Reservation, *, is_seen: bool) -> None:
        """Its first token has come; ``is_seen``: somebody saw when, it is not only expected."""

    def ended(self, lease: Reservation, *, held_tokens: int, is_complete: bool) -> None:
        """It has left the replica, where it held so many tokens."""
