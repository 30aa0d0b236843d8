"""One request's answer, with the time of every chunk."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True, eq=False)
class Answer:
    """What came back of one request, in seconds of the generator's clock."""

    number: int
    intended_seconds: float
    num_prompt_tokens: int
    num_output_tokens: int
    """As asked for."""
    is_stream: bool = True
    on_over: Callable[["Answer"], None] | None = None
    sent_seconds: float | None = None
    status: int | None = None
    retry_after: str | None = None
    error: str = ""
    has_end: bool = False
    num_events: int = 0
    num_body_bytes: int = 0
    chunk_seconds: "array[float]" = field(default_factory=lambda: array("d"))
    """When each event came; several that came together share a time."""
    ended_seconds: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.ended_seconds is not None

    @property
    def is_whole(self) -> bool:
        """Whether all of it came."""
        return self.status == 200 and not self.error and (self.has_end or not self.is_stream)  # noqa: PLR2004

    @property
    def ttft_seconds(self) -> float | None:
        """From the intended send to the first event."""
        return self.chunk_seconds[0] - self.intended_seconds if self.chunk_seconds else None

    @property
    def e2e_seconds(self) -> float | None:
        """From the intended send to the end of a whole answer."""
        if not self.is_whole or self.ended_seconds is None:
            return None
        return self.ended_seconds - self.intended_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Mean gap of the tokens after the first."""
        if not self.is_whole or len(self.chunk_seconds) <= 1 or self.num_output_tokens <= 1:
            return None
        return (self.chunk_seconds[-1] - self.chunk_seconds[0]) / (self.num_output_tokens - 1)

    def on_events(self, now_seconds: float, count: int) -> None:
        """Events have come."""
        self.num_events += count
        self.chunk_seconds.extend([now_seconds] * count)

    def drop_last_event(self) -> None:
        """The last one was none."""
        self.num_events -= 1
        self.chunk_seconds.pop()

    def finish(self, now_seconds: float) -> None:
        """The answer has ended; a stream without its end is cut short."""
        if self.is_stream and self.status == 200 and not self.has_end:  # noqa: PLR2004
            self.error = "the stream ended early"
        self._over(now_seconds)

    def fail(self, why: str, now_seconds: float) -> None:
        """Nothing more will come."""
        self.error = self.error or why
        self._over(now_seconds)

    def _over(self, now_seconds: float) -> None:
        if self.ended_seconds is not None:
            return
        self.ended_seconds = now_seconds
        if self.on_over is not None:
            self.on_over(self)
