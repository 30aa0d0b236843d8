"""Clients of every kind: they cut what they send, pipeline, read slowly, and leave at any byte."""

import asyncio
import contextlib
from dataclasses import dataclass

from whole_requests import draw_request

# How long a client that stays waits for what it has asked for. Unit: seconds. Source: above all
# limits of the router under test together.
PATIENCE_SECONDS = 25.0
GONE = OSError, RuntimeError
"""What is raised where the other side has gone; the latter by uvloop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What one client does on one connection."""

    requests: tuple
    cuts: tuple
    """Where what it sends is cut into pieces, in bytes."""
    leaves_sending: int | None
    """After so many bytes of what it sends; None: it sends all."""
    leaves_reading: int | None
    """After so many bytes of what it reads; None: it reads all."""
    how: str
    """It leaves by ``close``, ``reset`` or ``half-close``."""
    reads_slowly: bool

    @property
    def stays(self):
        """Whether it asks as it should, and waits for all that it has asked for."""
        leaves = self.leaves_sending is not None or self.leaves_reading is not None
        return not leaves and all(request.is_sound for request in self.requests)

    @property
    def data(self):
        return b"".join(request.data for request in self.requests)


@dataclass(slots=True)
class Answer:
    """What came back, as far as it came."""

    status: int
    fields: dict
    body: bytes = b""
    is_whole: bool = False


def draw_conversation(rng, number, *, has_keys):
    """What a client does, from the seed alone."""
    num = rng.choice((1,) * 8 + (2, 3, 6))
    requests = tuple(
        draw_request(rng, f"q{number}-{each}", has_keys=has_keys, is_last=each == num - 1)
        for each in range(num)
    )
    if not all(request.is_sound for request in requests):
        # Nobody knows then which answer is that of a HEAD, and so where its body would end.
        requests = tuple(request for request in requests if not request.is_head)
    size = sum(len(request.data) for request in requests)
    cuts = sorted(rng.randrange(size + 1) for _ in range(rng.choice((0, 0, 0, 1, 3))))
    dice = rng.random()
    return Conversation(
        requests=requests,
        cuts=tuple(cuts),
        leaves_sending=rng.randrange(size + 1) if dice < 0.08 else None,
        leaves_reading=rng.choice((0, 1, 50, 300, 1000, 9000)) if 0.08 <= dice < 0.22 else None,
        how=rng.choice(("close", "reset", "half-close")),
        reads_slowly=rng.random() < 0.08,
    )


class Client:
    """One client. Owns its connection, and what came back."""

    def __init__(self, conversation):
        self.conversation = conversation
        self.answers = []
        self.is_refused = False
        """Whether the connection was not even accepted."""
        self._num_read = 0

    async def run(self, port):
        """Do what was drawn. Raises ``TimeoutError`` where it waits in vain."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**21)
        except OSError:
            self.is_refused = True
            return
        reading = asyncio.create_task(self._read(reader))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if not await self._send(writer):
                    self._leave(writer)
                    if self.conversation.how != "half-close":
                        return
                elif not all(request.is_sound for request in self.conversation.requests):
                    # Half of a request: its end never comes.
                    await asyncio.wait([reading], timeout=0.3)
                    return
                if self.conversation.leaves_reading is not None:
                    await reading
                    self._leave(writer)
                    if self.conversation.how == "half-close":
                        await self._drain(reader)
                    return
                await reading
        except GONE:
            pass
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, *GONE):
                await reading
            writer.close()

    async def _send(self, writer):
        """Whether all was sent."""
        said = self.conversation
        data = said.data[: said.leaves_sending]
        at = 0
        for cut in (*(cut for cut in said.cuts if cut < len(data)), len(data)):
            writer.write(data[at:cut])
            at = cut
            await writer.drain()
            await asyncio.sleep(0.001)
        return said.leaves_sending is None

    def _leave(self, writer):
        match self.conversation.how:
            case "reset":
                writer.transport.abort()
            case "half-close":
                with contextlib.suppress(*GONE):
                    writer.write_eof()
            case _:
                writer.close()

    async def _drain(self, reader):
        while await reader.read(65536):
            pass

    async def _read(self, reader):
        """Answers, until there is one for each request, or no more, or it has read enough."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for request in self.conversation.requests:
                while not await self._read_one(reader, is_head=request.is_head):
                    pass
                if self.answers[-1].fields.get("connection") == "close":
                    break
                if self._has_enough():
                    return

    async def _read_one(self, reader, *, is_head):
        """Read one answer; False: it was an interim one."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self._num_read += len(head)
        first, *lines = head[:-4].split("\r\n")
        status = int(first.split()[1])
        if status == 100:
            return False
        answer = Answer(status, {})
        for line in lines:
            name, _, value = line.partition(": ")
            answer.fields[name.lower()] = value
        self.answers.append(answer)
        if is_head or status in {204, 304}:
            answer.is_whole = True
        elif answer.fields.get("transfer-encoding") == "chunked":
            await self._read_chunks(reader, answer)
        elif "content-length" in answer.fields:
            await self._read_bytes(reader, answer, int(answer.fields["content-length"]))
            answer.is_whole = len(answer.body) == int(answer.fields["content-length"])
        else:
            while data := await self._some(reader, 65536):
                answer.body += data
            answer.is_whole = True
        return True

    async def _read_chunks(self, reader, answer):
        while not self._has_enough():
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            if size == 0:
                await reader.readuntil(b"\r\n")
                answer.is_whole = True
                return
            await self._read_bytes(reader, answer, size)
            if not self._has_enough():
                await reader.readexactly(2)

    async def _read_bytes(self, reader, answer, num):
        while num and not self._has_enough():
            data = await self._some(reader, min(num, 65536))
            if not data:
                raise ConnectionResetError
            answer.body += data
            num -= len(data)

    async def _some(self, reader, num):
        most = self.conversation.leaves_reading
        if most is not None:
            num = max(1, min(num, most - self._num_read))
        if self.conversation.reads_slowly:
            num = min(num, 4_000)
            await asyncio.sleep(0.001)
        data = await reader.read(num)
        self._num_read += len(data)
        return data

    def _has_enough(self):
        most = self.conversation.leaves_reading
        return most is not None and self._num_read >= most
