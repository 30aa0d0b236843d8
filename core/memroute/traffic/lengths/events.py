"""Tokens that one event of a streamed answer carries: learned, per pool.

It is one, unless the engine batches tokens into events (vLLM's and SGLang's ``--stream-interval``;
public recipes use 16 and 20) or speculates (EAGLE, MTP: two to four are accepted at once). Two
sources:

* ``usage``, where the client asks for it: the tokens of a streamed answer over its events. Exact.
* the engine's counters: tokens generated per running request, over the events of an answer that was
  read meanwhile. Off by 10 to 20 % (requests in prefill count as running), so this source counts
  only while no usage has come, and only well above one.

The first event carries the first token of its sequence alone, in every engine; the last one carries
what is left, half an event on average.
"""

from typing import Final

# Weight that a sample keeps with each later one: half after 69 others.
# Unit: ratio. Source: chosen by hand.
FORGET_RATIO: Final = 0.99
# Weight of the prior (one token per event): two answers of a token and part of an event outweigh
# it. A router that starts under load has few answers to learn from, and the shortest end first.
# Unit: events. Source: chosen by hand.
PRIOR_EVENTS: Final = 1.0
# Tokens per event from which on the engine's counters are believed: below, they are noise.
# Unit: tokens per event. Source: chosen by hand.
MIN_COUNTED_RATIO: Final = 1.6
# Most tokens that an event is taken to carry: no engine batches more, so beyond it something else
# is wrong.
# Unit: tokens per event. Source: a bound, chosen by hand.
MAX_TOKENS_PER_EVENT: Final = 256.0
# Fewest tokens that an event is taken to carry, likewise.
# Unit: tokens per event. Source: a bound, chosen by hand.
MIN_TOKENS_PER_EVENT: Final = 0.25


class TokensPerEvent:
    """Owns the sums of one pool; the same calls give the same ratio."""

    __slots__ = ("_counted_events", "_counted_tokens", "_events", "_tokens", "ratio")

    def __init__(self) -> None:
        self._tokens = self._events = PRIOR_EVENTS
        self._counted_tokens = self._counted_events = PRIOR_EVENTS
        self.ratio = 1.0
        """Tokens per event after the first, 0.25 to 256."""

    def observe(self, *, num_tokens: int, num_events: int, num_sequences: int) -> None:
        """A streamed answer of ``num_tokens`` (``usage``) came in ``num_events`` events."""
        more_tokens, more_events = num_tokens - num_sequences, num_events - num_sequences
        if more_tokens <= 0 or more_events <= 0:
            return
        # The last event of each sequence carries what is left: of k tokens, (k + 1) / 2 on average.
        # So e events of k tokens carry k (e - 1) + (k + 1) / 2 in all, and k is
        # (tokens - 1/2) / (e - 1/2).
        half = 0.5 * num_sequences
        if self._events == PRIOR_EVENTS and self.ratio > 1.0:
            # Start from the ratio that the counters gave.
            self._tokens = self.ratio * PRIOR_EVENTS
        self._tokens = self._tokens * FORGET_RATIO + max(0.5 * more_tokens, more_tokens - half)
        self._events = self._events * FORGET_RATIO + max(0.5 * more_events, more_events - half)
        self._settle(self._tokens / self._events)

    def count(self, *, num_tokens: float, num_events: float) -> None:
        """Between two readings a sequence got ``num_tokens``, and the leader ``num_events``."""
        if num_tokens <= 0 or num_events <= 0:
            return
        self._counted_tokens = self._counted_tokens * FORGET_RATIO + num_tokens
        self._counted_events = self._counted_events * FORGET_RATIO + num_events
        if self._events == PRIOR_EVENTS:
            ratio = self._counted_tokens / self._counted_events
            self._settle(ratio if ratio >= MIN_COUNTED_RATIO else 1.0)

    def _settle(self, ratio: float) -> None:
        self.ratio = min(MAX_TOKENS_PER_EVENT, max(MIN_TOKENS_PER_EVENT, ratio))
