"""A listener for what this router sends to a replica, and how that ends."""

from memroute.traffic.replica.decoding import Reservation


class LeaseObserver:
    """Called for every request of this router; this base class does nothing."""

    def sent(self, replica: str, lease: Reservation) -> None:
        """A request was sent to the replica."""

    def answered(self, lease: Reservation, *, is_seen: bool) -> None:
        """The first token has come; ``is_seen``: its time was seen, not only expected."""

    def ended(self, lease: Reservation, *, held_tokens: int, is_complete: bool) -> None:
        """The request has left the replica, where it held ``held_tokens``."""
