"""How many streams of a connection may come to nothing: rapid resets (CVE-2023-44487) are bounded.

A client that resets each stream as soon as it has begun it is never over the number of streams that
it may have at once, and has as much done for it as its line can carry. Such streams use up an
allowance; time and streams that were answered earn it again. So the bound is no gateway's whose
clients leave: a thousand of them at once, or one of two, or any that have waited.

| a stream uses it up when | |
| --- | --- |
| its client resets it within a second, and nothing was said to it yet | rapid reset |
| a frame of its client has us reset it, likewise | the same by another hand (CVE-2025-8671) |
| it is one more than there may be at once | there is no end of them either |
"""

from typing import Final

# A stream that has lived for longer is none of these: of such there are no more, each second, than
# there may be at once. Unit: seconds. Source: Envoy's ``premature_reset_min_stream_lifetime``.
EARLY_SECONDS: Final = 1.0
# What is earned again by time alone. Unit: streams per second. Source: chosen by hand, three times
# nghttp2's 33: 3 % of a core at 0.3 ms each, interpreted, with the whole request before its reset.
EARNED_PER_SECOND: Final = 100.0
# Of the allowance, where a connection may have few streams. Unit: streams. Source: nghttp2's burst.
MIN_ALLOWANCE: Final = 1000


class Waste:
    """The account of one connection. Owns how much of its allowance is used."""

    __slots__ = ("_allowance", "_at_seconds", "_used", "num_answered")

    def __init__(self, max_calls: int, *, now_seconds: float) -> None:
        """``max_calls``: that may be open at once: all of them may be left at once, honestly."""
        self._allowance = float(max(MIN_ALLOWANCE, max_calls))
        self._used = 0.0
        self._at_seconds = now_seconds
        self.num_answered = 0
        """Streams that were answered since the last that came to nothing."""

    def one_more(self, *, now_seconds: float) -> float:
        """Count one; how much of the allowance is used, as a ratio: 1 is all of it."""
        earned = (now_seconds - self._at_seconds) * EARNED_PER_SECOND + self.num_answered
        self._at_seconds = now_seconds
        self.num_answered = 0
        self._used = max(0.0, self._used - earned) + 1.0
        return self._used / self._allowance
