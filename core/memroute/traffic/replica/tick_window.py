"""Ticks in a row, and what the replica had to do meanwhile."""


class TickWindow:
    """Adds up ticks until there are enough of them to go by. Owned by a clock."""

    __slots__ = (
        "least_streams", "least_tokens", "most_streams", "most_tokens", "seconds", "ticks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ticks = 0.0
        self.seconds = 0.0
        """Of all of its ticks together."""
        self.most_streams = self.least_streams = 0
        """Sequences that decoded there, at its fullest and at its emptiest."""
        self.most_tokens = self.least_tokens = 0
        """What they held in the KV cache."""

    def restart(self) -> None:
        """Forget all: another window begins."""
        self.ticks = self.seconds = 0.0

    def add(self, ticks: float, seconds: float, *, num_streams: int, num_tokens: int) -> None:
        """So many ticks have passed, in all of ``seconds``, while so much was there."""
        if self.ticks <= 0.0:
            self.most_streams = self.least_streams = num_streams
            self.most_tokens = self.least_tokens = num_tokens
        else:
            self.most_streams = max(self.most_streams, num_streams)
            self.most_tokens = max(self.most_tokens, num_tokens)
            self.least_streams = min(self.least_streams, num_streams)
            self.least_tokens = min(self.least_tokens, num_tokens)
        self.ticks += ticks
        self.seconds += seconds

    def is_whole(self, least_ticks: float, least_seconds: float) -> bool:
        """Whether it has so many ticks, and is so long."""
        return self.ticks >= least_ticks and self.seconds >= least_seconds

    @property
    def tick_seconds(self) -> float:
        """Seconds of one of its ticks; of a window that has some."""
        return self.seconds / self.ticks
