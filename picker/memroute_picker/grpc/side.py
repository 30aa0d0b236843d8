"""What the connections of one server share. Made once, in ``listening.py``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from memroute_picker.grpc.call import Call, Handler
from memroute_picker.grpc.hpack import Field
from memroute_router.http.budget import SLOW_SECONDS, BodyBudget, UnsentAnswers
from memroute_router.http.deadlines import Deadlines
from memroute_router.http.faults import OnFault
from memroute_router.http.outbox import Outbox

if TYPE_CHECKING:
    from memroute_picker.grpc.connection import GrpcConnection

HandlerFor = Callable[[Call, list[Field]], Handler | None]
"""What a call with these header fields is about; None: no such method."""


class ServerSide:
    """What the connections of one server share. Owns the set of open ones."""

    def __init__(
        self,
        handler_for: HandlerFor,
        outbox: Outbox,
        on_fault: OnFault,
        *,
        budget: BodyBudget,
        deadlines: Deadlines,
        max_connections: int,
        max_calls: int,
        max_message_bytes: int,
    ) -> None:
        """``budget``: of all bodies held. ``max_calls``: of all connections, at once."""
        self.handler_for = handler_for
        self.outbox = outbox
        self.on_fault = on_fault
        self.budget = budget
        # A healthy gateway takes a moment, too, where many large requests have their turn at once.
        self.unsent = UnsentAnswers(budget, patience_seconds=SLOW_SECONDS)
        self.deadlines = deadlines
        self.max_connections = max_connections
        self.max_calls = max_calls
        self.max_message_bytes = max_message_bytes
        self.connections: set[GrpcConnection] = set()
        self.num_calls = 0
        """Calls that are under way."""
        self.num_calmed = 0
        """Connections that are left because too many of their streams came to nothing."""
        self.num_silent = 0
        """Connections that were closed because nothing was heard of their clients any more."""
        self.is_stopping = False
