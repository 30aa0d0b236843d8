"""What bodies of requests may hold in all, over all connections.

A body is counted from its first byte until nobody needs it: until the first byte of the answer,
after which no other replica gets it. Small bodies have a tenth for themselves, so that a few
clients with large ones, or slow ones, do not turn away everybody.
"""

from typing import Final

# Bodies up to here are small. Unit: bytes. Source: chosen by hand; a long conversation as text.
SMALL_BYTES: Final = 64 * 1024
# Part of the budget that large bodies may take. Unit: ratio. Source: chosen by hand.
LARGE_RATIO: Final = 0.9


class BodyBudget:
    """Owns the count of bytes that bodies hold."""

    __slots__ = ("_max_bytes", "_max_large_bytes", "held_bytes", "num_refused")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_large_bytes = int(LARGE_RATIO * max_bytes)
        self.held_bytes = 0
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

    def give_back(self, num_bytes: int) -> None:
        """Nobody needs so many bytes any more."""
        self.held_bytes -= num_bytes
