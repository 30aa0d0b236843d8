"""How fast the answers of one replica grow: its token clock.

Every answer that decodes gains the same number of tokens in the same time. So one answer that is
read as it comes, the *leader*, drives the clock of all. An event may carry several tokens
(``--stream-interval`` batches them, speculation accepts several at once), so events are converted
to tokens before they come here (``memroute.traffic.lengths.events``). A tick is one token per
sequence, and the length of a tick is what a client calls time per output token.

```text
tick     seconds per token that answers get now, prefills in between included: a window's mean
alone    the least mean of a window without a prompt in between that was ever seen: what one
         request gets on an idle replica, and so the floor of any target; times as much as the
         replica is slower now for another reason than its work (``slowdown``)
```

A replica that is busy when its router starts shows ticks with prompts in between, ten times as long
as what one request gets there. They say nothing of ``alone``, which stays unknown until a tick
without a prompt. The first such tick is a first guess, and the first whole window replaces it.

Where no answer is read as it comes, whole answers that end and the engine's counters say how long a
tick takes, and the clock goes on by time (``pass_time``).
"""

from typing import Final

from memroute.traffic.replica.slowdown import MAX_DRIFT_SECONDS, Slowdown
from memroute.traffic.replica.tick_window import TickWindow

# Least window of the mean: fewer ticks are noise.
# Unit: ticks. Source: chosen by hand.
MIN_WINDOW_TICKS: Final = 8.0
# Greatest window of the mean: more ticks are slower than admission has to be.
# Unit: ticks. Source: chosen by hand.
MAX_WINDOW_TICKS: Final = 64.0
# Least ticks of a window that may tell how fast the replica is alone.
# Unit: ticks. Source: chosen by hand.
ALONE_WINDOW_TICKS: Final = 16
# Least length of such a window: events that arrive together after a pause must not look like a
# fast engine.
# Unit: seconds. Source: chosen by hand.
ALONE_WINDOW_SECONDS: Final = 0.2
# Rate at which the least window is forgotten, 1 % in a minute: a replica that has become slower
# for good is believed within hours, one under load for an hour is not.
# Unit: ratio per second. Source: chosen by hand.
ALONE_DRIFT_PER_SECOND: Final = 0.01 / 60
# Least time per token and sequence: no engine is faster, so what comes faster has piled up.
# Unit: seconds. Source: a bound, chosen by hand.
MIN_TICK_SECONDS: Final = 0.001
# Weight in the mean of one whole answer, or of one interval between readings.
# Unit: ratio. Source: chosen by hand.
REPORTED_RATIO: Final = 0.25


class StepClock:
    """Owns the ticks of one replica; the caller brings the wall clock."""

    __slots__ = (
        "_alone_since_seconds", "_between_prompts", "_fraction", "_is_alone_guessed",
        "_is_alone_of_events", "_is_mean_of_events", "_num_since_idle", "_passed_at_seconds",
        "_while_slower", "alone_seconds", "foreign_streams", "foreign_tokens", "last_at_seconds",
        "led_since_seconds", "mean_seconds", "num_ticks", "reported_seconds", "slowdown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_ticks = 0
        """Tokens that an answer which never ended would have got."""
        self.mean_seconds = 0.0
        """A tick as it is now, prefills in it; 0 while nothing decodes."""
        self.alone_seconds: float | None = None
        """Seconds of a tick with one request there; None while unknown."""
        self.reported_seconds = 0.0
        """A tick as whole answers and the engine's counters tell; 0 while neither has."""
        self.last_at_seconds = -1.0
        """When the leader's last tick was; -1 while there is none."""
        self._fraction = 0.0
        self._passed_at_seconds = -1.0
        self._num_since_idle = 0
        self._alone_since_seconds = -1.0
        self._between_prompts = TickWindow()
        self._while_slower = TickWindow()
        """Prompts in it or not."""
        self.foreign_streams = self.foreign_tokens = 0
        """Sequences that decode there, and what they hold, of which no call here knows: at most,
        by the last two readings. They are work of the replica's, too."""
        self.slowdown = Slowdown()
        """Whether ticks are longer for another reason than what the replica has to do."""
        self.led_since_seconds = -1.0
        """When an answer led for the first time; -1: none has."""
        self._is_mean_of_events = False
        """Whether events have told the mean, and not whole answers or counters."""
        self._is_alone_guessed = True
        """Whether less than a window has said what one request gets alone."""
        self._is_alone_of_events = False
        """Whether events have said so, and not a whole answer."""

    @property
    def alone_now_seconds(self) -> float | None:
        """Seconds of a tick with one request there, as slow as it is now; None: unknown."""
        alone = self.alone_seconds
        return None if alone is None else alone * self.slowdown.ratio

    def advance(
        self,
        ticks: float,
        *,
        window_ticks: float,
        now_seconds: float,
        weight: float = 1.0,
        is_between_prompts: bool = True,
        num_streams: int = 1,
        num_tokens: int = 1,
    ) -> None:
        """The leader has got ``ticks`` more tokens per sequence since the last call.

        ``window_ticks``: the window of the mean, about as long as answers are. ``weight``: the
        leader's share of the mean, where other streams glimpse it too. ``is_between_prompts``:
        whether the replica computed no prompt since the last call. ``num_streams``,
        ``num_tokens``: sequences that decode there, and what they hold in the KV cache.
        """
        last = self.last_at_seconds
        self.last_at_seconds = self._passed_at_seconds = now_seconds
        if last < 0:
            self._while_slower.restart()
            self._restart_alone(now_seconds)
            return
        passed = now_seconds - last
        gap = passed / ticks
        if gap < MIN_TICK_SECONDS:
            gap = MIN_TICK_SECONDS
            ticks = passed / gap
            if ticks <= 0.0:
                return
        self._count(ticks)
        if not self._num_since_idle:
            weight = 1.0
        self._num_since_idle += max(1, int(ticks))
        self.glimpse(gap, ticks, window_ticks=window_ticks, weight=weight)
        if is_between_prompts:
            window = self._between_prompts
            window.add(ticks, passed, num_streams=num_streams, num_tokens=num_tokens)
            self._look_for_alone(window, now_seconds)
        else:
            self._restart_alone(now_seconds)
        if self.slowdown.ratio > 1.0:
            window = self._while_slower
            window.add(ticks, passed, num_streams=num_streams, num_tokens=num_tokens)
            self._look_for_end(window)

    def glimpse(
        self, tick_seconds: float, ticks: float, *, window_ticks: float, weight: float
    ) -> None:
        """A stream shows how long its last ``ticks`` took; the mean follows by ``weight``.

        Where an event carries many tokens, the leader alone would tell once in a second.
        """
        self._is_mean_of_events = True
        if not self._num_since_idle:
            # The first ticks since the replica was idle are all there is to go by.
            self._num_since_idle = 1
            self.mean_seconds = tick_seconds
            return
        window = min(MAX_WINDOW_TICKS, max(MIN_WINDOW_TICKS, window_ticks))
        if self._num_since_idle < window:
            # The plain mean at first: a replica that is new, or was idle a moment ago, attracts
            # prompts, and its clock has to show at once how they slow its ticks.
            window = max(1.0, float(self._num_since_idle))
        share = weight * min(1.0, ticks / window)
        self.mean_seconds += (tick_seconds - self.mean_seconds) * share

    def rescale(self, ratio: float) -> None:
        """An event turns out to carry ``1 / ratio`` times as many tokens as was assumed so far."""
        if self._is_mean_of_events:
            # Else whole answers or the engine's counters have said it, which count tokens.
            self.mean_seconds *= ratio
        self._between_prompts.ticks /= ratio
        self._while_slower.ticks /= ratio
        self.slowdown.rescale(ratio)
        if self._is_alone_of_events and self.alone_seconds is not None:
            self.alone_seconds *= ratio

    def report(self, tick_seconds: float) -> None:
        """A whole answer, or the engine's counters, say how long a tick takes.

        Ignored once a stream shows it.
        """
        if tick_seconds <= 0.0:
            return
        before = self.reported_seconds
        share = REPORTED_RATIO if before > 0.0 else 1.0
        self.reported_seconds = before + share * (tick_seconds - before)
        is_led = self.last_at_seconds >= 0
        if not is_led or not self._num_since_idle:
            # A leader's first event of twenty tokens takes up to a second.
            self.mean_seconds = self.reported_seconds
            self._is_mean_of_events = False

    def report_alone(self, seconds: float, ticks: float, *, now_seconds: float) -> None:
        """A whole answer of ``ticks`` tokens came ``seconds`` after it was sent.

        When its prompt was done is not seen, so all of the time counts: one request alone is at
        least as fast as that. (Counted from when the prompt should have been done, one that took
        longer than expected would make the replica look ten times as fast as it is.)
        """
        at_most = seconds / max(1.0, ticks)
        is_news = self.alone_seconds is None or at_most < self.alone_seconds
        if is_news and ticks >= ALONE_WINDOW_TICKS and self.last_at_seconds < 0:
            passed = now_seconds - self._alone_since_seconds
            self._heed_alone(at_most, passed, is_of_events=False)
            self._alone_since_seconds = now_seconds

    def pass_time(self, *, now_seconds: float, stall_seconds: float = 0.0) -> bool:
        """Advance by time, while answers decode and none is read as it comes.

        ``stall_seconds``: what a step takes longer because of the prompts that are computed in it.
        True when the clock has moved.
        """
        since = self._passed_at_seconds
        tick = self.mean_seconds or self.reported_seconds or self.alone_seconds or 0.0
        if tick < MIN_TICK_SECONDS:
            tick = MIN_TICK_SECONDS if tick > 0.0 else 0.0
        if self.alone_seconds is not None:
            tick = max(tick, self.alone_seconds + stall_seconds)
        if since < 0 or tick <= 0.0:
            self._passed_at_seconds = now_seconds
            return False
        if now_seconds <= since:
            return False
        self._passed_at_seconds = now_seconds
        before = self.num_ticks
        self._count((now_seconds - since) / tick)
        return self.num_ticks != before

    def idle(self) -> None:
        """Nothing decodes any more: the next answer starts the clock again."""
        self.last_at_seconds = self._passed_at_seconds = -1.0
        self._num_since_idle = 0
        self.mean_seconds = 0.0
        self._is_mean_of_events = False

    def lose_leader(self, *, now_seconds: float) -> None:
        """The leader has ended, or is not read for a while."""
        self.last_at_seconds = -1.0
        self._passed_at_seconds = now_seconds

    def restart(self, *, now_seconds: float) -> None:
        """Another answer leads from now on."""
        self.last_at_seconds = self._passed_at_seconds = now_seconds
        if self.led_since_seconds < 0:
            self.led_since_seconds = now_seconds
        self._while_slower.restart()
        self._restart_alone(now_seconds)

    def _count(self, ticks: float) -> None:
        whole = ticks + self._fraction
        count = int(whole)
        self._fraction = whole - count
        self.num_ticks += count

    def _restart_alone(self, now_seconds: float) -> None:
        self._alone_since_seconds = now_seconds
        self._between_prompts.restart()

    def _look_for_end(self, window: TickWindow) -> None:
        """It is slower than its work explains: a window of ticks, prompts or not, bounds that.

        (The mean would not do: half of it may be from before.)
        """
        if window.is_whole(ALONE_WINDOW_TICKS, ALONE_WINDOW_SECONDS):
            self.slowdown.bound(
                window.tick_seconds,
                num_streams=window.least_streams,
                num_tokens=window.least_tokens,
            )
            window.restart()

    def _look_for_alone(self, window: TickWindow, now_seconds: float) -> None:
        if window.is_whole(ALONE_WINDOW_TICKS, ALONE_WINDOW_SECONDS):
            self._heed_alone(window.tick_seconds, window.seconds, is_of_events=True)
            foreign = self.foreign_streams, self.foreign_tokens
            self.slowdown.show(
                window.tick_seconds,
                most=(window.most_streams + foreign[0], window.most_tokens + foreign[1]),
                least=(window.least_streams, window.least_tokens),
                now_seconds=now_seconds,
            )
            self._restart_alone(now_seconds)
        elif self.alone_seconds is None and window.seconds > 0.0:
            # A first guess: better than to take the replica to be as fast as is asked.
            self.alone_seconds = window.tick_seconds
            self._is_alone_of_events = True

    def _heed_alone(
        self, tick_seconds: float, passed_seconds: float, *, is_of_events: bool
    ) -> None:
        known = self.alone_seconds
        if known is not None and not self._is_alone_guessed:
            passed_seconds = max(0.0, min(MAX_DRIFT_SECONDS, passed_seconds))
            known *= 1.0 + ALONE_DRIFT_PER_SECOND * passed_seconds
            if known <= tick_seconds:
                self.alone_seconds = known
                return
        self.alone_seconds = tick_seconds
        self._is_alone_guessed = False
        self._is_alone_of_events = is_of_events
