"""The answers that decode on one replica: the tokens they hold, and the most they will hold.

Answers that decode together gain one token per step and give all tokens back when they end. With
expected ends, the fullest moment is just before one of the ends, and is far below the sum of
prompts and limits (Jaillet et al., arXiv 2502.07115).

An answer is stored as its tokens less the replica's steps. That difference is constant while it
decodes, so a step costs nothing here.
"""

from bisect import bisect_right

from memroute.traffic.request import RequestProfile


class Reservation:
    """What one request holds and is expected to hold. Only its replica's ledger changes it."""

    __slots__ = (
        "ahead_prompts", "ahead_tokens", "answered_at_seconds", "base_tokens",
        "computed_before_tokens", "expected_first_token_seconds", "expected_output_tokens",
        "finish_step", "generated_tokens", "inverse_output", "is_answered", "is_paused",
        "needed_tokens", "num_events", "num_sequences", "profile", "prompt_tokens",
        "sent_at_seconds", "settles_at_seconds", "shown_at_seconds", "stall_weight", "work_tokens",
    )  # fmt: skip

    def __init__(
        self,
        profile: RequestProfile,
        *,
        work_tokens: int,
        needed_tokens: int,
        expected_output_tokens: int,
        now_seconds: float,
    ) -> None:
        self.profile = profile
        self.prompt_tokens = profile.num_prompt_tokens
        self.needed_tokens = needed_tokens
        """Tokens of the prompt that no other running request holds there already."""
        self.work_tokens = work_tokens
        """Tokens of the prompt that the replica has to compute: the rest is in its prefix cache."""
        self.expected_output_tokens = expected_output_tokens
        self.sent_at_seconds = now_seconds
        self.answered_at_seconds = -1.0
        """When its first token came, or for a whole answer should have come; -1 before."""
        self.is_answered = False
        """Whether any of its answer has come: then no other replica may be tried."""
        self.is_paused = False
        """Whether its answer is not read at the moment, because its client is slow."""
        self.num_sequences = max(1, profile.num_choices)
        """Its sequences that grow: each gains a token per tick of the clock."""
        self.shown_at_seconds = -1.0
        """When its stream has shown its last event; -1 before the first."""
        self.num_events = 0
        """Events of its stream so far."""
        self.expected_first_token_seconds = -1.0
        """Seconds that its first token was expected to take when it was sent; -1: not predicted."""
        self.ahead_prompts = self.ahead_tokens = 0.0
        """Prompts, and their tokens, that were still to be computed there when it was sent."""
        self.settles_at_seconds = -1.0
        """When the first token of a whole answer should have come; -1 for streamed answers."""
        self.generated_tokens = 0
        self.base_tokens = 0
        """Its tokens less the replica's steps: constant while it decodes."""
        self.finish_step = 0
        self.inverse_output = 0.0
        self.computed_before_tokens = 0
        """Prompt tokens that its replica had computed when it began to decode."""
        self.stall_weight = 0.0
        """Its sequences over the tokens that each of them is expected to get."""

    @property
    def is_pending(self) -> bool:
        """Whether its prompt still waits or is computed."""
        return self.answered_at_seconds < 0

    @property
    def reserved_tokens(self) -> int:
        """Tokens that it is expected to hold at its end."""
        return self.prompt_tokens + max(self.expected_output_tokens, self.generated_tokens)


class DecodingAnswers:
    """Decoding answers, in the order of expected ends. ``step``: the replica's clock, in steps."""

    __slots__ = (
        "_base_tokens",
        "_computed_before",
        "_computed_tokens",
        "_finishes",
        "_peak_tokens",
        "_stall_weights",
        "_streams",
        "num_streams",
        "sum_inverse_expected_lengths",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_streams = 0
        """Sequences that decode: an answer with ``n`` choices is ``n`` of them."""
        self.sum_inverse_expected_lengths = 0.0
        """Σ 1/L over the answers now decoding, where L is the 30th-percentile output length, in
        tokens, of comparable answers. Unit: 1/token."""
        self._computed_tokens = 0
        """Prompt tokens that the replica has computed since nothing decoded there last."""
        self._stall_weights = self._computed_before = 0.0
        """Σ w and Σ w x (what had been computed when the answer began), w its ``stall_weight``."""
        self._finishes: list[int] = []
        self._streams: list[Reservation] = []
        self._base_tokens = 0
        self._peak_tokens = 0

    @property
    def stalling_tokens(self) -> float:
        """Prompt tokens computed since the answers there began, per token of an answer: a mean.

        ```text
        Σ (computed now - computed when it began) / expected length  /  number of sequences
        ```

        Answers wait while a prompt is computed, and the wait is spread over all their tokens.
        """
        if not self.num_streams:
            return 0.0
        since = self._computed_tokens * self._stall_weights - self._computed_before
        return max(0.0, since / self.num_streams)

    def computed(self, lease: Reservation) -> None:
        """The prompt is computed: the answers there have waited for it, its own has not."""
        self._computed_tokens += lease.work_tokens
        lease.computed_before_tokens = self._computed_tokens

    def nothing_decodes(self) -> None:
        """The last answer has ended: counting begins anew."""
        self._computed_tokens = 0

    def own_tokens(self, step: int) -> int:
        """Tokens that the answers hold now; a shared prefix counts for each of them."""
        return self._base_tokens + self.num_streams * step

    def peak_tokens(self, step: int) -> int:
        """The same at the fullest moment to come; cached until an answer comes or goes."""
        if self._peak_tokens < 0:
            total, most, count = 0, 0, 0
            for lease in reversed(self._streams):
                total += lease.base_tokens
                count += lease.num_sequences
                most = max(most, total + count * max(step, lease.finish_step))
            self._peak_tokens = most
        return self._peak_tokens

    def peak_with(self, num_tokens: int, num_more: int, step: int, num_sequences: int = 1) -> int:
        """The peak with one more answer of ``num_tokens``, ``num_more`` to come per sequence."""
        finish, base = step + num_more, num_tokens - num_sequences * step
        total, count, most = 0, 0, self.own_tokens(step) + num_tokens
        is_counted = False
        for lease in reversed(self._streams):
            if not is_counted and lease.finish_step <= finish:
                is_counted = True
                total += base
                count += num_sequences
                most = max(most, total + count * finish)
            total += lease.base_tokens
            count += lease.num_sequences
            most = max(most, total + count * max(step, lease.finish_step))
        if not is_counted:
            most = max(most, total + base + (count + num_sequences) * finish)
        return most

    def first_due(self, step: int) -> Reservation | None:
        """An answer that should have ended by now, or None."""
        if self._finishes and self._finishes[0] <= step:
            return self._streams[0]
        return None

    def insert(self, lease: Reservation, num_more: int, step: int) -> None:
        """The answer decodes from now on, for ``num_more`` more tokens in each sequence."""
        lease.finish_step = step + max(1, num_more)
        index = bisect_right(self._finishes, lease.finish_step)
        self._finishes.insert(index, lease.finish_step)
        self._streams.insert(index, lease)
        sequences = lease.num_sequences
        self.num_streams += sequences
        self._base_tokens += lease.base_tokens
        self.sum_inverse_expected_lengths += sequences * lease.inverse_output
        weight = sequences * sequences / max(1, lease.expected_output_tokens)
        lease.stall_weight = weight
        self._stall_weights += weight
        self._computed_before += weight * lease.computed_before_tokens
        self._peak_tokens = -1

    def drop(self, lease: Reservation) -> None:
        """The answer has ended, or its expected end is about to change."""
        index = bisect_right(self._finishes, lease.finish_step - 1)
        while self._streams[index] is not lease:
            index += 1
        del self._finishes[index]
        del self._streams[index]
        self.num_streams -= lease.num_sequences
        self._base_tokens -= lease.base_tokens
        self.sum_inverse_expected_lengths -= lease.num_sequences * lease.inverse_output
        self._stall_weights -= lease.stall_weight
        self._computed_before -= lease.stall_weight * lease.computed_before_tokens
        if not self.num_streams:
            self.sum_inverse_expected_lengths = self._stall_weights = self._computed_before = 0.0
        self._peak_tokens = -1
