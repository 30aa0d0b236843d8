"""A router and a picker of the same replicas, over sockets: each counts what the other sent."""

import asyncio
import contextlib

from gateway_rig import Gateway, PickerRig, Stream
from peer_rig import alike, heard
from router_rig import Engine, Rig, body, exchange, until, whole

PROMPT = "The merger with Example Corp closes on Friday. " * 120


def request(number):
    return body(messages=[{"role": "user", "content": f"{number} {PROMPT}"}], max_tokens=16)


async def asked(rig, number):
    """The replica that the router sent it to."""
    data = request(number)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
    head += b"content-length: %d\r\n\r\n" % len(data)
    status, headers, _ = await exchange(rig.port, head + data)
    assert status == 200
    return headers["x-memroute-replica"]


def num_open_elsewhere(rig):
    return sum(len(peer.open) for peer in rig.pools.peers.peers.values())


@contextlib.asynccontextmanager
async def both(num_replicas=4, capacity=1_000_000):
    """They know of each other, and have the same engines by the same names."""
    engines = [Engine(whole()) for _ in range(num_replicas)]
    rigs = Rig(body_bytes=1_000_000), PickerRig(body_bytes=1_000_000)
    for engine in engines:
        await engine.start()
    for rig in rigs:
        await rig.start()
        await rig.router.peers.start("127.0.0.1", 0)
        for number, engine in enumerate(engines):
            rig.add(f"r{number}", engine.port, capacity=capacity)
    for rig, other in (rigs, rigs[::-1]):
        rig.router.peers.set_addresses("test", [("127.0.0.1", other.router.peers.port)])
    try:
        yield rigs
    finally:
        for rig in rigs:
            await rig.stop()
            rig.router.peers.close()
        for engine in engines:
            await engine.stop()


async def test_what_a_gateway_sent_is_found_cached_by_the_router():
    async with both() as (router, picker), Gateway(picker.port) as gateway:
        by_port = {replica.info.endpoint.port: replica.info.key for replica in picker.replicas}
        for number in range(6):
            stream = Stream(gateway)
            told = await stream.routed(request(number))
            assert told.endpoint is not None
            chosen = by_port[int(told.endpoint.rpartition(":")[2])]
            stream.answer_head(is_last=True)
            await stream.next()
            await until(lambda: not picker.num_leases)
            await heard(picker, router)
            alike(router, picker)
            assert await asked(router, number) == chosen
        assert (router.pools.peers.dropped, picker.pools.peers.dropped) == ({}, {})


async def test_room_that_a_gateway_has_taken_is_not_given_again_by_the_router():
    """One replica with room for one of them: the router holds its request until the stream ends."""
    async with (
        both(num_replicas=1, capacity=2_000) as (router, picker),
        Gateway(picker.port) as gateway,
        asyncio.TaskGroup() as group,
    ):
        stream = Stream(gateway)
        assert (await stream.routed(request(1))).endpoint is not None
        await until(lambda: num_open_elsewhere(router) == 1)
        (pool,) = router.pools.by_model.values()
        task = group.create_task(asked(router, 2))
        await until(lambda: pool.dispatcher.num_held == 1)
        stream.cancel()
        assert await task == router.replicas[0].info.key


async def test_what_clients_may_take_is_shared_by_those_of_one_kind():
    """A client comes by a router or by a gateway: the picker takes no part of a router's limits."""
    async with both() as (router, picker):
        groups = router.pools.peers, picker.pools.peers
        assert [group.num_alike for group in groups] == [1, 1], "nobody was heard: as it was"
        await until(lambda: all(group.others.num_heard == 1 for group in groups))
        assert [group.num_alike for group in groups] == [0, 0]
        assert [group.others.num for group in groups] == [1, 1]
