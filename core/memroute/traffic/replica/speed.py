"""How fast a replica is, learned from what its answers show.

Two clocks, both read off the answers that this router carries:

```text
prefill   seconds until the next first tokens = c x prompts + a x uncached prompt tokens
          (least squares over the times in which prompts were waiting; old samples fade)
steps     every decoding answer gets one token per step, so the gap between two tokens of one
          answer is a step: its fast end is what a step takes without prefills, its mean what
          answers get now
```

``c`` holds what a prompt costs whatever its length, the decode steps in between included; ``a``
is one over the prefill rate. Nothing is typed in: unequal accelerators show themselves, and so
does a replica that became slow.
"""

from typing import Final

PRIOR_PROMPT_SECONDS: Final = 0.01
PRIOR_TOKEN_SECONDS: Final = 3e-5
# An 8B model on an H100 needs 2e-5, a 70B one on four of them 6e-5: where learning starts.
PRIOR_PROMPTS: Final = 2.0
PRIOR_TOKENS: Final = 4000.0
# What the prior weighs: two prompts; a few real ones outweigh it.
SAME_RATIO: Final = 1.3
# Replicas whose prompts take as long within this are taken to be equally fast; accelerators that
# differ do so by half and more.
FORGET_RATIO: Final = 0.98
# A sample counts half after 34 others: some seconds of traffic.
FASTER_RATIO: Final = 0.5
SLOWER_RATIO: Final = 0.05
# How a step's fast end follows a shorter and a longer gap: steps with prefills are longer, and
# must not count; growing batches must.
MIN_WINDOW_STEPS: Final = 8.0
MAX_WINDOW_STEPS: Final = 64.0


class SpeedMeter:
    """What one replica's answers say of its speed. Owns its sums; the caller brings the clock."""

    __slots__ = (
        "_is_compared", "_last_step_at_seconds", "_num_prompts", "_num_since_idle", "_num_tokens",
        "_snn", "_snt", "_snw", "_swt", "_sww", "busy_since_seconds", "decode_step_seconds",
        "is_known", "mean_step_seconds", "num_samples", "num_steps", "own_prompt_seconds",
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
        """Times in which prompts were waited for: what the law rests on."""
        self.own_prompt_seconds = PRIOR_PROMPT_SECONDS
        self.own_token_seconds = PRIOR_TOKEN_SECONDS
        """``c`` and ``a`` as its own samples say: noisy, each at the other's expense."""
        self._is_compared = False
        self.is_known = False
        """Whether its own times, or those of others like it, have been seen."""
        self.prompt_seconds = PRIOR_PROMPT_SECONDS
        """``c``, to decide by: of all replicas, times how much slower this one is."""
        self.token_seconds = PRIOR_TOKEN_SECONDS
        """``a``, likewise."""
        self.busy_since_seconds = -1.0
        """Since when the prompts that wait now have been worked on; -1 when none waits."""
        self._last_step_at_seconds = -1.0
        self._num_since_idle = 0
        self.decode_step_seconds = 0.0
        """A step without prefills; 0 while none was seen."""
        self.mean_step_seconds = 0.0
        """A step as it is now, prefills in it; 0 while nothing decodes."""
        self.num_steps = 0
        """The replica's own clock: tokens that an answer which never ended would have got."""

    def prefill_seconds(self, num_prompts: int, num_tokens: int) -> float:
        """How long so many prompts of so many uncached tokens take, all together."""
        return self.prompt_seconds * num_prompts + self.token_seconds * num_tokens

    def sent(self, *, now_seconds: float) -> None:
        """A prompt is on its way."""
        if self.busy_since_seconds < 0:
            self.busy_since_seconds = now_seconds
            self._num_prompts = 0.0
            self._num_tokens = 0.0

    def prefilled(self, num_tokens: int, *, num_left: int, now_seconds: float) -> None:
        """A prompt of so many uncached tokens has its first token; ``num_left`` still wait."""
        self._num_prompts += 1.0
        self._num_tokens += num_tokens
        since = self.busy_since_seconds
        if since >= 0 and now_seconds > since:
            self._sample(self._num_prompts, self._num_tokens, now_seconds - since)
            self._num_prompts = 0.0
            self._num_tokens = 0.0
            self.busy_since_seconds = now_seconds if num_left else -1.0
        elif not num_left:
            self.busy_since_seconds = -1.0

    def left(self, *, num_left: int) -> None:
        """A prompt has gone without a first token; ``num_left`` still wait."""
        if not num_left:
            self.busy_since_seconds = -1.0

    def stepped(self, *, window_steps: float, now_seconds: float, num_steps: int = 1) -> None:
        """So many steps have ended since the last call, told by the tokens of one answer.

        ``window_steps``: over how many steps the mean goes: as long as answers are.
        """
        last = self._last_step_at_seconds
        self._last_step_at_seconds = now_seconds
        if last < 0:
            return
        self.num_steps += num_steps
        gap = (now_seconds - last) / num_steps
        fast = self.decode_step_seconds
        if fast <= 0.0:
            self.decode_step_seconds = gap
        else:
            follows = FASTER_RATIO if gap < fast else SLOWER_RATIO
            self.decode_step_seconds = fast + follows * (gap - fast)
        self._num_since_idle += num_steps
        window = min(MAX_WINDOW_STEPS, max(MIN_WINDOW_STEPS, window_steps))
        if self._num_since_idle < window:
            # The plain mean at first: a replica that was idle a moment ago, or is new, draws
            # prompts from everywhere, and has to show at once what they make of its steps.
            window = float(self._num_since_idle)
        share = min(1.0, num_steps / window)
        self.mean_step_seconds += (gap - self.mean_step_seconds) * share

    def idle(self) -> None:
        """Nothing decodes any more: the next token starts a new clock."""
        self._last_step_at_seconds = -1.0
        self._num_since_idle = 0
        self.mean_step_seconds = 0.0

    def restart(self, *, now_seconds: float) -> None:
        """Another answer tells the steps from now on."""
        self._last_step_at_seconds = now_seconds

    @property
    def typical_tokens(self) -> float:
        """Uncached tokens of a prompt, about; 0 while there was none."""
        return self._snw / self._snn if self._snn > 0.0 else 0.0

    def compare(
        self, *, prompt_seconds: float, token_seconds: float, typical_tokens: float
    ) -> None:
        """Decide from now on by what all replicas take, times how much slower this one is.

        How long prompts take in all is known well from a few; how that splits into ``c`` and ``a``
        is not. Two equal replicas that are believed to differ get unequal shares of the answers.
        A difference that noise makes is none.
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
        """Take it to be as fast as others are, while it has shown little itself."""
        self.is_known = True
        self.prompt_seconds = self.own_prompt_seconds = prompt_seconds
        self.token_seconds = self.own_token_seconds = token_seconds
        self._snt = self._snn * prompt_seconds + self._snw * token_seconds
        self._swt = self._snw * prompt_seconds + self._sww * token_seconds

    def _sample(self, num_prompts: float, num_tokens: float, seconds: float) -> None:
        keep = FORGET_RATIO
        self.num_samples += 1
        self.is_known = True
        self._snn = self._snn * keep + num_prompts * num_prompts
        self._snw = self._snw * keep + num_prompts * num_tokens
        self._sww = self._sww * keep + num_tokens * num_tokens
        self._snt = self._snt * keep + num_prompts * seconds
        self._swt = self._swt * keep + num_tokens * seconds
        determinant = self._snn * self._sww - self._snw * self._snw
        if determinant <= 1e-6 * self._snn * self._sww:
            # All prompts were alike: what they took is known, its split is not. It stays.
            told = self.own_prompt_seconds * self._snn + self.own_token_seconds * self._snw
            if told > 0.0:
                self.own_prompt_seconds *= self._snt / told
                self.own_token_seconds = max(self.own_token_seconds * self._snt / told, 1e-8)
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
