"""Tokens that one request will hold in a KV cache."""

from collections.abc import Mapping

Hits = Mapping[str, int]
"""Tokens of one prompt that each replica has cached, by replica; absent: none."""


class RequestProfile:
    """What is known of a request before an engine has seen it; never changed afterwards.

    A plain class with slots: one is made for every request.
    """

    __slots__ = (
        "adapter", "assumed_output_tokens", "blocks", "deadline_seconds", "draw", "expected_tokens",
        "is_stream", "known_output_tokens", "max_output_tokens", "min_prompt_tokens",
        "num_choices", "num_prompt_tokens", "prefix", "priority", "session", "tenant",
        "tokens_per_block",
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
        is_stream: bool = True,
        tenant: str = "",
        priority: int = 0,
        deadline_seconds: float | None = None,
        prefix: tuple[int, ...] = (),
        tokens_per_block: int = 0,
        session: str = "",
        adapter: str = "",
        draw: float = 0.0,
        blocks: tuple[int, ...] = (),
    ) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        """The best estimate."""
        self.min_prompt_tokens = min_prompt_tokens
        """A count that the prompt cannot be under: what a final refusal is judged by."""
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
        """Tokens of each of those blocks, about."""
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
        """What it needs at the least: an engine refuses a limit above its context outright."""
        return self.min_prompt_tokens + max(1, self.max_output_tokens or 0)
