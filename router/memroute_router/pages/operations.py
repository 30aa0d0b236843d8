"""The second listener: metrics, health and what the router thinks, for those who run it.

```text
--port      clients                    the APIs, /v1/models, /openapi.json, /health, /ready
--ops-port  Prometheus, the operator,  /metrics, /debug/…, /openapi.json, /health, /ready
            probes, `memroute decisions`
            people with a browser      /map/
```

With ``--ops-port 0`` there is no second listener, and nobody serves its pages: the public port
never does, so that no flag can show one tenant's names to another.

Nothing here needs a key, and nothing here is for clients: it names other tenants' models, pods and
their addresses. It is plain HTTP also where clients get HTTPS: probes and scrapers ask by address.
A NetworkPolicy says who may come (``router.networkPolicy`` of the chart).
"""

from collections.abc import Callable, Iterator
from typing import Final

import orjson

from memroute import __version__
from memroute_router.access.share_line import ShareLines
from memroute_router.http.errors import error_body
from memroute_router.http.exchange import Exchange
from memroute_router.http.faults import OPERATIONS, OnFault
from memroute_router.http.fields import JSON
from memroute_router.http.listening import Server, ServerLimits
from memroute_router.http.outbox import Outbox
from memroute_router.lifecycle.isolation import Isolation
from memroute_router.live_map.fleet import FleetReader
from memroute_router.live_map.live import LiveFacts
from memroute_router.live_map.live_map import LiveMap
from memroute_router.log.journal import Journal
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.pages import debug
from memroute_router.pages.exposition import TEXT
from memroute_router.pages.openapi import operations_document
from memroute_router.pages.pages import SteppedPage, json_list
from memroute_router.replicas.pools import Pools

# Scrapers, probes and people keep a handful open. Unit: connections. Source: a bound, by hand.
MAX_CONNECTIONS: Final = 128
# No route here has a body. Unit: bytes. Source: a bound, chosen by hand.
MAX_BODY_BYTES: Final = 16 * 1024

Answer = Callable[[Exchange], None]


class Operations:
    """Owns the listener for those who run the router, and its pages."""

    def __init__(
        self,
        pools: Pools,
        metrics: RouterMetrics,
        journal: Journal,
        outbox: Outbox,
        *,
        isolation: Isolation,
        lines: ShareLines | None,
        fleet: FleetReader,
        router: str,
        health: dict[bytes, Answer],
        on_fault: OnFault,
    ) -> None:
        """``lines``: of requests that wait for a share; None: there are no keys.

        ``fleet``: of nodes and devices. ``router``: what this one is called.
        ``health``: the paths by which probes ask, which the public listener has too.
        """

        def failed(error: Exception) -> None:
            on_fault(OPERATIONS, error)

        def page(pieces: Callable[[], Iterator[bytes]], lines: bytes) -> Answer:
            return SteppedPage(pieces, lines, on_error=failed).answer

        self._map = LiveMap(
            LiveFacts(
                router=router,
                release=__version__,
                pools=pools,
                metrics=metrics,
                journal=journal,
                isolation=isolation,
                lines=lines,
                fleet=fleet,
            ),
            on_error=failed,
        )
        self.routes: dict[bytes, Answer] = (
            health
            | self._map.routes()
            | {
                b"/metrics": page(metrics.pieces, TEXT),
                b"/debug/decisions": page(lambda: json_list(debug.decisions(journal)), JSON),
                b"/debug/replicas": page(lambda: json_list(debug.replicas(pools)), JSON),
                b"/debug/queue": page(
                    lambda: json_list(debug.queue(pools, isolation, lines)), JSON
                ),
                b"/openapi.json": lambda exchange: exchange.respond(
                    200, orjson.dumps(operations_document())
                ),
            }
        )
        self.server = Server(
            self.answer,
            outbox,
            limits=ServerLimits(
                max_connections=MAX_CONNECTIONS, makes_room=True, max_body_bytes=MAX_BODY_BYTES
            ),
            on_fault=on_fault,
        )

    def answer(self, exchange: Exchange) -> None:
        """Answer one request."""
        route = self.routes.get(exchange.path) or self._map.file(exchange.path)
        if route is None:
            paths = ", ".join(sorted(path.decode() for path in self.routes))
            exchange.respond(404, error_body(404, f"no such path; there are {paths}"))
        elif exchange.method in {b"GET", b"HEAD"}:
            route(exchange)
        else:
            exchange.respond(405, error_body(405, "use GET, HEAD"), JSON + b"allow: GET, HEAD\r\n")
