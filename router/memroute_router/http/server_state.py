"""What the connections of one server share: its limits, whom they ask, and what they hold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from memroute_router.http.budget import BodyBudget, UnsentAnswers
from memroute_router.http.clients import Clients
from memroute_router.http.deadlines import Deadlines
from memroute_router.http.exchange import Exchange
from memroute_router.http.faults import OnFault
from memroute_router.http.fields import Head
from memroute_router.http.outbox import Outbox

if TYPE_CHECKING:
    from memroute_router.http.connection import ClientConnection

# What one read takes at most: as much as uvloop reads at once by itself. Unit: bytes.
READ_BUFFER_BYTES: Final = 256 * 1024

Handler = Callable[[Exchange], None]
Screen = Callable[[bytes, dict[bytes, bytes]], tuple[int, str, str, bytes, bytes] | None]
"""Why a request with this target and these fields need not send its body: status, why in words and
in one word, header lines and body of the answer; None: it may."""
OnRefusal = Callable[[bytes, bytes, int, str, str], None]
"""Hears of requests that no handler has seen or ended: the client's address, the target as far as
it was read, the status, why, and the same in one word (empty: the status says it)."""


def tell_nobody(_peer: bytes, _target: bytes, _status: int, _why: str, _cause: str) -> None:
    """Nobody wants to hear of refusals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one client connection may cost."""

    max_connections: int = 10_000
    """More get 503 at once: each may need a second file descriptor, for its engine."""
    makes_room: bool = False
    """Whether one more closes the one that would be closed next, instead of getting 503: where
    probes ask, nobody may keep them out by opening connections. It looks at all of them."""
    max_client_connections: int = 0
    """Of one client, a proxy that is believed excepted; 0: as many as there are while others need
    none (``clients.py``)."""
    max_client_requests: int = 0
    """Of one client, being answered; 0: as many as there are."""
    max_body_bytes: int = 32 * 1024**2
    # A context of a million tokens is about 4 MB of text; images and audio take the rest.
    max_bodies_bytes: int = 1024**3
    """Of the bodies of all connections together; more get 503."""
    max_target_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    idle_seconds: float = 75.0
    # Above the 60 s that load balancers keep idle connections: they close first, not we.
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    stalled_client_seconds: float = 120.0
    """How long a client may take nothing at all of its answer."""


class ReadBuffer:
    """What was read last, from whichever connection: filled and parsed in one step of the loop.

    Of a body one copy is made, the one that goes on, out of memory that is in the cache.
    """

    __slots__ = ("view",)

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BUFFER_BYTES))


@dataclass(slots=True)
class ServerState:
    """What the connections of one server share. Owns the set of open ones."""

    handler: Handler
    limits: ServerLimits
    deadlines: Deadlines
    outbox: Outbox
    on_fault: OnFault
    budget: BodyBudget
    kinds: dict[bytes, int]
    """What becomes of each field of a request."""
    on_refusal: OnRefusal = tell_nobody
    screen: Screen | None = None
    """Who looks at requests with large bodies before those arrive; None: nobody."""
    clients: Clients = field(default_factory=Clients)
    reads: ReadBuffer = field(default_factory=ReadBuffer)
    no_head: Head = field(default_factory=lambda: Head({}))
    """Of connections that have no request."""
    is_stopping: bool = False
    connections: set["ClientConnection"] = field(default_factory=set)
    unsent: UnsentAnswers = field(init=False)

    def __post_init__(self) -> None:
        self.unsent = UnsentAnswers(self.budget)
