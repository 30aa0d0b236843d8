"""Actual over estimated tokens of prompts, learned by kind of content.

Before an engine has tokenized a prompt, its length is estimated from its bytes and from the headers
of its attachments. Tokenizers and models differ, by kind of content: one makes a token of each
digit, another of three; one knows Hindi, another spells it; an image is 64 tokens or 4,096. So each
kind has a ratio of its own, so that an image which was estimated wrongly does not correct text:

    usage.prompt_tokens ~ sum over kinds of ratio * estimated tokens of that kind

The ratios are the recursive least squares solution, each prompt weighted by one over its tokens
(the error of a long one is larger), older prompts fading. Only the kinds that a prompt holds fade:
what was learned of images stays while no image comes. With one kind alone, its ratio is that of two
fading sums.
"""

from typing import Final

# Weight that an observation keeps with each later prompt of its kind: about a hundred prompts
# count.
# Unit: ratio. Source: chosen by hand.
FORGET_RATIO: Final = 0.99
# Weight of the first ratio, 1: a few short prompts outweigh it.
# Unit: tokens. Source: chosen by hand.
PRIOR_TOKENS: Final = 1000.0
# Least ratio of actual to estimated tokens: below, something else is wrong, such as a proxy that
# rewrites prompts.
# Unit: ratio. Source: a bound, chosen by hand.
MIN_RATIO: Final = 0.25
# Greatest ratio of actual to estimated tokens, likewise.
# Unit: ratio. Source: a bound, chosen by hand.
MAX_RATIO: Final = 4.0
# Least ratio for attachments of unknown size, which are estimated at 1,024 tokens each: thumbnails
# have 64.
# Unit: ratio. Source: a bound, from what engines make of attachments.
MIN_UNMEASURED_RATIO: Final = 0.02
# Greatest ratio for attachments of unknown size: scans and videos have 16,384 tokens.
# Unit: ratio. Source: a bound, from what engines make of attachments.
MAX_UNMEASURED_RATIO: Final = 50.0

# Letters in ASCII, spaces, and what templates put around messages.
# Unit: index. Source: a name.
WORDS: Final = 0
# Punctuation, brackets, ends of lines, dashes, emoji: what code and data are full of.
# Unit: index. Source: a name.
SYMBOLS: Final = 1
# Digits.
# Unit: index. Source: a name.
DIGITS: Final = 2
# Accented Latin letters: languages other than English need more tokens per word.
# Unit: index. Source: a name.
ACCENTS: Final = 3
# Greek and Cyrillic.
# Unit: index. Source: a name.
ALPHABETS: Final = 4
# Hebrew and Arabic.
# Unit: index. Source: a name.
ABJADS: Final = 5
# Indic scripts, Thai, Georgian, accented Vietnamese.
# Unit: index. Source: a name.
INDIC: Final = 6
# Chinese and Japanese.
# Unit: index. Source: a name.
HAN: Final = 7
# Korean.
# Unit: index. Source: a name.
HANGUL: Final = 8
# Attachments whose size is known: by the header of an image, the length of a recording.
# Unit: index. Source: a name.
MEASURED: Final = 9
# Attachments whose size only the engine knows.
# Unit: index. Source: a name.
UNMEASURED: Final = 10
# Kinds of content, from ``WORDS`` to ``UNMEASURED``.
# Unit: kinds. Source: a count of the names.
NUM_KINDS: Final = 11

PromptParts = list[float]
"""Estimated tokens of one prompt by kind, before any correction."""


class PromptLengths:
    """Owns the ratios of one pool."""

    __slots__ = ("_covariance", "_seen", "ratios")

    def __init__(self) -> None:
        self.ratios = [1.0] * NUM_KINDS
        """Actual over estimated tokens of each kind."""
        self._covariance = [
            [1.0 / PRIOR_TOKENS if row == column else 0.0 for column in range(NUM_KINDS)]
            for row in range(NUM_KINDS)
        ]
        self._seen: list[int] = []
        """Kinds that any prompt has held. The others are related to none, and nothing is learned
        of them: usual prompts hold three of eleven."""

    @property
    def ratio(self) -> float:
        """Actual over estimated tokens of English words, 0.25 to 4."""
        return self.ratios[WORDS]

    def tokens(self, parts: PromptParts) -> float:
        """Tokens that a prompt of these parts is expected to have."""
        total = 0.0
        for kind in range(NUM_KINDS):
            total += self.ratios[kind] * parts[kind]
        return total

    def observe(self, parts: PromptParts, *, actual_tokens: int) -> None:
        """A prompt of these parts had ``actual_tokens``, as its engine says."""
        total = sum(parts)
        if total <= 0.0 or actual_tokens <= 0:
            return
        present = [kind for kind in range(NUM_KINDS) if parts[kind] > 0.0]
        seen = self._seen
        for kind in present:
            if kind not in seen:
                seen.append(kind)
        self._fade(parts, present, total)
        covariance = self._covariance
        gains: list[float] = []
        variance = total
        for row in seen:
            gain = 0.0
            of_row = covariance[row]
            for kind in present:
                gain += of_row[kind] * parts[kind]
            gains.append(gain)
            variance += gain * parts[row]
        error = (actual_tokens - self.tokens(parts)) / variance
        for index, row in enumerate(seen):
            gain = gains[index]
            if not gain:
                continue
            of_row = covariance[row]
            for other, column in enumerate(seen):
                of_row[column] -= gain * gains[other] / variance
            low, high = MIN_RATIO, MAX_RATIO
            if row == UNMEASURED:
                low, high = MIN_UNMEASURED_RATIO, MAX_UNMEASURED_RATIO
            self.ratios[row] = min(high, max(low, self.ratios[row] + gain * error))

    def _fade(self, parts: PromptParts, present: list[int], total: float) -> None:
        """Fade the certainty of the kinds that the prompt holds, never below that of the prior."""
        covariance = self._covariance
        for kind in present:
            grown: float = FORGET_RATIO ** (-0.5 * parts[kind] / total)
            room: float = (1.0 / PRIOR_TOKENS / max(1e-12, covariance[kind][kind])) ** 0.5
            factor = min(grown, max(1.0, room))
            of_row = covariance[kind]
            if factor == 1.0:
                continue
            for other in self._seen:
                of_row[other] *= factor
                covariance[other][kind] *= factor
