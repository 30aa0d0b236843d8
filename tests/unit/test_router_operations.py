"""The second listener: what it has, what the public one has no more, and what its pages cost."""

import asyncio
import json

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from memroute_router.discovery.names import unknown_model
from memroute_router.http.budget import BodyBudget
from memroute_router.http.exchange import Exchange
from memroute_router.pages.exposition import family_pieces
from memroute_router.pages.operations import MAX_CONNECTIONS
from memroute_router.pages.pages import MAX_WAITING, MIN_INTERVAL_SECONDS, SteppedPage, json_list
from router_rig import Rig, body, exchange, held, raw, reset, until, whole

OPERATIONS = (b"/metrics", b"/debug/decisions", b"/debug/replicas", b"/debug/queue")


def get(path, method=b"GET"):
    return b"%b %b HTTP/1.1\r\nhost: x\r\n\r\n" % (method, path)


@pytest.fixture
async def rig():
    it = Rig()
    await it.start()
    yield it
    await it.stop()


@pytest.mark.parametrize("path", OPERATIONS)
async def test_pages_for_operators_are_not_on_the_public_port(rig, path):
    """They name other tenants' models, pods and addresses, to anybody who asks."""
    status, _, content = await exchange(rig.port, get(path))
    assert status == 404
    assert json.loads(content)["error"]["message"] == f"no such path: {path.decode()}"
    status, headers, _ = await exchange(rig.ops_port, get(path))
    assert status == 200
    status, headers, _ = await exchange(rig.ops_port, get(path, b"POST"))
    assert (status, headers["allow"]) == (405, "get, head")


async def test_the_operations_port_proxies_nothing(rig, engine_factory):
    """A NetworkPolicy that lets somebody read metrics must not let him use the models."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    for path in (b"/v1/chat/completions", b"/v1/models", b"/v1/embeddings", b"/nothing"):
        status, _, content = await exchange(rig.ops_port, raw(body(), path=path))
        assert status == 404
        assert b"/debug/queue" in content, "it says what there is"
    assert not engine.requests


async def test_without_a_port_for_operations_nobody_serves_their_pages(caplog):
    """No flag shows one tenant's names to another: probes are all that is left."""

    class Membership:
        is_synced = True

        async def follow(self):
            await asyncio.Event().wait()

    flags = ("--host", "127.0.0.1", "--port", "0", "--ops-port", "0")
    rig = Rig(*flags, "--shutdown-timeout-seconds", "0")
    stopping = asyncio.Event()
    running = asyncio.create_task(rig.router.run(Membership(), stopping))
    await until(lambda: rig.router._is_listening)
    port = rig.router.server.port
    for path in OPERATIONS:
        assert (await exchange(port, get(path)))[0] == 404
    for path in (b"/health", b"/ready"):
        assert (await exchange(port, get(path)))[0] == 200
    assert rig.router.operations.server.port is None
    stopping.set()
    await running
    assert "nor metrics: --ops-port is 0" in caplog.text


@pytest.mark.parametrize("asked", [b"", b"GET /health HT", get(b"/metrics")])
async def test_nobody_keeps_probes_out_by_opening_connections(rig, asked):
    """A pod that held all of them would have the kubelet restart the router."""
    others = []
    for _ in range(MAX_CONNECTIONS + 10):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.ops_port)
        writer.write(asked)
        others.append((reader, writer))
    assert (await exchange(rig.ops_port, get(b"/health")))[0] == 200
    assert rig.router.operations.server.num_connections <= MAX_CONNECTIONS
    for _, writer in others:
        writer.close()


async def test_both_ports_say_whether_the_router_is_well(rig):
    """Probes ask one, load balancers from outside the other; neither learns anything else."""
    for port in (rig.port, rig.ops_port):
        assert (await exchange(port, get(b"/health")))[::2] == (200, b"ok\n")
        status, _, content = await exchange(port, get(b"/ready"))
        assert status == 503
        assert b"not complete" in content


async def test_each_port_describes_itself(rig):
    described = {}
    for port in (rig.port, rig.ops_port):
        _, _, content = await exchange(port, get(b"/openapi.json"))
        described[port] = set(json.loads(content)["paths"])
    assert {path.decode() for path in OPERATIONS} <= described[rig.ops_port]
    assert not {path.decode() for path in OPERATIONS} & described[rig.port]
    assert described[rig.ops_port] == {path.decode() for path in rig.router.operations.routes}


async def test_a_browsers_preflight_is_refused_in_words(rig):
    """A page of another origin cannot use the API; its author should not have to guess why."""
    status, headers, content = await exchange(rig.port, get(b"/v1/chat/completions", b"OPTIONS"))
    assert (status, headers["allow"]) == (405, "post")
    assert "(CORS)" in json.loads(content)["error"]["message"]
    assert not [name for name in headers if name.startswith("access-control")]


async def test_a_502_names_no_pod_to_the_client_and_every_pod_to_the_log(rig, engine_factory):
    for name in ("pod-a", "pod-b"):
        rig.add(name, (await engine_factory(reset)).port)
    status, headers, content = await exchange(rig.port, raw(body()))
    assert status == 502
    assert b"pod-" not in content
    assert "pod-" not in str(headers)
    rig.router.journal.flush()
    (line,) = rig.lines
    assert "default/pod-a" in line
    assert "default/pod-b" in line
    assert "cause=connection-lost" in line


async def test_who_answered_is_told_to_clients_only_where_that_is_allowed(engine_factory):
    """Names of pods are nobody's business on a public port."""
    ask = raw(body()).replace(b"host: x", b"host: x\r\nx-memroute-explain: 1")
    for flags, is_told in (((), True), (("--no-explain-header",), False)):
        rig = Rig(*flags)
        await rig.start()
        rig.add("a", (await engine_factory(whole())).port)
        _, headers, _ = await exchange(rig.port, ask)
        assert ("x-memroute-replica" in headers) == is_told
        await rig.stop()


def test_a_404_lists_what_its_reader_may_know_of():
    """With keys, a list of every tenant's models would be a leak; a long one helps nobody."""
    assert unknown_model("x", None) == "the model 'x' does not exist, or you may not use it"
    assert unknown_model("x", []) == "the model 'x' does not exist; models: none"
    assert unknown_model("x", ["a", "b"]) == "the model 'x' does not exist; models: a, b"
    many = unknown_model("x", [f"m{number}" for number in range(25)])
    assert many.endswith("m19 and 5 more (GET /v1/models)")


async def test_who_may_know_no_names_gets_none_anywhere(rig, engine_factory):
    """One seam for whoever checks keys: error messages, lists and descriptions ask it."""
    rig.add("a", (await engine_factory(whole())).port)
    rig.router.own.names_for = lambda _fields: None
    secret = b'"m"'
    for question in (get(b"/v1/models"), get(b"/v1/models/m"), get(b"/openapi.json")):
        _, _, content = await exchange(rig.port, question)
        assert secret not in content


# The pages.


async def test_the_page_is_byte_for_byte_that_of_prometheus_own_client(rig, engine_factory):
    """It is written by hand for its cost; whoever parses it must not notice."""
    rig.add("a", (await engine_factory(whole())).port, capacity=1234567890)
    await exchange(rig.port, raw(body()))
    metrics = rig.router.metrics
    metrics.internal_errors.labels("client").inc()

    def lasting(page):
        # Between two pages the process goes on using CPU time and memory.
        return [line for line in page.splitlines() if not line.startswith(b"process_")]

    assert lasting(metrics.render()) == lasting(generate_latest(metrics.registry))


def test_values_and_labels_of_every_kind_are_written_as_prometheus_writes_them():
    odd = ["", 'a"b', "a\\b", "a\nb", "\u2028", "é"]
    values = [0, -1.5, 1e6, 1234567.25, 1e16, -1e9, 1e-9, float("inf"), -float("inf"), float("nan")]
    gauge = GaugeMetricFamily("g", 'what "it" \\ is\n', labels=("zone", "area"))
    for number, value in enumerate(values):
        gauge.add_metric((odd[number % len(odd)], str(number)), value)
    counter = CounterMetricFamily("c", "of what", labels=())
    counter.add_metric((), 3, created=17.5)

    class Both:
        def collect(self):
            return [gauge, counter]

    wanted = generate_latest(Both())
    written = "".join(piece for family in (gauge, counter) for piece in family_pieces(family))
    assert written.encode() == wanted


@pytest.mark.slow
async def test_a_page_of_400_replicas_is_made_in_many_steps(rig):
    """Made at once it stops every stream for as long: 26 ms here, 100 on a busy machine."""
    for number in range(400):
        rig.add(f"r{number}", 1)
    pieces = list(rig.router.metrics.pieces())
    assert len(pieces) > 100
    assert max(piece.count(b"\n") for piece in pieces) <= 64
    documents = list(json_list({"number": number} for number in range(400)))
    assert len(documents) == 401
    assert len(json.loads(b"".join(documents))) == 400
    assert list(json_list([])) == [b"[]"]


class Client:
    """A connection that keeps what it is told."""

    peer, scheme = b"127.0.0.1", b"http"

    def __init__(self):
        self.told = b""

    def write(self, data):
        self.told += data

    def exchange_done(self, *, keep_alive):
        pass

    def ask(self, page):
        page.answer(
            Exchange(
                self,
                method=b"GET",
                target=b"/metrics",
                lines=b"",
                fields={},
                body=b"",
                keep_alive=True,
                http_1_1=True,
                received_at=0.0,
                budget=BodyBudget(0),
            )
        )


class Loop:
    """The part of an event loop that a page uses; time is the test's."""

    def __init__(self, monkeypatch):
        self.now, self.due = 0.0, []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def call_soon(self, callback):
        self.due.append((self.now, callback))

    def call_later(self, seconds, callback):
        self.due.append((self.now + seconds, callback))

    def run(self, until_seconds):
        while self.due and min(at for at, _ in self.due) <= until_seconds:
            self.due.sort(key=lambda each: each[0])
            at, callback = self.due.pop(0)
            self.now = max(self.now, at)
            callback()
        self.now = max(self.now, until_seconds)


def test_a_page_is_made_once_a_second_at_most_and_is_never_older_than_the_question(monkeypatch):
    """A crowd that asks costs one rendering.

    A page from before the question would let the operator end a replica whose last request it does
    not know of.
    """
    loop, made = Loop(monkeypatch), []

    def pieces():
        made.append(loop.now)
        yield b"%d" % len(made)

    page = SteppedPage(pieces, b"", on_error=print, clock=lambda: loop.now)
    crowd = [Client() for _ in range(10)]
    for client in crowd:
        client.ask(page)
    loop.run(0.0)
    assert all(client.told.endswith(b"\r\n\r\n1") for client in crowd)
    late = Client()
    loop.run(0.25)
    late.ask(page)
    loop.run(0.5)
    assert late.told == b""
    loop.run(2.0)
    assert late.told.endswith(b"\r\n\r\n2")
    assert made == [0.0, MIN_INTERVAL_SECONDS]


def test_requests_have_their_turn_between_the_steps_of_a_page(monkeypatch):
    loop, order = Loop(monkeypatch), []

    def pieces():
        for number in range(3):
            loop.now += 1.0  # far more than a step may take
            order.append(number)
            yield b"x"

    page = SteppedPage(pieces, b"", on_error=print, clock=lambda: loop.now)
    client = Client()
    client.ask(page)
    loop.call_soon(lambda: order.append("request"))
    loop.run(10.0)
    assert order == [0, "request", 1, 2]
    assert client.told.endswith(b"\r\n\r\nxxx")


def test_a_page_that_fails_fails_alone_and_the_next_is_made(monkeypatch):
    loop, errors = Loop(monkeypatch), []

    def pieces():
        if not errors:
            msg = "an odd replica"
            raise RuntimeError(msg)
        yield b"well"

    page = SteppedPage(pieces, b"", on_error=errors.append, clock=lambda: loop.now)
    first, second = Client(), Client()
    first.ask(page)
    loop.run(0.0)
    assert first.told.startswith(b"HTTP/1.1 500 ")
    assert len(errors) == 1
    second.ask(page)
    loop.run(5.0)
    assert second.told.endswith(b"well")


def test_those_who_wait_for_a_page_are_bounded(monkeypatch):
    loop = Loop(monkeypatch)
    page = SteppedPage(lambda: iter([b"x"]), b"", on_error=print, clock=lambda: loop.now)
    crowd = [Client() for _ in range(MAX_WAITING + 1)]
    for client in crowd:
        client.ask(page)
    assert crowd[-1].told.startswith(b"HTTP/1.1 503 ")


async def test_a_collector_that_fails_loses_its_own_families_alone(rig, caplog):
    """One odd replica must not make the whole router invisible."""

    class Odd:
        def collect(self):
            msg = "odd"
            raise ValueError(msg)

        def describe(self):
            return []

    rig.router.metrics.registry.register(Odd())
    page = rig.router.metrics.render()
    assert b"memroute_router_loop_lag_seconds" in page
    counted = b'memroute_router_internal_errors_total{place="operations"} 1.0'
    assert counted in rig.router.metrics.render()
    assert "collector=Odd" in caplog.text


@pytest.mark.slow
async def test_who_asks_for_a_page_and_leaves_hurts_nobody(rig):
    _, writer = await asyncio.open_connection("127.0.0.1", rig.ops_port)
    writer.write(get(b"/metrics"))
    writer.close()
    status, _, content = await exchange(rig.ops_port, get(b"/metrics"))
    assert status == 200
    assert b"memroute_router_loop_lag_seconds" in content


# Who waits.


async def test_the_queue_page_says_who_waits_for_which_replica_and_why(engine_factory):
    """At 3 a.m. "why does everything wait?" has to have an answer."""
    rig = Rig("--tenants", "header", "--trust-headers")
    await rig.start()
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    first = asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))
    await until(lambda: engine.requests)
    waits = body(max_tokens=50)
    asked = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-tenant: alice\r\n"
        b"x-memroute-priority: 3\r\nx-request-id: mine\r\ncontent-length: %d\r\n\r\n%b"
    ) % (len(waits), waits)
    second = asyncio.create_task(exchange(rig.port, asked))
    await until(lambda: rig.num_held)
    _, _, content = await exchange(rig.ops_port, get(b"/debug/queue"))
    (waiting,) = json.loads(content)
    assert waiting["model"] == waiting["served_by"] == "m"
    told = {name: waiting[name] for name in ("request_id", "tenant", "priority", "replica")}
    assert told == {
        "request_id": "mine", "tenant": "alice", "priority": 3, "replica": "default/a",
    }  # fmt: skip
    assert waiting["waits_for"] == "room"
    assert waiting["closed"] == "memory"
    assert waiting["why"] == "default/a is the cheapest, and closed to it: memory"
    assert waiting["client"] == "127.0.0.1"
    assert waiting["waited_seconds"] >= 0
    assert waiting["deadline_in_seconds"] <= 1.0
    release.set()
    assert [(await each)[0] for each in (first, second)] == [200, 200]
    await rig.stop()


async def test_the_queue_page_tells_of_requests_that_wait_for_a_replica():
    rig = Rig("--hold-without-replicas")
    await rig.start()
    replica = rig.add("a", 1)
    replica.health.fault(now_seconds=rig.pools.now_seconds())
    replica.backend.is_routable = False
    asked = asyncio.create_task(exchange(rig.port, raw(body())))
    await until(lambda: rig.num_held)
    _, _, content = await exchange(rig.ops_port, get(b"/debug/queue"))
    (waiting,) = json.loads(content)
    assert waiting["waits_for"] == "replica"
    assert waiting["why"] == "no replica that could hold it is ready"
    assert waiting["replica"] is None
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await rig.stop()
