"""Seconds that prompts take on one replica, learned from the first tokens that this router sees.

```text
seconds until the next first tokens = c x prompts + a x uncached prompt tokens
```

fitted by least squares over the periods in which prompts were waiting; old samples fade. ``c`` is
what a prompt costs whatever its length, decode steps in between included. ``a`` is one over the
prefill rate. Nothing is configured: unequal accelerators show themselves, and so does a replica
that became slow.

Two kinds of samples, by what is waiting there:

* **streams alone**: each shows when its prompt is done, so the time between two first tokens is
  that of the prompts in between;
* **whole answers among them**: a whole answer shows nothing until it ends, so the end of its
  prefill is unknown. Then each streamed first token is a sample of its own: the time since its
  request was sent, against its own prompt and all that was ahead of it when it was sent. A law that
  is too slow assumes too much ahead, and the sample corrects it; so with a law that is too fast.
"""

from typing import Final

# Seconds per prompt from which learning starts.
# Unit: seconds. Source: chosen by hand; a step of an 8B model on an H100.
PRIOR_PROMPT_SECONDS: Final = 0.01
# Seconds per uncached prompt token from which learning starts: an 8B model on an H100 needs 2e-5,
# a 70B one on four of them 6e-5.
# Unit: seconds per token. Source: chosen by hand, from those.
PRIOR_TOKEN_SECONDS: Final = 3e-5
# Weight of the prior in prompts: two, which a few real ones outweigh.
# Unit: prompts. Source: chosen by hand.
PRIOR_PROMPTS: Final = 2.0
# Weight of the prior in tokens: two usual prompts.
# Unit: tokens. Source: chosen by hand.
PRIOR_TOKENS: Final = 4000.0
# Replicas whose prompts take as long within this ratio count as equally fast; accelerators that
# differ do so by half and more.
# Unit: ratio. Source: chosen by hand.
SAME_RATIO: Final = 1.3
# Weight that a sample keeps with each later one: half after 34 others, some seconds of traffic.
# Unit: ratio. Source: chosen by hand.
FORGET_RATIO: Final = 0.98
# Error of a sample among whole answers from which on the law counts as wrong: what waits ahead is
# itself a belief there.
# Unit: ratio, either way. Source: chosen by hand.
WRONG_RATIO: Final = 3.0
# Weight that older samples keep once the law is wrong.
# Unit: ratio. Source: chosen by hand.
WRONG_FORGET_RATIO: Final = 0.5


class PrefillLaw:
    """One replica's prefill times. Owns its sums; the caller brings the clock.

    The sums are those of the least squares of ``seconds = c n + a w`` over samples of ``n`` prompts
    and ``w`` uncached tokens: ``_snw`` is the faded sum of ``n x w``, ``_swt`` of ``w x seconds``.
    """

    __slots__ = (
        "_is_compared", "_is_mixed", "_num_prompts", "_num_tokens", "_snn", "_snt", "_snw", "_swt",
        "_sww", "busy_since_seconds", "is_known", "num_samples", "own_prompt_seconds",
        "own_token_seconds", "prompt_seconds", "token_seconds",
    )  # fmt: skip

    def __init__(self) -> None:
        self._snn = PRIOR_PROMPTS
        self._snw = 0.0
        self._sww = PRIOR_TOKENS * PRIOR_TOKENS
        self._snt = PRIOR_PROMPTS * PRIOR_PROMPT_SECONDS
        self._swt = PRIOR_TOKENS * PRIOR_TOKENS * PRIOR_TOKEN_SECONDS
        self._num_prompts = 0.0
        self._num_tokens = 0.0
        self.num_samples = 0
        """Samples that the law rests on."""
        self.own_prompt_seconds = PRIOR_PROMPT_SECONDS
        self.own_token_seconds = PRIOR_TOKEN_SECONDS
        """``c`` and ``a`` by its own samples: both noisy, and negatively correlated."""
        self._is_compared = False
        self.is_known = False
        """Whether its own samples, or those of other replicas, have been seen."""
        self.prompt_seconds = PRIOR_PROMPT_SECONDS
        """``c`` for decisions: the mean of all replicas, times how much slower this one is."""
        self.token_seconds = PRIOR_TOKEN_SECONDS
        """``a`` for decisions, likewise."""
        self.busy_since_seconds = -1.0
        """When the engine began the prompts that wait now; -1 when none waits."""
        self._is_mixed = False
        """Whether any prompt since then belongs to a whole answer."""

    def prefill_seconds(self, num_prompts: int, num_tokens: int) -> float:
        """Seconds that ``num_prompts`` of ``num_tokens`` uncached tokens in all take together."""
        return self.prompt_seconds * num_prompts + self.token_seconds * num_tokens

    def sent(self, *, now_seconds: float, is_seen: bool = True) -> None:
        """A prompt was sent. ``is_seen``: its answer is streamed, so its first token will show."""
        if self.busy_since_seconds < 0:
            self.busy_since_seconds = now_seconds
            self._num_prompts = 0.0
            self._num_tokens = 0.0
            self._is_mixed = False
        if not is_seen:
            self._is_mixed = True

    def ahead_ratio(self, num_prompts: int, num_tokens: int, *, now_seconds: float) -> float:
        """The share (0 to 1) of the waiting prompts that is still to be computed."""
        if self.busy_since_seconds < 0:
            return 1.0
        expected = self.prefill_seconds(num_prompts, num_tokens)
        elapsed = now_seconds - self.busy_since_seconds
        return max(0.0, 1.0 - elapsed / expected) if expected > 0.0 else 1.0

    def prefilled(
        self,
        num_tokens: int,
        *,
        num_left: int,
        now_seconds: float,
        sent_at_seconds: float = -1.0,
        ahead_prompts: float = 0.0,
        ahead_tokens: float = 0.0,
    ) -> None:
        """A prompt of ``num_tokens`` uncached tokens has its first token; ``num_left`` still wait.

        ``ahead_…``: what was ahead of it when it was sent, for a sample of its own.
        """
        self._num_prompts += 1.0
        self._num_tokens += num_tokens
        since = self.busy_since_seconds
        if self._is_mixed:
            if 0 <= sent_at_seconds < now_seconds:
                prompts, tokens = 1.0 + ahead_prompts, num_tokens + ahead_tokens
                seconds = now_seconds - sent_at_seconds
                expected = self.own_prompt_seconds * prompts + self.own_token_seconds * tokens
                is_wrong = not seconds / WRONG_RATIO < expected < seconds * WRONG_RATIO
                keep = WRONG_FORGET_RATIO if is_wrong else FORGET_RATIO
                self._sample(prompts, tokens, seconds, keep=keep)
            self._begin(now_seconds, num_left=num_left)
        elif since >= 0 and now_seconds > since:
            self._sample(self._num_prompts, self._num_tokens, now_seconds - since)
            self._begin(now_seconds, num_left=num_left)
        elif not num_left:
            self.busy_since_seconds = -1.0

    def passed(self, *, num_left: int, at_seconds: float) -> None:
        """The prompt of a whole answer should have been done by now."""
        if not num_left:
            self.busy_since_seconds = -1.0
        elif at_seconds > self.busy_since_seconds >= 0:
            self.busy_since_seconds = at_seconds

    def left(self, *, num_left: int) -> None:
        """A request has left without a first token; ``num_left`` still wait."""
        if not num_left:
            self.busy_since_seconds = -1.0

    def _begin(self, now_seconds: float, *, num_left: int) -> None:
        """Begin a new sample if any prompts are left."""
        self._num_prompts = 0.0
        self._num_tokens = 0.0
        self.busy_since_seconds = now_seconds if num_left else -1.0

    @property
    def typical_tokens(self) -> float:
        """Typical uncached tokens of a prompt; 0 before the first sample."""
        return self._snw / self._snn if self._snn > 0.0 else 0.0

    def compare(
        self, *, prompt_seconds: float, token_seconds: float, typical_tokens: float
    ) -> None:
        """Decide by the mean of all replicas, times how much slower this one is.

        A few samples say well how long prompts take in all, and badly how that splits into ``c``
        and ``a``. Equal replicas that are believed to differ get unequal shares of the answers, so
        a difference within ``SAME_RATIO`` counts as none.
        """
        pool = prompt_seconds + token_seconds * typical_tokens
        own = self.own_prompt_seconds + self.own_token_seconds * typical_tokens
        ratio = own / pool if pool > 0.0 else 1.0
        if 1 / SAME_RATIO < ratio < SAME_RATIO:
            ratio = 1.0
        self._is_compared = True
        self.prompt_seconds = prompt_seconds * ratio
        self.token_seconds = max(token_seconds * ratio, 1e-8)

    def assume(self, *, prompt_seconds: float, token_seconds: float) -> None:
        """Take the replica to be as fast as the others, while it has shown little itself."""
        self.is_known = True
        self.prompt_seconds = self.own_prompt_seconds = prompt_seconds
        self.token_seconds = self.own_token_seconds = token_seconds
        self._snt = self._snn * prompt_seconds + self._snw * token_seconds
        self._swt = self._snw * prompt_seconds + self._sww * token_seconds

    def _sample(
        self, num_prompts: float, num_tokens: float, seconds: float, *, keep: float = FORGET_RATIO
    ) -> None:
        self.num_samples += 1
        self.is_known = True
        self._snn = self._snn * keep + num_prompts * num_prompts
        self._snw = self._snw * keep + num_prompts * num_tokens
        self._sww = self._sww * keep + num_tokens * num_tokens
        self._snt = self._snt * keep + num_prompts * seconds
        self._swt = self._swt * keep + num_tokens * seconds
        determinant = self._snn * self._sww - self._snw * self._snw
        if determinant <= 1e-6 * self._snn * self._sww:
            # All prompts were alike: their total is known, its split into c and a stays as it is.
            expected = self.own_prompt_seconds * self._snn + self.own_token_seconds * self._snw
            if expected > 0.0:
                self.own_prompt_seconds *= self._snt / expected
                self.own_token_seconds = max(self.own_token_seconds * self._snt / expected, 1e-8)
        else:
            prompt = (self._snt * self._sww - self._swt * self._snw) / determinant
            token = (self._swt * self._snn - self._snt * self._snw) / determinant
            if prompt < 0.0:
                prompt, token = 0.0, self._swt / self._sww
            elif token < 0.0:
                prompt, token = self._snt / self._snn, 0.0
            self.own_prompt_seconds = prompt
            self.own_token_seconds = max(token, 1e-8)
        if not self._is_compared:
            self.prompt_seconds = self.own_prompt_seconds
            self.token_seconds = self.own_token_seconds
