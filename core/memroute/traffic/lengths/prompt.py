"""How many tokens prompts turn out to have, over how many they were taken to have.

Before an engine has tokenized a prompt its length is estimated from its bytes; languages, code and
templates differ by a factor of two. Engines report what it was: the ratio of the two sums, older
prompts fading, corrects the next estimate.
"""

from typing import Final

FORGET_RATIO: Final = 0.99
PRIOR_TOKENS: Final = 1000.0
# What the first estimate weighs, in tokens: a few short prompts outweigh it.
MIN_RATIO: Final = 0.25
MAX_RATIO: Final = 4.0
# Beyond, something else is wrong: attachments, a proxy that rewrites prompts.


class PromptLengths:
    """Owns the two sums."""

    __slots__ = ("_actual", "_expected")

    def __init__(self) -> None:
        self._actual = PRIOR_TOKENS
        self._expected = PRIOR_TOKENS

    @property
    def ratio(self) -> float:
        """Actual over expected tokens, 0.25 to 4."""
        return min(MAX_RATIO, max(MIN_RATIO, self._actual / self._expected))

    def observe(self, *, expected_tokens: int, actual_tokens: int) -> None:
        """A prompt taken to have ``expected_tokens`` had ``actual_tokens``."""
        if expected_tokens <= 0 or actual_tokens <= 0:
            return
        self._actual = self._actual * FORGET_RATIO + actual_tokens
        self._expected = self._expected * FORGET_RATIO + expected_tokens
