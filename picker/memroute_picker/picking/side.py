"""What all streams of a picker share. Made once, in ``app.py``."""

from collections.abc import Callable
from typing import Final

from memroute_picker.picking.claims import CONTROL_FIELDS
from memroute_picker.pools.book import PoolBook
from memroute_picker.pools.objectives import Objectives
from memroute_picker.protocol.answers import (
    destination_header,
    destination_metadata,
    remove_headers,
)
from memroute_picker.protocol.names import SUBSET, TEST_SELECTION
from memroute_router.access.gate import Gate
from memroute_router.http.budget import BodyBudget
from memroute_router.http.deadlines import Deadlines
from memroute_router.http.exchange import Exchange
from memroute_router.http.server_state import OnRefusal
from memroute_router.replicas.pools import Pools
from memroute_router.services import Services

# Destinations whose messages are remembered. Source: chosen by hand; a replica each, or two.
_MAX_KNOWN: Final = 10_000
# Of clients' credentials, where engines get the router's own (``KEYED_REQUEST_FIELDS``).
_CREDENTIALS: Final = (b"x-api-key", b"api-key", b"cookie", b"x-goog-api-key")


class PickerCounts:
    """What happens to streams, for metrics. Written to by the streams."""

    __slots__ = ("num_malformed", "num_moved", "num_strangers", "num_unsupported")

    def __init__(self) -> None:
        self.num_moved = 0
        """Requests that another replica has served than the one that was chosen."""
        self.num_strangers = 0
        """Requests that were served by an address that no replica has."""
        self.num_malformed = 0
        """Streams with a message that cannot be read."""
        self.num_unsupported = 0
        """Streams whose bodies come in a mode that is not supported."""


class PickerSide:
    """What all streams of a picker share."""

    __slots__ = (
        "_destinations", "book", "budget", "counts", "deadlines", "gate", "is_test",
        "max_body_bytes", "max_endpoints", "num_requests", "objectives", "on_refusal", "otherwise",
        "passes_other_paths", "pools", "removals", "removals_in_passing", "services",
    )  # fmt: skip

    def __init__(
        self,
        services: Services,
        pools: Pools,
        *,
        otherwise: Callable[[Exchange], None],
        on_refusal: OnRefusal,
        budget: BodyBudget,
        deadlines: Deadlines,
        max_body_bytes: int,
        max_endpoints: int,
        objectives: Objectives,
        book: PoolBook,
        passes_other_paths: bool,
        is_test: bool,
    ) -> None:
        """``otherwise``: answers what is none of the API. ``max_endpoints``: of one answer.

        ``objectives``: what priorities they have. ``book``: which pool a gateway means.
        """
        self.services = services
        self.pools = pools
        self.gate: Gate | None = services.gate
        self.otherwise = otherwise
        self.on_refusal = on_refusal
        self.budget = budget
        self.deadlines = deadlines
        self.max_body_bytes = max_body_bytes
        self.max_endpoints = max_endpoints
        self.objectives = objectives
        self.book = book
        self.passes_other_paths = passes_other_paths
        """Whether requests that are none of the API go to any ready replica, unadmitted."""
        self.is_test = is_test
        """Whether a client may choose the endpoint, as the conformance tests of gateways do."""
        self.counts = PickerCounts()
        self.num_requests = 0
        names = (*CONTROL_FIELDS, SUBSET, b"accept-encoding")
        if not is_test:  # upstream's suite looks for it at the engine
            names += (TEST_SELECTION,)
        if services.engine_key is not None:
            names += _CREDENTIALS
        elif services.gate is not None:
            names += (*_CREDENTIALS, b"authorization")
        self.removals = remove_headers(names)
        self.removals_in_passing = b""
        """Beside those, of what is passed on unadmitted: it does not get the engines' key."""
        if services.engine_key is not None and services.gate is not None:
            self.removals_in_passing = remove_headers((b"authorization",))
        self._destinations: dict[bytes, tuple[bytes, bytes]] = {}

    def destination(self, endpoints: bytes) -> tuple[bytes, bytes]:
        """How the gateway is told where: part of a mutation, and metadata."""
        found = self._destinations.get(endpoints)
        if found is None:
            if len(self._destinations) >= _MAX_KNOWN:
                self._destinations.clear()
            found = destination_header(endpoints), destination_metadata(endpoints)
            self._destinations[endpoints] = found
        return found
