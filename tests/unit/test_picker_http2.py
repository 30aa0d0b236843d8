"""HTTP/2 as gateways and probes speak it, and what is said to those who do not."""

import asyncio

import pytest

from gateway_rig import Gateway, PickerRig, Stream, picker
from memroute_picker.grpc.frames import PREFACE, Flag, Kind, frame, settings
from memroute_picker.grpc.hpack import TABLE_BYTES, FieldReader, FieldsError
from memroute_picker.grpc.huffman import HuffmanError, decode
from memroute_picker.protocol.names import HEALTH_CHECK_PATH, HEALTH_WATCH_PATH
from memroute_picker.protocol.wire import field as wired
from router_rig import body, until

# RFC 7541, C.3 and C.4: the same three requests, plain and coded.
PLAIN = (
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
CODED = (
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
FIRST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"),
         (b":authority", b"www.example.com")]  # fmt: skip
THIRD = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"),
         (b":authority", b"www.example.com"), (b"custom-key", b"custom-value")]  # fmt: skip


@pytest.mark.parametrize("blocks", [PLAIN, CODED])
def test_the_rfcs_examples_are_read(blocks):
    """The table grows from one request to the next."""
    reader = FieldReader()
    found = [reader.read(bytes.fromhex(block)) for block in blocks]
    assert found == [FIRST, [*FIRST, (b"cache-control", b"no-cache")], THIRD]


def test_a_block_means_the_same_only_while_the_table_stays():
    """Blocks are remembered: one that names an entry by its place must be read anew."""
    reader = FieldReader()
    reader.read(bytes.fromhex(PLAIN[0]))
    assert reader.read(b"\xbe") == reader.read(b"\xbe") == [FIRST[-1]]
    reader.read(bytes.fromhex(PLAIN[2])[4:])
    assert reader.read(b"\xbe") == [(b"custom-key", b"custom-value")]


def test_what_is_added_pushes_out_what_is_old():
    """4 KiB at most, an entry's 32 bytes included."""
    reader = FieldReader()
    value = b"x" * 1000
    for name in (b"a", b"b", b"c", b"d"):
        reader.read(b"\x40\x01" + name + b"\x7f\xe9\x06" + value)
    assert reader._added_bytes <= TABLE_BYTES
    assert [name for name, _ in reader._added] == [b"d", b"c", b"b"]
    reader.read(b"\x20")
    assert not reader._added


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xff\xff\xff\xff\xff\x0f", b"\x40\x05ab", b"\xc0", b"\x3f\xe2\x1f", b"\x40",
     b"\x00\x81\x00\x00", b"\x7f\xff\xff\xff\xff\xff\xff"],
)  # fmt: skip
def test_what_is_no_block_is_refused(block):
    """Nothing that follows on the connection could be read either."""
    with pytest.raises(FieldsError):
        FieldReader().read(block)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00", b"\x18"])
def test_padding_must_be_that_of_the_code(data):
    """Two texts of one meaning are a way past whoever compares them."""
    with pytest.raises(HuffmanError):
        decode(data)


async def rig_and_socket():
    rig = PickerRig("--scrape-seconds", "3600")
    await rig.start()
    return rig, *await asyncio.open_connection("127.0.0.1", rig.port)


async def test_frames_may_come_in_any_pieces():
    """TCP has no frames."""
    async with picker() as (rig, gateway):
        stream = Stream(gateway)
        sent = []
        gateway.write = sent.append
        stream.ask(body())
        for byte in b"".join(sent):
            gateway._writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await stream.next()).endpoint
        assert rig.num_leases == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        PREFACE + frame(Kind.DATA, 0, 1, b"x"),
        PREFACE + b"\xff\xff\xff" + bytes(6),
        PREFACE + frame(Kind.HEADERS, Flag.END_HEADERS, 2, b"\x82"),
        PREFACE + frame(Kind.HEADERS, Flag.END_HEADERS, 1, b"\x80"),
        PREFACE + frame(Kind.HEADERS, 0, 1, b"\x82") + frame(Kind.PING, 0, 0, bytes(8)),
        PREFACE + frame(Kind.CONTINUATION, 0, 1, b""),
        PREFACE + frame(Kind.HEADERS, 0, 1, b"") + frame(Kind.CONTINUATION, 0, 1, b"") * 5000,
        PREFACE + frame(Kind.PING, 0, 0, b"short"),
        PREFACE + frame(Kind.SETTINGS, 0, 0, b"short"),
        PREFACE + frame(Kind.WINDOW_UPDATE, 0, 0, bytes(4)),
        PREFACE + frame(Kind.PUSH_PROMISE, 0, 1, b""),
        PREFACE + settings([(4, 2**31)]),
        PREFACE + settings([(5, 1)]),
        PREFACE + frame(Kind.HEADERS, Flag.PADDED, 1, b"\x09ab"),
    ],
)
async def test_what_cannot_be_read_ends_the_connection(data):
    """Nothing that follows could be trusted; others' connections go on."""
    rig, reader, writer = await rig_and_socket()
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()
        await until(lambda: not rig.router.grpc.num_connections)
        await rig.stop()


async def test_pings_settings_and_unknown_frames_are_lived_with():
    """Clients probe connections, and HTTP/2 may be extended."""
    async with picker() as (_, gateway):
        gateway.write(frame(Kind.PING, 0, 0, b"12345678"))
        gateway.write(frame(99, 0, 0, b"new") + frame(Kind.PRIORITY, 0, 1, bytes(5)))
        stream = Stream(gateway)
        stream.ask(body())
        assert (await stream.next()).endpoint
        assert (Kind.PING, Flag.ACK, b"12345678") in gateway.frames


async def test_a_small_window_is_kept_to_and_its_growth_used():
    """What does not fit waits; the lease does not."""
    async with picker(body_bytes=200_000) as (rig, gateway):
        gateway.write(settings([(4, 1000)]))
        stream = Stream(gateway)
        data = body(pad="x" * 50_000)
        stream.ask(data)
        assert (await stream.next()).endpoint
        assert rig.num_leases == 1
        gateway.write(frame(Kind.WINDOW_UPDATE, 0, stream.number, (2**20).to_bytes(4, "big")))
        found = b""
        while True:
            answer = await stream.next()
            found += answer.body
            if answer.is_last:
                break
        assert found == data


async def test_a_stream_too_many_is_refused_and_the_others_live():
    """A gateway's circuit breaker may be higher than what there is memory for."""
    async with picker("--max-connections", "2") as (_, gateway):
        first, second = Stream(gateway), Stream(gateway)
        await first.routed(body())
        await second.routed(body())
        third = Stream(gateway)
        assert await third.next() == Kind.RST_STREAM
        first.half_close()
        assert await first.next() == Kind.HEADERS
        assert (await Stream(gateway).routed(body())).endpoint


async def test_health_is_told_to_those_who_ask_and_those_who_watch():
    """Probes of pods, gateways' active checks, clouds' controllers: each by another name."""
    async with picker() as (rig, gateway):
        rig.router._is_listening = True

        class Synced:
            is_synced = True

        async def answer(path, service):
            number, queue = gateway.call(path)
            gateway.say(number, b"\x0a" + bytes([len(service)]) + service, is_last=True)
            async with asyncio.timeout(30):
                return await queue.get()

        check = HEALTH_CHECK_PATH
        assert await answer(check, b"liveness") == b"\x08\x01"
        assert await answer(check, b"readiness") == b"\x08\x02"
        rig.router._membership = Synced
        for service in (b"readiness", b"", b"inference-extension"):
            assert await answer(check, service) == b"\x08\x01"
        assert (await answer(check, b"no-such"))[0] == Kind.HEADERS
        number, queue = gateway.call(HEALTH_WATCH_PATH)
        gateway.say(number, b"")
        assert await queue.get() == b"\x08\x01"
        rig.router._is_stopping = True
        async with asyncio.timeout(30):
            assert await queue.get() == b"\x08\x02"


async def test_a_question_as_long_as_a_body_is_none():
    """A watch keeps it for as long as it is open, and nothing counts its bytes."""
    async with picker(body_bytes=10**6) as (rig, gateway):
        number, queue = gateway.call(HEALTH_WATCH_PATH)
        gateway.say(number, wired(b"\x0a", b"x" * 500_000))
        assert (await queue.get())[0] == Kind.HEADERS
        assert not rig.router.health.watches


async def test_a_method_that_there_is_not_is_said_to_be_none():
    """Reflection, for one: clients of gRPC try it."""
    async with picker() as (_, gateway):
        _, queue = gateway.call(b"/no.Such/Method")
        async with asyncio.timeout(30):
            kind, payload = await queue.get()
        assert kind == Kind.HEADERS
        assert b"grpc-status\x0212" in payload


async def test_a_gateway_that_does_not_take_answers_is_not_let_send_more():
    """Else each slow client's answer would pile up in the picker."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body(stream=True))
        gateway.write(settings([(4, 0)]))
        stream.answer_head(content_type="text/event-stream")
        for _ in range(40):
            stream.answer_body(b"data: " + b"x" * 16_000 + b"\n\n", is_last=False)
        call = next(iter(next(iter(rig.router.grpc._side.connections)).calls.values()))
        await until(lambda: call.is_backed_up)
        stream.answer_body(b"data: y\n\n", is_last=False)
        await until(lambda: rig.replicas[0].ledger.leases.copy().pop().is_paused)
        gateway.write(settings([(4, 2**24)]))
        await until(lambda: not call.is_backed_up)
        await until(lambda: not rig.replicas[0].ledger.leases.copy().pop().is_paused)


async def test_connections_of_several_gateways_are_apart():
    """Each has its own table, windows and streams."""
    async with picker() as (rig, gateway), Gateway(rig.port) as other:
        first, second = Stream(gateway), Stream(other)
        assert (await first.routed(body())).endpoint
        assert (await second.routed(body())).endpoint
        gateway._writer.transport.abort()
        await until(lambda: rig.num_leases == 1)
