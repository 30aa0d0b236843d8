"""Whether a replica is slower for another reason than what it has to do.

A device that is throttled, or shared with an engine that has become busy, makes every step longer,
however few answers decode there. Fewer requests would not make it faster again, so admission has
to tell that from a batch that is too large. What the replica has shown before tells it apart:

```text
shown     (n, k, t): n sequences with k tokens in the KV cache got a token each in t seconds
at most   min over what was shown of t x max(1, n' / n, (k' + w) / (k + w))
          a step over twice as much takes at most twice as long; weights, which are read once for
          all, count as w tokens at the least
at least  max over what was shown with no more sequences and tokens of t
slowdown  what a tick takes now / what it takes otherwise, so between tick / at most and
          tick / at least
```

It counts from the first tick on that is slower than the most allows, and is kept between the two
from then on. Whatever is shown meanwhile is what it would be without the slowdown. Ticks in which
prompts were computed prove no slowdown, and can take one back: without the prompts they would
have been shorter still.
"""

from typing import Final

# Least slowdown that counts: windows of the same work differ by tens of per cent. Below it the
# floor of the pace gate, twice what one request gets alone, leaves room enough.
# Unit: ratio. Source: chosen by hand.
SLOWED_RATIO: Final = 1.5
# Slowdown below which it is taken back.
# Unit: ratio. Source: chosen by hand.
RECOVERED_RATIO: Final = 1.25
# How long before a slowdown is noticed it may have begun: what was shown since may be slowed.
# Unit: seconds. Source: chosen by hand; a replica that computes prompts all the time shows nothing
# until the gate has closed it.
UNNOTICED_SECONDS: Final = 60.0
# Rate at which what was shown is forgotten, 1 % in a minute, as the least window of the clock: a
# replica that has become slower for good is believed in the end.
# Unit: ratio per second. Source: chosen by hand.
SHOWN_DRIFT_PER_SECOND: Final = 0.01 / 60
# What weights are read for in a step at the least, as tokens of the KV cache: a few of them more
# or less are not seen beside it. Unit: tokens. Source: chosen by hand; 0.1 to 0.6 GB of KV cache,
# where the weights of what is served have 1 GB and more.
WEIGHT_TOKENS: Final = 2048
# Classes of what was shown, by powers of two of its sequences: what an engine runs at once fits.
# Unit: classes. Source: chosen by hand; 65,536 sequences.
NUM_CLASSES: Final = 17


class Slowdown:
    """Owns what one replica has shown of its pace, and how much slower it is now."""

    __slots__ = ("_shown", "ratio")

    def __init__(self) -> None:
        self.ratio = 1.0
        """Ticks take so many times as long as the replica's work explains; 1: no longer."""
        self._shown: list[tuple[int, int, float, float] | None] = [None] * NUM_CLASSES
        """By class: sequences, tokens, seconds of a tick without the slowdown, and when."""

    def most_seconds(
        self, num_streams: int, num_tokens: int, *, now_seconds: float
    ) -> float | None:
        """What a tick takes at most with as much to do, by what was shown; None: unknown."""
        most: float | None = None
        for shown in self._shown:
            if shown is None:
                continue
            streams, tokens, seconds, at_seconds = shown
            of_tokens = (num_tokens + WEIGHT_TOKENS) / (tokens + WEIGHT_TOKENS)
            more = max(1.0, num_streams / streams, of_tokens)
            bound = more * _faded(seconds, now_seconds - at_seconds)
            if most is None or bound < most:
                most = bound
        return most

    def least_seconds(
        self, num_streams: int, num_tokens: int, *, now_seconds: float
    ) -> float | None:
        """What a tick takes at least with as much to do, by what was shown; None: unknown."""
        least: float | None = None
        for shown in self._shown:
            if shown is None:
                continue
            streams, tokens, seconds, at_seconds = shown
            if streams <= num_streams and tokens <= num_tokens:
                bound = _faded(seconds, now_seconds - at_seconds)
                if least is None or bound > least:
                    least = bound
        return least

    def show(
        self,
        tick_seconds: float,
        *,
        most: tuple[int, int],
        least: tuple[int, int],
        now_seconds: float,
    ) -> None:
        """A window of ticks without a prompt has passed, of which each took ``tick_seconds``.

        ``most``, ``least``: sequences and tokens that were there at its fullest and its emptiest.
        """
        expected = self.most_seconds(*most, now_seconds=now_seconds)
        proven = 1.0 if expected is None else tick_seconds / expected
        if self.ratio > 1.0:
            self.ratio = max(self.ratio, proven)
            self.bound(
                tick_seconds, num_streams=least[0], num_tokens=least[1], now_seconds=now_seconds
            )
        elif proven >= SLOWED_RATIO:
            self.ratio = proven
            self._forget(now_seconds - UNNOTICED_SECONDS)
        streams, tokens = max(1, least[0]), max(0, least[1])
        seconds = tick_seconds / self.ratio
        # While it is slower, what is shown is reckoned from what was: it makes nothing younger.
        fades = self.ratio <= 1.0
        expected = self.most_seconds(streams, tokens, now_seconds=now_seconds if fades else 0.0)
        if expected is None or seconds < expected:
            index = min(NUM_CLASSES, streams.bit_length()) - 1
            self._shown[index] = streams, tokens, seconds, now_seconds

    def bound(
        self, tick_seconds: float, *, num_streams: int, num_tokens: int, now_seconds: float
    ) -> None:
        """Ticks take ``tick_seconds``, prompts in them or not: it is no slower than that."""
        least = self.least_seconds(num_streams, num_tokens, now_seconds=now_seconds)
        if least is not None and tick_seconds < self.ratio * least:
            ratio = tick_seconds / least
            self.ratio = ratio if ratio >= RECOVERED_RATIO else 1.0

    def rescale(self, ratio: float) -> None:
        """An event turns out to carry ``1 / ratio`` times as many tokens as was assumed so far."""
        for index, shown in enumerate(self._shown):
            if shown is not None:
                streams, tokens, seconds, at_seconds = shown
                self._shown[index] = streams, tokens, seconds * ratio, at_seconds

    def _forget(self, since_seconds: float) -> None:
        """What was shown since then may have been slowed already."""
        for index, shown in enumerate(self._shown):
            if shown is not None and shown[3] >= since_seconds:
                self._shown[index] = None


def _faded(seconds: float, age_seconds: float) -> float:
    """What a tick may take by now that took so long then."""
    return seconds * (1.0 + SHOWN_DRIFT_PER_SECOND * max(0.0, age_seconds))
