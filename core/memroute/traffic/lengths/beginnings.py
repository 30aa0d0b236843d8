"""How far off the estimates are of prompts that begin alike.

The ratios by kind of content (``PromptLengths``) are means over a pool's traffic. English, German
and Spanish are all words, Python and a table are all symbols, and one sample of bytes is luckier
than another: after them, the estimates of one application's prompts are still off, and all the same
way. So is the estimate of a conversation from turn to turn, because its next prompt repeats this
one: when the engine has said what this one had, that much of the next one is known.

Each prompt that ends is noted under two of its keys (of all text up to there):

* its first block: prompts of one application begin with the same instructions;
* its last block: the next turn of its conversation holds that key too, and its engine has said
  how many tokens there are up to there. The last block but one is noted as well: a last message
  that is short is a block of its own only until another follows it.

All prompts that have a key count together, older ones fading. A new prompt goes by the deepest of
its keys that is noted. Its text has, by the sums of those prompts,

    ratio = (actual + prior) / (estimated + prior)

tokens for each that was estimated. The prior's ratio is 1 for an application, and the
application's for a conversation. Attachments are left as they are: their estimate is subtracted,
and a prompt that is mostly attachments counts for less (least squares with an error in proportion
to a prompt's tokens, as in ``PromptLengths``).
"""

from collections import OrderedDict
from typing import Final

# Weight of the prior ratio of an application: one prompt of some hundred tokens outweighs it.
# Unit: tokens. Source: chosen by hand; a half or twice as many moves the error of the prefix credit
# (90th percentile) by less than a point.
APPLICATION_PRIOR_TOKENS: Final = 200.0
# Weight of the application's ratio in a conversation's: most of the next prompt is the text that
# was counted, so that little doubt is left.
# Unit: tokens. Source: chosen by hand; likewise.
CONVERSATION_PRIOR_TOKENS: Final = 50.0
# Weight that a prompt keeps with each later one of its application: about ten prompts count, so
# that a drift of the pool's own ratios is forgotten.
# Unit: ratio. Source: chosen by hand.
FORGET_RATIO: Final = 0.9
# Blocks at the end of a prompt in which a conversation's last turn is looked for; behind it are an
# answer and the next question.
# Unit: blocks. Source: a bound of the work, chosen by hand.
MAX_NEW_BLOCKS: Final = 16
# Applications and conversations that a pool remembers, some 5 MB; the one that was noted longest
# ago is forgotten first.
# Unit: beginnings. Source: a bound of memory, chosen by hand.
MAX_BEGINNINGS: Final = 20_000
# Least ratio of actual to estimated tokens that is believed, beside that of the pool: below,
# something else is wrong.
# Unit: ratio. Source: a bound, chosen by hand.
MIN_BEGINNING_RATIO: Final = 0.5
# Greatest ratio of actual to estimated tokens that is believed, likewise.
# Unit: ratio. Source: a bound, chosen by hand.
MAX_BEGINNING_RATIO: Final = 2.0


_UNKNOWN: Final = (1.0, 0, 0.0)


class _Note:
    """What prompts with one key have shown. Not a tuple: five objects, three times a prompt."""

    __slots__ = ("actual", "estimated", "ratio", "tokens")

    def __init__(self, ratio: float, actual: float, estimated: float, tokens: float) -> None:
        self.ratio = ratio
        self.actual = actual
        self.estimated = estimated
        """Actual and estimated tokens of text, as fading sums."""
        self.tokens = tokens
        """All tokens up to that block (of a first one: unknown, 0)."""


class Beginnings:
    """Owns what one pool's prompts have shown, by the keys of their blocks."""

    __slots__ = ("_noted",)

    def __init__(self) -> None:
        self._noted: OrderedDict[int, _Note] = OrderedDict()
        """By key, the one that was noted longest ago first."""

    def __len__(self) -> int:
        return len(self._noted)

    def find(self, keys: tuple[int, ...]) -> tuple[float, int, float]:
        """What is known of a prompt's beginning.

        Actual over estimated tokens of text to be expected, 0.5 to 2 (unknown: 1); with how many of
        its blocks another prompt began, too (unknown: 0), and the tokens of those.
        """
        noted = self._noted
        if not keys or keys[0] not in noted:
            # Nor is a deeper one: they are noted together, the first one first.
            return _UNKNOWN
        num_blocks = len(keys)
        for key in keys[: -MAX_NEW_BLOCKS - 1 : -1]:
            if key in noted:
                note = noted[key]
                if note.tokens:
                    return note.ratio, num_blocks, note.tokens
                return note.ratio, 0, 0.0
            num_blocks -= 1
        return noted[keys[0]].ratio, 0, 0.0

    def observe(
        self,
        keys: tuple[int, ...],
        *,
        text_tokens: float,
        attachment_tokens: float,
        actual_tokens: int,
        share_before: float = 0.0,
    ) -> None:
        """A prompt had ``actual_tokens`` that was estimated at those, without this ratio.

        ``share_before``: of its tokens, 0 to 1, how many are before its last block; 0: unknown.
        """
        if not keys or text_tokens <= 0.0:
            return
        share = text_tokens / (text_tokens + attachment_tokens)
        estimated = share * text_tokens
        found = share * max(0.0, actual_tokens - attachment_tokens)
        prior = CONVERSATION_PRIOR_TOKENS
        num_keys = len(keys)
        ratio = self._note(keys[0], found, estimated, APPLICATION_PRIOR_TOKENS, 1.0, 0.0, 0.0)
        if num_keys > 2 and share_before:  # noqa: PLR2004 - the first is noted
            text, attached = share_before * text_tokens, share_before * attachment_tokens
            ratio = self._note(keys[-2], found, estimated, prior, ratio, text, attached)
        if num_keys > 1:
            self._note(keys[-1], found, estimated, prior, ratio, 0.0, float(actual_tokens))
        noted = self._noted
        while len(noted) > MAX_BEGINNINGS:
            # A plain dict is looked through for its first: 5 us, with thousands gone from there.
            noted.popitem(last=False)

    def _note(
        self,
        key: int,
        found: float,
        estimated: float,
        prior_tokens: float,
        prior_ratio: float,
        text_tokens: float,
        other_tokens: float,
    ) -> float:
        """One more prompt has this key; returns the ratio of all that have.

        Up to there it has ``text_tokens``, times that ratio, and ``other_tokens``.
        """
        noted = self._noted
        before = noted.get(key)
        if before is not None:
            # What was noted anew is forgotten last.
            noted.move_to_end(key)
            found += FORGET_RATIO * before.actual
            estimated += FORGET_RATIO * before.estimated
        ratio = (found + prior_tokens * prior_ratio) / (estimated + prior_tokens)
        if not MIN_BEGINNING_RATIO <= ratio <= MAX_BEGINNING_RATIO:
            ratio = min(MAX_BEGINNING_RATIO, max(MIN_BEGINNING_RATIO, ratio))
        noted[key] = _Note(ratio, found, estimated, text_tokens * ratio + other_tokens)
        return ratio
