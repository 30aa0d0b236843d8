"""What the router holds of clients' bytes in all, over all connections.

| counted | from | until |
| --- | --- | --- |
| a body | its first byte | the first byte of the answer, after which no other replica gets it |
| a head, where it is large or is not whole | it is known to be | likewise |
| what waits behind another request of its connection, with its head | it is whole | likewise |
| what a slow client has not taken of its answer | it is slow | it has caught up |
| what has come of a long event of a stream | it is long | its end |

Small bodies have a tenth for themselves, so that a few clients with large ones do not turn away
everybody. What is held for slow clients makes room for others: first of all for whoever has been
slow for longest. So requests that come at once are answered, however many others never come to an
end.
"""

from typing import Final, Protocol

from memroute_router.http.deadlines import monotonic

# Bodies up to here are small. Unit: bytes. Source: chosen by hand; a long conversation as text.
SMALL_BYTES: Final = 64 * 1024
# Part of the budget that large bodies may take. Unit: ratio. Source: chosen by hand.
LARGE_RATIO: Final = 0.9
# Who has been slow for so long makes room for others. Unit: seconds. Source: chosen by hand; a body
# of 10 MB comes in one over a gigabit.
SLOW_SECONDS: Final = 1.0


class SlowHolder(Protocol):
    """A connection that holds bytes, and whose client is slow to send or to take them."""

    def give_up(self) -> None:
        """Give back what is held for the client, now, and tell it. Does not raise."""
        ...


class BodyBudget:
    """Owns the count of bytes that are held, and the order in which slow clients give them up."""

    __slots__ = (
        "_max_bytes", "_max_large_bytes", "_slow", "_slow_seconds", "held_bytes", "num_refused",
    )  # fmt: skip

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_large_bytes = int(LARGE_RATIO * max_bytes)
        self._slow_seconds = SLOW_SECONDS
        self._slow: dict[SlowHolder, float] = {}
        """Since when, the slowest first."""
        self.held_bytes = 0
        self.num_refused = 0
        """Requests that were turned away."""

    def take(self, num_bytes: int, body_bytes: int) -> bool:
        """Count ``num_bytes`` more of a body that has ``body_bytes`` with them; False: no room."""
        most = self._max_bytes if body_bytes <= SMALL_BYTES else self._max_large_bytes
        if self.held_bytes + num_bytes > most and not self._has_made_room(most - num_bytes):
            self.num_refused += 1
            return False
        self.held_bytes += num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        """Nobody needs so many bytes any more."""
        self.held_bytes -= num_bytes

    def slow(self, holder: SlowHolder) -> None:
        """The client has not sent, or taken, all that it should have."""
        if holder not in self._slow:
            self._slow[holder] = monotonic()

    def not_slow(self, holder: SlowHolder) -> None:
        """It has now, or has gone."""
        self._slow.pop(holder, None)

    def _has_made_room(self, most: int) -> bool:
        """Whether no more than ``most`` bytes are held, once the slowest have given up theirs."""
        slow = self._slow
        latest = monotonic() - self._slow_seconds
        while self.held_bytes > most and slow:
            first = next(iter(slow))
            if slow[first] > latest:
                break  # not for long enough, nor are those behind it
            del slow[first]
            first.give_up()
        return self.held_bytes <= most
