"""Connections belong to a replica: a reload, a new name or a new address disturbs nothing."""

import asyncio
import socket
import ssl

import pytest

from memroute_router.discovery.static import StaticMembership
from memroute_router.http.client import Endpoint, Upstream
from memroute_router.http.engine_pool import MAX_IDLE_SECONDS, EnginePool
from memroute_router.http.listening import Server, ServerLimits
from memroute_router.http.outbox import Outbox
from memroute_router.http.resolver import Resolver
from memroute_router.replicas.replica import ReplicaInfo
from memroute_simulator.controlplane.certificates import CertificateAuthority
from router_rig import (
    Engine,
    Rig,
    begin_stream,
    body,
    exchange,
    held,
    raw,
    read_answer,
    send_chunk,
    until,
    whole,
)


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    yield it
    await it.stop()


def static(rig, path):
    return StaticMembership(
        path,
        rig.pools,
        on_upsert=rig.router.on_upsert,
        on_retired=rig.router.on_retired,
        on_reload=lambda _: None,
    )


def streaming(release):
    """One event, and the rest once ``release`` is set."""

    async def script(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        await writer.drain()
        await release.wait()
        send_chunk(writer)
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    return script


async def begin(rig, model="m"):
    """A stream that has begun: its reader and writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw(body(stream=True, model=model)))
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def rest(reader):
    return await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 30)


async def test_a_file_with_https_replicas_is_read_again_and_nothing_is_forgotten(rig, tmp_path):
    """A context that is made anew is no new engine: its ledger, health and connections stay."""
    authority = CertificateAuthority()
    pair = authority.sign("e", addresses=("127.0.0.1",))
    (tmp_path / "e.pem").write_bytes(pair.key + pair.certificate)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "e.pem")
    release = asyncio.Event()
    engine = Engine(streaming(release))
    server = await asyncio.start_server(engine._serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    path = tmp_path / "router.yaml"
    path.write_text(
        f"engineCA: {tmp_path}/ca.pem\nmodels: [{{name: m, replicas: ['https://127.0.0.1:{port}']}}]"
    )
    membership = static(rig, path)
    membership.load()
    reader, writer = await begin(rig)
    replica = rig.replicas[0]
    reserved = rig.reserved
    for _ in range(3):
        membership.load()
    assert rig.replicas == [replica]
    assert (rig.num_leases, rig.reserved) == (1, reserved)
    assert rig.router.engines.num_connections <= 2  # the stream, and the scraper's
    release.set()
    assert b"[DONE]" in await rest(reader)
    assert rig.num_leases == 0
    writer.close()
    server.close()


ONE = "models: [{name: m, replicas: [URL]}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("models: [{name: m, replicas: [URL]}, {name: alias, replicas: [URL]}]", ONE),
        (ONE, "models: [{name: m, replicas: [{url: URL, name: gpu-1}]}]"),
        ("models: [{name: m, replicas: [{url: URL, name: a}]}]", ONE),
        (
            ONE,
            "models: [{name: m, replicas: [{url: URL, weight: 2}], ttftTargetMilliseconds: 3000}]",
        ),
        (ONE, "models: [{name: m, replicas: ['http://127.0.0.1:1']}]"),
        (ONE, "models: [{name: other, replicas: [URL]}]"),
        (
            "models: [{name: m, replicas: [{url: URL, name: x}]}]",
            "models: [{name: other, replicas: [{url: URL, name: x}]}]",
        ),
    ],
    ids=["alias gone", "named", "unnamed", "settings", "moved away", "renamed model", "moved"],
)
async def test_a_change_of_the_file_breaks_no_stream(rig, tmp_path, engine_factory, before, after):
    """What is in the file no more gets nothing more; its engine lives, and answers to the end."""
    release = asyncio.Event()
    engine = await engine_factory(streaming(release))
    path = tmp_path / "router.yaml"
    url = f"'http://127.0.0.1:{engine.port}'"
    path.write_text(before.replace("URL", url))
    membership = static(rig, path)
    membership.load()
    reader, writer = await begin(rig)
    old = next(r for r in rig.replicas if r.ledger.num_in_flight)
    path.write_text(after.replace("URL", url))
    membership.load()
    release.set()
    content = await rest(reader)
    assert b"stream-broken" not in content
    assert b"[DONE]" in content
    assert (old.ledger.num_in_flight, old.ledger.reserved_tokens) == (0, 0)
    if old not in rig.replicas:
        await until(lambda: not old.upstream.num_connections)
    assert [record.outcome for record in rig.router.journal.recent] == ["served"]
    writer.close()


def pod(port, uid="1", **facts):
    return ReplicaInfo(
        namespace="default", pod="a", deployment="m", served_model="m",
        endpoint=Endpoint("127.0.0.1", port), promised_capacity_tokens=10_000,
        max_context_tokens=None, is_routable=True, uid=uid, **facts,
    )  # fmt: skip


@pytest.mark.parametrize("is_same_address", [False, True])
async def test_a_pod_that_comes_back_is_a_new_engine_and_the_old_one_answers_on(
    rig, engine_factory, is_same_address
):
    """Of the same name, at another address or (on the host's network) at the same one."""
    release = asyncio.Event()
    old_engine = await engine_factory(streaming(release))
    new_engine = old_engine if is_same_address else await engine_factory(whole())
    rig.router.on_upsert(rig.pools.upsert_replica(pod(old_engine.port)))
    reader, writer = await begin(rig)
    old = rig.replicas[0]
    rig.router.on_upsert(rig.pools.upsert_replica(pod(new_engine.port, uid="2")))
    assert rig.replicas[0] is not old
    assert old.ledger.num_in_flight == 1
    release.set()
    assert b"[DONE]" in await rest(reader)
    assert (old.ledger.num_in_flight, old.ledger.reserved_tokens) == (0, 0)
    await until(lambda: not old.upstream.num_connections)
    assert rig.pools.by_model["m"].dispatcher.backends.keys() == {"default/a"}
    writer.close()


async def test_what_hangs_at_an_old_address_is_tried_at_the_new_one(rig, engine_factory):
    """A node that died sends no reset: requests at the old address stay in sight of the clock."""
    never = asyncio.Event()
    old_engine, new_engine = await engine_factory(held(never)), await engine_factory(whole())
    rig.router.on_upsert(rig.pools.upsert_replica(pod(old_engine.port)))
    task = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    await until(lambda: old_engine.requests)
    old = rig.replicas[0]
    rig.router.on_upsert(rig.pools.upsert_replica(pod(new_engine.port, uid="2")))
    assert rig.pools.by_model["m"].num_leaving == 1
    for lease in old.ledger.leases:
        lease.sent_at_seconds -= 100
    old.ledger.progressed_at_seconds -= 100
    assert (await task)[0] == 200
    assert old.ledger.num_in_flight == 0
    rig.pools.tick()
    assert rig.pools.by_model["m"].num_leaving == 0
    never.set()


async def test_a_pod_that_is_gone_is_told_to_those_who_wait_for_it(rig, engine_factory):
    """And to no other: another replica at the same address answers on."""
    release = asyncio.Event()
    engine = await engine_factory(streaming(release))
    rig.router.on_upsert(rig.pools.upsert_replica(pod(engine.port)))
    reader, writer = await begin(rig)
    other = ReplicaInfo(
        namespace="other", pod="a", deployment="n", served_model="n",
        endpoint=Endpoint("127.0.0.1", engine.port), promised_capacity_tokens=10_000,
        max_context_tokens=None, is_routable=True,
    )  # fmt: skip
    rig.pools.upsert_replica(other)
    second_reader, second_writer = await begin(rig, model="n")
    rig.router.on_gone(rig.pools.remove_replica("default/a"))
    assert b"stream-broken" in await rest(reader)
    release.set()
    assert b"[DONE]" in await rest(second_reader)
    writer.close()
    second_writer.close()


async def test_idle_connections_are_closed_after_four_seconds_however_many_there_are(
    rig, engine_factory
):
    """Those at the bottom were met only when all above them were in use: they stayed for ever."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    await asyncio.gather(*(exchange(rig.port, raw(body())) for _ in range(8)))
    upstream = rig.replicas[0].upstream
    assert upstream.idle
    for connection in upstream.idle:
        connection.heard_at -= MAX_IDLE_SECONDS + 1
    rig.router.engines.tick()
    assert not upstream.idle
    await until(lambda: engine.num_open == 0)


@pytest.mark.slow
async def test_a_name_that_is_not_resolved_delays_no_other(engine_factory):
    """A name server may take half a minute for one name."""
    hangs = asyncio.Event()
    loop = asyncio.get_running_loop()

    def lookup(host):
        if host == "slow.example":
            asyncio.run_coroutine_threadsafe(hangs.wait(), loop).result()
            return ["127.0.0.1"]
        if host == "none.example":
            raise OSError(host)
        return ["127.0.0.2", "127.0.0.1"]

    engine = await engine_factory(whole())
    pool = EnginePool(Outbox(loop), connect_timeout_seconds=1.0, resolver=Resolver(lookup))
    got = {}

    def ask(host):
        done = asyncio.Event()

        def told(what):
            got[host] = what
            done.set()

        pool.connect(
            Upstream(Endpoint(host, engine.port)), told, lambda cause, _: told(cause), done.set
        )
        return done.wait()

    slow = [asyncio.create_task(ask("slow.example")) for _ in range(20)]
    await ask("quick.example")
    await ask("none.example")
    await ask("127.0.0.1")
    assert "slow.example" not in got
    assert got["quick.example"].is_open  # the second of its addresses
    assert got["none.example"] == "not-connected"
    await asyncio.gather(*slow)
    assert got["slow.example"] == "not-connected"
    hangs.set()
    await pool.close()


async def test_what_a_name_was_is_used_while_it_cannot_be_looked_up():
    now = [["10.0.0.1"]]

    def lookup(host):
        if not now[0]:
            raise OSError(host)
        return now[0]

    resolver = Resolver(lookup)
    assert await resolver.addresses("e.example") == ["10.0.0.1"]
    now[0] = []
    resolver._known["e.example"] = 0.0, ["10.0.0.1"]  # long ago
    assert await resolver.addresses("e.example") == ["10.0.0.1"]
    await until(lambda: not resolver._asking)
    assert await resolver.addresses("e.example") == ["10.0.0.1"]
    now[0] = ["10.0.0.2"]
    resolver._known["e.example"] = 0.0, ["10.0.0.1"]
    await resolver.addresses("e.example")
    await until(lambda: not resolver._asking)
    assert await resolver.addresses("e.example") == ["10.0.0.2"]
    assert await resolver.addresses("::1") == ["::1"]


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..b", "\udcff", "x" * 5000, ""])
async def test_a_host_that_no_resolver_can_be_asked_for_fails_like_any_other(rig, host):
    """An exception that nobody caught left the request waiting until its client went."""
    rig.pools.upsert_replica(
        ReplicaInfo(
            namespace="", pod="x", deployment="m", served_model="m",
            endpoint=Endpoint(host, 80) if host.isascii() else _odd(host),
            promised_capacity_tokens=10_000, max_context_tokens=None, is_routable=True,
        )
    )  # fmt: skip
    status, headers, _ = await exchange(rig.port, raw(body()))
    assert (status, headers["x-memroute-reason"]) == (502, "replicas-failed")
    assert rig.num_leases == 0


def _odd(host):
    """An endpoint whose name cannot even be written."""
    endpoint = Endpoint("x", 80)
    endpoint.host = host
    return endpoint


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["*", "::", "127.0.0.1", "localhost"])
async def test_the_router_listens_on_both_families(engine_factory, host):
    """``0.0.0.0`` is IPv4 alone: a cluster of IPv6 could not reach it."""
    if host == "::" and not has_ipv6():
        pytest.skip("no IPv6 here")
    rig = Rig()
    rig.port = await rig.router.server.start(host, 0)
    rig._clock = asyncio.create_task(rig.router._tick_forever())
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    assert (await exchange(rig.port, raw(body())))[0] == 200 or host == "localhost"
    if host in {"*", "::"} and has_ipv6():
        reader, writer = await asyncio.open_connection("::1", rig.port)
        writer.write(raw(body()))
        assert (await read_answer(reader))[0] == 200
        writer.close()
        told = [head.lower() for head, _ in engine.requests]
        assert b"x-forwarded-for: 127.0.0.1\r\n" in told[0]
        assert b"x-forwarded-for: ::1\r\n" in told[1]
    await rig.stop()


class Pipeline:
    """One client connection of a server that answers when it is told to."""

    async def start(self):
        self.asked = []
        loop = asyncio.get_running_loop()
        self._server = Server(self.asked.append, Outbox(loop), limits=ServerLimits())
        port = await self._server.start("127.0.0.1", 0)
        self.reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: self._server.num_connections)
        (self._connection,) = self._server._state.connections

    async def stop(self):
        self._writer.close()
        await self._server.stop(timeout_seconds=0)

    def arrives(self, data):
        """As if the loop had read it just now."""
        self._server._state.reads.view[: len(data)] = data
        self._connection.buffer_updated(len(data))

    def answer(self, number):
        self.asked[number].respond(200, self.asked[number].path)


@pytest.fixture
async def pipeline():
    it = Pipeline()
    await it.start()
    yield it
    await it.stop()


@pytest.mark.parametrize(
    ("last", "status", "content"),
    [
        (b"GET /c HTTP/1.1\r\nhost: x\r\n\r\n", 200, b"/c"),
        (b"nonsense\r\n\r\n", 400, None),
    ],
)
async def test_what_arrives_between_two_answers_is_answered_after_those_that_wait(
    pipeline, last, status, content
):
    """Else its client, or a proxy that shares the connection, takes one answer for another."""
    pipeline.arrives(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
    pipeline.arrives(b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n")
    pipeline.answer(0)
    pipeline.arrives(last)  # in the turn of the loop before /b has its turn
    await until(lambda: len(pipeline.asked) >= 2)
    assert pipeline.asked[1].path == b"/b"
    pipeline.answer(1)
    if content is not None:
        await until(lambda: len(pipeline.asked) == 3)
        pipeline.answer(2)
    answers = [await read_answer(pipeline.reader) for _ in range(3)]
    assert [answer[0] for answer in answers] == [200, 200, status]
    assert [answer[2] for answer in answers[:2]] == [b"/a", b"/b"]
    assert content is None or answers[2][2] == content


async def test_a_connection_with_a_request_that_has_its_turn_next_is_busy(pipeline):
    """A router that stops lets it be answered."""
    pipeline.arrives(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n")
    pipeline.answer(0)
    assert pipeline._connection.is_busy
    await until(lambda: len(pipeline.asked) == 2)
    pipeline.answer(1)
    assert not pipeline._connection.is_busy
