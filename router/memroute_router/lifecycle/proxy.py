"""The proxied paths: each request there gets a ``Lifecycle``."""

from collections.abc import Callable

from memroute_router.http.exchange import Exchange
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.services import Services
from memroute_router.surface import ROUTES


class Proxy:
    """Answers the proxied paths: one ``Lifecycle`` for each request."""

    def __init__(self, services: Services, otherwise: Callable[[Exchange], None]) -> None:
        """``otherwise``: answers what is not proxied."""
        self._services = services
        self._otherwise = otherwise
        self._num_requests = 0

    def handle(self, exchange: Exchange) -> None:
        """Begin one request."""
        # Most targets have no query.
        route = ROUTES.get(exchange.target) or ROUTES.get(exchange.path)
        if route is None or exchange.method != b"POST":
            self._otherwise(exchange)
            return
        self._num_requests += 1
        Lifecycle(self._services, exchange, route, self._num_requests).begin()
