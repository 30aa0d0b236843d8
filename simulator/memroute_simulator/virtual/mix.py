"""What requests and answers are like beside their lengths: a traffic mix.

A workload says how long prompts and answers are, how they come and what they share. A mix says what
a router meets besides: answers that are not streamed, events of several tokens, several choices,
text in other languages than the estimator's, attachments of a size nobody tells, clients that give
up and try again, clients that leave. ``PLAIN`` has none of it; ``REAL_MIX`` has all of it.

Each request draws from a source of its own, so every policy meets the same traffic.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from memroute.traffic.lengths import PromptParts
from memroute.traffic.lengths.prompt import (
    ALPHABETS,
    HAN,
    NUM_KINDS,
    SYMBOLS,
    UNMEASURED,
    WORDS,
)

# What the router takes an attachment to be whose size nobody tells.
TOKENS_PER_ATTACHMENT: Final = 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMix:
    """Shares are of all requests, 0 to 1."""

    whole_ratio: float = 0.0
    """Answers that are not streamed: the API's default."""
    usage_ratio: float = 1.0
    """Of streams, those whose client asks for ``usage``; whole answers always have it."""
    event_tokens: tuple[int, ...] = (1,)
    """Tokens of one event after the next, over and over: batching engines, speculation."""
    choices_ratio: float = 0.0
    choices: tuple[int, ...] = (1,)
    """Requests that ask for several answers, and how many (``n``): each as likely."""
    texts: tuple[tuple[int, float], ...] = ((WORDS, 1.0),)
    """Kinds of text (``memroute.traffic.lengths``), each as likely, and tokens over what the
    estimator takes such a text to have before it has learned."""
    text_spread: float = 0.0
    """How far a single text is off that ratio: at most so much of it, either way."""
    attachments_ratio: float = 0.0
    attachment_tokens: tuple[int, ...] = ()
    """Prompts with an attachment whose size nobody tells, and how much of them that is at most."""
    leaves_ratio: float = 0.0
    leaves_after_seconds: float = 4.0
    """Clients that leave, and the mean of when (exponential)."""
    stream_timeout_seconds: float | None = None
    whole_timeout_seconds: float | None = None
    """After which a client without a byte gives up; a whole answer's first byte is its last."""
    max_client_attempts: int = 1
    """How often a client sends a request that was refused, or that it gave up: after what
    ``Retry-After`` says, or a second."""

    def draw(self, key: str, num_prompt_tokens: int) -> "Asked":
        """What one request is like; the same for the same ``key``."""
        rng = random.Random(key)  # noqa: S311 - a simulation
        is_stream = rng.random() >= self.whole_ratio
        has_usage = not is_stream or rng.random() < self.usage_ratio
        num_choices = rng.choice(self.choices) if rng.random() < self.choices_ratio else 1
        kind, ratio = rng.choice(self.texts)
        ratio *= 1.0 + self.text_spread * (2.0 * rng.random() - 1.0)
        attached = 0
        if self.attachment_tokens and rng.random() < self.attachments_ratio:
            attached = min(rng.choice(self.attachment_tokens), num_prompt_tokens // 2)
        leaves_after = None
        if rng.random() < self.leaves_ratio:
            leaves_after = rng.expovariate(1.0 / self.leaves_after_seconds)
        parts = [0.0] * NUM_KINDS
        parts[kind] = (num_prompt_tokens - attached) / ratio
        parts[UNMEASURED] = TOKENS_PER_ATTACHMENT if attached else 0.0
        return Asked(
            is_stream=is_stream,
            has_usage=has_usage,
            num_choices=num_choices,
            parts=parts,
            leaves_after_seconds=leaves_after,
        )

    @property
    def is_sparse(self) -> bool:
        """Whether events carry more than a token on average."""
        return sum(self.event_tokens) > len(self.event_tokens)

    def num_events(self, num_tokens: int, *, is_whole: bool = False) -> int:
        """Events that have shown so many tokens of one sequence; the first token comes alone.

        ``is_whole``: there will be no more, and the last event carries what is left.
        """
        if num_tokens <= 1:
            return num_tokens
        sizes = self.event_tokens
        rounds, rest = divmod(num_tokens - 1, sum(sizes))
        count, left = _events_of(rest, sizes)
        return 1 + rounds * len(sizes) + count + (1 if is_whole and left else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one request is like, beside its lengths."""

    is_stream: bool
    has_usage: bool
    num_choices: int
    parts: PromptParts
    """What the router's estimator sees of its prompt."""
    leaves_after_seconds: float | None
    """When its client leaves, whatever has come by then; None: it stays."""


def _events_of(num_tokens: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Whole events in so many tokens, fewer than a round, and the tokens that are left."""
    count = 0
    for size in sizes:
        if num_tokens < size:
            break
        num_tokens -= size
        count += 1
    return count, num_tokens


PLAIN: Final = TrafficMix()
"""Every answer streamed, a token per event, prompts as long as their bytes say."""
REAL_MIX: Final = TrafficMix(
    whole_ratio=0.7,
    usage_ratio=0.3,
    event_tokens=(1, 8, 3, 5, 2, 6, 4, 7),
    choices_ratio=0.1,
    choices=(2, 3, 4),
    texts=((WORDS, 1.0), (WORDS, 1.0), (SYMBOLS, 1.1), (ALPHABETS, 1.3), (HAN, 0.8)),
    text_spread=0.1,
    attachments_ratio=0.1,
    attachment_tokens=(258, 1024, 2880),
    leaves_ratio=0.03,
    stream_timeout_seconds=20.0,
    whole_timeout_seconds=120.0,
    max_client_attempts=3,
)
"""What a platform team's pool meets: the issue's real mix."""
