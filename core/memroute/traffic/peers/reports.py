"""What routers tell each other of their requests, as values.

None of them is asked for and none is answered: each stands for itself, what is lost costs a prefix
that is not found or a request that is seen by the next scrape, and ``OpenReport`` mends the rest.
"""

from typing import Final

NO_SESSION: Final = 0


class SentReport:
    """A request is on its way to a replica."""

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
        """Of the prompt, what the replica has to compute."""
        self.expected_output_tokens = expected_output_tokens
        self.num_sequences = num_sequences
        self.is_stream = is_stream
        """Whether its first token is seen when it comes."""
        self.session = session
        """``text_key`` of its tenant and session; ``NO_SESSION`` without one."""
        self.tokens_per_block = tokens_per_block
        self.prefix = prefix
        """Keys of its prompt's blocks; empty where nobody looked, or there was no room."""


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
        """What is cached of it there."""


class AnsweredReport:
    """Its first token has come."""

    __slots__ = ("is_seen", "request")

    def __init__(self, request: int, *, is_seen: bool) -> None:
        self.request = request
        self.is_seen = is_seen
        """Whether somebody saw when; False where it is only expected to have come."""


class EndedReport:
    """It has left its replica."""

    __slots__ = ("held_tokens", "is_complete", "request")

    def __init__(self, request: int, *, held_tokens: int, is_complete: bool) -> None:
        self.request = request
        self.held_tokens = held_tokens
        """What it held at its end."""
        self.is_complete = is_complete
        """Whether it was answered, so that all of it is cached."""


class OpenReport:
    """Of the requests from number ``first`` to ``last``, these have not ended."""

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
