"""Clients' connections that do as a scenario says, by the thousand."""

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_REASON: Final = re.compile(rb"(?i)\r\nx-memroute-reason: ([a-z-]+)")
_MESSAGE: Final = re.compile(rb'"message":\s*"([^"]{0,60})')
_ERROR_EVENT: Final = re.compile(rb'data: \{"error":\{"message":"([^"]{0,60})')
_FIRST_ERROR: Final = b"400"
# Connections that one scenario opens in a second at most: no faster than a router accepts them.
OPENED_PER_SECOND: Final = 2000
PACE_SECONDS: Final = 0.05
CONNECT_SECONDS: Final = 5.0
SMALL_BUFFER_BYTES: Final = 4096
# A client that is told nothing for so long after it was closed out tries again.
RETRY_SECONDS: Final = 0.2


class Wire(asyncio.Protocol):
    """One connection. Counts in ``told`` what it is told."""

    def __init__(self, told: Counter[str], first: bytes, *, reads: bool = True) -> None:
        """``first``: what it sends at once. ``reads``: whether it takes what it is sent."""
        self._told = told
        self._first = first
        self._reads = reads
        self._was_told = False
        self.num_answers = 0
        self.transport: asyncio.Transport | None = None
        self.closed = asyncio.Event()
        self.heard = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = transport  # type: ignore[assignment]  # uvloop's do not inherit
        if not self._reads:
            # Not now: uvloop begins to read when this has returned.
            asyncio.get_running_loop().call_soon(self._pause)
        self.send(self._first)

    def _pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self.heard.set()
        # Most of what an engine without an end sends is neither, and is passed over quickly.
        statuses = _STATUS.findall(data) if b"HTTP/1.1 " in data else ()
        self.num_answers += len(statuses)
        if statuses:
            self._was_told = True
            reason = _REASON.search(data) or _MESSAGE.search(data)
            for status in statuses:
                said = f" {reason[1].decode()}" if reason and status >= _FIRST_ERROR else ""
                self._told[status.decode() + said] += 1
        broken = _ERROR_EVENT.search(data) if b'"error"' in data else None
        if broken:
            self._told[f"event: {broken[1].decode()}"] += 1

    def connection_lost(self, _error: Exception | None) -> None:  # noqa: D102
        self.transport = None
        if not self._was_told:
            self._told["closed"] += 1
        self.closed.set()
        self.heard.set()

    def send(self, data: bytes) -> None:
        """Send some more, if it is open and what was sent before has been taken."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def can_send(self) -> bool:
        """Whether what was sent has left."""
        transport = self.transport
        return transport is not None and transport.get_write_buffer_size() == 0

    def end(self) -> None:
        """Close it at once; that is not counted."""
        self._was_told = True
        if self.transport is not None:
            self.transport.abort()


class Crowd:
    """So many connections, kept up for as long as a scenario lasts. Owns them, and the count."""

    def __init__(self, port: int, *, num_addresses: int) -> None:
        self._port = port
        self._num_addresses = num_addresses
        self._num_opened = 0
        self.told: Counter[str] = Counter()
        self.wires: set[Wire] = set()
        self.most_open = 0

    async def open(self, first: bytes, *, reads: bool = True) -> Wire | None:
        """One more connection; None if the router takes none."""
        number = self._num_opened % self._num_addresses
        self._num_opened += 1
        source = f"127.0.{1 + number // 250}.{1 + number % 250}"
        wire = Wire(self.told, first, reads=reads)
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        try:
            if not reads:
                # What is not read is to lie in the router, not in the kernel's buffers.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
            made.bind((source, 0))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(made, ("127.0.0.1", self._port))
            await loop.create_connection(lambda: wire, sock=made)
        except (OSError, TimeoutError) as error:
            made.close()
            self.told[f"cannot connect: {getattr(error, 'strerror', None) or 'no answer'}"] += 1
            return None
        self.wires.add(wire)
        self.most_open = max(self.most_open, len(self.wires))
        return wire

    async def keep(
        self,
        count: int,
        first: Callable[[int], bytes],
        *,
        seconds: float,
        reads: bool = True,
        more: Callable[[int], bytes] | None = None,
        more_seconds: float = 1.0,
    ) -> None:
        """Keep ``count`` connections open, each with its ``first`` sent; who is closed out returns.

        ``more``: what each sends every ``more_seconds`` after that. Both get the connection's
        number.
        """
        until = time.monotonic() + seconds
        numbers: dict[Wire, int] = {}
        number = 0
        more_at = time.monotonic() + more_seconds
        while time.monotonic() < until:
            for wire in [wire for wire in self.wires if wire.transport is None]:
                self.wires.discard(wire)
                numbers.pop(wire, None)
            missing = min(count - len(self.wires), int(OPENED_PER_SECOND * PACE_SECONDS))
            for _ in range(missing):
                number += 1
                wire = await self.open(first(number), reads=reads)  # type: ignore[assignment]
                if wire is None:
                    await asyncio.sleep(RETRY_SECONDS)
                    break
                numbers[wire] = number
            if more is not None and time.monotonic() >= more_at:
                more_at = time.monotonic() + more_seconds
                for wire, told in numbers.items():
                    if wire.can_send():
                        wire.send(more(told))
            await asyncio.sleep(PACE_SECONDS)
        self.end()

    async def repeat(
        self,
        count: int,
        request: Callable[[int], bytes],
        *,
        seconds: float,
        most: int,
        pipelined: int,
    ) -> int:
        """``count`` connections that ask again as soon as they are answered; how often they did.

        ``most``: requests in all. ``pipelined``: that each connection has under way at once.
        """
        until = time.monotonic() + seconds
        asked = 0

        async def one() -> None:
            nonlocal asked
            wire: Wire | None = None
            while time.monotonic() < until and asked < most:
                data = b"".join(request(asked + n) for n in range(pipelined))
                asked += pipelined
                if wire is None or wire.transport is None:
                    wire = await self.open(data)
                    if wire is None:
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                else:
                    wire.send(data)
                expected = wire.num_answers + pipelined
                while wire.num_answers < expected and wire.transport is not None:
                    wire.heard.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0.1, until - time.monotonic())):
                            await wire.heard.wait()
                    if time.monotonic() >= until:
                        break
                if wire.transport is None:
                    self.wires.discard(wire)
            if wire is not None:
                wire.end()
                self.wires.discard(wire)

        await asyncio.gather(*(one() for _ in range(count)))
        return asked

    def end(self) -> None:
        """Close them all."""
        for wire in self.wires:
            wire.end()
        self.wires.clear()
