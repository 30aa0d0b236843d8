"""Whether a replica is slower for another reason than what it has to do.

A device that is throttled, or shared with an engine that has become busy, makes every step longer,
however few answers decode there. Fewer requests would not make it faster again, so admission has
to tell that from a batch that is too large. What the replica has shown before tells it apart:

```text
shown     (n, k, t): n sequences with k tokens in the KV cache got a token each in t seconds
at most   min over what was shown of m x t + max(0, k' - m x k) x c, where m = max(1, n' / n)
          a step over twice as much takes at most twice as long: weights are read once for all;
          what a token in the KV cache adds, c, is at most the least t / (k + w) that was shown,
          where the weights take at least as long as w tokens
at least  max over what was shown of m x t - max(0, m x k - k') x c, where m = min(1, n' / n)
slowdown  what a tick takes now / what it takes otherwise, so between tick / at most and
          tick / at least
```

It counts once two windows in a row are slower than the most allows, and is kept between the two
from then on. What is shown meanwhile is no measure of the replica: a tick that is much shorter,
with no less to do, says that the slowdown is over, and all of it is forgotten then. Ticks in which
prompts were computed prove no slowdown, and can take one back: without the prompts they would
have been shorter still.
"""

import math
from typing import Final

# Least slowdown that counts, and the least by which ticks get shorter when one is over: windows of
# the same work differ by tens of per cent. Below it the floor of the pace gate, twice what one
# request gets alone, leaves room enough.
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
# Most time between two windows that counts for that, here and for the least window of the clock: a
# replica that was idle has shown nothing.
# Unit: seconds. Source: chosen by hand.
MAX_DRIFT_SECONDS: Final = 60.0
# What reading the weights takes in a step at the least, in tokens of the KV cache.
# Unit: tokens. Source: chosen by hand; 0.1 to 0.6 GB of KV cache, where the weights of what is
# served have 1 GB and more.
WEIGHT_TOKENS: Final = 2048
# Classes of what was shown, by its sequences; what an engine runs at once fits.
# Unit: classes. Source: chosen by hand; to 65,536 sequences.
NUM_CLASSES: Final = 64
# Numbers of sequences that are a class of their own.
# Unit: sequences, a power of two. Source: chosen by hand.
EXACT_CLASSES: Final = 16


class Shown:
    """What one window has shown: a tick with so many sequences and tokens there."""

    __slots__ = ("is_of_events", "new_at_seconds", "num_streams", "num_tokens", "seconds")

    def __init__(
        self,
        num_streams: int,
        num_tokens: int,
        seconds: float,
        *,
        new_at_seconds: float,
        is_of_events: bool,
    ) -> None:
        self.num_streams = num_streams
        self.num_tokens = num_tokens
        self.seconds = seconds
        """Of a tick; of what was shown while it was not slower, before any drift."""
        self.new_at_seconds = new_at_seconds
        """When it was news. A tick that is no longer than one that was known was none."""
        self.is_of_events = is_of_events
        """Whether events have shown it, and not the engine's counters, which count tokens."""


class Slowdown:
    """Owns what one replica has shown of its pace, and how much slower it is now."""

    __slots__ = (
        "_before", "_drift", "_meanwhile", "_proven_before", "_shown", "_shown_at_seconds", "ratio",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ratio = 1.0
        """Ticks take so many times as long as the replica's work explains; 1: no longer."""
        self._shown: list[Shown | None] = [None] * NUM_CLASSES
        """By class of sequences, while it was not slower."""
        self._meanwhile: list[Shown | None] = [None] * NUM_CLASSES
        """The same while it is."""
        self._drift = 1.0
        """What was shown counts as so many times as long by now."""
        self._shown_at_seconds = -1.0
        self._before: Shown | None = None
        """What the last window has shown, the slowdown in it."""
        self._proven_before = 1.0
        """The slowdown that the last window has proved."""

    def most_seconds(self, num_streams: int, num_tokens: int) -> float | None:
        """What a tick takes at most with as much to do, by what was shown; None: unknown."""
        most = _most(self._shown, num_streams, num_tokens)
        return None if most is None else most * self._drift

    def least_seconds(self, num_streams: int, num_tokens: int) -> float | None:
        """What a tick takes at least with as much to do, by what was shown; None: unknown."""
        least = _least(self._shown, num_streams, num_tokens)
        return None if least is None else least * self._drift

    def show(
        self,
        tick_seconds: float,
        *,
        most: tuple[int, int],
        least: tuple[int, int],
        now_seconds: float,
        is_of_events: bool = True,
    ) -> None:
        """A window of ticks without a prompt has passed, of which each took ``tick_seconds``.

        ``most``, ``least``: sequences and tokens that were there at its fullest and its emptiest.
        ``is_of_events``: whether events have shown it, or the engine's counters.
        """
        if self._shown_at_seconds >= 0:
            passed = max(0.0, min(MAX_DRIFT_SECONDS, now_seconds - self._shown_at_seconds))
            self._drift += SHOWN_DRIFT_PER_SECOND * passed
            if self.ratio > 1.0:
                self.ratio /= 1.0 + SHOWN_DRIFT_PER_SECOND * passed
        self._shown_at_seconds = now_seconds
        expected = self.most_seconds(*most)
        proven = 1.0 if expected is None else tick_seconds / expected
        # One window may hold a pause of the router's, or a prompt that was computed twice.
        sure = min(proven, self._proven_before)
        self._proven_before = proven
        if self.ratio > 1.0:
            self.ratio = max(self.ratio, sure)
            self.bound(tick_seconds, num_streams=least[0], num_tokens=least[1])
        elif sure >= SLOWED_RATIO:
            # The first window began before it: the second tells how slow it is.
            self.ratio = proven
            self._forget(now_seconds - UNNOTICED_SECONDS)
        now = Shown(
            max(1, least[0]),
            max(1, least[1]),
            tick_seconds,
            new_at_seconds=now_seconds,
            is_of_events=is_of_events,
        )
        if self._before is not None and self._before.is_of_events == is_of_events:
            self._keep(now, self._before)
        self._before = now

    def bound(self, tick_seconds: float, *, num_streams: int, num_tokens: int) -> None:
        """Ticks take ``tick_seconds``, prompts in them or not: it is no slower than that."""
        if self.ratio <= 1.0:
            return
        least = self.least_seconds(num_streams, num_tokens)
        if least is not None:
            self.ratio = min(self.ratio, tick_seconds / least)
        slowed = _least(self._meanwhile, num_streams, num_tokens)
        is_over = slowed is not None and SLOWED_RATIO * tick_seconds < slowed
        if is_over or self.ratio < RECOVERED_RATIO:
            self._take_back()

    def rescale(self, ratio: float) -> None:
        """An event turns out to carry ``1 / ratio`` times as many tokens as was assumed so far."""
        for shown in (*self._shown, *self._meanwhile, self._before):
            if shown is not None and shown.is_of_events:
                shown.seconds *= ratio
        if not 1.0 / RECOVERED_RATIO < ratio < RECOVERED_RATIO:
            # What was taken to be slow may have been long events.
            self._take_back()

    def _take_back(self) -> None:
        self.ratio = self._proven_before = 1.0
        self._before = None
        self._meanwhile = [None] * NUM_CLASSES

    def _keep(self, now: Shown, before: Shown) -> None:
        """Remember what two windows in a row have shown.

        The last event of an answer carries fewer tokens than others, so one window may look fast.
        """
        streams = min(now.num_streams, before.num_streams)
        index = _class_of(streams)
        is_slower = self.ratio > 1.0
        seconds = (now.seconds, before.seconds)
        kept = Shown(
            streams,
            min(now.num_tokens, before.num_tokens),
            min(seconds) if is_slower else max(seconds),
            new_at_seconds=now.new_at_seconds,
            is_of_events=now.is_of_events,
        )
        if is_slower:
            self._meanwhile[index] = kept
            return
        expected = self.most_seconds(streams, kept.num_tokens)
        if expected is not None and kept.seconds >= expected:
            return
        kept.seconds /= self._drift
        replaced = self._shown[index]
        if replaced is not None and kept.seconds <= replaced.seconds:
            kept.new_at_seconds = replaced.new_at_seconds
        self._shown[index] = kept

    def _forget(self, since_seconds: float) -> None:
        """What was news since then may have been slowed already."""
        for index, shown in enumerate(self._shown):
            if shown is not None and shown.new_at_seconds >= since_seconds:
                self._shown[index] = None


def _class_of(num_streams: int) -> int:
    """Each number by itself below sixteen, from there on by quarters of a power of two.

    What few of a class have shown would replace what many have, which says more of still more.
    """
    if num_streams < EXACT_CLASSES:
        return num_streams
    bits = num_streams.bit_length()
    quarter = (num_streams >> (bits - 3)) & 3
    return min(NUM_CLASSES - 1, EXACT_CLASSES + 4 * (bits - EXACT_CLASSES.bit_length()) + quarter)


def _token_seconds(known: list[Shown | None]) -> float:
    """What a token in the KV cache adds to a tick at most; infinity: unknown."""
    least = math.inf
    for shown in known:
        if shown is not None:
            least = min(least, shown.seconds / (shown.num_tokens + WEIGHT_TOKENS))
    return least


def _most(known: list[Shown | None], num_streams: int, num_tokens: int) -> float | None:
    """The longest tick with as much to do that is in keeping with what was shown, undrifted."""
    most, a_token = math.inf, _token_seconds(known)
    for shown in known:
        if shown is not None:
            times = max(1.0, num_streams / shown.num_streams)
            more_tokens = num_tokens - times * shown.num_tokens
            seconds = times * shown.seconds
            if more_tokens > 0.0:
                seconds += more_tokens * a_token
            most = min(most, seconds)
    return most if most < math.inf else None


def _least(known: list[Shown | None], num_streams: int, num_tokens: int) -> float | None:
    """The shortest tick, likewise."""
    least, a_token = 0.0, _token_seconds(known)
    for shown in known:
        if shown is not None:
            times = min(1.0, num_streams / shown.num_streams)
            fewer_tokens = times * shown.num_tokens - num_tokens
            seconds = times * shown.seconds
            if fewer_tokens > 0.0:
                seconds -= fewer_tokens * a_token
            least = max(least, seconds)
    return least if least > 0.0 else None
