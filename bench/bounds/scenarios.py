"""What hostile clients do: ``python -m bench.bounds.scenarios NAME`` is one of them, as a process.

Each takes a crowd of connections and says in one line of JSON what it was told. Sizes are those
that the router's limits allow, or just above.
"""

import argparse
import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import uvloop

from bench.bounds.wires import Crowd

KIB, MIB = 1024, 1024**2
# A body of this size is the largest that the router takes by default.
LARGEST_BODY_BYTES: Final = 32 * MIB - 4 * KIB
PIPELINED: Final = 16
_PATH: Final = b"/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of it."""

    connections: int
    """Of scenarios that are about connections."""
    seconds: float
    words: int
    """Requests of scenarios that are about clients' words."""


def request(body: bytes, fields: bytes = b"", path: bytes = _PATH) -> bytes:
    """A whole request."""
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        path, fields, len(body), body,
    )  # fmt: skip


def chat(model: str, text: bytes = b"hi", more: bytes = b"") -> bytes:
    """The body of a chat. ``more``: fields of the document, each with a comma before it."""
    return b'{"model":"%b","max_tokens":8,"messages":[{"role":"user","content":"%b"}]%b}' % (
        model.encode(), text, more,
    )  # fmt: skip


def _fields(num_bytes: int, *, size: int = 640) -> bytes:
    """Header fields of so many bytes together."""
    count = max(1, num_bytes // size)
    return b"".join(b"x-%04d: %b\r\n" % (n, b"v" * (size - 10)) for n in range(count))


def _filled(part: bytes, num_bytes: int) -> bytes:
    """A list of so many bytes, of equal parts."""
    return b"[%b]" % b",".join([part] * (num_bytes // (len(part) + 1)))


async def slow_heads(crowd: Crowd, extent: Extent) -> None:
    """Heads of 50 KB that never end."""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%b" % (_PATH, _fields(50 * KIB))
    await crowd.keep(
        extent.connections, lambda _: head, seconds=extent.seconds, more=lambda _: b"x-more: 1\r\n",
    )  # fmt: skip


async def slow_bodies(crowd: Crowd, extent: Extent) -> None:
    """Bodies that come byte by byte after their first 50 KB: small enough for small ones' part."""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (_PATH, 60 * KIB)
    first = head + b" " * (50 * KIB)
    await crowd.keep(
        extent.connections, lambda _: first, seconds=extent.seconds, more=lambda _: b" "
    )


async def slow_readers(crowd: Crowd, extent: Extent) -> None:
    """Long answers, asked for and not read."""
    asked = request(chat("burst"))
    await crowd.keep(extent.connections, lambda _: asked, seconds=extent.seconds, reads=False)


async def streams_with_heads(crowd: Crowd, extent: Extent) -> None:
    """Streams that wait for their first byte, each with 60 KB of fields for the engine."""
    asked = request(chat("slow", more=b',"stream":true'), _fields(60 * KIB))
    await crowd.keep(
        extent.connections, lambda _: asked, seconds=extent.seconds, more=lambda _: b""
    )


async def idle(crowd: Crowd, extent: Extent) -> None:
    """Connections that say nothing, as many as there may be and some more."""
    await crowd.keep(extent.connections + 500, lambda _: b"", seconds=extent.seconds)


async def short(crowd: Crowd, extent: Extent) -> None:
    """A connection for each request, and nobody waits for the answer of every other."""
    asked = request(chat("quick"))

    async def one() -> None:
        until = asyncio.get_running_loop().time() + extent.seconds
        while asyncio.get_running_loop().time() < until:
            for waits in (True, False):
                wire = await crowd.open(asked)
                if wire is not None and waits:
                    await wire.heard.wait()
                if wire is not None:
                    wire.end()
                    crowd.wires.discard(wire)

    await asyncio.gather(*(one() for _ in range(32)))


def _bodies(body: Callable[[], bytes], count: int) -> "Scenario":
    async def scenario(crowd: Crowd, extent: Extent) -> None:
        asked = request(body())
        await crowd.keep(count, lambda _: asked, seconds=extent.seconds)

    return scenario


def _text() -> bytes:
    return chat("slow", b"word " * (LARGEST_BODY_BYTES // 5))


def _wide_text() -> bytes:
    """One character beyond the first plane, and Python keeps four bytes for each."""
    return chat("slow", "\N{GRINNING FACE}".encode() + b"word " * (LARGEST_BODY_BYTES // 5))


def _token_ids() -> bytes:
    ids = _filled(b"99999", LARGEST_BODY_BYTES)
    return b'{"model":"slow","max_tokens":8,"prompt":%b}' % ids


def _objects() -> bytes:
    return chat("slow", more=b',"metadata":' + _filled(b"{}", LARGEST_BODY_BYTES))


def _keys() -> bytes:
    """An object of millions of keys."""
    count = LARGEST_BODY_BYTES // 12
    return chat("slow", more=b',"metadata":{%b}' % b",".join(b'"%07d":1' % n for n in range(count)))


def _half() -> bytes:
    """Not whole: what is held while it arrives."""
    return chat("slow", b"word " * (LARGEST_BODY_BYTES // 5))


async def half_bodies(crowd: Crowd, extent: Extent) -> None:
    """Half of the largest body on each of 200 connections, and then byte by byte (d29)."""
    whole = request(_half())
    first = whole[: len(whole) // 2]
    await crowd.keep(200, lambda _: first, seconds=extent.seconds, more=lambda _: b" ")


async def pipelined_bodies(crowd: Crowd, extent: Extent) -> None:
    """Sixteen bodies of 1 MB on each of 200 connections."""
    asked = request(chat("slow", b"word " * (MIB // 5))) * PIPELINED
    await crowd.keep(200, lambda _: asked, seconds=extent.seconds)


async def pipelined_heads(crowd: Crowd, extent: Extent) -> None:
    """Sixteen heads of 60 KB on each connection, behind a request that takes its time."""
    asked = request(chat("slow")) + request(chat("slow"), _fields(60 * KIB)) * (PIPELINED - 1)
    await crowd.keep(min(extent.connections, 2000), lambda _: asked, seconds=extent.seconds)


async def unknown_models(crowd: Crowd, extent: Extent) -> None:
    """Names of 2 MB of models that nobody serves (d08)."""
    name = "z" * 2_000_000
    await crowd.repeat(
        4, lambda n: request(chat(f"{n}{name}")), seconds=extent.seconds, most=10**9, pipelined=1
    )


async def streams_begun(crowd: Crowd, extent: Extent) -> None:
    """Streams that have begun, each of a body of 105 KB, read as they come (d19)."""
    asked = request(chat("paced", b"word " * 21_000, b',"stream":true'))
    await crowd.keep(min(extent.connections, 2000), lambda _: asked, seconds=extent.seconds)


async def words(crowd: Crowd, extent: Extent) -> None:
    """A new key, session, conversation, prompt and trace with each request (S4, d16)."""

    def asked(number: int) -> bytes:
        fields = (
            b"authorization: Bearer sk-%d\r\nx-session-id: session-%d\r\nx-memroute-tenant: t%d\r\n"
            b"x-request-id: r%d\r\n" % (number, number, number, number)
        )
        body = chat(
            "quick", b"prompt %d " % number * 40, b',"prompt_cache_key":"c%d","user":"u%d"' %
            (number, number),
        )  # fmt: skip
        return request(body, fields)

    await crowd.repeat(16, asked, seconds=extent.seconds, most=extent.words, pipelined=8)


async def models(crowd: Crowd, extent: Extent) -> None:
    """Another model that nobody serves with each request, and another path."""

    def asked(number: int) -> bytes:
        if number % 2:
            return b"GET /v1/models/m%d HTTP/1.1\r\nhost: h%d\r\n\r\n" % (number, number)
        return request(chat(f"model-{number}"))

    await crowd.repeat(16, asked, seconds=extent.seconds, most=extent.words, pipelined=8)


async def leavers(crowd: Crowd, extent: Extent) -> None:
    """Each with a key of its own asks an engine that takes its time, and leaves at once (d16)."""
    await crowd.keep(
        500,
        lambda n: request(chat("slow"), b"authorization: Bearer sk-%d\r\n" % n),
        seconds=extent.seconds / 2,
    )

    async def one(first: int) -> None:
        until = asyncio.get_running_loop().time() + extent.seconds / 2
        while asyncio.get_running_loop().time() < until:
            first += 64
            fields = b"authorization: Bearer sk-%d\r\n" % first
            wire = await crowd.open(request(chat("slow"), fields))
            if wire is not None:
                await asyncio.sleep(0.01)
                wire.end()
                crowd.wires.discard(wire)

    await asyncio.gather(*(one(10**6 + n) for n in range(64)))


async def deep(crowd: Crowd, extent: Extent) -> None:
    """Lists and objects in each other, 500 to five million deep."""
    depths = (500, 900, 1100, 50_000, 5_000_000)

    def asked(number: int) -> bytes:
        depth = depths[number % len(depths)]
        if number % 2:
            return request(chat("quick", more=b',"tools":' + b"[" * depth + b"]" * depth))
        return request(chat("quick", more=b',"x":' + b'{"a":' * depth + b"1" + b"}" * depth))

    await crowd.repeat(8, asked, seconds=extent.seconds, most=10**9, pipelined=1)


async def heads(crowd: Crowd, extent: Extent) -> None:
    """Heads that are too large: in one field, in many, in the target, in the method."""
    kinds = (
        b"POST %b HTTP/1.1\r\nx-long: %b" % (_PATH, b"v" * MIB),
        b"POST %b HTTP/1.1\r\n%b" % (_PATH, b"a: b\r\n" * 200_000),
        b"POST /%b HTTP/1.1\r\n" % (b"p" * MIB),
        b"POST" * 100_000,
        b"POST %b HTTP/1.1\r\n%b: v\r\n" % (_PATH, b"n" * MIB),
        b"\r\n" * 500_000,
        b"POST %b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;%b" % (_PATH, b"e" * MIB),
        b"POST %b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: %b" % (_PATH, b"t" * MIB),
    )
    await crowd.keep(200, lambda n: kinds[n % len(kinds)], seconds=extent.seconds)


async def numbers(crowd: Crowd, extent: Extent) -> None:
    """Counts that no engine has room for: ``n``, ``best_of``, limits of 19 digits (d03)."""
    odd = (
        b',"n":1000000000', b',"n":4096', b',"best_of":1000000000', b',"n":1e9',
        b',"max_completion_tokens":9223372036854775807', b',"n":99999999999999999999999',
        b',"top_logprobs":1000000000', b',"truncate_prompt_tokens":9223372036854775807',
    )  # fmt: skip
    await crowd.repeat(
        8, lambda n: request(chat("quick", more=odd[n % len(odd)])),
        seconds=extent.seconds, most=10**9, pipelined=1,
    )  # fmt: skip


def _engine(kind: str, count: int = 32) -> "Scenario":
    async def scenario(crowd: Crowd, extent: Extent) -> None:
        def asked(number: int) -> bytes:
            return request(chat(kind, more=b',"stream":true' if number % 2 else b""))

        await crowd.keep(count, asked, seconds=extent.seconds)

    return scenario


async def unread_events(crowd: Crowd, extent: Extent) -> None:
    """Streams that are one event without an end, asked for and not read."""
    asked = request(chat("endless-event", more=b',"stream":true'))
    await crowd.keep(
        min(extent.connections, 1000), lambda _: asked, seconds=extent.seconds, reads=False
    )


Scenario = Callable[[Crowd, Extent], Awaitable[None]]
SCENARIOS: Final[dict[str, Scenario]] = {
    "idle connections": idle,
    "short connections": short,
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "slow readers": slow_readers,
    "waiting streams with large heads": streams_with_heads,
    "half bodies": half_bodies,
    "large bodies: text": _bodies(_text, 100),
    "large bodies: wide text": _bodies(_wide_text, 100),
    "large bodies: token ids": _bodies(_token_ids, 100),
    "large bodies: objects": _bodies(_objects, 100),
    "large bodies: keys": _bodies(_keys, 100),
    "pipelined bodies": pipelined_bodies,
    "pipelined heads": pipelined_heads,
    "large heads": heads,
    "unknown models of 2 MB": unknown_models,
    "streams that have begun": streams_begun,
    "keys, tenants, sessions": words,
    "model names": models,
    "clients that leave": leavers,
    "deep documents": deep,
    "large numbers": numbers,
    "engine: firehose": _engine("firehose"),
    "engine: endless event": _engine("endless-event"),
    "engine: endless event, unread": unread_events,
    "engine: endless answer": _engine("endless-body"),
    "engine: endless refusal": _engine("endless-refusal"),
    "engine: endless field": _engine("endless-field"),
    "engine: endless trailer": _engine("endless-trailer"),
    "engine: many fields": _engine("many-fields"),
    "engine: 100 for ever": _engine("interim"),
}


def main() -> int:
    """Do one of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.bounds.scenarios", description=__doc__)
    parser.add_argument("name", choices=sorted(SCENARIOS))
    parser.add_argument("--port", type=int, required=True, help="of the router")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--addresses", type=int, required=True, help="that they come from")
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    told = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    extent = Extent(connections=told.connections, seconds=told.seconds, words=told.words)

    async def run() -> Crowd:
        crowd = Crowd(told.port, num_addresses=told.addresses)
        await SCENARIOS[told.name](crowd, extent)
        return crowd

    crowd = uvloop.run(run())
    print(json.dumps({"told": dict(crowd.told), "most_open": crowd.most_open}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
