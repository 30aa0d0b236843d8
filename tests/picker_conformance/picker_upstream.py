"""Engines of the suite: what they answer is said by the request."""

import http.server
import json
import socketserver
import threading
import time
from typing import ClassVar

MODEL = "conformance-model"


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        """Clients that leave are part of the suite."""


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers with what it got, or as ``x-answer`` says.

    ``status=500``, ``bytes=N``, ``echo=1``, ``wait=SECONDS``, ``events=N``: each 20 ms after the
    last.
    """

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, int]]] = []

    def log_message(self, format, *args):  # noqa: A002 - its own name
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline() not in {b"\r\n", b"\n", b""}:
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def do_GET(self):
        self._answer(200, b"ok\n", "text/plain")

    def do_POST(self):
        body = self._body()
        how = dict(part.split("=") for part in self.headers.get("x-answer", "").split(",") if part)
        if "wait" in how:
            time.sleep(float(how["wait"]))
        if "events" in how:
            self._stream(int(how["events"]))
        elif "bytes" in how:
            self._answer(200, b"x" * int(how["bytes"]), "application/octet-stream")
        elif "echo" in how:
            self._answer(200, body, "application/octet-stream")
        else:
            document = {
                "endpoint": "{}:{}".format(*self.server.server_address[:2]),
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "num_bytes": len(body),
                "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
            }
            self._answer(int(how.get("status", 200)), json.dumps(document).encode())

    def _answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, count):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(count):
            event = (
                b'data: {"id":"%d","choices":[{"index":0,"delta":{"content":"t"}}]}\n\n' % number
            )
            self._chunk(event)
            time.sleep(0.02)
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


class Engines:
    """Engines at some addresses, while it is entered."""

    def __init__(self, endpoints: list[str]) -> None:
        self._servers = []
        for endpoint in endpoints:
            host, _, port = endpoint.rpartition(":")
            self._servers.append(_Server((host, int(port)), Engine))

    def __enter__(self):
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()
