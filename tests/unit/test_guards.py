"""A bug of ours ends one thing alone: it is counted by its place, and everything else goes on."""

import asyncio
import contextlib
import os
import signal
import time

import pytest

from memroute.traffic.dispatch import AdmissionMode, Lease
from memroute_router import process
from memroute_router.discovery.static import StaticMembership
from memroute_router.http.deadlines import Deadlines
from memroute_router.http.outbox import Outbox
from memroute_router.lifecycle.account import Account
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.intake import Intake
from memroute_router.lifecycle.lifecycle import Lifecycle
from memroute_router.replicas.pool_settings import PoolSettings
from memroute_router.settings import parse_settings
from memroute_router.supervisor import Supervisor
from router_rig import Rig, begin_stream, body, exchange, held, raw, send_chunk, until, whole

MARK = b"breaks"


class BugError(Exception):
    """Not one that anything expects."""


def raising(*_args, **_named):
    raise BugError


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    settings = PoolSettings(namespace="", deployment="m", admission=AdmissionMode.OFF)
    it.pools.configure({"m": settings})
    yield it
    await it.stop()


def faults(rig, place):
    return rig.router.metrics.internal_errors.labels(place)._value.get()


def breaks(method, when=lambda owner: MARK in owner._exchange.body):
    """The method, which raises for the requests that ``when`` says."""

    def wrapped(self, *args, **named):
        if when(self):
            raise BugError
        return method(self, *args, **named)

    return wrapped


async def stream(_engine, writer):
    begin_stream(writer)
    send_chunk(writer)
    await writer.drain()
    await asyncio.sleep(0.01)
    send_chunk(writer)
    send_chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


REQUEST_BUGS = [
    (Intake, "read", lambda it: it._fields.get(b"x-request-id") == MARK, "client"),
    (Intake, "profile", lambda it: it._fields.get(b"x-request-id") == MARK, "client"),
    (Lifecycle, "admitted", lambda it: it._account.request_id == MARK, "client"),
    (Lifecycle, "request_head", lambda it: it._account.request_id == MARK, "connect"),
    (Lifecycle, "answer_begins", lambda it: it._account.request_id == MARK, "answer"),
    (Lifecycle, "answer_ends", lambda it: it._account.request_id == MARK, "answer"),
    (Attempt, "_begin_answer", lambda it: it._owner._account.request_id == MARK, "answer"),
    (Attempt, "_completed", lambda it: it._owner._account.request_id == MARK, "answer"),
    (Account, "record", lambda it: it.request_id == MARK, "answer"),
]


@pytest.mark.parametrize(("owner", "name", "when", "place"), REQUEST_BUGS)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_bug_in_one_request_ends_that_one(
    rig, engine_factory, monkeypatch, caplog, owner, name, when, place, is_stream
):
    """It gets 500 or the end of its stream, gives back what it held, and is told by its id."""
    engine = await engine_factory(stream if is_stream else whole())
    rig.add("a", engine.port)
    monkeypatch.setattr(owner, name, breaks(getattr(owner, name), when))
    data = body(stream=is_stream)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: %b\r\n" % MARK
    asked = head + b"content-length: %d\r\n\r\n%b" % (len(data), data)

    async def broken():
        try:
            return await exchange(rig.port, asked)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None  # it was broken off: its head had gone

    answers = await asyncio.gather(
        broken(), *(exchange(rig.port, raw(body(stream=is_stream))) for _ in range(5))
    )
    assert [status for status, _, _ in answers[1:]] == [200] * 5
    got = answers[0]
    assert (
        got is None
        or got[0] == 500
        or (is_stream and not got[2].endswith(b"[DONE]\n\n"))
        or (b"internal-error" in got[2])
    )
    await until(lambda: rig.num_leases == 0)
    assert rig.reserved == 0
    assert sum(faults(rig, each) for each in (place, "client", "answer", "connect")) >= 1
    assert MARK.decode() in caplog.text
    assert (await exchange(rig.port, raw(body())))[0] == 200
    await until(lambda: not any(r.upstream.busy for r in rig.replicas))


@pytest.mark.parametrize("name", ["client_gone", "client_is_slow", "client_is_ready"])
async def test_a_bug_in_what_hears_of_the_client_leaves_no_lease(
    rig, engine_factory, monkeypatch, name
):
    release = asyncio.Event()

    async def long(_engine, writer):
        begin_stream(writer)
        with contextlib.suppress(ConnectionError):
            while not release.is_set():
                send_chunk(writer, b"data: {%b}\n\n" % (b"x" * 100_000))
                await writer.drain()
        return False

    engine = await engine_factory(long)
    rig.add("a", engine.port)
    monkeypatch.setattr(Lifecycle, name, raising)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
    writer.write(raw(body(stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    if name == "client_is_ready":
        sink = next(iter(rig.router.server._state.connections))
        await asyncio.sleep(0)
        sink.resume_writing()
    elif name == "client_is_slow":
        await until(lambda: faults(rig, "client") >= 1)
    else:
        writer.close()
    await until(lambda: rig.num_leases == 0)
    assert faults(rig, "client") >= 1
    release.set()
    writer.close()


async def test_a_bug_after_tokenizing_ends_the_request(rig, engine_factory, monkeypatch):
    """It came from a thread: nobody waits for it there."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)

    def tokenize(_intake, on_done):
        asyncio.get_running_loop().call_soon(on_done)
        return True

    monkeypatch.setattr(Intake, "tokenize", tokenize)
    monkeypatch.setattr(Intake, "profile", raising)
    assert (await exchange(rig.port, raw(body())))[0] == 500
    assert faults(rig, "request") == 1


async def test_a_lease_is_given_back_whatever_raises_on_the_way(rig, engine_factory, monkeypatch):
    """The usage of an answer is read as it ends: that it cannot be read keeps no tokens."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "usage", property(raising))
        with contextlib.suppress(asyncio.IncompleteReadError):  # its head had gone
            assert (await exchange(rig.port, raw(body())))[0] == 500
    assert faults(rig, "answer") >= 1
    assert (rig.num_leases, rig.reserved) == (0, 0)
    assert (await exchange(rig.port, raw(body())))[0] == 200


async def test_a_bug_in_one_event_breaks_one_stream_off(rig, engine_factory, monkeypatch):
    engine = await engine_factory(stream)
    rig.add("a", engine.port)
    left = [1]
    monkeypatch.setattr(Lease, "progress", breaks(Lease.progress, lambda _: left and left.pop()))
    _, _, content = await exchange(rig.port, raw(body(stream=True)))
    assert b'"code":"internal-error"' in content
    assert content.endswith(b"data: [DONE]\n\n")
    assert faults(rig, "answer") == 1
    assert [record.outcome for record in rig.router.journal.recent] == ["internal-error"]


async def test_one_replica_whose_reading_breaks_stops_no_other(rig, engine_factory, monkeypatch):
    """The clock that reads all replicas was rescheduled by the step that raised."""
    page = b"vllm:num_requests_running{} 1\n"
    engines = [await engine_factory(whole(page)) for _ in range(3)]
    for name, engine in zip("abc", engines, strict=True):
        rig.router.on_upsert(rig.add(name, engine.port))
    first = rig.router.scraper._readers["default/a"]
    monkeypatch.setattr(
        type(first), "ask", breaks(type(first).ask, lambda it: it.replica.info.pod == "a")
    )
    await until(lambda: faults(rig, "scrape") >= 2)
    await until(lambda: all(r.ledger.read_at_seconds > 0 for r in rig.replicas[1:]))


async def test_a_reading_that_breaks_the_ledger_ends_itself(rig, engine_factory, monkeypatch):
    engine = await engine_factory(whole(b"vllm:num_requests_running{} 1\n"))
    monkeypatch.setattr(rig.pools, "apply_reading", raising)
    rig.router.on_upsert(rig.add("a", engine.port))
    await until(lambda: faults(rig, "answer") >= 1)
    reader = rig.router.scraper._readers["default/a"]
    assert not reader.is_asking
    assert reader.due_at_seconds > time.monotonic()


async def test_a_pool_whose_tick_breaks_stops_no_other(rig, engine_factory, monkeypatch):
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    pool = rig.pools.by_model["m"]
    monkeypatch.setattr(pool, "tick", raising)
    ticked = []
    monkeypatch.setattr(rig.router.peers, "tick", lambda: ticked.append(1))
    await until(lambda: ticked)
    assert faults(rig, "pool") >= 1
    assert (await exchange(rig.port, raw(body())))[0] == 200


async def test_deadlines_are_kept_after_one_that_breaks():
    """The rest of the list was never late again, nor was anything after it."""
    told = []
    deadlines = Deadlines(lambda place, _: told.append(place))

    class Item:
        def __init__(self, act):
            self.deadline_at = 0.0
            self.deadline_passed = act

    done = []
    for act in (raising, lambda: done.append(1), raising, lambda: done.append(2)):
        deadlines.watch(Item(act))
    await until(lambda: len(done) == 2)
    assert told == ["deadline", "deadline"]
    late = Item(lambda: done.append(3))
    deadlines.watch(late)
    await until(lambda: len(done) == 3)
    deadlines.close()


async def test_what_others_have_to_send_leaves_after_one_that_breaks():
    told, done = [], []
    outbox = Outbox(asyncio.get_running_loop(), lambda place, _: told.append(place))

    class Item:
        def __init__(self, act):
            self.flush = act

    for act in (raising, lambda: done.append(1), raising, lambda: done.append(2)):
        outbox.add(Item(act))
    await until(lambda: done == [1, 2])
    assert told == ["write", "write"]


async def test_a_loop_that_ends_or_raises_is_started_again(monkeypatch):
    monkeypatch.setattr("memroute_router.supervisor.FIRST_PAUSE_SECONDS", 0.001)
    told, begun = [], []

    async def loop():
        begun.append(1)
        if len(begun) == 1:
            raise BugError
        if len(begun) == 2:
            return
        if len(begun) == 3:
            async with asyncio.TaskGroup() as group:
                group.create_task(loop_of_its_own())
        await asyncio.Event().wait()

    async def loop_of_its_own():
        raise BugError

    supervisor = Supervisor(lambda name, error: told.append((name, type(error).__name__)))
    supervisor.keep("it", loop)
    await until(lambda: len(begun) == 4)
    assert told == [("it", "BugError"), ("it", "EndedError"), ("it", "ExceptionGroup")]
    await supervisor.close()


async def test_a_router_whose_membership_breaks_serves_on(engine_factory, monkeypatch):
    """It ended the process, and with it all streams of all models."""
    monkeypatch.setattr("memroute_router.supervisor.FIRST_PAUSE_SECONDS", 0.001)
    rig = Rig(
        "--host", "127.0.0.1", "--port", "0", "--ops-port", "0", "--shutdown-timeout-seconds", "0"
    )
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    rig.trust_all()

    class Membership:
        is_synced = True
        num_begun = 0

        async def follow(self):
            self.num_begun += 1
            raise BugError

    membership, stopping = Membership(), asyncio.Event()
    running = asyncio.create_task(rig.router.run(membership, stopping))
    await until(lambda: membership.num_begun >= 3)
    port = rig.router.server.port
    assert (await exchange(port, raw(body())))[0] == 200
    assert faults(rig, "membership") >= 3
    stopping.set()
    await running


@pytest.mark.slow
async def test_a_file_whose_application_breaks_is_read_again(rig, tmp_path, monkeypatch):
    monkeypatch.setattr("memroute_router.watched.POLL_SECONDS", 0.01)
    path = tmp_path / "router.yaml"
    path.write_text("models: [{name: m, replicas: ['http://127.0.0.1:1']}]")
    reloads = []
    membership = StaticMembership(
        path, rig.pools, on_upsert=lambda _: None, on_retired=lambda _: None,
        on_reload=reloads.append, on_fault=rig.router.on_fault,
    )  # fmt: skip
    following = asyncio.create_task(membership.follow())
    with monkeypatch.context() as patch:
        patch.setattr(rig.pools, "configure", raising)
        membership.reload_soon()
        await until(lambda: False in reloads)
    membership.reload_soon()
    await until(lambda: True in reloads)
    assert faults(rig, "membership") >= 1
    following.cancel()


async def test_sighup_without_a_file_ends_nothing(monkeypatch):
    """Its default action is to end the process; ``kill -HUP 1`` is what people try first."""

    class Client:
        @classmethod
        async def from_environment(cls):
            return contextlib.nullcontext()

    class Nobody:
        is_synced = True

        def __init__(self, *_args, **_named):
            pass

        async def follow(self):
            await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def client():
        yield None

    async def from_environment():
        return client()

    monkeypatch.setattr(process.KubernetesClient, "from_environment", from_environment)
    monkeypatch.setattr(process, "Discovery", Nobody)
    settings = parse_settings(
        ["--host", "127.0.0.1", "--port", "0", "--shutdown-timeout-seconds", "0"]
    )
    running = asyncio.create_task(process.run_router(settings))
    loop = asyncio.get_running_loop()
    await until(lambda: signal.SIGHUP in getattr(loop, "_signal_handlers", {signal.SIGHUP: 1}))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await running


@pytest.mark.slow
async def test_a_client_that_reads_slowly_but_steadily_is_not_cut(engine_factory):
    """It was, 120 s after it had become slow, however much it had taken since."""
    rig = Rig("--stalled-client-seconds", "0.6")
    await rig.start()
    release = asyncio.Event()

    async def long(_engine, writer):
        begin_stream(writer)
        with contextlib.suppress(ConnectionError):
            while not release.is_set():
                send_chunk(writer, b'data: {"choices":[{"text":"%b"}]}\n\n' % (b"x" * 65_536))
                await writer.drain()
        return False

    engine = await engine_factory(long)
    rig.add("a", engine.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=65_536)
    writer.write(raw(body(stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    connection = next(iter(rig.router.server._state.connections))
    await until(lambda: connection._untaken_bytes >= 0)
    looks = 0
    for _ in range(200):
        before = connection.deadline_at
        await reader.readexactly(65_536)
        await asyncio.sleep(0.01)
        looks += connection.deadline_at > before
    assert rig.num_leases == 1
    await until(lambda: rig.num_leases == 0)  # and then it takes nothing at all
    assert [record.outcome for record in rig.router.journal.recent] == ["client-gone"]
    release.set()
    writer.close()
    await rig.stop()


async def test_a_client_that_says_no_more_is_gone(engine_factory):
    """A half-close cannot be told from a client that has left: its work is cancelled (documented).

    What was answered before it is sent.
    """
    rig = Rig()
    await rig.start()
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port)
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw(body()))
    await until(lambda: engine.requests)
    writer.write_eof()
    await until(lambda: rig.num_leases == 0)
    assert [record.outcome for record in rig.router.journal.recent] == ["client-gone"]
    release.set()
    writer.close()
    await rig.stop()


async def test_peers_are_heard_on_after_their_loop_was_started_again(monkeypatch):
    """The port is this router's own: to wait until it is free would be to wait for ever."""
    rig = Rig("--peer", "127.0.0.1:1", "--peer-port", "0", "--host", "127.0.0.1")
    follows = []

    async def follow():
        follows.append(rig.router.peers.port)
        if len(follows) == 1:
            raise BugError
        await asyncio.Event().wait()

    monkeypatch.setattr("memroute_router.supervisor.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(rig.router.peer_names, "follow", follow)
    supervisor = Supervisor(rig.router.on_fault)
    supervisor.keep("peers", lambda: rig.router._follow_peers(None))
    await until(lambda: len(follows) == 2)
    assert follows[0] == follows[1] != 0
    assert faults(rig, "peers") == 1
    await supervisor.close()
    rig.router.peers.close()
