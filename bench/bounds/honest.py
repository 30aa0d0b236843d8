"""An honest client: small requests, one after the other, some on a connection of their own."""

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from bench.bounds.scenarios import chat, request

# It comes from another address than the hostile ones.
ADDRESS: Final = "127.0.200.1"
TIMEOUT_SECONDS: Final = 15.0
# Between two requests. Unit: seconds.
PAUSE_SECONDS: Final = 0.05
_OK: Final = b"HTTP/1.1 200 "
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: (\d+)")


@dataclass(slots=True)
class Ledger:
    """What became of its requests."""

    seconds: list[float] = field(default_factory=list)
    """Of those that were answered."""
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def success_ratio(self) -> float | None:
        """Of all requests, those that were answered as they should; None: there were none."""
        total = len(self.seconds) + self.failures.total()
        return len(self.seconds) / total if total else None

    @property
    def p95_seconds(self) -> float | None:
        """Until the last byte of an answer; None: there was none."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None


class Honest:
    """Asks until it is stopped; every other request is a stream, every fourth a new connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.ledger = Ledger()

    async def run(self) -> None:
        """Ask, for ever."""
        number = 0
        while True:
            number += 1
            begun = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    status = await self._ask(is_stream=number % 2 == 0, is_new=number % 4 < 2)  # noqa: PLR2004
            except TimeoutError:
                self._fail("no answer in time")
            except (OSError, asyncio.IncompleteReadError) as error:
                self._fail(f"connection lost: {type(error).__name__}")
            else:
                if status == "200":
                    self.ledger.seconds.append(time.monotonic() - begun)
                else:
                    self._fail(status)
            await asyncio.sleep(PAUSE_SECONDS)

    def _fail(self, why: str) -> None:
        self.ledger.failures[why] += 1
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, local_addr=(ADDRESS, 0))

    async def _ask(self, *, is_stream: bool, is_new: bool) -> str:
        """The status of one answer, read to its end."""
        asked = request(chat("honest", more=b',"stream":true' if is_stream else b""))
        if is_new:
            reader, writer = await self._open()
            try:
                return await _answer(reader, writer, asked)
            finally:
                writer.close()
        if self._kept is None:
            self._kept = await self._open()
        return await _answer(*self._kept, asked)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes) -> str:
    writer.write(asked)
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if length is not None:
        body = await reader.readexactly(int(length[1]))
    else:
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
    if head.startswith(_OK):
        return "200"
    return f"{head[9:12].decode()} {body[:80].decode('utf-8', 'replace')}"
