"""Tokens that one event of a streamed answer carries: learned, per pool.

It is one, unless the engine batches tokens into events (vLLM's and SGLang's ``--stream-interval``;
public recipes use 16 and 20) or speculates (EAGLE, MTP: two to four are accepted at once). Two
sources:

* ``usage``, where the client asks for it: the tokens of a streamed answer over its events. Exact.
* the engine's counters: tokens generated per running request, over the events of an answer that was
  read meanwhile. Off by 10 to 20 % (requests in prefill count as running), so this source counts
  only while no usage has come, and only well above one.

The first event carries the first token of its sequence alone, in every engine.
"""

from typing import Final

# A sample counts half after 69 others.
FORGET_RATIO: Final = 0.99
# What the prior (a token per event) weighs, in events: an answer of 80 tokens in events of 20 has
# as many, and outweighs it.
PRIOR_EVENTS: Final = 4.0
# The counters' word counts from here on: below, what they say is noise. Chosen by hand.
MIN_COUNTED_RATIO: Final = 1.6
# No engine batches more; beyond, something else is wrong.
MAX_TOKENS_PER_EVENT: Final = 256.0
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
        if self._events == PRIOR_EVENTS and self.ratio > 1.0:
            # Start from the ratio that the counters gave.
            self._tokens = self.ratio * PRIOR_EVENTS
        self._tokens = self._tokens * FORGET_RATIO + more_tokens
        self._events = self._events * FORGET_RATIO + more_events
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
