"""The page at ``/metrics``: the operator's own work as it is now, and the fleet's text as kept.

A fleet of 4,000 replicas has 100,000 series, which take a second to write down. That is done in
the thread of the first who asks after a reconcile, in no step and not on the event loop, and once.
"""

import gzip
import threading
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer, choose_encoder, gzip_accepted

from memroute_operator.metrics.fleet import Snapshot

# What OpenMetrics ends a page with.
END = b"# EOF\n"
# The fastest: a page of 10 MiB is a tenth of that, and in 0.1 s. The slowest (9) makes it a third
# smaller, and takes ten times as long.
GZIP_LEVEL = 1
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def page_app(whole: CollectorRegistry, *, own: CollectorRegistry, fleet: Snapshot) -> WSGIApp:
    """The page as a WSGI application. ``whole``: both together, for who asks for some names."""
    usual = make_wsgi_app(whole)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_other = environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"] == "/favicon.ico"
        if is_other or "name[]" in parse_qs(environ.get("QUERY_STRING", "")):
            return usual(environ, start_response)  # type: ignore[no-any-return]
        encode, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        body = encode(own).removesuffix(END) + fleet.text(encode, content_type)
        headers = [("Content-Type", content_type)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = gzip.compress(body, GZIP_LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", headers)
        return [body]

    return app


def serve_page(
    host: str, port: int, whole: CollectorRegistry, *, own: CollectorRegistry, fleet: Snapshot
) -> None:
    """Serve the page from a thread of its own, until the process ends. Raises ``OSError``."""

    class Handler(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:  # a scrape every few seconds is no news
            pass

    class Server(ThreadingWSGIServer):
        address_family = AF_INET6 if ":" in host else AF_INET

    server = make_server(host, port, page_app(whole, own=own, fleet=fleet), Server, Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
