"""The answers that decode on one replica: how much they hold, and will hold at most.

Answers that decode together gain one token per step and give all theirs back when they end. With
the ends where answers of their kind usually end, the fullest moment is just before one of the
ends, and is far below prompts plus limits (Jaillet et al., arXiv 2502.07115).

An answer is kept as its tokens less the replica's steps, which is constant while it decodes, so
that a step costs nothing here.
"""

from bisect import bisect_right

from memroute.traffic.request import RequestProfile


class Reservation:
    """What one request holds and is expected to hold; its replica's ledger alone changes it."""

    __slots__ = (
        "ahead_prompts", "ahead_tokens", "answered_at_seconds", "base_tokens",
        "expected_first_token_seconds", "expected_output_tokens", "finish_step",
        "generated_tokens", "inverse_output", "is_answered", "is_paused", "needed_tokens",
        "num_events", "num_sequences", "profile",
        "prompt_tokens", "sent_at_seconds", "settles_at_seconds", "work_tokens",
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
        """Of the prompt, what is not held there already by others that share it."""
        self.work_tokens = work_tokens
        """Of the prompt, what the replica has to compute: the rest is in its prefix cache."""
        self.expected_output_tokens = expected_output_tokens
        self.sent_at_seconds = now_seconds
        self.answered_at_seconds = -1.0
        """When its first token came, or should have come (whole answers); -1 before."""
        self.is_answered = False
        """Whether anything of its answer has come: then nobody else may be asked for it."""
        self.is_paused = False
        """Whether its answer is not read for the moment: its client is slow."""
        self.num_sequences = max(1, profile.num_choices)
        """Answers that grow: the clock's ticks count for each."""
        self.num_events = 0
        """Of its stream so far."""
        self.expected_first_token_seconds = -1.0
        """How long its first token was expected to take when it was sent; -1: nobody said."""
        self.ahead_prompts = self.ahead_tokens = 0.0
        """What was still to be computed there when it was sent."""
        self.settles_at_seconds = -1.0
        """When its first token will have come, for an answer that is not streamed."""
        self.generated_tokens = 0
        self.base_tokens = 0
        """Its tokens less the replica's steps: constant while it decodes."""
        self.finish_step = 0
        self.inverse_output = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether its prompt still waits or is computed."""
        return self.answered_at_seconds < 0

    @property
    def reserved_tokens(self) -> int:
        """Tokens that it is expected to hold at its end."""
        return self.prompt_tokens + max(self.expected_output_tokens, self.generated_tokens)


class DecodingAnswers:
    """In the order of their expected ends. ``step``: the replica's own clock, in steps."""

    __slots__ = (
        "_base_tokens",
        "_finishes",
        "_peak_tokens",
        "_streams",
        "num_streams",
        "sum_inverse_expected_lengths",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_streams = 0
        """Our sequences that decode: an answer with ``n`` choices is ``n`` of them."""
        self.sum_inverse_expected_lengths = 0.0
        """Sum over those of 1 / L, in 1/token: L is the 30th-percentile length of such answers."""
        self._finishes: list[int] = []
        self._streams: list[Reservation] = []
        self._base_tokens = 0
        self._peak_tokens = 0

    def own_tokens(self, step: int) -> int:
        """What they hold now, what they share counted for each."""
        return self._base_tokens + self.num_streams * step

    def peak_tokens(self, step: int) -> int:
        """The same at the fullest moment to come; kept until one comes or goes."""
        if self._peak_tokens < 0:
            total, most, count = 0, 0, 0
            for lease in reversed(self._streams):
                total += lease.base_tokens
                count += lease.num_sequences
                most = max(most, total + count * max(step, lease.finish_step))
            self._peak_tokens = most
        return self._peak_tokens

    def peak_with(self, num_tokens: int, num_more: int, step: int, num_sequences: int = 1) -> int:
        """The same with one more: so many tokens, and ``num_more`` to come in each sequence."""
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
        """One that should have ended by now."""
        if self._finishes and self._finishes[0] <= step:
            return self._streams[0]
        return None

    def insert(self, lease: Reservation, num_more: int, step: int) -> None:
        """It decodes from now on, for ``num_more`` more tokens in each sequence."""
        lease.finish_step = step + max(1, num_more)
        index = bisect_right(self._finishes, lease.finish_step)
        self._finishes.insert(index, lease.finish_step)
        self._streams.insert(index, lease)
        self.num_streams += lease.num_sequences
        self._base_tokens += lease.base_tokens
        self.sum_inverse_expected_lengths += lease.num_sequences * lease.inverse_output
        self._peak_tokens = -1

    def drop(self, lease: Reservation) -> None:
        """It decodes no more, or its end is about to be expected anew."""
        index = bisect_right(self._finishes, lease.finish_step - 1)
        while self._streams[index] is not lease:
            index += 1
        del self._finishes[index]
        del self._streams[index]
        self.num_streams -= lease.num_sequences
        self._base_tokens -= lease.base_tokens
        self.sum_inverse_expected_lengths -= lease.num_sequences * lease.inverse_output
        if not self.num_streams:
            self.sum_inverse_expected_lengths = 0.0
        self._peak_tokens = -1
