"""KV cache that a replica keeps on its host, as far as routing goes by it."""


class HostCache:
    """How much is kept, and how fast it comes back; never changed."""

    __slots__ = ("capacity_tokens", "token_seconds")

    def __init__(self, capacity_tokens: int, token_seconds: float | None = None) -> None:
        self.capacity_tokens = capacity_tokens
        """Tokens that it holds."""
        self.token_seconds = token_seconds
        """Seconds to bring one of them back; None: nobody knows."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, HostCache)
            and self.capacity_tokens == other.capacity_tokens
            and self.token_seconds == other.token_seconds
        )

    def __hash__(self) -> int:
        return hash((self.capacity_tokens, self.token_seconds))
