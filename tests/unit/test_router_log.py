"""The log: one line for each request, which says why, and which nobody can forge."""

import asyncio
import contextlib
import json
import logging
import random
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.admission import QueueRefusal
from memroute.traffic.dispatch.waiting_room import EndOfWait
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.refusal import CAUSES
from memroute_router.log.journal import NUM_REMEMBERED, AccessLog, Journal, Record
from memroute_router.log.log_lines import LogFormat, json_line, one_word
from memroute_router.log.program_log import JsonFormatter, TextFormatter
from router_rig import Rig, begin_stream, body, exchange, raw, read_answer, reset, send_chunk, whole

ENDS_OF_LINES = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
USAGE = (
    b'{"usage":{"prompt_tokens":11,"completion_tokens":5,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}'
)


def fields_of(line):
    """The key-values of a line of text; values in quotation marks whole."""
    pairs = re.findall(r'(\w+)=("[^"]*"|\S+)', line)
    return {name: value.strip('"') for name, value in pairs}


def lines_of(rig):
    rig.router.journal.flush()
    return "".join(rig.lines).split("\n")[:-1]


def ended(outcome=Outcome.SERVED, *, at=1.0, **facts):
    defaults = {
        "request_id": b"r", "path": b"/v1/chat/completions", "model": "m", "status": 200,
        "replica": "a", "refusal": "", "choice": None, "attempts": 1, "expected_tokens": 1,
        "prompt_tokens": None, "cached_tokens": None, "output_tokens": None,
        "queue_seconds": None, "first_byte_seconds": None, "seconds": 1.0,
    }  # fmt: skip
    return Record(outcome=outcome, ended_at=at, **(defaults | facts))


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    yield it
    await it.stop()


# What a line has.


async def test_a_line_has_what_was_predicted_and_what_happened(engine_factory):
    rig = Rig("--tenants", "header")
    await rig.start()
    rig.add("a", (await engine_factory(whole(USAGE))).port)
    data = body()
    await exchange(
        rig.port,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-tenant: alice\r\n"
        b"x-request-id: mine\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data),
    )
    (line,) = lines_of(rig)
    told = fields_of(line)
    happened = {
        "id": "mine", "outcome": "served", "status": "200", "tenant": "alice",
        "client": "127.0.0.1", "replica": "default/a", "prompt_tokens": "11",
        "cached_tokens": "4", "output_tokens": "5", "cause": "-",
    }  # fmt: skip
    assert happened.items() <= told.items()
    for name in ("expected_prompt_tokens", "expected_tokens", "expected_cached_tokens"):
        assert told[name].isdigit()
    for name in ("expected_first_byte_seconds", "first_byte_seconds", "seconds"):
        assert float(told[name]) >= 0
    assert told["why"].startswith("memroute: best of 1 backend(s)")
    await rig.stop()


async def test_json_lines_have_what_text_lines_have(engine_factory):
    rig = Rig("--log-format", "json", "--max-queue-seconds", "0")
    await rig.start()
    rig.add("a", (await engine_factory(whole(USAGE))).port)
    await exchange(rig.port, raw(body()))
    await exchange(rig.port, raw(body(model="nobody's\u2028\n")))
    served, unknown = (json.loads(line) for line in lines_of(rig))
    assert served["event"] == "request"
    assert (served["prompt_tokens"], served["output_tokens"], served["cached_tokens"]) == (11, 5, 4)
    assert served["status"] == 200
    assert unknown["outcome"] == "unknown-model"
    assert unknown["model"] == "nobody's\u2028\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", served["time"])
    await rig.stop()


# Nobody forges one.


@pytest.mark.parametrize("log_format", list(LogFormat))
async def test_no_word_of_a_client_begins_a_line(engine_factory, log_format):
    """Models, tenants, paths and ids; whoever reads the log line by line may trust each line."""
    rig = Rig("--tenants", "header", "--log-format", log_format.value)
    await rig.start()
    rig.add("a", (await engine_factory(whole())).port)
    forged = "x{}2026-01-01 00:00:00,000 INFO request id=1 outcome=served\x1b[2J\x00"
    for end in ENDS_OF_LINES:
        word = forged.format(end)
        assert (await exchange(rig.port, raw(body(model=word))))[0] == 404
        escaped = word.encode("ascii", "backslashreplace").translate(None, b"\r\n\x00\x0b\x0c\x1c")
        data = body()
        head = b"x-request-id: %b\r\nx-memroute-tenant: %b\r\ncontent-length: %d\r\n\r\n" % (
            word.encode().translate(None, b"\r\n\x00\x0b\x0c\x1c\x1b"),
            escaped.replace(b"\x1b", b""),
            len(data),
        )  # fmt: skip
        start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        assert (await exchange(rig.port, start + head + data))[0] == 200
        path = b"/%b" % escaped.replace(b" ", b"%20").replace(b"\x1b", b"%1b")
        assert (await exchange(rig.port, b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path))[0] == 404
    rig.router.journal.flush()
    text = "".join(rig.lines)
    lines = text.splitlines()  # at every character that ends a line somewhere
    assert len(lines) == 3 * len(ENDS_OF_LINES)
    for line in lines:
        assert line.isprintable()
        if log_format is LogFormat.JSON:
            assert json.loads(line)["event"] == "request"
        else:
            assert re.match(r"\d{4}-\d\d-\d\d [\d:]{8},\d{3} INFO request id=", line)
            assert line.count(" outcome=") - line.count('" outcome=') >= 0
    await rig.stop()


@given(st.text(max_size=50))
def test_a_word_is_one_word_on_one_line_whatever_it_holds(text):
    word = one_word(text)
    assert len(word.splitlines()) == 1
    assert word.isprintable()
    if word.startswith('"') and text != word:
        assert word.endswith('"')
        assert '"' not in word[1:-1]
    else:
        assert " " not in word
    line = json_line({"model": text})
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"model": text}


def test_a_surrogate_does_not_lose_the_line():
    assert json.loads(json_line({"model": "\ud800", "n": 1})) == {"model": "\\ud800", "n": 1}


def test_the_programs_own_lines_cannot_be_forged_either():
    """They quote what engines and files say; a traceback quotes whatever was raised."""
    forged = "x\n2026-01-01 00:00:00,000 INFO request id=1\u2028\x1b[2J"
    error = ValueError(forged)
    record = logging.LogRecord(
        "memroute_router.x", logging.WARNING, "f", 1, "error=%s", (forged,),
        (ValueError, error, None),
    )  # fmt: skip
    text = TextFormatter().format(record)
    lines = text.splitlines()
    assert "WARNING memroute_router.x error=x\\n2026" in lines[0]
    assert all(line.startswith("  ") and line.isprintable() for line in lines[1:])
    assert lines[1].startswith("  ValueError: x")
    (line,) = JsonFormatter().format(record).splitlines()
    told = json.loads(line)
    assert (told["level"], told["message"]) == ("warning", f"error={forged}")
    assert told["traceback"] == f"ValueError: {forged}"


# The rings.


def test_a_flood_of_one_kind_does_not_push_out_the_last_of_another():
    """After ten thousand served requests, and as many mistakes, the last failure is still there."""
    journal = Journal(AccessLog.OFF)
    kinds = (
        Outcome.REPLICAS_FAILED, Outcome.SATURATED, Outcome.UNKNOWN_MODEL, Outcome.SERVED,
    )  # fmt: skip
    for at, outcome in enumerate(kinds):
        journal.add(ended(outcome, at=float(at)))
    for at in range(10, 10_000):
        journal.add(ended(Outcome.SERVED, at=float(at)))
        journal.add(ended(Outcome.BAD_REQUEST, at=float(at)))
    found = journal.recent
    kept = {record.outcome for record in found}
    assert kept == {*kinds, Outcome.BAD_REQUEST} - {Outcome.UNKNOWN_MODEL}
    assert [record.ended_at for record in found] == sorted(record.ended_at for record in found)
    assert len(found) == 2 * NUM_REMEMBERED + 2


def test_every_outcome_has_a_ring():
    journal = Journal(AccessLog.OFF)
    for outcome in Outcome:
        journal.add(ended(outcome))
    assert {record.outcome for record in journal.recent} == set(Outcome)


@pytest.mark.slow
async def test_the_rings_are_bounded_in_bytes_whatever_clients_send():
    """60 requests of 2 MB for models that nobody serves took 250 MiB."""
    rig = Rig("--access-log", "off", "--tenants", "header", body_bytes=10_000_000)
    await rig.start()
    data = body(model="\U0001f600" * 100_000)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: %b\r\n"
        b"x-memroute-tenant: %b\r\ncontent-length: %d\r\n\r\n%b"
    ) % (b"r" * 4000, b"t" * 4000, len(data), data)
    await exchange(rig.port, request)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    for _ in range(100):
        writer.write(request)
        assert (await read_answer(reader))[0] == 404
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    writer.close()
    assert len(rig.router.journal.recent) == 101
    assert (after - before) / 100 < 5_000, "5 KB each: 5 MB for all rings together"
    for question in (b"/debug/decisions", b"/debug/queue"):
        asked = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % question
        _, _, content = await exchange(rig.ops_port, asked)
        assert len(content) < 5_000 * 110
    await rig.stop()


# Bar 7: every 4xx and 5xx is explained by the log alone.


def test_every_reason_why_a_request_may_not_wait_has_a_word():
    assert set(CAUSES) == {each.value for each in (*QueueRefusal, *EndOfWait)}
    assert len(set(CAUSES.values())) == len(CAUSES)


async def stalls_then_resets(_engine, writer):
    begin_stream(writer)
    send_chunk(writer)
    await writer.drain()
    return await reset(_engine, writer)


async def talks_nonsense(_engine, writer):
    writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    await writer.drain()
    return False


async def ends_with_an_error(_engine, writer):
    begin_stream(writer)
    send_chunk(writer, b'data: {"error":{"message":"EngineCore died","code":500}}\n\n')
    writer.write(b"0\r\n\r\n")


ENGINES = (
    whole(), whole(USAGE), reset, stalls_then_resets, talks_nonsense, ends_with_an_error,
    whole(b'{"error":"no"}', b"400 Bad Request"), whole(b"{}", b"422 Unprocessable Entity"),
    whole(b"{}", b"404 Not Found"), whole(b"{}", b"500 Internal Server Error"),
    whole(b"{}", b"503 Service Unavailable"), whole(b"{}", b"429 Too Many Requests"),
    whole(b"{}", b"502 Bad Gateway"), whole(b"{}", b"504 Gateway Timeout"),
)  # fmt: skip


def questions(rng):
    """What clients ask, with an id where the router reads one."""
    kinds = (
        lambda: raw(body(stream=rng.random() < 0.5, max_tokens=rng.choice((1, 8, 900)))),
        lambda: raw(body(max_tokens=10**6)),
        lambda: raw(body(model=rng.choice(("x", "", "a\nb", "m" * 300, 7)))),
        lambda: raw(body(n=10**9)),
        lambda: raw(rng.choice((b"", b"{", b"[]", b"null", b'{"model":"m"}', b"\xff"))),
        lambda: raw(body(), path=rng.choice((b"/v1/nothing", b"/metrics", b"/v1/completions"))),
        lambda: raw(b"x" * 20_000),
        lambda: b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n",
        lambda: b"OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n",
        lambda: b"GET /v1/models/none HTTP/1.1\r\nhost: x\r\n\r\n",
        lambda: b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"y" * 9000),
        lambda: b"GET / HTTP/1.1\r\nhost: x\r\n%b\r\n" % (b"a: b\r\n" * 150),
        lambda: b"GET / HTTP/3.0\r\nhost: x\r\n\r\n",
        lambda: b"POST / HTTP/1.1\r\nhost: x\r\nexpect: more\r\ncontent-length: 1\r\n\r\nx",
        lambda: b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        lambda: b"NONSENSE\r\n\r\n",
        lambda: b"GET / HTTP/1.1\r\n\r\n",
        lambda: raw(body()).replace(b"host: x", b"host: x\r\ncontent-encoding: gzip"),
    )
    while True:
        yield rng.choice(kinds)()


async def ask(port, data, *, leaves):
    """The status of an answer and its id; None where there was no answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if leaves:
            return None
        async with asyncio.timeout(10):
            status, headers, content = await read_answer(reader)
            return status, headers.get("x-request-id"), content
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_every_refusal_and_failure_of_a_chaos_run_is_explained_by_the_log(
    engine_factory, repository, seed
):
    """Bar 7. The client has a status, the log a line with it that leads to a row of the runbook.

    It does so by its outcome, and by its cause where it has one.
    """
    rng = random.Random(seed)
    rig = Rig("--max-queued-requests", "3", "--max-queue-seconds", "0.1", "--max-attempts", "2")
    await rig.start()
    page = (repository / "docs" / "how-to" / "when-it-refuses.md").read_text()
    ask_for = questions(rng)
    answers = []
    for _ in range(12):
        for replica in list(rig.replicas):
            rig.pools.remove_replica(replica.info.key)
        for name in "abc"[: rng.randrange(4)]:
            engine = await engine_factory(rng.choice(ENGINES))
            rig.add(name, engine.port, capacity=rng.choice((50, 1000)))
        rig.trust_all()
        batch = [
            ask(rig.port, next(ask_for), leaves=rng.random() < 0.05)
            for _ in range(rng.randrange(30))
        ]
        answers += [answer for answer in await asyncio.gather(*batch) if answer]
    await rig.stop()
    told = [fields_of(line) for line in "".join(rig.lines).split("\n")[:-1]]
    by_id = {line["id"]: line for line in told if line["id"] != "-"}
    without_id = [line["status"] for line in told if line["id"] == "-"]
    seen = set()
    for status, request_id, content in answers:
        if request_id is not None:
            line = by_id[request_id]
            assert line["status"] == str(status)
            if b'"error"' in content and status == 200:
                assert line["outcome"] in {"stream-broken", "engine-error"}
                assert line["refusal"]
        elif status >= 400:
            without_id.remove(str(status))  # ValueError: nobody wrote a line
    for line in told:
        if int(line["status"]) >= 400:
            assert line["refusal"], line
            seen.add((line["status"], line["outcome"], line["cause"]))
            assert f"`{line['outcome']}`" in page or line["outcome"] == "served", line
            assert line["cause"] == "-" or f"`{line['cause']}`" in page, line
            needs_a_cause = {"saturated", "bad-request", "replicas-failed", "engine-push-back"}
            assert line["cause"] != "-" or line["outcome"] not in needs_a_cause, line
    assert len(seen) > 12, "the run is varied enough to mean something"


async def test_a_request_that_is_not_read_whole_has_a_line_too():
    """408 and 503 come before there is a request; they are what a client reports first."""
    rig = Rig("--header-timeout-seconds", "0.1", "--max-connections", "1")
    await rig.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(b"GET /a-path HTTP/1.1\r\nhost:")
    assert (await exchange(rig.port, b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 503
    assert (await read_answer(reader))[0] == 408
    writer.close()
    first, second = (fields_of(line) for line in lines_of(rig))
    assert (first["status"], first["outcome"], first["cause"]) == (
        "503", "router-exhausted", "connections",
    )  # fmt: skip
    assert (second["status"], second["outcome"], second["cause"]) == (
        "408", "bad-request", "slow-request",
    )  # fmt: skip
    assert second["path"] == "/a-path"
    assert second["client"] == "127.0.0.1"
    await rig.stop()


async def test_an_exception_of_ours_names_the_request_that_it_ended(rig, caplog):
    def broken(*_):
        msg = "a bug"
        raise RuntimeError(msg)

    rig.router.own._routes[b"/v1/models"] = broken
    status, _, _ = await exchange(rig.port, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
    assert status == 500
    (line,) = lines_of(rig)
    told = fields_of(line)
    assert (told["status"], told["outcome"], told["path"]) == (
        "500", "internal-error", "/v1/models",
    )  # fmt: skip
    assert "a bug" in caplog.text
