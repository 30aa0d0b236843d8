"""What bodies of requests, and answers that clients do not take, may hold in all.

A body is counted from its first byte until nobody needs it: until the first byte of the answer,
after which no other replica gets it. Small bodies have a tenth for themselves, so that a few
clients with large ones, or slow ones, do not turn away everybody.

An answer that its client takes slowly waits in the buffer of its connection. Up to a mark (64 KiB)
that is not looked at: nothing is counted for each event. Past it the engine is no longer read, and
what waits is counted here until the client has caught up; what was counted leaves less room for
bodies. Where it is half of all, the connection that has been slow for longest is broken off.
"""

from typing import Final, Protocol

# Bodies up to here are small. Unit: bytes. Source: chosen by hand; a long conversation as text.
SMALL_BYTES: Final = 64 * 1024
# Part of the budget that large bodies may take. Unit: ratio. Source: chosen by hand.
LARGE_RATIO: Final = 0.9
# Part of the budget that answers may hold which clients do not take. Unit: ratio. Source: chosen by
# hand: slow clients alone turn nobody's body away.
UNSENT_RATIO: Final = 0.5


class BodyBudget:
    """Owns the count of bytes that bodies hold, and answers that clients do not take."""

    __slots__ = (
        "_max_bytes", "_max_large_bytes", "_max_unsent_bytes", "held_bytes", "num_refused",
        "unsent_bytes",
    )  # fmt: skip

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_large_bytes = int(LARGE_RATIO * max_bytes)
        self._max_unsent_bytes = int(UNSENT_RATIO * max_bytes)
        self.held_bytes = 0
        """Of both."""
        self.unsent_bytes = 0
        """Of answers, where their clients are slow."""
        self.num_refused = 0
        """Requests that were turned away."""

    def take(self, num_bytes: int, body_bytes: int) -> bool:
        """Count ``num_bytes`` more of a body that has ``body_bytes`` with them; False: no room."""
        held = self.held_bytes + num_bytes
        if held > (self._max_bytes if body_bytes <= SMALL_BYTES else self._max_large_bytes):
            self.num_refused += 1
            return False
        self.held_bytes = held
        return True

    @property
    def is_unsent_over(self) -> bool:
        """Whether answers that clients do not take hold more than they may."""
        return self.unsent_bytes > self._max_unsent_bytes

    def add_unsent(self, num_bytes: int) -> None:
        """So many bytes of answers more wait for their clients; less, where it is negative."""
        self.unsent_bytes += num_bytes
        self.held_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Nobody needs so many bytes any more."""
        self.held_bytes -= num_bytes


class SlowConnection(Protocol):
    """One whose client does not take its answer."""

    def abort(self) -> None:
        """Close at once."""
        ...


class UnsentAnswers:
    """Owns which connections have answers that wait for their clients, and how many bytes each."""

    __slots__ = ("_budget", "waiting")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.waiting: dict[SlowConnection, int] = {}
        """The one that is slow for longest first."""

    def wait(self, connection: SlowConnection, num_bytes: int) -> int:
        """So much waits for its client, and grows no more: its engine is not read.

        Returns how many connections were broken off to make room; it may be one of them.
        """
        self.waiting[connection] = num_bytes
        self._budget.add_unsent(num_bytes)
        num_broken = 0
        while self._budget.is_unsent_over and self.waiting:
            slowest = next(iter(self.waiting))
            self.taken(slowest)
            slowest.abort()
            num_broken += 1
        return num_broken

    def taken(self, connection: SlowConnection) -> None:
        """Nothing of its answer waits any more; nothing happens where nothing did."""
        num_bytes = self.waiting.pop(connection, 0)
        if num_bytes:
            self._budget.add_unsent(-num_bytes)
