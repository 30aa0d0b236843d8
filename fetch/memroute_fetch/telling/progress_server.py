"""``GET /progress``: how far this fetch is, as JSON, while the program runs."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOGGER = logging.getLogger(__name__)
# Seconds that a client may take to ask.
REQUEST_SECONDS = 5.0


@contextmanager
def serving(
    port: int | None, document: Callable[[], dict[str, Any]], host: str = ""
) -> Iterator[int | None]:
    """The port that answers until the context ends; None where there is none.

    ``host``: the address to listen on; empty for every one, of both families.
    Weights are worth more than words about them: a port that is taken is logged, and that is all.
    """
    if port is None:
        yield None
        return
    try:
        server = _Server(port, document, host)
    except OSError as error:
        LOGGER.warning("nobody can ask for the progress: port %d: %s", port, error)
        yield None
        return
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class Server(ThreadingHTTPServer):
    """Answers from threads of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, host: str, handler: type[BaseHTTPRequestHandler]) -> None:
        """``host``: the address to listen on; empty for every one, of both families."""
        # Every address of the pod, of both families where there are both.
        is_ipv6 = ":" in host if host else socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """As the class above, for both families."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, *_: object) -> None:
        """Clients that leave early are none of ours."""


class _Server(Server):
    def __init__(self, port: int, document: Callable[[], dict[str, Any]], host: str) -> None:
        self.document = document
        super().__init__(port, host, _Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers in JSON, and writes no line for each question."""

    timeout = REQUEST_SECONDS
    server_version = "memroute-fetch"
    sys_version = ""

    def answer(self, document: Mapping[str, Any]) -> None:
        """Send the document as the whole answer."""
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: probes and the operator ask every few seconds."""


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:
        """Answer one question."""
        if self.path.partition("?")[0] != "/progress":
            self.send_error(404, "there is /progress and nothing else")
            return
        self.answer(self.server.document())
