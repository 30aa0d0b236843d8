"""Engines that fail in every way: what one does with a request is drawn from the request's id."""

import asyncio
import contextlib
import random
import re

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="m"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{model_name="m"}} 0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{model_name="m"}} {usage}
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}"}} 1
"""
USAGE = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}'
MINE = b"x-engine: 1\r\n"
"""In every answer of an engine: the others are the router's own."""
# How often each happens, relative to the others.
WAYS = {
    "whole": 30, "stream": 30, "stream that ends by closing": 2, "empty": 2, "no content": 1,
    "slow": 14, "silent": 2, "stalls": 2, "reset": 5, "hangs up": 3, "hangs up in the middle": 4,
    "reset in the middle": 4, "too short": 2, "too long": 2, "nonsense": 2, "nonsense inside": 2,
    "switches": 1, "interim": 2, "many fields": 1, "two answers": 2, "error event": 4,
    "error event at once": 2, "429": 4, "503": 4, "500": 4, "502": 2, "504": 2, "400": 3,
    "204": 1, "304": 1, "599": 1, "large": 3, "compressed": 1, "answers early": 2, "closes": 3,
    "huge event": 1, "odd usage": 2, "dies": 1, "half a push-back": 1,
}  # fmt: skip


class WholeEngine:
    """One engine, which can die and come back at its port."""

    def __init__(self, name, seed, blocks):
        self.name, self._seed, self._blocks = name, seed, blocks
        self.port = 0
        self._writers = set()
        self._server = None
        self._is_closed = False

    @property
    def num_open(self):
        """Connections."""
        return len(self._writers)

    async def start(self):
        """Listen, on the port of before; what listened there may take a moment to go."""
        async with asyncio.timeout(5):
            while self._server is None:
                try:
                    self._server = await asyncio.start_server(
                        self._serve, "127.0.0.1", self.port, limit=2**20
                    )
                except OSError:
                    await asyncio.sleep(0.01)
        self.port = self._server.sockets[0].getsockname()[1]

    def die(self):
        """Soon nobody listens, and every connection is reset."""
        server, self._server = self._server, None
        if server is not None:
            loop = asyncio.get_running_loop()
            if isinstance(loop, asyncio.SelectorEventLoop):
                # What was accepted in this very turn has to find its server open.
                for each in server.sockets:
                    loop.remove_reader(each.fileno())
            loop.call_later(0.02, server.close)
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self):
        """End for good, and wait for the end of all that it does."""
        self._is_closed = True
        self.die()
        async with asyncio.timeout(5):
            while self._writers:
                await asyncio.sleep(0.01)

    async def _serve(self, reader, writer):
        if self._is_closed:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET "):
                    self._scraped(writer)
                    continue
                told = re.search(rb"(?i)\r\nx-request-id: ([^\r]*)", head)
                rng = random.Random(f"{self._seed}/{self.name}/{told and told[1]}")
                way = rng.choices(list(WAYS), weights=list(WAYS.values()))[0]
                length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
                if way == "answers early":
                    self._whole(writer, b"413 Content Too Large", b"{}")
                    await writer.drain()
                    return
                body = await reader.readexactly(length)
                if await self._answer(way, rng, reader, writer, b'"stream": true' in body) is False:
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, RuntimeError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _scraped(self, writer):
        rng = random.Random(f"{self._seed}/{self.name}/page")
        dice = rng.random()
        if dice < 0.1:
            self._whole(writer, b"500 Oops", b"")
        elif dice < 0.2:
            self._whole(writer, b"200 OK", b"\x00 no page {{{ NaN\n" * 20)
        else:
            page = PAGE.format(running=0, usage=0.0, blocks=self._blocks)
            self._whole(writer, b"200 OK", page.encode())

    def _whole(self, writer, status, body, lines=b"", length=None):
        writer.write(
            b"HTTP/1.1 %b\r\n%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, MINE, lines, len(body) if length is None else length, body)
        )

    def _begin(self, writer, lines=b"transfer-encoding: chunked\r\n"):
        writer.write(
            b"HTTP/1.1 200 OK\r\n%b%bcontent-type: text/event-stream\r\n\r\n" % (MINE, lines)
        )

    async def _stream(self, rng, writer, *, is_cut=False, seconds=0.002):
        """Events, in chunks that do not care where an event ends."""
        self._begin(writer)
        await self._events(rng, writer, rng.randrange(8), seconds)
        if not is_cut:
            usage = USAGE % (rng.randrange(4000), rng.randrange(4000))
            self._chunk(writer, b'data: {"choices":[],%b}\n\n' % usage)
            self._chunk(writer, b"data: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")

    async def _events(self, rng, writer, num, seconds):
        for number in range(num):
            event = b'data: {"choices":[{"index":0,"delta":{"content":"x%d"}}]}\n\n' % number
            at = rng.randrange(len(event)) if rng.random() < 0.3 else 0
            if at:
                self._chunk(writer, event[:at])
                await writer.drain()
            self._chunk(writer, event[at:])
            await writer.drain()
            await asyncio.sleep(rng.random() * seconds)

    def _chunk(self, writer, data):
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def _answer(self, way, rng, reader, writer, wants_stream):  # noqa: C901, PLR0911, PLR0912, PLR0915 - a table of ways
        text = b'{"choices":[{"message":{"content":"hello"}}],%b}' % (
            USAGE % (rng.randrange(4000), rng.randrange(4000))
        )
        if way in {"whole", "stream"}:
            way = "stream" if wants_stream else "whole"
        middle = rng.randrange(1, len(text))
        match way:
            case "whole":
                self._whole(writer, b"200 OK", text)
            case "stream":
                await self._stream(rng, writer)
            case "stream that ends by closing":
                self._begin(writer, b"")
                writer.write(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n')
                await writer.drain()
                return False
            case "empty":
                self._whole(writer, b"200 OK", b"")
            case "no content":
                writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n" % MINE)
                return False
            case "slow":
                await asyncio.sleep(rng.random() * 0.15)
                await self._stream(rng, writer, seconds=0.04)
            case "silent":
                with contextlib.suppress(OSError):
                    await reader.read()
                return False
            case "stalls":
                self._begin(writer)
                await self._events(rng, writer, 2, 0.001)
                with contextlib.suppress(OSError):
                    await reader.read()
                return False
            case "reset":
                writer.transport.abort()
                return False
            case "hangs up":
                return False
            case "hangs up in the middle" | "reset in the middle":
                if wants_stream:
                    await self._stream(rng, writer, is_cut=True)
                else:
                    self._whole(writer, b"200 OK", text[:middle], length=len(text))
                await writer.drain()
                if way.startswith("reset"):
                    writer.transport.abort()
                return False
            case "too short":
                self._whole(writer, b"200 OK", text, length=len(text) + 5)
                await writer.drain()
                return False
            case "too long":
                self._whole(writer, b"200 OK", text, length=len(text) - 5)
            case "nonsense":
                writer.write(b"\x00nonsense\r\n\r\n")
            case "nonsense inside":
                self._begin(writer)
                self._chunk(writer, b"data: {}\n\n")
                writer.write(b"zz\r\nnonsense")
            case "switches":
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n")
            case "interim":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n")
                self._whole(writer, b"200 OK", text)
            case "many fields":
                self._whole(writer, b"200 OK", text, b"x-a: b\r\n" * rng.choice((50, 300)))
            case "two answers":
                self._whole(writer, b"200 OK", text)
                self._whole(writer, b"200 OK", b"stolen")
            case "error event" | "error event at once":
                self._begin(writer)
                if way == "error event":
                    await self._events(rng, writer, 2, 0.001)
                code = rng.choice((b"400", b"500", b'"x"', b"null"))
                self._chunk(writer, b'data: {"error":{"message":"dead","code":%b}}\n\n' % code)
                self._chunk(writer, b"data: [DONE]\n\n")
                writer.write(b"0\r\n\r\n")
            case "429" | "503" | "502" | "504" | "500" | "400" | "599":
                lines = rng.choice((b"", b"retry-after: 7\r\n", b"retry-after: x\r\n"))
                self._whole(writer, b"%b X" % way.encode(), b'{"error":{"message":"no"}}', lines)
            case "half a push-back":
                self._whole(writer, b"503 X", b'{"err', length=500)
                await writer.drain()
                return False
            case "204" | "304":
                writer.write(b"HTTP/1.1 %b X\r\n%b\r\n" % (way.encode(), MINE))
            case "large":
                for _ in range(2):
                    await writer.drain()
                self._whole(
                    writer, b"200 OK", b'{"a":"' + b"x" * rng.choice((10**5, 10**6)) + b'"}'
                )
            case "compressed":
                self._begin(writer, b"transfer-encoding: chunked\r\ncontent-encoding: gzip\r\n")
                self._chunk(writer, bytes(50))
                writer.write(b"0\r\n\r\n")
            case "closes":
                self._whole(writer, b"200 OK", text, b"connection: close\r\n")
                await writer.drain()
                return False
            case "huge event":
                self._begin(writer)
                self._chunk(writer, b"data: " + b"x" * 1_200_000)
                self._chunk(writer, b"\n\ndata: [DONE]\n\n")
                writer.write(b"0\r\n\r\n")
            case "odd usage":
                odd = rng.choice((b"-5", b"1e99", b'"x"', b"null", b"9" * 40, b"{}"))
                self._whole(writer, b"200 OK", b'{"usage":{"prompt_tokens":%b,"completion_tokens":'
                            b"%b}}" % (odd, odd))  # fmt: skip
            case "dies":
                self.die()
                return False
            case _:
                raise ValueError(way)
        return None
