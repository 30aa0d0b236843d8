"""When the picker writes, and how often: a gateway's clients wait for each turn and each write."""

import asyncio

from gateway_rig import DUPLEX, NONE, Stream
from gateway_wire import frames_of, nothing_is_held, together, wired_up
from memroute_picker.grpc.frames import Kind, settings
from router_rig import CHUNK, body

WHOLE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'


async def greeted(rig, socket):
    """What is said at first has left; from here on the leases at each write are seen."""
    await asyncio.sleep(0)
    socket.looks.clear()
    socket.look = lambda: rig.num_leases


def answer(stream, data=WHOLE):
    stream.answer_head()
    stream.answer_body(data, is_last=False)
    stream.answer_body(b"", is_last=True)


async def test_an_answer_leaves_by_the_read_that_has_asked_for_it():
    """As one write, and with no turn of the loop in between."""
    async with wired_up() as (rig, wire, socket):
        await greeted(rig, socket)
        with together(wire):
            stream = Stream(wire)
            stream.ask(body())
        assert socket.looks == [1]
        with together(wire):
            answer(stream)
        assert len(socket.looks) == 2
        await asyncio.sleep(0)
        stream.cancel()  # as Envoy does with each that is whole
        await asyncio.sleep(0)
        assert len(socket.looks) == 2
        kinds = [kind for kind, _, number, _ in frames_of(socket.written) if number]
        assert kinds == [Kind.HEADERS, Kind.DATA, Kind.DATA]


async def test_the_end_of_an_answer_leaves_before_it_is_accounted_for():
    """The client need not wait for the picker's books."""
    async with wired_up() as (rig, wire, socket):
        stream = Stream(wire)
        stream.ask(body())
        await greeted(rig, socket)
        with together(wire):
            answer(stream)
        assert socket.looks == [1]
        assert nothing_is_held(rig)
        record = rig.router.journal.recent[0]
        assert (record.outcome.value, record.output_tokens) == ("served", 4)


async def test_answers_that_end_in_one_read_leave_as_one_write():
    """Many clients of one gateway: a write for each would cost more than it saves."""
    async with wired_up() as (rig, wire, socket):
        streams = [Stream(wire) for _ in range(3)]
        for stream in streams:
            stream.ask(body())
        await greeted(rig, socket)
        with together(wire):
            for stream in streams:
                answer(stream)
        assert socket.looks == [1]  # the last one's lease
        assert nothing_is_held(rig)


async def test_an_answer_that_is_broken_off_as_it_leaves_ends_once():
    """Its gateway takes nothing, and what waits for it is needed for others."""
    async with wired_up(body_bytes=200_000) as (rig, wire, socket):
        stream = Stream(wire)
        stream.ask(body())
        wire.write(settings([(4, 0)]))
        grpc = rig.router.grpc
        grpc.budget._max_unsent_bytes = 0
        grpc._side.unsent._patience_seconds = 0.0
        with together(wire):
            answer(stream, b"[" + b"1," * 20_000 + b"1]")
        await asyncio.sleep(0)
        assert [f[2] for f in frames_of(socket.written) if f[0] == Kind.RST_STREAM] == [1]
        assert rig.router.journal.recent[0].outcome.value == "client-gone"
        assert nothing_is_held(rig)


async def test_a_stream_of_events_and_an_answer_that_is_not_shown_are_whole_all_the_same():
    """What is hidden or rewritten of a stream is known at its end alone."""
    async with wired_up() as (rig, wire, socket):
        shown, hidden = Stream(wire), Stream(wire, DUPLEX, NONE)
        for stream in (shown, hidden):
            stream.ask(body(stream=True))
            stream.answer_head(content_type="text/event-stream")
        shown.answer_body(CHUNK, is_last=False)
        shown.answer_body(CHUNK, is_last=True)
        assert rig.num_leases == 1
        hidden.cancel()
        assert nothing_is_held(rig)
        told = b"".join(p for kind, _, number, p in frames_of(socket.written)
                        if kind == Kind.DATA and number == shown.number)  # fmt: skip
        assert told.count(CHUNK) == 2
