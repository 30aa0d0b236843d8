"""How many tokens prompts turn out to have, over how many they were taken to have.

Before an engine has tokenized a prompt, its length is estimated from its bytes and from the headers
of its attachments. Tokenizers and models differ, by kind of content: one makes a token of each
digit, another of three; one knows Hindi, another spells it; an image is 64 tokens or 4,096. So each
kind has a ratio of its own, and an image that was taken wrongly corrects nobody's text:

    usage.prompt_tokens ~ r1 * ascii + r2 * digits + r3 * other + r4 * measured + r5 * unmeasured

The ratios are the recursive least squares solution, each prompt weighted by one over its tokens
(the error of a long one is larger), older prompts fading. Only the kinds that a prompt holds fade:
what was learned of images stays while nobody sends any. With text of one kind alone this is the
ratio of two fading sums.
"""

from typing import Final

FORGET_RATIO: Final = 0.99
# What an observation keeps of its weight with each later prompt of its kind: about a hundred
# prompts count. Chosen by hand.
PRIOR_TOKENS: Final = 1000.0
# What the first ratio, 1, weighs, in tokens: a few short prompts outweigh it. Chosen by hand.
MIN_RATIO: Final = 0.25
MAX_RATIO: Final = 4.0
# Beyond these, something else is wrong: a proxy that rewrites prompts. Chosen by hand.
MIN_UNMEASURED_RATIO: Final = 0.02
MAX_UNMEASURED_RATIO: Final = 50.0
# Attachments of unknown size are taken to be 1,024 tokens each: pools have seen 64 (thumbnails) to
# 16,384 (scans, videos).

NUM_KINDS: Final = 5


class PromptParts:
    """What one prompt is taken to hold, in tokens of each kind before any correction.

    A plain class with slots: one is made for every request.
    """

    __slots__ = ("ascii", "digits", "measured", "other", "unmeasured")

    def __init__(
        self,
        *,
        ascii: float = 0.0,  # noqa: A002 - the field's word
        digits: float = 0.0,
        other: float = 0.0,
        measured: float = 0.0,
        unmeasured: float = 0.0,
    ) -> None:
        self.ascii = ascii
        """Of text in ASCII, without its digits; and what templates put around messages."""
        self.digits = digits
        """Of digits: a token each, or three in one."""
        self.other = other
        """Of text in all other scripts."""
        self.measured = measured
        """Of attachments whose size is known: by the header of an image, the length of a sound."""
        self.unmeasured = unmeasured
        """Of attachments whose size only the engine will know."""

    @property
    def total(self) -> float:
        """Tokens in all."""
        return self.ascii + self.digits + self.other + self.measured + self.unmeasured


class PromptLengths:
    """Owns the ratios of one pool."""

    __slots__ = ("_covariance", "ratios")

    def __init__(self) -> None:
        self.ratios = [1.0] * NUM_KINDS
        """Actual over estimated tokens of each kind, in the order of ``PromptParts``' formula."""
        self._covariance = [
            [1.0 / PRIOR_TOKENS if row == column else 0.0 for column in range(NUM_KINDS)]
            for row in range(NUM_KINDS)
        ]

    @property
    def ratio(self) -> float:
        """Actual over estimated tokens of plain text, 0.25 to 4."""
        return self.ratios[0]

    def text_tokens(self, ascii: float, digits: float, other: float) -> float:  # noqa: A002
        """Tokens that a text of these parts is expected to have."""
        ratios = self.ratios
        return ratios[0] * ascii + ratios[1] * digits + ratios[2] * other

    def tokens(self, parts: PromptParts) -> float:
        """Tokens that a prompt of these parts is expected to have."""
        ratios = self.ratios
        text = self.text_tokens(parts.ascii, parts.digits, parts.other)
        return text + ratios[3] * parts.measured + ratios[4] * parts.unmeasured

    def observe(self, parts: PromptParts, *, actual_tokens: int) -> None:
        """A prompt of these parts had ``actual_tokens``, as its engine says."""
        total = parts.total
        if total <= 0.0 or actual_tokens <= 0:
            return
        x = [parts.ascii, parts.digits, parts.other, parts.measured, parts.unmeasured]
        covariance = self._covariance
        fading = [self._fading(kind, x[kind] / total) for kind in range(NUM_KINDS)]
        gains: list[float] = []
        variance = total
        for row in range(NUM_KINDS):
            of_row = covariance[row]
            gain = 0.0
            for column in range(NUM_KINDS):
                of_row[column] *= fading[row] * fading[column]
                gain += of_row[column] * x[column]
            gains.append(gain)
            variance += gain * x[row]
        error = (actual_tokens - self.tokens(parts)) / variance
        for row in range(NUM_KINDS):
            of_row = covariance[row]
            gain = gains[row]
            for column in range(NUM_KINDS):
                of_row[column] -= gain * gains[column] / variance
            low = MIN_RATIO if row < NUM_KINDS - 1 else MIN_UNMEASURED_RATIO
            high = MAX_RATIO if row < NUM_KINDS - 1 else MAX_UNMEASURED_RATIO
            self.ratios[row] = min(high, max(low, self.ratios[row] + gain * error))

    def _fading(self, kind: int, share: float) -> float:
        """What the uncertainty of a kind grows by, never beyond what it began with."""
        if share <= 0.0:
            return 1.0
        grown: float = FORGET_RATIO ** (-0.5 * share)
        room: float = (1.0 / PRIOR_TOKENS / max(1e-12, self._covariance[kind][kind])) ** 0.5
        return min(grown, max(1.0, room))
