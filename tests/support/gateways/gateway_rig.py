"""A picker without Kubernetes, and a gateway that asks it: HTTP/2 and messages over a socket."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from memroute_picker.app import Picker
from memroute_picker.grpc.frames import PREFACE, Flag, Kind, frame, settings, window_update
from memroute_picker.protocol.names import DESTINATION, PROCESS_PATH
from memroute_picker.protocol.wire import BYTES, number_at, span_at
from memroute_picker.protocol.wire import field as wired
from memroute_picker.settings import parse_settings
from router_rig import Rig

DUPLEX, NONE, BUFFERED, STREAMED = 4, 0, 2, 1
HEAD = {":method": "POST", ":path": "/v1/chat/completions", ":authority": "x", ":scheme": "http"}


class PickerRig(Rig):
    """A picker's data path without Kubernetes."""

    def __init__(self, *flags, body_bytes=10_000, seed=1):
        self.lines = []
        given = parse_settings(["--max-body-bytes", str(body_bytes), *flags])
        self.router = Picker(given, random.Random(seed))
        self.router.journal._write = self.lines.append
        self.pools = self.router.pools
        self._clock = None


# Messages of the gateway, written


def _entry(tag, name, payload):
    return wired(tag, wired(b"\x0a", name) + wired(b"\x12", payload))


def struct(fields):
    """A ``google.protobuf.Struct`` of texts, lists of texts and structures."""
    return b"".join(_entry(b"\x0a", name.encode(), _value(value)) for name, value in fields.items())


def _value(value):
    if isinstance(value, str):
        return wired(b"\x1a", value.encode())
    if isinstance(value, list):
        return wired(b"\x32", b"".join(wired(b"\x0a", _value(each)) for each in value))
    return wired(b"\x2a", struct(value))


def headers(fields, *, is_last=False):
    """``HttpHeaders``."""
    lines = b"".join(
        wired(b"\x0a", wired(b"\x0a", name.encode()) + wired(b"\x1a", value.encode()))
        for name, value in fields.items()
    )
    return wired(b"\x0a", lines) + (b"\x18\x01" if is_last else b"")


def piece(data, *, is_last):
    """``HttpBody``."""
    return (wired(b"\x0a", data) if data else b"") + (b"\x10\x01" if is_last else b"")


# Answers of the picker, read


def fields_of(data):
    """The fields of a message with a length, and its numbers, by their numbers."""
    found, at = {}, 0
    while at < len(data):
        tag, at = number_at(data, at)
        if tag & 7 == BYTES:
            begin, at = span_at(data, at, len(data))
            found.setdefault(tag >> 3, []).append(data[begin:at])
        else:
            value, at = number_at(data, at)
            found.setdefault(tag >> 3, []).append(value)
    return found


@dataclass
class Told:
    """One answer."""

    kind: int
    """Its field's number in ``ProcessingResponse``."""
    sets: dict[str, str] = field(default_factory=dict)
    removes: list[str] = field(default_factory=list)
    body: bytes | None = None
    is_last: bool = False
    status: int = 0
    metadata: dict = field(default_factory=dict)

    @property
    def endpoint(self):
        return self.sets.get(DESTINATION.decode())


def told(data):
    """An answer, read."""
    top = fields_of(data)
    kind = min(top)
    answer = Told(kind)
    inner = fields_of(top[kind][0])
    if kind == 7:
        answer.status = fields_of(inner[1][0])[1][0]
        _mutation(answer, inner.get(2, [b""])[0])
        answer.body = inner.get(3, [b""])[0]
        return answer
    common = fields_of(inner.get(1, [b""])[0]) if kind not in {5, 6} else {}
    _mutation(answer, common.get(2, [b""])[0])
    body = fields_of(common.get(3, [b""])[0])
    if 3 in body:
        streamed = fields_of(body[3][0])
        answer.body = streamed.get(1, [b""])[0]
        answer.is_last = bool(streamed.get(2, [0])[0])
    elif 1 in body or 2 in body:
        answer.body = body.get(1, [b""])[0]
    if 8 in top:
        answer.metadata = _struct(top[8][0])
    return answer


def _mutation(answer, data):
    found = fields_of(data)
    for option in found.get(1, []):
        pair = fields_of(fields_of(option)[1][0])
        answer.sets[pair[1][0].decode()] = pair.get(3, [b""])[0].decode()
    answer.removes = [name.decode() for name in found.get(2, [])]


def _struct(data):
    found = {}
    for entry in fields_of(data).get(1, []):
        pair = fields_of(entry)
        value = fields_of(pair[2][0])
        found[pair[1][0].decode()] = value[3][0].decode() if 3 in value else _struct(value[5][0])
    return found


class Gateway:
    """One connection of a gateway."""

    def __init__(self, port, tls=None, host="127.0.0.1"):
        self._port, self._host = port, host
        self._tls = tls
        self._streams = {}
        self._next = 1
        self.frames = []
        """Those that are of no stream."""
        self.answers_pings = True

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls
        )
        self.write(PREFACE + settings([(4, 2**20)]) + window_update(0, 2**30))
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        self._writer.close()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await self._task

    def write(self, data):
        self._writer.write(data)

    def call(self, path=PROCESS_PATH, called=b""):
        """A new call: its number, and the queue of what comes back. ``called``: the authority."""
        number, self._next = self._next, self._next + 2
        queue = self._streams[number] = asyncio.Queue()
        block = b"\x83\x86" + b"\x04" + bytes([len(path)]) + path
        if called:
            block += b"\x01" + bytes([len(called)]) + called
        self.write(frame(Kind.HEADERS, Flag.END_HEADERS, number, block))
        return number, queue

    def say(self, number, message, *, is_last=False):
        flags = Flag.END_STREAM if is_last else 0
        data = b"\x00" + len(message).to_bytes(4, "big") + message
        for at in range(0, len(data), 16_384):
            end = at + 16_384
            last = flags if end >= len(data) else 0
            self.write(frame(Kind.DATA, last, number, data[at:end]))

    async def _read(self):
        partial = {}
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                number = int.from_bytes(head[5:], "big")
                queue = self._streams.get(number)
                if queue is None:
                    self.frames.append((kind, flags, payload))
                    if kind == Kind.PING and not flags & Flag.ACK and self.answers_pings:
                        self.write(frame(Kind.PING, Flag.ACK, 0, payload))
                elif kind == Kind.DATA:
                    data = partial.get(number, b"") + payload
                    while len(data) >= 5 and len(data) - 5 >= int.from_bytes(data[1:5], "big"):
                        end = 5 + int.from_bytes(data[1:5], "big")
                        queue.put_nowait(data[5:end])
                        data = data[end:]
                    partial[number] = data
                elif kind == Kind.RST_STREAM or flags & Flag.END_STREAM:
                    queue.put_nowait((kind, payload))
        for queue in self._streams.values():
            queue.put_nowait((None, b""))


class Stream:
    """One request as a gateway carries it."""

    def __init__(self, gateway, requests=DUPLEX, answers=DUPLEX, called=b""):
        self.gateway = gateway
        self.number, self._queue = gateway.call(called=called)
        self._modes = b"\x08" + bytes([requests]) + b"\x10" + bytes([answers])
        self._is_first = True

    def say(self, kind, payload, *, subset=None, served=None, attributes=None):
        message = wired(bytes([kind << 3 | BYTES]), payload)
        if subset is not None:
            hint = struct({"x-gateway-destination-endpoint-subset": subset})
            message += wired(b"\x42", _entry(b"\x0a", b"envoy.lb.subset_hint", hint))
        if served is not None:
            noted = struct({"x-gateway-destination-endpoint-served": served})
            message += wired(b"\x42", _entry(b"\x0a", b"envoy.lb", noted))
        if attributes is not None:
            message += _entry(b"\x4a", b"envoy.filters.http.ext_proc", struct(attributes))
        if self._is_first:
            self._is_first = False
            message += wired(b"\x5a", self._modes)
        self.gateway.say(self.number, message)

    def head(self, *, is_last=False, subset=None, **more):
        fields = HEAD | {name.replace("_", "-"): value for name, value in more.items()}
        self.say(2, headers(fields, is_last=is_last), subset=subset)

    def body(self, data, *, is_last=True):
        self.say(4, piece(data, is_last=is_last))

    def ask(self, data, **more):
        """A request as a whole."""
        self.head(**more)
        self.body(data)

    def answer_head(self, status=200, *, is_last=False, beside=None, **more):
        fields = {":status": str(status), "content-type": "application/json"}
        fields |= {name.replace("_", "-"): value for name, value in more.items()}
        self.say(3, headers(fields, is_last=is_last), **(beside or {}))

    def answer_body(self, data, *, is_last):
        self.say(5, piece(data, is_last=is_last))

    def trailers(self):
        self.say(6, b"")

    def answer_trailers(self):
        self.say(7, b"")

    def half_close(self):
        self.gateway.write(frame(Kind.DATA, Flag.END_STREAM, self.number, b""))

    def cancel(self):
        self.gateway.write(frame(Kind.RST_STREAM, 0, self.number, (8).to_bytes(4, "big")))

    async def next(self):
        """The next answer; a kind of frame where the stream has ended."""
        async with asyncio.timeout(120):
            found = await self._queue.get()
        return told(found) if isinstance(found, bytes) else found[0]

    async def routed(self, data, **more):
        """Ask, and take the answers that let the request go; the first of them."""
        self.ask(data, **more)
        answer = await self.next()
        if answer.kind == 1:
            while not (await self.next()).is_last:
                pass
        return answer


@contextlib.asynccontextmanager
async def picker(*flags, replicas=("a", "b"), capacity=10_000, **options):
    """A rig with replicas ``127.0.0.1:1001`` and on, and a gateway's connection to it."""
    rig = PickerRig("--scrape-seconds", "3600", *flags, **options)
    await rig.start()
    for index, name in enumerate(replicas):
        rig.add(name, 1001 + index, capacity=capacity)
    rig.trust_all()
    try:
        async with Gateway(rig.port) as gateway:
            yield rig, gateway
    finally:
        await rig.stop()
