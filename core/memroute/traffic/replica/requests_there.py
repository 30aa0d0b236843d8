"""The requests on one replica, whichever router sent them: pending, then decoding.

```text
sent      pending: the prompt waits, or is computed (``prefill_law`` says how long that takes)
computed  decoding: it grows with the replica's token clock (``step_clock``)
outlived  an answer that gets longer than expected is expected anew, by answers that got as long
ended     what it held is free, whatever a scrape under way says
```

What decisions read is kept ready in plain attributes, because they read it for every replica.
``own_requests`` says what drives the clock; where nothing does, it goes on by time.
"""

from typing import Final

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.replica.decoding import DecodingAnswers, Reservation
from memroute.traffic.replica.predictions import Predictions
from memroute.traffic.replica.prefill_law import PrefillLaw
from memroute.traffic.replica.step_clock import StepClock
from memroute.traffic.request import RequestProfile

# Quantile of the answers' lengths that pace plans for: short answers suffer most from a prompt in
# between.
# Unit: quantile. Source: chosen by hand.
PACE_QUANTILE: Final = 0.3
# Quantile of the answers' lengths that memory is reserved for.
# Unit: quantile. Source: the median; an answer that outlives it is expected anew.
MEMORY_QUANTILE: Final = 0.5
# Least tokens that an answer which has outlived its expectation is still expected to get.
# Unit: tokens. Source: chosen by hand.
LEAST_MORE_TOKENS: Final = 4
# Length over its present one that an answer longer than any before is expected to get, each time.
# Unit: ratio. Source: chosen by hand.
OUTLIVED_RATIO: Final = 1.3
# Answers that have ended since the last scrape and are remembered: a scrape under way may have
# missed their ends.
# Unit: answers. Source: a bound of memory, chosen by hand.
MAX_ENDED: Final = 1024
# Prompt tokens of one step, after which even a busy engine shows a token. (An answer that its
# client reads slowly does not count as shown.)
# Unit: tokens. Source: engines' usual budget (vLLM's max_num_batched_tokens on an H100).
STEP_TOKENS: Final = 8192


class RequestsThere(DecodingAnswers):
    """The requests on one replica, its prefill law and its clock. Owns all of them."""

    __slots__ = (
        "_ended", "_events", "_leader", "_lengths", "_predictions", "_projected_tokens",
        "_prompt_at_seconds", "num_pending", "pending_reserved_tokens", "pending_tokens", "speed",
        "steps", "unshown_tokens",
    )  # fmt: skip

    def __init__(
        self,
        lengths: OutputLengths | None,
        events: TokensPerEvent | None,
        predictions: Predictions | None,
    ) -> None:
        super().__init__()
        self._predictions = predictions or Predictions()
        self._lengths = lengths or OutputLengths()
        self._events = events or TokensPerEvent()
        self.speed = PrefillLaw()
        """How long prompts take."""
        self.steps = StepClock()
        """How fast answers grow."""
        self.num_pending = 0
        """Requests there without a first token: ours, and those that peers report."""
        self.pending_tokens = 0
        """Uncached prompt tokens of the pending requests."""
        self.pending_reserved_tokens = 0
        """Tokens that the pending requests are expected to hold at their ends."""
        self.unshown_tokens = 0
        """Prompt tokens computed since the last tick, whose time the clock has not shown yet."""
        self._prompt_at_seconds = -1.0
        """When a prompt was last computed there, or left; -1: never."""
        self._leader: Reservation | None = None
        """The answer whose events drive the clock; None: it goes on by time."""
        self._projected_tokens = -1
        """The most that the KV cache will hold; -1: to be computed again."""
        self._ended: list[tuple[float, int]] = []

    # What decisions ask.

    @property
    def alone_tpot_seconds(self) -> float | None:
        """Seconds per output token that the replica needs for one request now; None: unknown."""
        return self.steps.alone_now_seconds

    @property
    def tick_seconds(self) -> float:
        """Seconds per token of the answers there, prompts that are computed by now included.

        The clock shows the past, and prompts that it has not shown yet count besides. The least is
        the replica's own pace and what the answers have waited for prompts since they began: short
        answers in a burst are over before any clock can show what slows them.
        """
        steps, a_token = self.steps, self.speed.token_seconds
        mean = steps.mean_seconds
        if self.unshown_tokens and self.num_streams:
            share = self.sum_inverse_expected_lengths / self.num_streams
            mean += a_token * self.unshown_tokens * share
        alone = steps.alone_seconds
        return mean if alone is None else max(mean, alone + a_token * self.stalling_tokens)

    def needed_tokens(self, prompt_tokens: int, work_tokens: int) -> int:
        """Tokens that a prompt adds to the KV cache: all, as long as sharing is unknown."""
        return prompt_tokens

    # Its way.

    def _await(
        self,
        profile: RequestProfile,
        *,
        work_tokens: int,
        expected_output_tokens: int,
        now_seconds: float,
    ) -> Reservation:
        """A request has been sent there, by whichever router: its prompt is pending."""
        lease = Reservation(
            profile,
            work_tokens=work_tokens,
            needed_tokens=self.needed_tokens(profile.num_prompt_tokens, work_tokens),
            expected_output_tokens=expected_output_tokens,
            now_seconds=now_seconds,
        )
        speed = self.speed
        share = speed.ahead_ratio(self.num_pending, self.pending_tokens, now_seconds=now_seconds)
        lease.ahead_prompts = share * self.num_pending
        lease.ahead_tokens = share * self.pending_tokens
        self._projected_tokens = -1
        self.num_pending += 1
        self.pending_tokens += lease.work_tokens
        self.pending_reserved_tokens += lease.needed_tokens + expected_output_tokens
        speed.sent(now_seconds=now_seconds, is_seen=profile.is_stream)
        return lease

    def _decodes(self, lease: Reservation, now_seconds: float, *, is_seen: bool) -> None:
        """A prompt is computed, whichever router sent it; ``is_seen``: its first token was."""
        self._waits_no_more(lease, now_seconds)
        lease.answered_at_seconds = now_seconds
        speed = self.speed
        if is_seen:
            speed.prefilled(
                lease.work_tokens,
                num_left=self.num_pending,
                now_seconds=now_seconds,
                sent_at_seconds=lease.sent_at_seconds,
                ahead_prompts=lease.ahead_prompts,
                ahead_tokens=lease.ahead_tokens,
            )
        else:
            speed.passed(num_left=self.num_pending, at_seconds=now_seconds)
        if self._leader is not None:
            self.unshown_tokens += lease.work_tokens
        tick = self.steps.num_ticks
        self.computed(lease)
        lease.base_tokens = lease.prompt_tokens - lease.num_sequences * tick
        lease.inverse_output = 1.0 / self._expected(lease, PACE_QUANTILE, 0)
        self.insert(lease, lease.expected_output_tokens // lease.num_sequences, tick)
        self._projected_tokens = -1

    def _left_unanswered(self, lease: Reservation, now_seconds: float) -> None:
        """A request has left before its first token, whichever router sent it."""
        self._waits_no_more(lease, now_seconds)
        self.speed.left(num_left=self.num_pending)

    def _waits_no_more(self, lease: Reservation, now_seconds: float) -> None:
        """The request is no longer pending: its prompt is computed, or it has left.

        The time until now was that of steps with its prompt, so the clock goes on by that first.
        """
        self._pass_time(now_seconds)
        self._prompt_at_seconds = max(self._prompt_at_seconds, now_seconds)
        self.num_pending -= 1
        self.pending_tokens -= lease.work_tokens
        self.pending_reserved_tokens -= lease.needed_tokens + lease.expected_output_tokens

    def _note_end(self, held_tokens: int, now_seconds: float) -> None:
        """Remember what was freed: a scrape that is under way may have missed it."""
        self._ended.append((now_seconds, held_tokens))
        if len(self._ended) > MAX_ENDED:
            del self._ended[: MAX_ENDED // 2]

    # The clock.

    def _pass_time(self, now_seconds: float) -> bool:
        """Let the clock go on where nothing shows it; whether it has moved."""
        if not self.num_streams or self._leader is not None:
            return False
        stall = self.speed.token_seconds * min(STEP_TOKENS, self.pending_tokens)
        return self.steps.pass_time(now_seconds=now_seconds, stall_seconds=stall)

    def _look_for_idle(self) -> None:
        """An answer has ended: if it was the last, the clock stops."""
        if not self.num_streams:
            self.steps.idle()
            self.nothing_decodes()

    def _tokens_so_far(self, lease: Reservation) -> int:
        """Tokens of its answer so far: by its events, or by the clock where we see none."""
        if lease.num_events or lease.generated_tokens or lease.answered_at_seconds < 0:
            return lease.generated_tokens
        ticks = self.steps.num_ticks
        return max(0, lease.base_tokens + lease.num_sequences * ticks - lease.prompt_tokens)

    # What is expected of an answer.

    def _re_estimate_due(self) -> None:
        """Answers that have outlived their expected length get a new one."""
        while (due := self.first_due(self.steps.num_ticks)) is not None:
            self._re_estimate(due)

    def _re_estimate(self, lease: Reservation) -> None:
        self.drop(lease)
        sequences, tick = lease.num_sequences, self.steps.num_ticks
        so_far = (lease.base_tokens - lease.prompt_tokens) // sequences + tick
        longer = self._expected(lease, MEMORY_QUANTILE, so_far)
        lease.inverse_output = 1.0 / self._expected(lease, PACE_QUANTILE, so_far)
        lease.expected_output_tokens = sequences * longer
        self.insert(lease, longer - so_far, tick)
        self._projected_tokens = -1

    def _expected(self, lease: Reservation, quantile: float, so_far: int) -> int:
        """Expected tokens of each of its sequences at its end; ``so_far`` are there already."""
        profile = lease.profile
        sequences = lease.num_sequences
        known = profile.known_output_tokens
        if known is not None:
            return max(so_far + LEAST_MORE_TOKENS, known // sequences)
        length = self._lengths.quantile(
            quantile,
            tenant=profile.tenant,
            num_prompt_tokens=profile.num_prompt_tokens,
            max_output_tokens=profile.max_output_tokens,
            after_tokens=so_far,
        )
        if length is None:
            assumed = profile.assumed_output_tokens // sequences
            length = assumed if so_far == 0 else int(OUTLIVED_RATIO * so_far)
        return max(so_far + LEAST_MORE_TOKENS, length)
