"""Engines of the suite: what they answer is said by the request.

By itself a model server of a pod: ``picker_upstream.py --pod NAME 10.0.0.5:3000 …``.
"""

import argparse
import http.server
import json
import socket
import socketserver
import struct
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
    last; ``reset=N``: as many events, then the connection is reset.
    """

    protocol_version = "HTTP/1.1"
    pod: ClassVar[str] = ""
    """Of the pod that it is in; empty: of none."""
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
        self._tell(0, 200)

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
        elif "reset" in how:
            self._stream(int(how["reset"]), is_reset=True)
        else:
            self._tell(len(body), int(how.get("status", 200)))

    def _tell(self, num_bytes, status):
        endpoint = "{}:{}".format(*self.server.server_address[:2])
        fields = {name.lower(): value for name, value in self.headers.items()}
        self._answer(status, told(endpoint, self.pod, self.request_version, fields, num_bytes))

    def _answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, count, *, is_reset=False):
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
        if is_reset:
            # Closed with a time of nothing to linger: RST, not FIN.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
            return
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


def told(endpoint, pod, protocol, fields, num_bytes):
    """What an engine answers by itself: who it is, and what it got."""
    document = {
        "endpoint": endpoint,
        "pod": pod,
        "protocol": protocol,
        "headers": fields,
        "num_bytes": num_bytes,
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }
    return json.dumps(document).encode()


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


class _H2Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class H2Engine(socketserver.BaseRequestHandler):
    """HTTP/2 in the clear, by prior knowledge alone: answers what ``Engine`` does by itself."""

    def handle(self):
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.events import DataReceived, RequestReceived, StreamEnded
        from h2.exceptions import ProtocolError

        h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        h2.initiate_connection()
        fields, sizes = {}, {}
        self.request.sendall(h2.data_to_send())
        while data := self.request.recv(65536):
            try:
                events = h2.receive_data(data)
            except ProtocolError:
                return  # not a word of HTTP/2: that is what this port is about
            for event in events:
                if isinstance(event, RequestReceived):
                    fields[event.stream_id] = dict(event.headers)
                elif isinstance(event, DataReceived):
                    sizes[event.stream_id] = sizes.get(event.stream_id, 0) + len(event.data)
                    h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    self._answer(h2, event.stream_id, fields, sizes)
            self.request.sendall(h2.data_to_send())

    def _answer(self, h2, stream_id, fields, sizes):
        endpoint = "{}:{}".format(*self.server.server_address[:2])
        got, num_bytes = fields.pop(stream_id), sizes.pop(stream_id, 0)
        body = told(endpoint, Engine.pod, "HTTP/2", got, num_bytes)
        head = [(":status", "200"), ("content-type", "application/json"),
                ("content-length", str(len(body)))]  # fmt: skip
        h2.send_headers(stream_id, head)
        h2.send_data(stream_id, body, end_stream=True)


def main():
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pod", default="")
    parser.add_argument("--h2c", nargs="*", default=[], help="addresses with HTTP/2")
    parser.add_argument("endpoints", nargs="*", help="addresses with HTTP/1.1")
    options = parser.parse_args()
    Engine.pod = options.pod
    servers = []
    for names, kind, handler in (
        (options.endpoints, _Server, Engine),
        (options.h2c, _H2Server, H2Engine),
    ):
        for name in names:
            host, _, port = name.rpartition(":")
            servers.append(kind((host, int(port)), handler))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
