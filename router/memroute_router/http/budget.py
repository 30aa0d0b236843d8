"""What the router holds of clients' bytes in all, over all connections.

| counted | from | until |
| --- | --- | --- |
| a body | its first byte | the first byte of the answer, after which no other replica gets it |
| a head, where it is large or is not whole | it is known to be | likewise |
| what waits behind another request of its connection, with its head | it is whole | likewise |
| what a slow client has not taken of its answer | its engine is not read | it has caught up |
| what has come of a long event of a stream | it is long | its end |

Small bodies have a tenth for themselves, so that a few clients with large ones do not turn away
everybody. Requests that do not come to an end, or wait behind another one, make room for others,
whatever has been so for longest first. So requests that come at once are answered.

An answer that its client takes slowly waits in the buffer of its connection. Up to a mark (16 KiB)
that is not looked at: nothing is counted for each event. Past it the engine is no longer read, and
what waits is counted here until the client has caught up; what was counted leaves less room for
bodies. Where it is half of all, the connection that has been slow for longest is broken off.
"""

from typing import Final, Protocol

from memroute_router.http.deadlines import monotonic

# Bodies up to here are small. Unit: bytes. Source: chosen by hand; a long conversation as text.
SMALL_BYTES: Final = 64 * 1024
# Part of the budget that large bodies may take. Unit: ratio. Source: chosen by hand.
LARGE_RATIO: Final = 0.9
# Part of the budget that answers may hold which clients do not take. Unit: ratio. Source: chosen by
# hand: slow clients alone turn nobody's body away.
UNSENT_RATIO: Final = 0.5
# Who has been slow for so long makes room for others. Unit: seconds. Source: chosen by hand; a body
# of 10 MB comes in one over a gigabit.
SLOW_SECONDS: Final = 1.0


class SlowHolder(Protocol):
    """A connection that holds bytes of a request which is not whole, or not answered next."""

    def give_up(self) -> None:
        """Give back what is held for the client, now, and tell it. Does not raise."""
        ...


class BodyBudget:
    """Owns the count of bytes that are held, and the order in which slow clients give them up."""

    __slots__ = (
        "_max_bytes", "_max_large_bytes", "_max_unsent_bytes", "_slow", "_slow_seconds",
        "held_bytes", "num_refused", "unsent_bytes",
    )  # fmt: skip

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_large_bytes = int(LARGE_RATIO * max_bytes)
        self._max_unsent_bytes = int(UNSENT_RATIO * max_bytes)
        self._slow_seconds = SLOW_SECONDS
        self._slow: dict[SlowHolder, float] = {}
        """Since when, the slowest first."""
        self.held_bytes = 0
        """Of requests and of answers."""
        self.unsent_bytes = 0
        """Of answers, where their clients are slow."""
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

    @property
    def is_unsent_over(self) -> bool:
        """Whether answers that clients do not take hold more than they may."""
        return self.unsent_bytes > self._max_unsent_bytes

    def add_unsent(self, num_bytes: int) -> None:
        """So many bytes of answers more wait for their clients; less, where it is negative."""
        self.unsent_bytes += num_bytes
        self.held_bytes += num_bytes

    def slow(self, holder: SlowHolder) -> None:
        """The client has not sent all of a request, or has sent one before it was answered."""
        if holder not in self._slow:
            self._slow[holder] = monotonic()

    def not_slow(self, holder: SlowHolder) -> None:
        """It has now, or was answered, or has gone."""
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


class SlowConnection(Protocol):
    """One whose client does not take its answer."""

    def abort(self) -> None:
        """Close at once."""
        ...


class UnsentAnswers:
    """Owns which connections have answers that wait for their clients, and how many bytes each."""

    __slots__ = ("_budget", "_patience_seconds", "_since", "waiting")

    def __init__(self, budget: BodyBudget, *, patience_seconds: float = 0.0) -> None:
        """``patience_seconds``: nobody is broken off who has waited for less."""
        self._budget = budget
        self._patience_seconds = patience_seconds
        self._since: dict[SlowConnection, float] = {}
        self.waiting: dict[SlowConnection, int] = {}
        """The one that is slow for longest first."""

    def wait(self, connection: SlowConnection, num_bytes: int) -> int:
        """So much waits for its client, where its engine is not read: it grows little.

        Returns how many connections were broken off to make room; it may be one of them.
        """
        before = self.waiting.get(connection, 0)
        self.waiting[connection] = num_bytes
        if not before:
            self._since[connection] = monotonic()
        self._budget.add_unsent(num_bytes - before)
        num_broken = 0
        while self._budget.is_unsent_over and self.waiting:
            slowest = next(iter(self.waiting))
            if self._since[slowest] > monotonic() - self._patience_seconds:
                break  # not for long enough, nor are those behind it
            self.taken(slowest)
            slowest.abort()
            num_broken += 1
        return num_broken

    def taken(self, connection: SlowConnection) -> None:
        """Nothing of its answer waits any more; nothing happens where nothing did."""
        num_bytes = self.waiting.pop(connection, 0)
        if num_bytes:
            del self._since[connection]
            self._budget.add_unsent(-num_bytes)
