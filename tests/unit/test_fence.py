"""Nothing is written by one who does not lead: what leaves the process, over real HTTP."""

import asyncio
import socket
import ssl

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from api_stub import ApiStub, api_stub
from memroute_kube import PODS, ApiError
from memroute_operator.election.fence import Fence, FencedClient, NotLeader
from memroute_simulator.controlplane.certificates import CertificateAuthority
from two_operators import Cable

POD = {"metadata": {"name": "m-0", "namespace": "default"}}


class Turn:
    """A leader that leads for as long as it is told: ``seconds`` are its next answers."""

    def __init__(self, *seconds):
        self.term = 1
        self.seconds = list(seconds)
        self.leads = asyncio.Event()
        self.leads.set()

    def seconds_left(self):
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]

    async def wait_leading(self):
        await self.leads.wait()


async def nothing():
    pass


async def fenced(client, turn):
    """The client, in the middle of a step."""
    client.fence = Fence(turn)
    await client.fence.begin_step(nothing)
    return client


async def fenced_turn(client, turn):
    await fenced(client, turn)
    return turn


async def test_a_standby_reads_and_writes_nothing():
    async with api_stub(FencedClient) as (stub, client):
        await fenced(client, Turn(0))
        stub.objects["/api/v1/namespaces/default/pods/m-0"] = POD
        assert await client.get(PODS, "default", "m-0") == POD
        for write in (
            client.create(PODS, "default", POD),
            client.patch(PODS, "default", "m-0", {}),
            client.patch(PODS, "default", "m-0", {}, sub="status"),
            client.apply(PODS, "default", POD, field_manager="x"),
            client.delete(PODS, "default", "m-0", uid="u"),
        ):
            with pytest.raises(NotLeader):
                await write
        assert stub.writes == []


async def test_a_client_that_nobody_has_fenced_writes_nothing():
    """Forgotten wiring is found at the first write, not at the first split brain."""
    async with api_stub(FencedClient) as (stub, client):
        with pytest.raises(NotLeader):
            await client.create(PODS, "default", POD)
        assert stub.writes == []


@pytest.mark.parametrize("is_warm", [True, False])
@pytest.mark.parametrize("looks", [[5.0, 0.0], [5.0, 5.0, 0.0]])
async def test_the_last_look_is_when_the_bytes_leave(is_warm, looks):
    """A process may be stopped while it connects: on waking, the request must not be sent."""
    async with api_stub(FencedClient) as (stub, client):
        await fenced(client, Turn(5.0))
        if is_warm:
            await client.create(PODS, "default", POD)
        before = list(stub.writes)
        # It leads when the write begins, and does no more when the connection is there, or when
        # aiohttp's own task is about to write.
        await fenced(client, Turn(*looks))
        with pytest.raises(ApiError) as caught:
            await client.create(PODS, "default", {"metadata": {"name": "m-1"}})
        assert caught.value.status == 0
        assert stub.writes == before


async def test_a_write_that_outlasts_the_lease_is_given_up():
    """Whether it was carried out is not known; that it is waited for no longer is."""
    async with api_stub(FencedClient) as (stub, client):
        turn = await fenced_turn(client, Turn(0.01))
        turn.seconds_left = lambda: 0.0 if stub.writes else 0.01
        stub.gate.clear()
        with pytest.raises(NotLeader):
            await client.create(PODS, "default", POD)
        assert len(stub.writes) == 1


async def test_what_was_not_delivered_of_a_write_that_is_given_up_never_is():
    """A kernel goes on sending for minutes after ``close``, once the network is back: not here.

    The API server reads nothing until the write has been given up, as when the network is cut.
    It then finds the part that its own kernel took, and a reset.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{listening.getsockname()[1]}"
        loop = asyncio.get_running_loop()
        async with FencedClient(ApiClient(configuration)) as client:
            turn = await fenced_turn(client, Turn(0.01))
            write = asyncio.create_task(client.create(PODS, "default", POD | {"x": "x" * 2**19}))
            connection, _ = await loop.sock_accept(listening)
            turn.seconds = [0.0]
            with pytest.raises(NotLeader):
                await write
        with connection:
            assert await _received(connection) < 2**19


async def _received(connection):
    """How many bytes there are until the connection is reset."""
    received = 0
    try:
        while data := await asyncio.get_running_loop().sock_recv(connection, 2**16):
            received += len(data)
    except ConnectionResetError:
        return received
    pytest.fail(f"{received} bytes arrived, and an orderly end")


@pytest.mark.slow
async def test_over_tls_a_write_that_is_given_up_while_the_network_is_cut_does_not_arrive(tmp_path):
    """As to a real API server: an orderly end of TLS would keep the connection, and its bytes."""
    pair = CertificateAuthority().sign("api", addresses=("127.0.0.1",), names=())
    for name, content in (("crt", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    stub = ApiStub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.handle)
    server = TestServer(app, scheme="https", host="127.0.0.1")
    await server.start_server(ssl=context)
    try:
        with Cable("127.0.0.1", ("127.0.0.1", server.port)) as cable:
            configuration = Configuration()
            configuration.host = f"https://127.0.0.1:{cable.port}"
            configuration.verify_ssl = False
            async with FencedClient(ApiClient(configuration)) as client:
                turn = await fenced_turn(client, Turn(5.0))
                await client.create(PODS, "default", POD)
                cable.cut()
                turn.seconds = [0.3, 0.3, 0.3, 0.0]
                with pytest.raises(NotLeader):
                    await client.create(PODS, "default", {"metadata": {"name": "late"}})
                cable.heal()
                turn.seconds = [5.0]
                await client.create(PODS, "default", {"metadata": {"name": "m-2"}})
    finally:
        await server.close()
    assert [path for path in stub.objects if path.endswith("late")] == []
    assert len(stub.writes) == 2


async def test_a_slow_write_is_waited_for_while_the_lease_is_renewed():
    """An admission webhook may take 30 s, several times what is left of one renewal."""
    async with api_stub(FencedClient) as (stub, client):
        await fenced(client, Turn(0.01))
        stub.gate.clear()
        asyncio.get_running_loop().call_later(0.1, stub.gate.set)
        written = await client.create(PODS, "default", POD)
        assert written["metadata"]["name"] == "m-0"


async def test_a_step_planned_in_an_earlier_term_is_not_carried_out():
    """The Lease was lost and won again in the middle of a step: its plan may be another's past."""
    async with api_stub(FencedClient) as (stub, client):
        turn = Turn(5.0)
        await fenced(client, turn)
        turn.term = 2
        with pytest.raises(NotLeader):
            await client.create(PODS, "default", POD)
        await client.fence.begin_step(nothing)
        await client.create(PODS, "default", POD)
        assert len(stub.writes) == 1


async def test_each_term_begins_with_reading_everything_anew():
    """The last leader's newest pods may not have come by the watch yet: they hold memory."""
    turn, lists = Turn(5.0), []

    async def catch_up():
        lists.append(turn.term)
        if len(lists) == 1:
            msg = "the API server hangs up"
            raise OSError(msg)

    fence = Fence(turn)
    with pytest.raises(OSError, match="hangs up"):
        await fence.begin_step(catch_up)
    with pytest.raises(NotLeader):
        fence.seconds_left()
    for turn.term in (1, 1, 2, 2):
        await fence.begin_step(catch_up)
        assert fence.seconds_left() == 5.0
    assert lists == [1, 1, 2]


async def test_what_a_step_has_started_stays_in_its_term():
    """A call that hangs in a webhook outlasts its step: what follows it was planned back then."""
    async with api_stub(FencedClient) as (stub, client):
        turn = Turn(5.0)
        await fenced(client, turn)
        go_on = asyncio.Event()

        async def lane():
            await go_on.wait()
            await client.create(PODS, "default", POD)

        old = asyncio.create_task(lane())
        await asyncio.sleep(0)
        turn.term = 2
        await client.fence.begin_step(nothing)
        go_on.set()
        with pytest.raises(NotLeader):
            await old
        assert stub.writes == []


async def test_a_standby_waits_for_its_turn():
    turn = Turn(5.0)
    turn.leads.clear()
    fence = Fence(turn)
    step = asyncio.create_task(fence.begin_step(nothing))
    await asyncio.sleep(0)
    assert fence.marks.is_standby
    assert not step.done()
    turn.leads.set()
    await step
    assert not fence.marks.is_standby
