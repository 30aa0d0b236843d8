"""Who hears of what this router sends to a replica, and what becomes of it."""

from memroute.traffic.replica.decoding import Reservation


class LeaseObserver:
    """Told of every request of this router; does nothing by itself."""

    def sent(self, replica: str, lease: Reservation) -> None:
        """A request is on its way to the replica."""

    def answered(self, lease: Reservation, *, is_seen: bool) -> None:
        """Its first token has come; ``is_seen``: somebody saw when, it is not only expected."""

    def ended(self, lease: Reservation, *, held_tokens: int, is_complete: bool) -> None:
        """It has left the replica, where it held so many tokens."""
