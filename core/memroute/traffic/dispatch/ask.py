"""One request as the dispatcher sees it: what it needs, and what it waits for."""

from typing import Final, Generic, Protocol, TypeVar

from memroute.traffic.admission import ClosedReason
from memroute.traffic.dispatch.size_shares import size_class
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import RequestProfile

# What a request waits for that waits for its turn alone: it competes for room on the replicas.
ROOM: Final = ""
# What a request waits for that no usable replica could hold: another replica.
REPLICA: Final = "replica"
# What a request waits for where all replicas that could hold it sleep: that one of them wakes.
WAKE: Final = "wake"


class Ticket(Protocol):
    """A request that asks for room, as its owner knows it. Hashed by identity."""

    profile: RequestProfile
    tried: list[str]
    """Names of the replicas on which the request has already failed."""


T = TypeVar("T", bound=Ticket)


class Ask(Generic[T]):
    """A request that asks for room, from its submission until its verdict."""

    __slots__ = (
        "closed", "deadline_seconds", "is_thin", "lane", "num_tokens", "output_tokens", "profile",
        "size_class", "ticket", "version", "waited_for_wake", "waits_for", "wanted",
    )  # fmt: skip

    def __init__(self, ticket: T, *, output_tokens: int, deadline_seconds: float) -> None:
        self.ticket = ticket
        self.profile = ticket.profile
        self.output_tokens = output_tokens
        """Expected length of its answer in tokens, all choices together."""
        self.num_tokens = self.profile.num_prompt_tokens + output_tokens
        """Tokens that it is expected to hold."""
        self.size_class = size_class(self.num_tokens)
        """Requests of a class are of one size within a factor of two."""
        self.is_thin = False
        """Whether it brings few tokens for its work, beside those that came of late."""
        self.deadline_seconds = deadline_seconds
        """When its first token should be there."""
        self.version = ""
        """The version of the model that the request has drawn, among those that could hold it."""
        self.lane = ""
        """Requests with equal lanes may go to the same replicas."""
        self.waits_for = ROOM
        """``ROOM``, ``REPLICA``, ``WAKE``, or the slot of a LoRA adapter."""
        self.waited_for_wake = False
        """Whether it has waited for a replica to wake."""
        self.wanted: Backend | None = None
        """The replica that was cheapest at the last look; None: any replica that opens will do."""
        self.closed: ClosedReason | None = None
        """Why ``wanted`` was closed to the request."""


def adapter_slot(adapter: str) -> str:
    """The value of ``waits_for`` while a request waits for a slot of this LoRA adapter."""
    return f"adapter {adapter}"
