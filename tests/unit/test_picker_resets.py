"""Streams that come to nothing are bounded, and no gateway whose clients leave is over that."""

import asyncio

import pytest

from gateway_rig import Stream
from gateway_wire import frames_of, nothing_is_held, together, wired_up
from memroute_picker.grpc.frames import Code, Flag, Kind, frame, window_update
from memroute_picker.grpc.waste import Waste
from router_rig import body


def codes_of(socket):
    """Of each goodbye: the last stream that is answered, and why."""
    return [
        (int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"))
        for kind, _, _, payload in frames_of(socket.written)
        if kind == Kind.GOAWAY
    ]


def test_what_may_be_wasted_is_earned_again_by_time_and_by_answers():
    """1,000 at first and never more; 100 a second, and one for each that was answered."""
    waste = Waste(10, now_seconds=0.0)
    assert [waste.one_more(now_seconds=0.0) for _ in range(1000)][-1] == 1.0
    waste.num_answered = 600
    assert waste.one_more(now_seconds=1.0) == pytest.approx(0.301)  # 1000 - 600 - 100 + 1
    assert waste.one_more(now_seconds=100.0) == pytest.approx(0.001)
    assert Waste(20_000, now_seconds=0.0).one_more(now_seconds=0.0) == pytest.approx(1 / 20_000)


@pytest.mark.parametrize("how", ["reset", "window", "whole"])
async def test_rapid_resets_are_bounded_and_what_is_under_way_is_not_broken_off(how):
    """CVE-2023-44487, and by frames that have us reset (CVE-2025-8671): the picker has others."""
    async with wired_up("--max-connections", "10") as (rig, wire, socket):
        Stream(wire).ask(body())
        await asyncio.sleep(0)
        assert rig.num_leases == 1

        def come_to_nothing():
            with together(wire):
                stream = Stream(wire)
                if how == "whole":
                    stream.ask(body())
                if how == "window":
                    wire.write(window_update(stream.number, 0))
                else:
                    stream.cancel()

        num_before = 0
        while not rig.router.grpc.num_calmed and num_before < 5000:
            come_to_nothing()
            num_before += 1
        await asyncio.sleep(0)
        assert num_before > 1000
        assert codes_of(socket) == [(2**31 - 1, Code.ENHANCE_YOUR_CALM)]
        assert rig.num_leases == 1
        assert not socket.is_closed
        while not socket.is_closed and num_before < 10_000:
            come_to_nothing()
            num_before += 1
        assert num_before > 2000
        assert codes_of(socket)[-1][1] == Code.ENHANCE_YOUR_CALM
        assert rig.router.grpc.num_calmed == 1
        assert nothing_is_held(rig)


async def test_a_gateway_that_goes_when_it_is_told_to_loses_nothing():
    """It comes again by another connection; this one is closed when its last call has ended."""
    async with wired_up("--max-connections", "10") as (rig, wire, socket):
        first, late = Stream(wire), None
        first.ask(body())
        await asyncio.sleep(0)
        while not rig.router.grpc.num_calmed:
            Stream(wire).cancel()
        late = Stream(wire)  # begun before it knew
        late.ask(body())
        await asyncio.sleep(0)
        assert rig.num_leases == 2
        ping = next(f[3] for f in frames_of(socket.written) if f[0] == Kind.PING)
        wire.write(frame(Kind.PING, Flag.ACK, 0, ping))
        await asyncio.sleep(0)
        assert codes_of(socket)[-1] == (late.number, Code.ENHANCE_YOUR_CALM)
        assert not socket.is_closed
        for stream in (first, late):
            stream.answer_head()
            stream.answer_body(b"{}", is_last=True)
            stream.half_close()
        assert nothing_is_held(rig)
        await asyncio.sleep(0)
        assert socket.is_closed


async def test_a_thousand_clients_that_leave_at_once_are_an_honest_gateways():
    """Their gateway has reset what they wait for; and so it is again once others were answered."""
    async with wired_up("--max-connections", "1000", capacity=400) as (rig, wire, socket):

        def all_leave(count):
            streams = [Stream(wire) for _ in range(count)]
            for stream in streams:
                stream.ask(body(max_tokens=300))
            for stream in streams:
                stream.cancel()

        all_leave(1000)
        for _ in range(1000):
            stream = Stream(wire)
            stream.ask(body(max_tokens=300))
            await asyncio.sleep(0)
            stream.cancel()  # something was said to it
        all_leave(1000)
        waiting = [Stream(wire) for _ in range(1000)]
        for call in wire._connection.calls.values():
            call.begun_at -= 1.0
        for stream in waiting:
            stream.cancel()  # they have waited
        assert not rig.router.grpc.num_calmed
        assert not socket.is_closed
        assert nothing_is_held(rig)
