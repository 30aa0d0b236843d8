"""What is known of a request before an engine has seen it: above all, the tokens it will hold."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

# Tokens of the blocks that engines cache: what is behind the last whole one is computed again. Of
# blocks of text, which end anywhere, no more is credited. Those of token ids end where they do.
# Unit: tokens. Source: vLLM's default; SGLang caches by token, so that 7 or 8 too few are credited
# there, TensorRT-LLM has 32.
ENGINE_BLOCK_TOKENS: Final = 16

Hits = Mapping[str, int]
"""Tokens of one prompt that each replica has cached, by replica; absent: none."""


class RequestProfile:
    """One request as decisions see it; never changed.

    A plain class with slots: one is made for every request.
    """

    __slots__ = (
        "adapter", "assumed_output_tokens", "block_ends", "blocks", "deadline_seconds", "draw",
        "expected_tokens", "is_stream", "known_output_tokens", "max_output_tokens",
        "min_prompt_tokens", "num_choices", "num_prompt_tokens", "num_sequences", "only",
        "prefix", "priority", "session", "tenant", "tokens_per_block",
    )  # fmt: skip

    def __init__(
        self,
        *,
        num_prompt_tokens: int,
        min_prompt_tokens: int,
        max_output_tokens: int | None,
        assumed_output_tokens: int,
        known_output_tokens: int | None = None,
        num_choices: int = 1,
        num_sequences: int = 1,
        is_stream: bool = True,
        tenant: str = "",
        priority: int = 0,
        deadline_seconds: float | None = None,
        prefix: tuple[int, ...] = (),
        tokens_per_block: int = 0,
        block_ends: tuple[int, ...] = (),
        session: str = "",
        adapter: str = "",
        draw: float = 0.0,
        blocks: tuple[int, ...] = (),
    ) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        """Tokens of all its prompts together, estimated or counted: what they hold in memory."""
        self.min_prompt_tokens = min_prompt_tokens
        """The least tokens that its longest prompt can have. ``never-fits`` is judged by this:
        engines limit each sequence, not the sum of a batch."""
        self.max_output_tokens = max_output_tokens
        """The client's own limit; None when it set none."""
        self.assumed_output_tokens = assumed_output_tokens
        """Assumed tokens of the answer, for planning; at most ``max_output_tokens``."""
        self.expected_tokens = num_prompt_tokens + assumed_output_tokens
        """Tokens that the request is expected to hold when its answer ends: what is reserved."""
        self.known_output_tokens = known_output_tokens
        """Tokens that the answer will have, where that is known; None: unknown."""
        self.num_choices = num_choices
        """Answers that the request asks for, each of which grows."""
        self.num_sequences = num_sequences
        """Sequences that an engine runs for it: prompts times answers. Each text to embed, or pair
        to rank, is one."""
        self.is_stream = is_stream
        """Whether the answer is streamed, so that its first token is seen when it comes."""
        self.tenant = tenant
        """The tenant, for fairness and for learned lengths; empty: tenants are not told apart."""
        self.priority = priority
        """Greater is served first; below 0 it may be shed before others have to wait."""
        self.deadline_seconds = deadline_seconds
        """When its first token is due, on the router's clock; None: by the pool's target."""
        self.prefix = prefix
        """Keys of its prompt's blocks, each of all text up to its end; empty: not computed."""
        self.tokens_per_block = tokens_per_block
        """Tokens of a block, about; where blocks differ, their mean."""
        self.block_ends = block_ends
        """Tokens up to the end of each block, where blocks differ; empty: all are of one size."""
        self.session = session
        """The conversation that it belongs to, as its client names it; empty: not named."""
        self.adapter = adapter
        """The LoRA adapter that it asks for; empty: the model itself."""
        self.draw = draw
        """0 to 1: selects one of several versions of the model; the same for a whole session."""
        self.blocks = blocks
        """Keys of its prompt's blocks as replicas cache them; empty: its tokens are unknown."""
        self.only: AbstractSet[str] | None = None
        """The replicas that it may go to, where whoever asks for it has said so; None: any. They
        may come and go while it waits."""

    @property
    def least_tokens(self) -> int:
        """Tokens that its largest sequence needs at the least.

        It includes ``max_output_tokens``: engines refuse a limit above their context outright.
        """
        return self.min_prompt_tokens + max(1, self.max_output_tokens or 0)

    def tokens_of_blocks(self, num_blocks: int) -> int:
        """Tokens that an engine has cached of the first ``num_blocks`` blocks: its whole ones."""
        if not num_blocks:
            return 0
        if self.block_ends:
            end = min(self.num_prompt_tokens, self.block_ends[num_blocks - 1])
            return end - end % ENGINE_BLOCK_TOKENS
        return min(self.num_prompt_tokens, self.tokens_per_block * num_blocks)
