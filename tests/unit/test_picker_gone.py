"""Gateways whose machine is gone or cut off: nothing closes their connections."""

import pytest

from gateway_rig import BUFFERED, DUPLEX, NONE, Stream
from gateway_wire import frames_of, nothing_is_held, wired_up
from memroute_picker.grpc.connection import ALIVE, SILENT_SECONDS
from memroute_picker.grpc.frames import Flag, Kind, frame
from memroute_router.http.deadlines import NEVER, monotonic
from router_rig import CHUNK, body


def pass_by(rig, connection):
    """The time comes when it is looked whether a connection lives."""
    assert connection.deadline_at <= monotonic() + SILENT_SECONDS
    connection.deadline_at = 0.0
    rig.router.grpc.deadlines._sweep()


def pings_of(connection, socket):
    connection.sender.flush()
    return [p for kind, flags, _, p in frames_of(socket.written) if (kind, flags) == (Kind.PING, 0)]


@pytest.mark.parametrize("answers", [DUPLEX, BUFFERED, NONE])
async def test_what_a_gateway_has_asked_for_ends_with_its_machine(answers):
    """Where bodies are not shown, no clock runs: leases would be held until the picker restarts."""
    async with wired_up() as (rig, wire, socket):
        connection = wire._connection
        waiting, answering = Stream(wire), Stream(wire, DUPLEX, answers)
        answering.ask(body())
        answering.answer_head()
        waiting.head()
        waiting.body(b"x", is_last=False)
        pass_by(rig, connection)
        assert not pings_of(connection, socket)
        pass_by(rig, connection)
        assert pings_of(connection, socket) == [ALIVE]
        assert rig.num_leases == 1
        pass_by(rig, connection)
        assert socket.is_closed
        connection.connection_lost(None)
        assert nothing_is_held(rig)
        assert not rig.replicas[0].health.is_out
        assert not rig.replicas[1].health.is_out
        assert connection not in rig.router.grpc.deadlines._watched
        page = rig.router.metrics.render().decode()
        assert "memroute_picker_connections_silent_total 1.0" in page


async def test_a_gateway_that_has_nothing_to_say_says_that_it_lives():
    """At night there are no requests; its connections stay."""
    async with wired_up() as (rig, wire, socket):
        connection = wire._connection
        for count in range(1, 4):
            pass_by(rig, connection)
            pass_by(rig, connection)
            assert pings_of(connection, socket) == [ALIVE] * count
            wire.write(frame(Kind.PING, Flag.ACK, 0, ALIVE))
        Stream(wire).ask(body())
        assert rig.num_leases == 1
        assert not connection.is_left


async def test_a_connection_that_was_ended_for_an_error_is_not_waited_for():
    """What it was told last may never be taken."""
    async with wired_up() as (rig, wire, socket):
        connection = wire._connection
        socket.close = lambda: None  # as where something is still to leave
        wire.write(frame(Kind.PUSH_PROMISE, 0, 1, b""))
        assert connection.is_closing
        assert not socket.is_closed
        pass_by(rig, connection)
        assert socket.is_closed


async def test_an_engine_is_not_blamed_where_its_answers_client_may_be_the_slow_one():
    """A gateway stops reading the engine then, and shows nothing.

    Any tenant could take replicas out by reading no further.
    """
    async with wired_up() as (rig, wire, _):
        stream = Stream(wire)
        stream.ask(body(stream=True))
        stream.answer_head(content_type="text/event-stream")
        stream.answer_body(CHUNK, is_last=False)
        process = wire._connection.calls[stream.number].handler
        assert process.deadline_at < NEVER
        process.deadline_at = 0.0
        rig.router.grpc.deadlines._sweep()
        assert rig.router.journal.recent[0].outcome.value == "stream-broken"
        assert nothing_is_held(rig)
        assert not any(replica.health.is_out for replica in rig.replicas)
