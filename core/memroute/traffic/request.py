"""Tokens that one request will hold in a KV cache."""

from collections.abc import Mapping

Hits = Mapping[str, int]
"""Tokens of one prompt that each replica has cached, by replica; absent: none."""


class RequestProfile:
    """What is known of a request before an engine has seen it; never changed afterwards.

    A plain class with slots: one is made for every request.
    """

    __slots__ = (
        "adapter", "assumed_output_tokens", "block_ends", "blocks", "deadline_seconds", "draw",
        "expected_tokens", "is_stream", "known_output_tokens", "max_output_tokens",
        "min_prompt_tokens", "num_choices", "num_prompt_tokens", "num_sequences", "prefix",
        "priority", "session", "tenant", "tokens_per_block",
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
        """The best estimate, of all its prompts together: what they hold in memory."""
        self.min_prompt_tokens = min_prompt_tokens
        """A count that its longest prompt cannot be under: what a final refusal is judged by, since
        engines limit each sequence, not the sum of a batch."""
        self.max_output_tokens = max_output_tokens
        """The client's own limit; None when it set none."""
        self.assumed_output_tokens = assumed_output_tokens
        """How long the answer is taken to be, for planning; at most ``max_output_tokens``."""
        self.expected_tokens = num_prompt_tokens + assumed_output_tokens
        """Tokens that the request will hold when its answer ends: what is reserved."""
        self.known_output_tokens = known_output_tokens
        """How long the answer will be, where somebody knows; None: nobody does."""
        self.num_choices = num_choices
        """Answers that it asks for, each of which grows."""
        self.num_sequences = num_sequences
        """What an engine runs for it: prompts times answers; of texts to embed, or of pairs to
        rank, one each."""
        self.is_stream = is_stream
        """Whether its first token will be seen when it comes."""
        self.tenant = tenant
        """Whose it is, for fairness and for what answers are like; empty: everybody's."""
        self.priority = priority
        """Greater is served first; below 0 it may be shed before others have to wait."""
        self.deadline_seconds = deadline_seconds
        """When its first token should be there, on the router's clock; None: no such wish."""
        self.prefix = prefix
        """Keys of its prompt's blocks, each of all up to its end; empty: nobody looked."""
        self.tokens_per_block = tokens_per_block
        """Tokens of each of those blocks, about; where they differ, their mean."""
        self.block_ends = block_ends
        """Tokens up to the end of each block, where they differ; empty: all are of a size."""
        self.session = session
        """What its client calls the conversation that it belongs to; empty: nothing."""
        self.adapter = adapter
        """The LoRA adapter that it asks for; empty: the model itself."""
        self.draw = draw
        """0 to 1: which of several versions of the model it goes to; the same for a session."""
        self.blocks = blocks
        """Keys of its prompt's blocks as replicas cache them; empty: its tokens are not known."""

    @property
    def least_tokens(self) -> int:
        """What its largest sequence needs at the least.

        Engines refuse a limit above their context outright.
        """
        return self.min_prompt_tokens + max(1, self.max_output_tokens or 0)

    def tokens_of_blocks(self, num_blocks: int) -> int:
        """Tokens in so many of its leading blocks."""
        if not num_blocks:
            return 0
        if self.block_ends:
            return min(self.num_prompt_tokens, self.block_ends[num_blocks - 1])
        return min(self.num_prompt_tokens, self.tokens_per_block * num_blocks)
