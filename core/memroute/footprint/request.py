"""Tokens that one request will hold in a KV cache."""


class RequestProfile:
    """What is known of a request before an engine has seen it; never changed afterwards.

    A plain class with slots: one is made for every request.
    """

    __slots__ = (
        "assumed_output_tokens", "expected_tokens", "max_output_tokens", "min_prompt_tokens",
        "num_prompt_tokens",
    )  # fmt: skip

    def __init__(
        self,
        *,
        num_prompt_tokens: int,
        min_prompt_tokens: int,
        max_output_tokens: int | None,
        assumed_output_tokens: int,
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

    @property
    def least_tokens(self) -> int:
        """What it needs at the least: an engine refuses a limit above its context outright."""
        return self.min_prompt_tokens + max(1, self.max_output_tokens or 0)
