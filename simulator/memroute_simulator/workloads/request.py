"""What a workload is: sessions of requests, each with its tokens as segments."""

from collections.abc import Iterator
from dataclasses import dataclass, field

Segments = tuple[tuple[int, int], ...]
"""(segment id, tokens): equal ids in equal places are equal tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequest:
    """One request of a client."""

    prompt: Segments
    num_output_tokens: int
    """How many it would generate; a client cannot know it."""
    output_id: int
    """Names its answer, so that a next turn can repeat it."""
    max_output_tokens: int | None = None
    """What the client allows; None: as many as will be generated."""
    tenant: str = "default"
    priority: int = 0
    adapter: str | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return sum(tokens for _, tokens in self.prompt)

    def answered(self) -> Segments:
        """The prompt and its answer: what a next turn starts with."""
        return (*self.prompt, (self.output_id, self.num_output_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Requests that follow one another: each is sent some time after the last has ended.

    A session of one request is an open loop: it is sent whatever else happens.
    """

    start_seconds: float
    requests: tuple[WorkloadRequest, ...]
    think_seconds: tuple[float, ...] = ()
    """Before the second request, the third, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Sessions in the order of their starts."""

    name: str
    sessions: tuple[Session, ...]
    notes: tuple[str, ...] = field(default=())
    """What was dropped, spread or assumed."""

    @property
    def num_requests(self) -> int:
        """Requests of all sessions."""
        return sum(len(session.requests) for session in self.sessions)

    @property
    def span_seconds(self) -> float:
        """From the first start to the last."""
        if not self.sessions:
            return 0.0
        return self.sessions[-1].start_seconds - self.sessions[0].start_seconds

    @property
    def rate_per_second(self) -> float:
        """Requests per second, over the span of the starts."""
        return self.num_requests / self.span_seconds if self.span_seconds else 0.0

    def requests(self) -> Iterator[WorkloadRequest]:
        """Every request."""
        for session in self.sessions:
            yield from session.requests

    def sped_up(self, factor: float) -> "Workload":
        """The same requests with all gaps divided by a factor: bursts shorten too."""
        sessions = tuple(
            Session(
                start_seconds=session.start_seconds / factor,
                requests=session.requests,
                think_seconds=session.think_seconds,
            )
            for session in self.sessions
        )
        note = f"gaps divided by {factor:g}"
        return Workload(name=self.name, sessions=sessions, notes=(*self.notes, note))

    def within(self, max_context_tokens: int | None) -> "Workload":
        """Without the sessions that an engine of that context would refuse; None: all."""
        if max_context_tokens is None:
            return self
        kept = tuple(
            session
            for session in self.sessions
            if all(
                request.num_prompt_tokens + request.num_output_tokens <= max_context_tokens
                for request in session.requests
            )
        )
        dropped = len(self.sessions) - len(kept)
        if not dropped:
            return self
        what = " sessions" if len(self.sessions) < self.num_requests else ""
        note = f"{dropped} of {len(self.sessions)}{what} dropped: over {max_context_tokens} tokens"
        return Workload(name=self.name, sessions=kept, notes=(*self.notes, note))

    def first(self, num_requests: int) -> "Workload":
        """The first so many sessions."""
        return Workload(name=self.name, sessions=self.sessions[:num_requests], notes=self.notes)


def open_loop(
    name: str, starts: list[float], requests: list[WorkloadRequest], notes: tuple[str, ...] = ()
) -> Workload:
    """A workload of single requests at given times."""
    sessions = (
        Session(start_seconds=start, requests=(request,))
        for start, request in zip(starts, requests, strict=True)
    )
    return Workload(
        name=name, sessions=tuple(sorted(sessions, key=lambda s: s.start_seconds)), notes=notes
    )
