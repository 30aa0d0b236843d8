"""Engines over sockets, good and bad: ``python -m bench.bounds.engines`` serves one of each kind.

| kind | what it answers |
| --- | --- |
| ``quick`` | a short answer, whole or streamed, at once |
| ``slow`` | the same after two seconds |
| ``paced`` | a stream that never ends, an event twice a second |
| ``burst`` | 400 KB at once of an answer that never ends |
| ``firehose`` | a stream of events without an end, as fast as it is read |
| ``endless-event`` | a stream that is one event without an end |
| ``endless-refusal`` | 503 with a body without an end |
| ``endless-field`` | a header field without an end |
| ``endless-trailer`` | an answer, and after it a trailer without an end |
| ``many-fields`` | a million header fields |
| ``interim`` | ``100 Continue`` for ever |
| ``endless-body`` | an answer that is not streamed, without an end |
"""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import uvloop

from bench.datapath.rig import metrics_page
from bench.native import ROOT

PAGE: Final = ROOT / "tests/data/vllm-0.32-metrics-loaded.txt"
EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"tok"}}]}\n\n'
USAGE: Final = b'{"prompt_tokens":8,"completion_tokens":8,"total_tokens":16}'
WHOLE: Final = (
    b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"ok"}}],"usage":'
    + USAGE
    + b"}"
)
SLOW_SECONDS: Final = 2.0
PACE_SECONDS: Final = 0.5
BURST_BYTES: Final = 400 * 1024
PIECE_BYTES: Final = 64 * 1024
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_JSON_HEAD: Final = b"content-type: application/json\r\n"

# What an endless answer begins with, and what is repeated then.
ENDLESS: Final[dict[str, tuple[bytes, bytes]]] = {
    "firehose": (_STREAM_HEAD, b"%x\r\n%b\r\n" % (64 * len(EVENT), 64 * EVENT)),
    "endless-event": (
        _STREAM_HEAD + b"7\r\ndata: {\r\n",
        b"%x\r\n%b\r\n" % (PIECE_BYTES, b"x" * PIECE_BYTES),
    ),
    "endless-refusal": (
        b"HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\r\n",
        b"%x\r\n%b\r\n" % (PIECE_BYTES, b"x" * PIECE_BYTES),
    ),
    "endless-field": (b"HTTP/1.1 200 OK\r\nx-long: ", b"x" * PIECE_BYTES),
    "endless-trailer": (_STREAM_HEAD + b"2\r\n\n\n\r\n0\r\nx-long: ", b"x" * PIECE_BYTES),
    "many-fields": (b"HTTP/1.1 200 OK\r\n", b"x-one-more: of many\r\n" * 2048),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2048),
    "endless-body": (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        b"%x\r\n%b\r\n" % (PIECE_BYTES, b" " * PIECE_BYTES),
    ),
}
KINDS: Final = ("quick", "slow", "paced", "burst", *ENDLESS)


class Engine(asyncio.Protocol):
    """One connection to an engine of a kind. Owns what has arrived and is not answered."""

    def __init__(self, kind: str, page: bytes) -> None:
        self._kind = kind
        self._page = page
        self._arrived = b""
        self._missing = 0
        """Bytes of a body that are thrown away as they come."""
        self._is_stream = False
        self._transport: asyncio.Transport | None = None
        self._repeated = b""
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport  # type: ignore[assignment]  # uvloop's do not inherit

    def connection_lost(self, _error: Exception | None) -> None:  # noqa: D102
        self._transport = None

    def pause_writing(self) -> None:  # noqa: D102
        self._may_write = False

    def resume_writing(self) -> None:  # noqa: D102
        self._may_write = True
        self._pour()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        while data:
            if self._missing:
                self._is_stream = self._is_stream or b'"stream":true' in data
                used = min(self._missing, len(data))
                self._missing -= used
                data = data[used:]
                if not self._missing:
                    self._answer()
                continue
            self._arrived += data
            head, blank, data = self._arrived.partition(b"\r\n\r\n")
            if not blank:
                return
            self._arrived = b""
            if head.startswith(b"GET"):
                self._write(_whole(self._page if b"/metrics" in head else b"ok"))
                continue
            found = _LENGTH.search(head)
            self._missing = int(found[1]) if found else 0
            self._is_stream = False

    def _answer(self) -> None:
        if self._kind == "slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._answer_now)
        else:
            self._answer_now()

    def _answer_now(self) -> None:
        endless = ENDLESS.get(self._kind)
        if endless is not None:
            first, self._repeated = endless
            self._write(first)
            self._pour()
        elif self._kind == "burst":
            first, _ = ENDLESS["endless-body"]
            self._write(b"%b%x\r\n%b\r\n" % (first, BURST_BYTES, b" " * BURST_BYTES))
        elif self._kind == "paced":
            self._write(_STREAM_HEAD)
            self._go_on()
        elif self._is_stream:
            pieces = (*[EVENT] * 8, b'data: {"choices":[],"usage":' + USAGE + b"}\n\n")
            chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
            self._write(_STREAM_HEAD + b"".join(chunks) + b"0\r\n\r\n")
        else:
            self._write(_whole(WHOLE))

    def _go_on(self) -> None:
        """An event now, and the next one later."""
        if self._transport is not None:
            self._write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            asyncio.get_running_loop().call_later(PACE_SECONDS, self._go_on)

    def _pour(self) -> None:
        """Once for each turn of the loop, while it is taken."""
        if self._repeated and self._may_write and self._transport is not None:
            self._write(self._repeated)
            asyncio.get_running_loop().call_soon(self._pour)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(kind: str, *, host: str = "127.0.0.1") -> tuple[asyncio.Server, int]:
    """An engine of this kind, and its port."""
    page = metrics_page(PAGE.read_text()).encode()
    server = await asyncio.get_running_loop().create_server(
        lambda: Engine(kind, page), host, 0, backlog=4096
    )
    port: int = server.sockets[0].getsockname()[1]
    return server, port


def _whole(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (_JSON_HEAD, len(text), text)


async def _serve_all(say: Callable[[str], object]) -> None:
    served = {kind: await serve(kind) for kind in KINDS}
    say(json.dumps({kind: port for kind, (_, port) in served.items()}))
    await asyncio.Event().wait()


def main() -> None:
    """Serve, and say where: one line of JSON, kind to port."""
    with suppress(KeyboardInterrupt):
        uvloop.run(_serve_all(lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
