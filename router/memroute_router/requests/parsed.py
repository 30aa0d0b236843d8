"""What the router knows of a request: weights by kind, keys of its blocks, limits."""

from operator import mul
from typing import Any, Final

from memroute.traffic.lengths import PromptLengths, PromptParts
from memroute.traffic.lengths.prompt import (
    ACCENTS,
    DIGITS,
    MEASURED,
    NUM_KINDS,
    SYMBOLS,
    UNMEASURED,
    WORDS,
)
from memroute.traffic.prefixes import block_keys, chain_root
from memroute.traffic.request import RequestProfile
from memroute.units import ceil_div
from memroute_router.requests.attachments import Attachment
from memroute_router.requests.media import UNKNOWN_FAMILY, MediaFamily
from memroute_router.requests.text import Chain

MAX_BYTES_PER_TOKEN: Final = 16
# No running text packs more into a token on average: what a final refusal may rely on.
TOKENS_PER_ID_BLOCK: Final = 256
# Blocks of prompts that came as token ids.

_UNCORRECTED = PromptLengths()
_NOTHING: Final[list[float]] = []


class PromptWeight:
    """What a request's prompts hold together, before anything is known of the model."""

    __slots__ = (
        "attachments", "chain", "keys", "longest_bytes", "longest_ids", "num_ids", "num_prompts",
        "parts", "token_ids",
    )  # fmt: skip

    def __init__(self, chain: Chain | None = None) -> None:
        """``chain``: of a single prompt that came as text."""
        self.parts: PromptParts = [0.0] * NUM_KINDS
        """Tokens of text by kind, as estimated; of attachments they are not known here."""
        self.num_ids = 0
        """Tokens that came as ids."""
        self.attachments: list[Attachment] = []
        self.keys: tuple[int, ...] = ()
        self.chain = chain
        self.longest_bytes = 0
        self.longest_ids = 0
        """Of its longest prompt."""
        self.num_prompts = 1
        self.token_ids: list[int] | None = None
        """Of a single prompt that came as ids."""


class ParsedRequest:
    """What the router needs to know of a request."""

    __slots__ = (
        "asked", "document", "is_stream", "max_output_tokens", "model", "num_choices",
        "num_sequences", "parts", "prefix", "session", "token_ids", "truncated_tokens", "weight",
    )  # fmt: skip

    def __init__(
        self,
        *,
        model: str,
        weight: PromptWeight,
        max_output_tokens: int | None = 0,
        num_choices: int = 1,
        num_sequences: int = 1,
        is_stream: bool = False,
        session: str = "",
        document: dict[str, Any] | None = None,
        truncated_tokens: int | None = None,
    ) -> None:
        """``session``: what the body calls the conversation (``prompt_cache_key``).

        ``document``: the body, where a tokenizer can tell its ids.

        ``max_output_tokens``: None when the client set no limit, 0 when nothing is generated.

        ``truncated_tokens``: what engines keep of each prompt; None: all, 0: their context.
        """
        self.model = model
        self.weight = weight
        self.prefix = weight.keys
        self.token_ids = weight.token_ids
        self.max_output_tokens = max_output_tokens
        self.num_choices = num_choices
        self.num_sequences = num_sequences
        self.is_stream = is_stream
        self.session = session
        self.document = document
        self.truncated_tokens = truncated_tokens
        self.parts: PromptParts | None = None
        """What it was taken to hold, for ``teach``; None: counted, or cut, or not yet asked."""
        self.asked: RequestProfile | None = None
        """What it was taken to be the last time; None: not yet asked."""

    @property
    def attachments(self) -> list[Attachment]:
        """Images, recordings and the like."""
        return self.weight.attachments

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompts while nothing is known of the model."""
        return self.profile(assumed_output_tokens=0).num_prompt_tokens

    def tokenized(self, token_ids: list[int]) -> None:
        """Its prompt is these ids: counted, not estimated."""
        self.token_ids = token_ids
        weight = self.weight = PromptWeight()
        weight.token_ids = token_ids
        weight.num_ids = weight.longest_ids = len(token_ids)
        if self.document is not None:
            self.prefix = weight.keys = id_keys(token_ids, salt_of(self.document))

    def teach(self, prompts: PromptLengths, actual_tokens: int) -> None:
        """It turned out to hold so many prompt tokens: the next estimate is better."""
        if self.parts is not None:
            prompts.observe(self.parts, actual_tokens=actual_tokens, asked=self.asked)

    def profile(
        self,
        *,
        assumed_output_tokens: int,
        prompts: PromptLengths = _UNCORRECTED,
        media: MediaFamily = UNKNOWN_FAMILY,
        tenant: str = "",
        priority: int = 0,
        deadline_seconds: float | None = None,
        session: str = "",
        adapter: str = "",
        draw: float = 0.0,
        block_tokens: int = 0,
    ) -> RequestProfile:
        """The tokens it is expected to hold. ``assumed_output_tokens``: when it sets no limit.

        ``prompts``: what the pool has learned of its prompts; ``media``: how its model counts
        images. ``block_tokens``: of the blocks that replicas tell they have; 0: none tells.
        """
        weight = self.weight
        blocks: tuple[int, ...] = ()
        if block_tokens and self.token_ids is not None and not self._has_salt():
            blocks = block_keys(self.token_ids, block_tokens, chain_root(adapter))
        parts = weight.parts
        each = _NOTHING
        if weight.attachments:
            parts = parts.copy()
            each = _count_attachments(weight.attachments, prompts, media, parts)
        self.parts = parts if not weight.num_ids else None
        prefix = self.prefix
        exact = prompts.tokens(parts)
        ratio, num_counted, counted_tokens = 1.0, 0, 0.0
        if self.token_ids is None:
            ratio, num_counted, counted_tokens = prompts.beginnings.find(prefix)
            exact *= ratio
            if each:
                # Of its text alone: an attachment is no longer for the words around it.
                exact += (1.0 - ratio) * sum(each)
        exact += weight.num_ids
        num_prompt_tokens = (round(exact) or 1) if exact > 0.0 else 0
        at_least = max(weight.longest_ids, ceil_div(weight.longest_bytes, MAX_BYTES_PER_TOKEN))
        limit = self.truncated_tokens
        if limit is not None:
            at_least = min(at_least, max(1, limit))
            if limit and num_prompt_tokens > limit * weight.num_prompts:
                num_prompt_tokens = limit * weight.num_prompts
                # Where it is cut off, another text begins than the one that the keys are of.
                prefix = ()
                self.parts = None
        output = assumed_output_tokens
        if self.max_output_tokens is not None:
            output = min(output, self.max_output_tokens)
        ends: tuple[int, ...] = ()
        tokens_per_block = TOKENS_PER_ID_BLOCK
        if prefix and weight.chain is not None:
            made = _block_ends(weight.chain, prompts.ratios, ratio, each)
            if num_counted:
                _correct_end(made, num_counted - 1, int(min(counted_tokens, exact)))
            ends = tuple(made)
            tokens_per_block = max(1, ends[-1] // len(ends))
        asked = self.asked = RequestProfile(
            num_prompt_tokens=num_prompt_tokens,
            min_prompt_tokens=at_least,
            max_output_tokens=self.max_output_tokens,
            assumed_output_tokens=output * self.num_choices,
            num_choices=self.num_choices,
            num_sequences=self.num_sequences,
            is_stream=self.is_stream,
            tenant=tenant,
            priority=priority,
            deadline_seconds=deadline_seconds,
            prefix=prefix,
            tokens_per_block=tokens_per_block,
            block_ends=ends,
            session=session,
            adapter=adapter,
            draw=draw,
            blocks=blocks,
        )
        return asked

    def _has_salt(self) -> bool:
        return self.document is not None and bool(self.document.get("cache_salt"))


def _count_attachments(
    attachments: list[Attachment],
    prompts: PromptLengths,
    media: MediaFamily,
    parts: PromptParts,
) -> list[float]:
    """Tokens of each attachment; before any correction they are added to ``parts``."""
    each: list[float] = []
    for attachment in attachments:
        num_tokens, is_measured = media.tokens(attachment)
        kind = MEASURED if is_measured else UNMEASURED
        parts[kind] += num_tokens
        each.append(prompts.ratios[kind] * num_tokens)
    return each


def _block_ends(
    chain: Chain, ratios: list[float], text_ratio: float, attachments: list[float]
) -> list[int]:
    """Tokens of the prompt up to the end of each of its blocks.

    ``ratios``: by kind; ``text_ratio``: of all its text, beside those.
    """
    words, symbols, digits = ratios[WORDS], ratios[SYMBOLS], ratios[DIGITS]
    spans, links = chain.spans, chain.links
    ends: list[int] = []
    index = -1
    # Of the text: where the current stretch begins and ends, the tokens up to there, and each
    # byte's share of them.
    begin = stop = 0
    before = per_byte = of_attachments = 0.0
    for number, end in enumerate(chain.ends):
        while stop < end:
            before += per_byte * (stop - begin)
            begin = stop
            index += 1
            span = spans[index]
            stop += span.num_bytes
            tokens = words * span.words + symbols * span.symbols + digits * span.digits
            if span.scripts is not None:
                tokens += sum(map(mul, ratios[ACCENTS:MEASURED], span.scripts))
            per_byte = text_ratio * tokens / span.num_bytes
        if links and number in links:
            of_attachments += attachments[links[number]]
        ends.append(int(before + per_byte * (end - begin) + of_attachments))
    return ends


def _correct_end(ends: list[int], index: int, tokens: int) -> None:
    """A block is known to end at so many tokens: another prompt ended there.

    Ends are estimated as if a stretch held as much everywhere, but where a conversation goes on
    prose may end and a table begin.
    """
    ends[index] = tokens
    before, behind = index - 1, index + 1
    while before >= 0 and ends[before] > tokens:
        ends[before] = tokens
        before -= 1
    while behind < len(ends) and ends[behind] < tokens:
        ends[behind] = tokens
        behind += 1


def salt_of(document: dict[str, Any]) -> str:
    """Caches keep adapters apart, which go by the model's name, and what clients ask them to."""
    salt = document.get("cache_salt")
    return f"{document.get('model')}\0{salt if isinstance(salt, str) else ''}"


def id_keys(ids: list[int], salt: str) -> tuple[int, ...]:
    """A key for each whole block of token ids: of all up to its end."""
    return block_keys(ids, TOKENS_PER_ID_BLOCK, chain_root(salt=salt))
