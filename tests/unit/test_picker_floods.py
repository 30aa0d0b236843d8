"""What a gateway may make a picker hold, and do, is bounded: bytes, copies, work, calls."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_rig import BUFFERED, DUPLEX, NONE, STREAMED, Gateway, Stream, picker
from gateway_rig import headers as head_of
from gateway_wire import Socket, frames_of, nothing_is_held, wired_up
from memroute_picker.grpc.connection import GrpcConnection
from memroute_picker.grpc.frames import PREFACE, Code, Flag, Kind, frame, window_update
from memroute_picker.grpc.frames import settings as settings_of
from memroute_picker.grpc.reading import MAX_BLOCK_BYTES
from memroute_picker.grpc.sending import MAX_WRITE_BYTES
from memroute_picker.protocol.names import HEALTH_CHECK_PATH, HEALTH_WATCH_PATH
from memroute_picker.protocol.wire import field as wired
from router_rig import CHUNK, body, until
from sizes import tries

HELD = "the picker holds as many bytes of requests as it may"


# Bytes


async def test_half_a_message_is_counted_as_a_body():
    """A gateway that never ends its messages would else fill the picker, uncounted."""
    async with picker(body_bytes=10**6) as (rig, gateway):
        budget = rig.router.grpc.budget
        stream = Stream(gateway)
        stream.head()
        await until(lambda: rig.router.grpc.num_calls)
        message = wired(b"\x22", wired(b"\x0a", b"x" * 60_000))
        data = b"\x00" + len(message).to_bytes(4, "big") + message
        gateway.write(frame(Kind.DATA, 0, stream.number, data[:16_000]))
        gateway.write(frame(Kind.DATA, 0, stream.number, data[16_000:32_000]))
        await until(lambda: budget.held_bytes == 32_000)
        gateway.write(frame(Kind.DATA, 0, stream.number, data[32_000:44_000]))
        gateway.write(frame(Kind.DATA, 0, stream.number, data[44_000:]))
        await until(lambda: budget.held_bytes == 60_000)
        gateway.write(frame(Kind.DATA, 0, stream.number, data[:9_000]))
        await until(lambda: budget.held_bytes == 69_000)
        stream.cancel()
        await until(lambda: budget.held_bytes == 0)


async def test_a_message_for_which_there_is_no_room_is_refused_with_a_time():
    """As a body that comes in small messages is."""
    async with picker(body_bytes=10**6) as (rig, gateway):
        rig.router.grpc.budget.take(rig.router.grpc.budget._max_large_bytes, 10**6)
        stream = Stream(gateway)
        stream.head()
        stream.body(b"x" * 200_000)
        answer = await stream.next()
        assert (answer.status, answer.sets["retry-after"]) == (503, "1")
        assert HELD in answer.body.decode()


async def test_an_answer_passes_while_there_is_no_room_for_bodies():
    """It is under way: to turn it away would waste what its engine has done."""
    async with picker(replicas=("a",), body_bytes=10**6) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body())
        rig.router.grpc.budget.take(rig.router.grpc.budget._max_large_bytes, 10**6)
        stream.answer_head()
        stream.answer_body(b"[" + b"1," * 100_000 + b"1]", is_last=True)
        assert (await stream.next()).kind == 2
        found = b""
        while True:
            answer = await stream.next()
            found += answer.body
            if answer.is_last:
                break
        assert len(found) == 200_003
        assert rig.num_leases == 0


async def test_a_body_in_very_small_pieces_takes_no_more_than_its_bytes():
    """Clients choose how small frames of HTTP/2 are; the object of two bytes takes 35."""
    async with wired_up(body_bytes=20_000) as (rig, wire, _):
        stream = Stream(wire)
        stream.head()
        data = body(pad="x" * 6000)
        for at in range(0, len(data), 2):
            stream.body(data[at : at + 2], is_last=False)
        asking = next(iter(wire._connection.calls.values())).handler.asking
        assert not asking._pieces
        assert rig.router.grpc.budget.held_bytes == len(data)
        stream.body(b"y" * 5000, is_last=False)
        stream.body(b"zz", is_last=False)
        assert asking.take_body() == data + b"y" * 5000 + b"zz"


async def test_header_fields_of_a_message_have_a_bound():
    """A head may be no larger than gateways make them: nothing counts its bytes."""
    async with picker(body_bytes=10**6) as (rig, gateway):
        stream = Stream(gateway)
        stream.say(2, head_of({":path": "/v1/models", "x": "y" * 300_000}))
        assert await stream.next() == Kind.HEADERS
        assert rig.router.side.counts.num_malformed == 1


async def test_what_waits_for_a_gateway_is_counted_and_never_copied_whole():
    """A window that grows by a byte at a time would else cost a copy of all of it each time."""
    async with wired_up(body_bytes=200_000) as (rig, wire, _):
        wire.write(settings_of([(4, 0)]))
        stream = Stream(wire)
        data = body(pad="x" * 150_000)
        stream.ask(data)
        await asyncio.sleep(0)
        call = wire._connection.calls[stream.number]
        assert call._waiting_bytes > len(data)
        budget = rig.router.grpc.budget
        assert budget.unsent_bytes == call._waiting_bytes
        first = call._waiting[0]
        for count in range(1, 4):
            wire.write(window_update(stream.number, 1))
            await asyncio.sleep(0)
            assert call._sent_of_first == count
            assert call._waiting[0] is first
        stream.cancel()
        assert budget.unsent_bytes == budget.held_bytes == 0


async def test_gateways_that_take_nothing_make_room_for_others():
    """The one that has not for longest is broken off: its lease and its bytes are free."""
    async with wired_up(body_bytes=200_000) as (rig, wire, socket):
        rig.router.grpc.budget._max_unsent_bytes = 400_000
        unsent = rig.router.grpc._side.unsent
        wire.write(settings_of([(4, 0)]))
        streams = [Stream(wire) for _ in range(4)]
        for stream in streams[:3]:
            stream.ask(body(pad="x" * 150_000))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        # Many that have their turn at once are no slow ones yet.
        assert rig.num_leases == 3
        unsent._patience_seconds = 0.0
        unsent.taken(wire._connection.calls[streams[2].number])
        streams[3].ask(body(pad="x" * 150_000))
        for _ in range(2):
            await asyncio.sleep(0)
        streams.pop(2).cancel()
        assert [stream.number in wire._connection.calls for stream in streams] == [
            False, True, True,
        ]  # fmt: skip
        assert rig.num_leases == 2
        resets = [f for f in frames_of(socket.written) if f[0] == Kind.RST_STREAM]
        assert [number for _, _, number, _ in resets] == [streams[0].number]


@pytest.mark.slow
async def test_a_healthy_gateway_with_large_windows_is_not_given_all_at_once():
    """Its socket takes a few MB at a time; else it would be taken for one that is gone."""
    async with wired_up(body_bytes=10**7, takes=False) as (rig, wire, socket):
        stream = Stream(wire)
        data = body(pad="x" * 9_000_000)
        for at in range(0, len(data), 1_000_000):
            if not at:
                stream.head()
            stream.body(data[at : at + 1_000_000], is_last=False)
        stream.body(b"", is_last=True)
        for _ in range(30):
            await asyncio.sleep(0)
            assert not socket.is_closed
            socket.take_all()
        assert socket.most_bytes < MAX_WRITE_BYTES + 100_000
        assert rig.num_leases == 1
        sent = sum(
            len(payload) for kind, _, _, payload in frames_of(socket.written) if kind == Kind.DATA
        )
        assert sent > len(data)
        assert not wire._connection.calls[stream.number]._waiting_bytes


async def test_a_socket_that_takes_all_at_once_gets_all():
    """Nobody says then that it takes more again."""
    async with wired_up(body_bytes=10**7) as (_, wire, socket):
        stream = Stream(wire)
        data = body(pad="x" * 9_000_000)
        stream.head()
        for at in range(0, len(data), 1_000_000):
            stream.body(data[at : at + 1_000_000], is_last=False)
        stream.body(b"", is_last=True)
        for _ in range(10):
            await asyncio.sleep(0)
        sent = [f for f in frames_of(socket.written) if f[0] == Kind.DATA]
        assert sum(len(payload) for _, _, _, payload in sent) > len(data)


# Frames


class Counted(dict):
    """Counts how often all of it is looked at."""

    num_looks = 0

    def values(self):
        self.num_looks += 1
        return super().values()


async def test_a_setting_that_is_said_a_thousand_times_is_one_change():
    """15 bytes a time would else be changes of every call: some ten thousand, for one gateway."""
    async with wired_up() as (_, wire, _socket):
        stream = Stream(wire)
        stream.head()
        connection = wire._connection
        call = connection.calls[stream.number]
        connection.calls = counted = Counted(connection.calls)
        wire.write(settings_of([(4, size) for size in range(2000, 3001)]))
        wire.write(b"".join(settings_of([(4, size)]) for size in range(2000, 3001)))
        assert counted.num_looks == 0
        assert connection.sender.call_window + call.send_credit == 3000


async def test_a_smaller_window_counts_for_what_was_sent_before():
    """It may fall below nothing (RFC 9113, 6.9.2): nothing is sent until it is above that again."""
    async with wired_up() as (_, wire, socket):
        wire.write(settings_of([(4, 100)]))
        stream = Stream(wire)
        stream.ask(body(pad="x" * 500))
        await asyncio.sleep(0)

        def num_sent():
            frames = frames_of(socket.written)
            return sum(len(data) for kind, _, number, data in frames if kind == 0 and number)

        assert num_sent() == 100
        wire.write(settings_of([(4, 10)]))
        wire.write(window_update(stream.number, 90))
        await asyncio.sleep(0)
        assert num_sent() == 100
        wire.write(window_update(stream.number, 7))
        await asyncio.sleep(0)
        assert num_sent() == 107


async def test_a_gateway_that_keeps_to_no_window_loses_its_call():
    """Else what is sent back would pile up as fast as it comes (RFC 9113, 6.9.1)."""
    async with wired_up(body_bytes=10**7) as (rig, wire, socket):
        wire.write(settings_of([(4, 0)]))
        stream, other = Stream(wire), Stream(wire)
        stream.ask(body(stream=True))
        other.ask(body())
        stream.answer_head(content_type="text/event-stream")
        for _ in range(300):
            stream.answer_body(b"data: " + b"x" * 16_000 + b"\n\n", is_last=False)
            await asyncio.sleep(0)
        resets = [f for f in frames_of(socket.written) if f[0] == Kind.RST_STREAM]
        assert [int.from_bytes(f[3], "big") for f in resets] == [Code.FLOW_CONTROL_ERROR]
        assert resets[0][2] == stream.number
        assert rig.num_leases == 1
        assert rig.router.grpc.budget.unsent_bytes == 0


async def test_calls_are_bounded_over_all_connections_and_each_may_have_one():
    """A connection costs nothing to open; a probe that is refused would restart the picker."""
    async with picker() as (rig, gateway):
        rig.router.grpc._side.max_calls = 2
        async with Gateway(rig.port) as second, Gateway(rig.port) as probe:
            first = Stream(gateway)
            assert (await first.routed(body())).endpoint
            held = Stream(second)
            assert (await held.routed(body())).endpoint
            for connection in (gateway, second):
                assert await Stream(connection).next() == Kind.RST_STREAM
            number, queue = probe.call(HEALTH_CHECK_PATH)
            probe.say(number, b"")
            assert isinstance(await queue.get(), bytes)
            first.cancel()
            await until(lambda: rig.router.grpc.num_calls == 1)
            assert (await Stream(gateway).routed(body())).endpoint
            held.cancel()


async def test_a_body_whose_rest_does_not_come_makes_room_for_others():
    """One tenant could hold all the bytes by requests that it never ends; the router's cannot."""
    async with wired_up(body_bytes=10**6, capacity=10**7) as (rig, wire, _):
        budget = rig.router.grpc.budget
        budget._max_bytes, budget._max_large_bytes = 900_000, 800_000
        slow = [Stream(wire) for _ in range(3)]
        for stream in slow[:2]:
            stream.head()
            stream.body(b"x" * 200_000, is_last=False)
        slow[2].head()
        message = wired(b"\x22", wired(b"\x0a", b"x" * 300_000))
        data = b"\x00" + len(message).to_bytes(4, "big") + message
        for at in range(0, 200_000, 16_000):
            wire.write(frame(Kind.DATA, 0, slow[2].number, data[at : at + 16_000]))
        assert budget.held_bytes > 600_000
        late = Stream(wire)
        late.ask(body(pad="x" * 250_000))
        assert rig.num_leases == 0  # they may be on their way still
        await asyncio.sleep(0)
        budget._slow_seconds = 0.0
        for _ in range(3):
            Stream(wire).ask(body(pad="x" * 240_000))
        assert rig.num_leases == 3
        await asyncio.sleep(0)
        assert not set(wire._connection.calls) & {s.number for s in slow}
        told = [record.status for record in rig.router.journal.recent]
        assert told == [503] * (len(slow) + 1)


async def test_a_body_that_has_to_make_room_for_its_own_rest_is_refused_once():
    """It is counted no more then, neither by its pieces nor as half a message."""
    async with wired_up(body_bytes=10**6) as (rig, wire, _):
        budget = rig.router.grpc.budget
        budget._max_bytes = budget._max_large_bytes = 500_000
        budget._slow_seconds = 0.0
        for is_in_pieces in (True, False):
            stream = Stream(wire)
            stream.head()
            if is_in_pieces:
                for _ in range(60):
                    stream.body(b"x" * 10_000, is_last=False)
            else:
                message = wired(b"\x22", wired(b"\x0a", b"x" * 700_000))
                wire.say(stream.number, message)
            await asyncio.sleep(0)
            assert not wire._connection.calls
            assert budget.held_bytes == 0
        assert len(rig.router.journal.recent) == 2


async def test_header_fields_have_a_bound_in_one_frame_as_in_many():
    async with wired_up() as (_, wire, socket):
        block = b"\x00\x01a\x7f\x81\xff\x01" + b"x" * 33_000
        assert len(block) > MAX_BLOCK_BYTES
        wire.write(frame(Kind.HEADERS, Flag.END_HEADERS, 1, block))
        await asyncio.sleep(0)
        last = [f for f in frames_of(socket.written) if f[0] == Kind.GOAWAY][-1]
        assert int.from_bytes(last[3][4:8], "big") == Code.ENHANCE_YOUR_CALM
        assert socket.is_closed


async def test_padding_is_given_back_to_the_calls_window():
    """A client that pads would else stand still after 2 MiB of it (RFC 9113, 6.1)."""
    async with wired_up() as (_, wire, socket):
        stream = Stream(wire)
        stream.head()
        padded = b"\xff" + bytes(255)
        for _ in range(3000):
            wire.write(frame(Kind.DATA, Flag.PADDED, stream.number, padded))
        await asyncio.sleep(0)
        updates = [
            int.from_bytes(payload, "big")
            for kind, _, number, payload in frames_of(socket.written)
            if kind == Kind.WINDOW_UPDATE and number == stream.number
        ]
        assert sum(updates) >= 512 * 1024


async def test_what_cannot_be_read_ends_its_calls_at_once():
    """Also where the client never closes its end: leases do not wait for that."""
    async with wired_up(takes=False) as (rig, wire, socket):
        Stream(wire).ask(body())
        assert rig.num_leases == 1
        wire.write(frame(Kind.PUSH_PROMISE, 0, 1, b""))
        assert socket.is_closed
        assert nothing_is_held(rig)


async def test_a_watch_that_goes_on_in_garbage_is_watched_no_more():
    async with picker() as (rig, gateway):
        number, queue = gateway.call(HEALTH_WATCH_PATH)
        gateway.say(number, b"")
        assert isinstance(await queue.get(), bytes)
        assert len(rig.router.health.watches) == 1
        gateway.say(number, b"\xff")
        assert (await queue.get())[0] == Kind.HEADERS
        assert not rig.router.health.watches


async def test_whoever_does_not_greet_is_not_waited_for():
    """Open connections are files: the picker needs some to read its replicas."""
    async with wired_up(greets=False) as (rig, wire, socket):
        deadlines = rig.router.grpc.deadlines
        connection = wire._connection
        assert connection in deadlines._watched
        connection.deadline_at = 0.0
        deadlines._sweep()
        assert socket.is_closed
    async with wired_up(greets=False) as (rig, wire, socket):
        wire.write(PREFACE[:5])
        wire._connection.deadline_at = 0.0
        rig.router.grpc.deadlines._sweep()
        assert socket.is_closed


async def test_connections_have_a_bound():
    async with wired_up() as (rig, wire, _):
        side = rig.router.grpc._side
        side.max_connections = 1
        other, socket = GrpcConnection(side), Socket()
        other.connection_made(socket)
        assert socket.is_closed
        other.connection_lost(None)
        Stream(wire).ask(body())
        assert rig.num_leases == 1


# It is left


async def test_what_a_gateway_began_before_it_knew_that_it_is_left_is_served():
    """A gateway fails what is refused then: each rollout of pickers would cost requests."""
    async with picker() as (rig, gateway):
        gateway.answers_pings = False
        first = Stream(gateway)
        await first.routed(body())
        stop = asyncio.create_task(rig.router.grpc.stop(timeout_seconds=30))
        await until(lambda: any(kind == Kind.PING for kind, _, _ in gateway.frames))
        goodbye = next(payload for kind, _, payload in gateway.frames if kind == Kind.GOAWAY)
        assert int.from_bytes(goodbye[:4], "big") == 2**31 - 1
        second = Stream(gateway)
        assert (await second.routed(body())).endpoint
        ping = next(payload for kind, _, payload in gateway.frames if kind == Kind.PING)
        gateway.write(frame(Kind.PING, Flag.ACK, 0, ping))
        third = Stream(gateway)
        assert await third.next() == Kind.RST_STREAM
        goodbye = [payload for kind, _, payload in gateway.frames if kind == Kind.GOAWAY][-1]
        assert int.from_bytes(goodbye[:4], "big") == second.number
        first.cancel()
        second.cancel()
        await stop


async def test_an_answer_that_is_not_shown_is_no_error_when_the_picker_stops():
    """A gateway breaks an answer off whose stream ends in an error; others come to their end."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway, DUPLEX, NONE)
        await stream.routed(body(stream=True))
        stream.answer_head(content_type="text/event-stream")
        assert (await stream.next()).kind == 2
        stop = asyncio.create_task(rig.router.grpc.stop(timeout_seconds=0))
        async with asyncio.timeout(30):
            kind, payload = await stream._queue.get()
        assert kind == Kind.HEADERS
        assert b"grpc-status\x010" in payload
        await stop
        assert nothing_is_held(rig)


# Any order


KINDS = (
    "head", "get", "other", "body", "last_body", "trailers", "answer", "last_answer", "busy",
    "local", "served", "stranger", "piece", "last_piece", "answer_trailers", "half_close",
    "cancel", "malformed", "half", "window", "no_window",
)  # fmt: skip
EVENTS = ("take", "turn", "tick", "gone", "back", "unready", "stop")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(KINDS), st.integers(0, 2)),
        st.tuples(st.sampled_from(EVENTS), st.just(0)),
    ),
    max_size=30,
)
MODES = st.tuples(
    st.sampled_from([DUPLEX, DUPLEX, BUFFERED]),
    st.sampled_from([DUPLEX, STREAMED, NONE]),
)


def say(stream, kind, data):
    """One message, or one frame, whether it is its turn or not."""
    local = {"attributes": {"response.code_details": "no_healthy_upstream"}}
    other = {":path": "/version"}
    number, gateway = stream.number, stream.gateway
    {
        "head": stream.head,
        "get": lambda: stream.head(is_last=True, **{":method": "GET", ":path": "/v1/models"}),
        "other": lambda: stream.head(**other),
        "body": lambda: stream.body(data[:9], is_last=False),
        "last_body": lambda: stream.body(data[9:]),
        "trailers": stream.trailers,
        "answer": lambda: stream.answer_head(content_type="text/event-stream"),
        "last_answer": lambda: stream.answer_head(is_last=True),
        "busy": lambda: stream.answer_head(429),
        "local": lambda: stream.answer_head(503, beside=local),
        "served": lambda: stream.answer_head(beside={"served": "127.0.0.1:1002"}),
        "stranger": lambda: stream.answer_head(beside={"served": "127.0.0.1:9"}),
        "piece": lambda: stream.answer_body(CHUNK, is_last=False),
        "last_piece": lambda: stream.answer_body(b"", is_last=True),
        "answer_trailers": stream.answer_trailers,
        "half_close": stream.half_close,
        "cancel": stream.cancel,
        "malformed": lambda: gateway.say(number, b"\xff"),
        "half": lambda: gateway.write(frame(Kind.DATA, 0, number, b"\x00\x00\x00\x00\x64abc")),
        "window": lambda: gateway.write(window_update(number, 1000)),
        "no_window": lambda: gateway.write(settings_of([(4, 0)])),
    }[kind]()


async def happen(rig, socket, event):
    """Something beside the gateway's messages."""
    pools = rig.pools
    if event == "take":
        socket.take_all()
    elif event == "turn":
        await asyncio.sleep(0)
    elif event == "tick":
        pools.tick()
        rig.router.grpc.deadlines._sweep()
    elif event == "gone":
        gone = pools.remove_replica("default/a")
        if gone is not None:
            rig.router.on_gone(gone)
    elif event in {"back", "unready"}:
        rig.add("a", 1001, capacity=500)
        if event == "unready":
            one = next(r for r in rig.replicas if r.info.pod == "a")
            one.backend.is_routable = False
    else:
        for call in list(next(iter(rig.router.grpc._side.connections)).calls.values()):
            if call.handler is not None:
                call.handler.shut_down()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--pass-other-paths", "--max-endpoints", "2")])
@settings(max_examples=tries(40, 300), deadline=None)
@given(steps=STEPS, modes=MODES)
def test_any_order_of_anything_leaves_nothing_held(flags, steps, modes):
    """Three streams, two replicas of which one comes and goes, a socket that takes or does not."""

    async def run():
        async with wired_up(*flags, takes=False, capacity=500) as (rig, wire, socket):
            ledgers = {id(r.ledger): r.ledger for r in rig.replicas}
            streams = [Stream(wire, *modes) for _ in range(3)]
            data = body(stream=True, max_tokens=300)
            for kind, which in steps:
                if kind in EVENTS:
                    await happen(rig, socket, kind)
                    ledgers |= {id(r.ledger): r.ledger for r in rig.replicas}
                else:
                    say(streams[which], kind, data)
                if socket.is_closed:
                    break
            wire._connection.connection_lost(None)
            for _ in range(3):
                await asyncio.sleep(0)
            assert nothing_is_held(rig)
            assert rig.router.grpc.budget.unsent_bytes == 0
            assert not rig.router.grpc.deadlines._watched
            assert not sum(one.num_in_flight + one.reserved_tokens for one in ledgers.values())
            for pool in rig.pools.by_model.values():
                assert not pool._waiters

    asyncio.run(run())
