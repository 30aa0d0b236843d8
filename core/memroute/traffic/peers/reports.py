"""Reports that routers send each other of their requests, as values.

Reports are neither asked for nor answered, and each stands for itself. A lost report costs a prefix
that is not found, or a request that is only seen by the next scrape. ``OpenReport`` mends the rest.
"""

from typing import Final

# Key of a request without a session.
# Unit: key. Source: a name.
NO_SESSION: Final = 0


class SentReport:
    """A request was sent to a replica."""

    __slots__ = (
        "expected_output_tokens", "is_stream", "num_sequences", "prefix", "prompt_tokens",
        "replica", "request", "session", "tokens_per_block", "work_tokens",
    )  # fmt: skip

    def __init__(
        self,
        request: int,
        replica: int,
        *,
        prompt_tokens: int,
        work_tokens: int,
        expected_output_tokens: int,
        num_sequences: int = 1,
        is_stream: bool = True,
        session: int = NO_SESSION,
        tokens_per_block: int = 0,
        prefix: tuple[int, ...] = (),
    ) -> None:
        self.request = request
        """Its number at the router that has it: greater than those before."""
        self.replica = replica
        """``text_key`` of its name."""
        self.prompt_tokens = prompt_tokens
        self.work_tokens = work_tokens
        """Tokens of the prompt that the replica has to compute."""
        self.expected_output_tokens = expected_output_tokens
        self.num_sequences = num_sequences
        self.is_stream = is_stream
        """Whether its first token is seen when it comes: the answer is streamed."""
        self.session = session
        """``text_key`` of its tenant and session; ``NO_SESSION`` without one."""
        self.tokens_per_block = tokens_per_block
        self.prefix = prefix
        """Keys of its prompt's blocks; empty where they were not computed or did not fit."""


class MoreKeys:
    """Further keys of a prompt that is too long for one datagram."""

    __slots__ = ("prefix", "replica", "tokens_per_block")

    def __init__(self, replica: int, *, tokens_per_block: int, prefix: tuple[int, ...]) -> None:
        self.replica = replica
        self.tokens_per_block = tokens_per_block
        self.prefix = prefix


class ServedReport:
    """A session was served on a replica, some time ago."""

    __slots__ = ("num_tokens", "replica", "session")

    def __init__(self, session: int, replica: int, *, num_tokens: int) -> None:
        self.session = session
        self.replica = replica
        self.num_tokens = num_tokens
        """Tokens of the session that are cached there."""


class AnsweredReport:
    """The first token of a request has come."""

    __slots__ = ("is_seen", "request")

    def __init__(self, request: int, *, is_seen: bool) -> None:
        self.request = request
        self.is_seen = is_seen
        """Whether its time was seen; False where it is only expected to have come."""


class EndedReport:
    """A request has left its replica."""

    __slots__ = ("held_tokens", "is_complete", "request")

    def __init__(self, request: int, *, held_tokens: int, is_complete: bool) -> None:
        self.request = request
        self.held_tokens = held_tokens
        """Tokens that it held at its end."""
        self.is_complete = is_complete
        """Whether it was answered, so that all of it is cached."""


class OpenReport:
    """The requests from number ``first`` to ``last`` that have not ended; all others have."""

    __slots__ = ("answered", "first", "last", "pending")

    def __init__(
        self, first: int, last: int, *, pending: tuple[int, ...], answered: tuple[int, ...]
    ) -> None:
        self.first = first
        self.last = last
        self.pending = pending
        """Those that have no first token yet."""
        self.answered = answered
        """Those that have."""


Report = SentReport | MoreKeys | ServedReport | AnsweredReport | EndedReport | OpenReport
