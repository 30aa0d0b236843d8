"""Traces: off and free by default; sampled; exported by the official SDK, in another process."""

import asyncio
import json
import random
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute_router.app import Router
from memroute_router.settings import parse_settings
from memroute_router.tracing.context import (
    Sampler,
    read_traceparent,
    traceparent,
    without_field,
)
from memroute_router.tracing.trace import Trace, named
from memroute_router.tracing.tracer import Tracer, TracingError, export_command
from router_rig import Rig, body, exchange, held, raw, reset, until, whole

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


def asked(*headers, data=None):
    data = data or body()
    lines = "".join(f"{header}\r\n" for header in headers).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        lines, len(data), data,
    )  # fmt: skip


def traceparents(engine):
    return [
        re.findall(r"(?im)^traceparent: (.*?)\r$", head.decode()) for head, _ in engine.requests
    ]


# The header.


@pytest.mark.parametrize(
    ("value", "is_read"),
    [
        (GIVEN, True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"01-{TRACE}-{SPAN}-01-more", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"{GIVEN}, {GIVEN}", False),
        ("", False),
        ("²", False),
    ],
)
def test_a_traceparent_is_read_as_the_specification_says(value, is_read):
    """W3C Trace Context: one that cannot be read begins a new trace."""
    found = read_traceparent(value.encode())
    assert (found is not None) == is_read
    if found is not None:
        assert (found.trace_id, found.span_id) == (TRACE, SPAN)
        assert found.is_sampled == (value[53:55] == "01")


@given(st.binary(max_size=70))
def test_no_header_can_raise(value):
    read_traceparent(value)
    without_field(value, b"traceparent")


def test_a_field_is_taken_out_wherever_it_stands():
    lines = b"a: traceparent: b\r\ntraceparent: x\r\nc: d\r\n"
    assert without_field(lines, b"traceparent") == b"a: traceparent: b\r\nc: d\r\n"
    assert without_field(b"traceparent: x\r\n", b"traceparent") == b""
    assert without_field(b"xtraceparent: x\r\n", b"traceparent") == b"xtraceparent: x\r\n"


def test_the_ratio_is_kept_and_the_same_trace_is_kept_by_everybody():
    """As OpenTelemetry's own sampler: services with one ratio keep the same traces."""
    sampler = Sampler(0.1, random.Random(1), trusts_clients=False)
    made = [sampler.new_trace_id() for _ in range(20_000)]
    kept = [each for each in made if each]
    # 2,000 are expected; four deviations of 42.
    assert 1830 < len(kept) < 2170
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in kept)
    other = Sampler(0.1, random.Random(2), trusts_clients=False)
    contexts = [read_traceparent(traceparent(each, SPAN)[13:-2]) for each in kept]
    assert all(other.is_sampled(each) for each in contexts)
    assert not any(
        Sampler(0.0, random.Random(1), trusts_clients=False).is_sampled(each) for each in contexts
    )
    assert Sampler(1.0, random.Random(1), trusts_clients=False).new_trace_id()


# In the router. The exporting process is one that keeps what it is given.


class Kept:
    """A router whose traces end in a file."""

    def __init__(self, path, *flags, ratio=1.0, command=None):
        self.path = path
        self.counts = {"sent": 0, "dropped": 0}
        self.rig = Rig(*flags)
        trusts = "--trust-headers" in flags
        keep = (
            f"import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, open({str(path)!r}, 'wb'))"
        )
        self.tracer = Tracer(
            Sampler(ratio, random.Random(1), trusts_clients=trusts),
            command or [sys.executable, "-c", keep],
            on_traces=self._count,
        )
        services = self.rig.router.services
        object.__setattr__(services, "tracer", self.tracer)

    def _count(self, result, count):
        self.counts[result] += count

    async def __aenter__(self):
        await self.rig.start()
        self._task = asyncio.create_task(self.tracer.follow())
        await until(lambda: self.tracer._process is not None)
        return self

    async def __aexit__(self, *_):
        await self.rig.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.tracer.close()

    def traces(self):
        return [named(json.loads(line)) for line in self.path.read_bytes().splitlines()]


async def test_a_clients_trace_goes_on_through_the_router_to_the_engine(engine_factory, tmp_path):
    async with Kept(tmp_path / "t") as kept:
        engine = await engine_factory(whole())
        kept.rig.add("a", engine.port)
        ask = asked(f"traceparent: {GIVEN}", "tracestate: x=1", "x-request-id: mine")
        assert (await exchange(kept.rig.port, ask))[0] == 200
    (trace,) = kept.traces()
    assert (trace["trace_id"], trace["parent_id"]) == (TRACE, SPAN)
    (attempt,) = trace["attempts"]
    assert traceparents(engine) == [[f"00-{TRACE}-{attempt['span_id']}-01"]]
    assert b"tracestate: x=1" in engine.requests[0][0]
    assert trace["request_id"] == "mine"
    assert trace["begun"] <= attempt["begun"] <= trace["first_byte"] <= trace["ended"]
    assert attempt["replica"] == "default/a"
    assert attempt["authority"] == f"127.0.0.1:{engine.port}"


async def test_each_attempt_has_a_span_and_a_wait_has_one(engine_factory, tmp_path):
    async with Kept(tmp_path / "t") as kept:
        rig = kept.rig
        release = asyncio.Event()
        dead, good = await engine_factory(reset), await engine_factory(whole())
        rig.add("dead", dead.port)
        rig.add("good", good.port)
        rig.prefer("dead")
        assert (await exchange(rig.port, raw(body())))[0] == 200
        for name in ("dead", "good"):
            rig.pools.remove_replica(f"default/{name}")
        slow = await engine_factory(held(release))
        rig.add("slow", slow.port, capacity=100)
        first = asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))
        await until(lambda: slow.requests)
        second = asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))
        await until(lambda: rig.num_held)
        release.set()
        await asyncio.gather(first, second)
    retried, _, waited = kept.traces()
    assert [each["failure"] for each in retried["attempts"]] == ["connection-lost", None]
    sent = [each["span_id"] for each in retried["attempts"]]
    assert [each[0].split("-")[2] for each in traceparents(dead) + traceparents(good)] == sent
    ((begun, ended),) = waited["waits"]
    assert waited["begun"] <= begun <= ended <= waited["attempts"][0]["begun"]


@pytest.mark.parametrize(
    "given", [None, f"00-{TRACE}-{SPAN}-00", GIVEN, "nonsense"], ids=["none", "no", "yes", "odd"]
)
async def test_what_is_not_sampled_travels_on_as_it_came(engine_factory, tmp_path, given):
    async with Kept(tmp_path / "t", ratio=0.0) as kept:
        engine = await engine_factory(whole())
        kept.rig.add("a", engine.port)
        headers = [f"traceparent: {given}"] if given else []
        assert (await exchange(kept.rig.port, asked(*headers)))[0] == 200
    assert kept.traces() == []
    assert traceparents(engine) == [[given] if given else []]


async def test_a_client_decides_what_is_sampled_only_where_headers_are_trusted(
    engine_factory, tmp_path
):
    """Else one client's flag has all of its requests traced, and fills the collector."""
    for flags, expected in (((), 0), (("--trust-headers",), 1)):
        async with Kept(tmp_path / "t", *flags, ratio=0.0) as kept:
            kept.rig.add("a", (await engine_factory(whole())).port)
            await exchange(kept.rig.port, asked(f"traceparent: {GIVEN}"))
        assert len(kept.traces()) == expected


@pytest.mark.parametrize("odd", [["nonsense"], [GIVEN, GIVEN]], ids=["odd", "twice"])
async def test_a_traceparent_that_cannot_be_read_begins_a_new_trace(engine_factory, tmp_path, odd):
    async with Kept(tmp_path / "t") as kept:
        engine = await engine_factory(whole())
        kept.rig.add("a", engine.port)
        ask = asked(*(f"traceparent: {each}" for each in odd), "tracestate: x=1")
        assert (await exchange(kept.rig.port, ask))[0] == 200
    (trace,) = kept.traces()
    assert trace["parent_id"] is None
    assert trace["trace_id"] != TRACE
    ((sent,),) = traceparents(engine)
    assert sent.split("-")[1] == trace["trace_id"]
    assert b"tracestate" not in engine.requests[0][0]


@pytest.mark.slow
async def test_an_exporter_that_does_not_read_costs_traces_and_no_requests(
    engine_factory, tmp_path, monkeypatch
):
    monkeypatch.setattr("memroute_router.tracing.tracer.MAX_WAITING_BYTES", 10_000)
    monkeypatch.setattr("memroute_router.tracing.tracer.LAST_SECONDS", 0.1)
    stuck = [sys.executable, "-c", "import time; time.sleep(60)"]
    async with Kept(tmp_path / "t", command=stuck) as kept:
        kept.rig.add("a", (await engine_factory(whole())).port, capacity=10**9)
        for _ in range(300):
            assert (await exchange(kept.rig.port, raw(body())))[0] == 200
            kept.tracer._flush()
        pipe = kept.tracer._process.stdin
        assert pipe.transport.get_write_buffer_size() < 12_000
    assert kept.counts["dropped"] > 0
    assert kept.counts["sent"] + kept.counts["dropped"] == 300


async def test_an_exporter_that_ends_is_started_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("memroute_router.tracing.tracer.RESTART_SECONDS", 0.01)
    tally = tmp_path / "tally"
    ends = [sys.executable, "-c", f"open({str(tally)!r}, 'a').write('x')"]
    async with Kept(tmp_path / "t", command=ends):
        await until(lambda: tally.exists() and len(tally.read_text()) >= 2)
    assert "the exporter of traces has ended status=0" in caplog.text


async def test_a_trace_that_breaks_costs_no_request_and_no_second_line(
    engine_factory, tmp_path, monkeypatch
):
    """The request is answered, and accounted for, before anything is made of its trace."""

    def broken(*_args, **_named):
        raise RuntimeError

    async with Kept(tmp_path / "t") as kept:
        kept.rig.add("a", (await engine_factory(whole())).port)
        monkeypatch.setattr(Trace, "row", broken)
        assert (await exchange(kept.rig.port, asked()))[0] == 200
        assert (await exchange(kept.rig.port, asked(data=b"no JSON")))[0] == 400
        kept.rig.router.journal.flush()
        lines = "".join(kept.rig.lines).splitlines()
        assert [line.partition(" outcome=")[2].split()[0] for line in lines] == [
            "served", "bad-request",
        ]  # fmt: skip


async def test_nothing_is_traced_by_default():
    """Free when off: no process, no header, no object."""
    router = Router(parse_settings([]), random.Random(1))
    assert router.tracer is None
    assert router.services.tracer is None


def test_a_router_that_should_trace_and_cannot_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TracingError, match=r"memroute\[tracing\]"):
        export_command("http://127.0.0.1:4318", "text")


# The official SDK, and a collector that decodes what it gets.


class Collector:
    """An OTLP receiver over HTTP; ``status`` is what it answers."""

    def __init__(self, status=200):
        collector = self
        self.spans, self.resources, self.paths = [], [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
                    ExportTraceServiceRequest,
                )

                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                collector.paths.append(self.path)
                for resource in request.resource_spans:
                    collector.resources.append(attributes(resource.resource))
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def attributes(has_attributes):
    found = {}
    for pair in has_attributes.attributes:
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind)
    return found


@pytest.fixture
def sdk(monkeypatch):
    """The official SDK; it has as long as a busy machine needs to start and to send."""
    monkeypatch.setattr("memroute_router.tracing.tracer.LAST_SECONDS", 60.0)
    return pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


@pytest.mark.slow
@pytest.mark.usefixtures("sdk")
async def test_a_collector_gets_spans_by_the_conventions(engine_factory, tmp_path):
    """What Jaeger, Tempo and the rest show is what these names say."""
    usage = (
        b'{"usage":{"prompt_tokens":11,"completion_tokens":5,'
        b'"prompt_tokens_details":{"cached_tokens":4}}}'
    )
    with Collector() as collector:
        command = export_command(collector.url, "text")
        async with Kept(tmp_path / "t", command=command) as kept:
            rig = kept.rig
            dead, good = await engine_factory(reset), await engine_factory(whole(usage))
            rig.add("dead", dead.port)
            rig.add("good", good.port)
            rig.prefer("dead")
            ask = asked(f"traceparent: {GIVEN}", "x-request-id: mine")
            assert (await exchange(rig.port, ask))[0] == 200
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "memroute-router"
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    root, *inside = sorted(collector.spans, key=lambda span: span.parent_span_id.hex() != SPAN)
    assert (root.name, root.kind) == ("POST /v1/chat/completions", 2)
    assert root.parent_span_id.hex() == SPAN
    told = attributes(root)
    assert told["http.response.status_code"] == 200
    assert told["memroute.outcome"] == "served"
    assert told["memroute.request_id"] == "mine"
    assert all(span.parent_span_id == root.span_id for span in inside)
    names = sorted(span.name for span in inside)
    assert names == ["chat m", "chat m", "choose replica", "choose replica"]
    engines = sorted(
        (span for span in inside if span.name == "chat m"), key=lambda s: s.start_time_unix_nano
    )
    failed, served = (attributes(span) for span in engines)
    assert failed["error.type"] == "connection-lost"
    assert engines[0].status.code == 2
    assert engines[0].kind == engines[1].kind == 3
    assert served["gen_ai.operation.name"] == "chat"
    assert served["gen_ai.request.model"] == "m"
    assert served["gen_ai.usage.input_tokens"] == 11
    assert served["gen_ai.usage.output_tokens"] == 5
    assert served["gen_ai.usage.cache_read.input_tokens"] == 4
    assert served["server.port"] == good.port
    assert served["gen_ai.response.time_to_first_chunk"] > 0
    sent = [each[0].split("-")[2] for each in traceparents(dead) + traceparents(good)]
    assert [span.span_id.hex() for span in engines] == sent
    for span in collector.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano


@pytest.mark.slow
@pytest.mark.usefixtures("sdk")
async def test_a_refusal_is_a_trace_with_its_reason(tmp_path):
    with Collector() as collector:
        command = export_command(collector.url, "text")
        async with Kept(tmp_path / "t", command=command) as kept:
            assert (await exchange(kept.rig.port, raw(body(model="x" * 500))))[0] == 404
            kept.rig.add("a", 1)
            kept.rig.replicas[0].backend.is_routable = False
            assert (await exchange(kept.rig.port, raw(body())))[0] == 503
    by_status = {attributes(span)["http.response.status_code"]: span for span in collector.spans}
    assert attributes(by_status[404])["error.type"] == "unknown-model"
    assert len(attributes(by_status[404])["gen_ai.request.model"]) == 128
    assert by_status[404].status.code == 0, "the client's mistake is no error of a server"
    assert attributes(by_status[503])["memroute.outcome"] == "no-ready-replica"
    assert by_status[503].status.code == 2
    assert "no replica of this model" in by_status[503].status.message


@pytest.mark.slow
@pytest.mark.usefixtures("sdk")
async def test_a_collector_that_is_down_costs_no_request(engine_factory, tmp_path, monkeypatch):
    """And the router ends in time: what cannot be sent by then is lost."""
    monkeypatch.setattr("memroute_router.tracing.tracer.LAST_SECONDS", 0.5)
    command = export_command("http://127.0.0.1:9", "text")
    async with Kept(tmp_path / "t", command=command) as kept:
        kept.rig.add("a", (await engine_factory(whole())).port)
        for _ in range(20):
            assert (await exchange(kept.rig.port, raw(body())))[0] == 200
    assert kept.counts == {"sent": 20, "dropped": 0}
