"""A router without Kubernetes, and scripted engines: the data path over real sockets."""

import asyncio
import contextlib
import json
import random
import re

from memroute_router.app import Router
from memroute_router.http.client import Endpoint
from memroute_router.replicas.replica import ReplicaInfo
from memroute_router.settings import parse_settings

CHUNK = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'


async def until(condition):
    """Wait for something to become true; it must within 30 s, however busy the machine is."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


class Engine:
    """A scripted engine: ``script`` gets the writer of each request and does as it likes."""

    def __init__(self, script):
        self._script = script
        self.requests = []
        self.num_open = 0
        self.cancelled = asyncio.Event()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()

    async def _serve(self, reader, writer):
        self.num_open += 1
        self.reader = reader
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                told = re.search(rb"(?i)content-length: (\d+)", head)
                length = int(told[1]) if told else 0
                self.requests.append((head, await reader.readexactly(length)))
                if await self._script(self, writer) is False:
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.num_open -= 1
            self.cancelled.set()
            writer.close()


def whole(text=b'{"ok":true}', status=b"200 OK"):
    async def script(_engine, writer):
        length = str(len(text)).encode()
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: " + length + b"\r\n\r\n" + text)

    return script


def held(release):
    """As ``whole``, once the event is set."""

    async def script(engine, writer):
        await release.wait()
        return await whole()(engine, writer)

    return script


def begin_stream(writer):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    writer.write(head + b"\r\n")


def send_chunk(writer, data=CHUNK):
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def reset(_engine, writer):
    writer.transport.abort()
    return False


class Rig:
    """A router's data path without Kubernetes."""

    def __init__(self, *flags, body_bytes=10_000):
        self.lines = []
        settings = parse_settings(["--max-body-bytes", str(body_bytes), *flags])
        self.router = Router(settings, random.Random(1))
        self.router.journal._write = self.lines.append
        self.pools = self.router.pools
        self._clock = None

    async def start(self):
        self.port = await self.router.server.start("127.0.0.1", 0)
        self.ops_port = await self.router.operations.server.start("127.0.0.1", 0)
        self._clock = asyncio.create_task(self.router._tick_forever())

    async def stop(self):
        self._clock.cancel()
        await self.router.server.stop(timeout_seconds=0)
        await self.router.operations.server.stop(timeout_seconds=0)
        self.router.scraper.close()
        await self.router.engines.close()
        self.router.journal.flush()
        with contextlib.suppress(asyncio.CancelledError):
            await self._clock

    def add(self, name, port, **facts):
        return self.pools.upsert_replica(
            ReplicaInfo(
                namespace="default",
                pod=name,
                deployment="m",
                served_model="m",
                endpoint=Endpoint("127.0.0.1", port),
                promised_capacity_tokens=facts.get("capacity", 10_000),
                max_context_tokens=facts.get("context"),
                is_routable=True,
                version=facts.get("version", ""),
                weight_ratio=facts.get("weight", 1.0),
                adapters=facts.get("adapters"),
            )
        )

    @property
    def replicas(self):
        return [r for p in self.pools.by_model.values() for r in p.replicas.values()]

    @property
    def reserved(self):
        return sum(r.ledger.reserved_tokens for r in self.replicas)

    @property
    def num_leases(self):
        return sum(r.ledger.num_in_flight for r in self.replicas)

    @property
    def num_held(self):
        return sum(p.num_held for p in self.pools.by_model.values())

    def trust_all(self):
        """As if every replica had just answered a request."""
        for replica in self.replicas:
            replica.health.answered()

    def prefer(self, name):
        """Make a replica the best by making the others slow."""
        for replica in self.replicas:
            if replica.info.pod != name:
                replica.ledger.speed.assume(prompt_seconds=0.1, token_seconds=1e-4)


def body(**fields):
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    return json.dumps(document | fields).encode()


def raw(data, path=b"/v1/chat/completions"):
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, len(data))
    return head + data


async def exchange(port, data, *, until_closed=False):
    """Send bytes; the status, headers and body that come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await read_answer(reader, until_closed=until_closed)
    finally:
        writer.close()


async def read_answer(reader, *, until_closed=False):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    if "content-length" in headers:
        content = await reader.readexactly(int(headers["content-length"]))
    else:
        content = b""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                size = int((await reader.readuntil(b"\r\n")).strip(), 16)
                content += (await reader.readexactly(size + 2))[:-2]
                if size == 0:
                    break
    if until_closed:
        await reader.read()
    return int(lines[0].split()[1]), headers, content
