"""Tokens that one request will hold in a KV cache."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProfile:
    """What is known of a request before an engine has seen it."""

    num_prompt_tokens: int
    """The best estimate."""
    min_prompt_tokens: int
    """A count that the prompt cannot be under: what a final refusal is judged by."""
    max_output_tokens: int | None
    """The client's own limit; None when it set none."""
    assumed_output_tokens: int
    """How long the answer is taken to be, for planning; at most ``max_output_tokens``."""

    @property
    def expected_tokens(self) -> int:
        """Tokens that the request will hold when its answer ends: what is reserved."""
        return self.num_prompt_tokens + self.assumed_output_tokens
