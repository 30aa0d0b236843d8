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

What is left is alike in prompts that begin alike, and is learned by those (``Beginnings``).
"""

import math
from typing import Final

from memroute.traffic.lengths.beginnings import Beginnings
from memroute.traffic.request import RequestProfile

# Weight that an observation keeps with each later prompt of its kind: about a hundred prompts
# count.
# Unit: ratio. Source: chosen by hand.
FORGET_RATIO: Final = 0.99
# Weight of the first ratio, 1, of words and attachments: a few short prompts outweigh it.
# Unit: tokens. Source: chosen by hand.
PRIOR_TOKENS: Final = 1000.0
# The same of every other kind, in which tokenizers differ more: one makes 0.6 tokens of a Chinese
# character, another 1.2. A prompt holds fewer tokens of them (100 of German's 1,600 are accented
# letters), so that with a prior as heavy their errors would correct the words instead.
# Unit: tokens. Source: chosen by hand; 100 and 500 move errors at the 90th percentile by a point.
RARE_PRIOR_TOKENS: Final = 200.0
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
# Chinese characters, also in Japanese.
# Unit: index. Source: a name.
HAN: Final = 7
# Japanese syllables, and the punctuation of Chinese and Japanese: tokenizers that know whole words
# of Chinese spell these.
# Unit: index. Source: a name.
KANA: Final = 8
# Korean.
# Unit: index. Source: a name.
HANGUL: Final = 9
# Attachments whose size is known: by the header of an image, the length of a recording.
# Unit: index. Source: a name.
MEASURED: Final = 10
# Attachments whose size only the engine knows.
# Unit: index. Source: a name.
UNMEASURED: Final = 11
# Kinds of content, from ``WORDS`` to ``UNMEASURED``.
# Unit: kinds. Source: a count of the names.
NUM_KINDS: Final = 12

PromptParts = list[float]
"""Estimated tokens of one prompt by kind, before any correction."""

_PRIOR_VARIANCES: Final = tuple(
    1.0 / (PRIOR_TOKENS if kind in {WORDS, MEASURED, UNMEASURED} else RARE_PRIOR_TOKENS)
    for kind in range(NUM_KINDS)
)


class PromptLengths:
    """Owns the ratios of one pool."""

    __slots__ = ("_covariance", "_seen", "beginnings", "ratios")

    def __init__(self) -> None:
        self.ratios = [1.0] * NUM_KINDS
        """Actual over estimated tokens of each kind."""
        self.beginnings = Beginnings()
        """What prompts that begin alike have beside that."""
        self._covariance = [
            [_PRIOR_VARIANCES[row] if row == column else 0.0 for column in range(NUM_KINDS)]
            for row in range(NUM_KINDS)
        ]
        self._seen: list[int] = []
        """Kinds that any prompt has held. The others are related to none, and nothing is learned
        of them: usual prompts hold three of twelve."""

    @property
    def ratio(self) -> float:
        """Actual over estimated tokens of English words, 0.25 to 4."""
        return self.ratios[WORDS]

    def tokens(self, parts: PromptParts) -> float:
        """Tokens that a prompt of these parts is expected to have."""
        total = 0.0
        for kind, ratio in enumerate(self.ratios):
            total += ratio * parts[kind]
        return total

    def observe(
        self, parts: PromptParts, *, actual_tokens: int, asked: RequestProfile | None = None
    ) -> None:
        """A prompt of these parts had ``actual_tokens``, as its engine says.

        ``asked``: what it was taken to be; None: nothing is learned of how it begins.
        """
        present = [kind for kind, tokens in enumerate(parts) if tokens > 0.0]
        if not present or actual_tokens <= 0:
            return
        total, seen = 0.0, self._seen
        for kind in present:
            total += parts[kind]
            if kind not in seen:
                seen.append(kind)
        self._fade(parts, present, total)
        self._correct(parts, present, total, actual_tokens)
        if asked is not None and asked.prefix:
            self._note(parts, present, asked, actual_tokens)

    def _tokens_of(self, parts: PromptParts, present: list[int]) -> float:
        """``tokens``, where it is known which kinds there are: usually three of twelve."""
        ratios, total = self.ratios, 0.0
        for kind in present:
            total += ratios[kind] * parts[kind]
        return total

    def _note(
        self,
        parts: PromptParts,
        present: list[int],
        asked: RequestProfile,
        actual_tokens: int,
    ) -> None:
        attached = before = 0.0
        if present[-1] >= MEASURED:
            ratios = self.ratios
            attached = ratios[MEASURED] * parts[MEASURED] + ratios[UNMEASURED] * parts[UNMEASURED]
        if len(asked.block_ends) > 1:
            before = asked.block_ends[-2] / asked.num_prompt_tokens
        self.beginnings.observe(
            asked.prefix,
            text_tokens=self._tokens_of(parts, present) - attached,
            attachment_tokens=attached,
            actual_tokens=actual_tokens,
            share_before=before,
        )

    def _correct(
        self, parts: PromptParts, present: list[int], total: float, actual_tokens: int
    ) -> None:
        """One step of the recursive least squares."""
        covariance, ratios, seen = self._covariance, self.ratios, self._seen
        gains = [0.0] * NUM_KINDS
        variance = total
        for row in seen:
            gain = 0.0
            of_row = covariance[row]
            for kind in present:
                gain += of_row[kind] * parts[kind]
            gains[row] = gain
            variance += gain * parts[row]
        error = (actual_tokens - self._tokens_of(parts, present)) / variance
        for row in seen:
            gain = gains[row]
            if not gain:
                continue
            of_row = covariance[row]
            by = gain / variance
            for column in seen:
                # (In one step, compiled, it would not be known that these are floats.)
                of_row[column] = of_row[column] - by * gains[column]
            low, high = MIN_RATIO, MAX_RATIO
            if row == UNMEASURED:
                low, high = MIN_UNMEASURED_RATIO, MAX_UNMEASURED_RATIO
            ratio = ratios[row] + gain * error
            ratios[row] = ratio if low <= ratio <= high else min(high, max(low, ratio))

    def _fade(self, parts: PromptParts, present: list[int], total: float) -> None:
        """Fade the certainty of the kinds that the prompt holds, never below that of the prior."""
        covariance = self._covariance
        for kind in present:
            of_row = covariance[kind]
            grown = _PRIOR_VARIANCES[kind]
            if of_row[kind] >= grown:
                continue
            # By which its variance grows, and the standard deviation by the root of that.
            fade = math.pow(FORGET_RATIO, -parts[kind] / total)
            factor = math.pow(min(grown / max(1e-12, of_row[kind]), fade), 0.5)
            for other in self._seen:
                of_other = covariance[other]
                of_row[other] = of_row[other] * factor
                of_other[kind] = of_other[kind] * factor
