import asyncio
import contextlib
import json
import time
from itertools import pairwise

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.load.__main__ import main, summary
from bench.load.answer import Answer
from bench.load.generator import LoadRun, LoadSettings, generate
from memroute_simulator.workloads import workload_by_name
from memroute_simulator.workloads.request import Session, Workload, WorkloadRequest


@contextlib.asynccontextmanager
async def server(handler):
    """The URL of a server that answers completions with ``handler``."""
    application = web.Application(client_max_size=2**24)
    application.router.add_post("/v1/completions", handler)
    application.router.add_post("/v1/chat/completions", handler)
    running = TestServer(application)
    await running.start_server()
    try:
        yield str(running.make_url("/"))
    finally:
        await running.close()


async def stream(request, tokens=None, gap_seconds=0.0, *, is_whole=True):
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(tokens or body["max_tokens"]):
        await response.write(b'data: {"choices":[{"text":"x"}]}\n\n')
        if gap_seconds:
            await asyncio.sleep(gap_seconds)
    if is_whole:
        await response.write(b"data: [DONE]\n\n")
    return response


def sharegpt(count=40, rate=200.0):
    return workload_by_name("sharegpt", num_requests=count, rate_per_second=rate, seed=1)


def settings(url, **facts):
    return LoadSettings(url=url, model="m", **{"lead_seconds": 0.1} | facts)


def figures(run):
    return summary(run, ttft=1.0, tpot=0.05)


async def test_every_token_is_counted_and_timed():
    async with server(stream) as url:
        run = await generate(sharegpt(), settings(url))
    assert all(answer.is_whole for answer in run.answers)
    assert [a.num_events for a in run.answers] == [a.num_output_tokens for a in run.answers]
    assert all(len(a.chunk_seconds) == a.num_events for a in run.answers)
    document = figures(run)
    assert document["num_whole"] == 40
    assert document["send_lag_seconds"]["p99"] is not None


@pytest.mark.slow
async def test_latency_counts_from_the_intended_send_even_if_nothing_is_answered():
    """The loop is blocked for 0.3 s in the middle of the schedule: that is in the TTFT."""
    async with server(stream) as url:
        asked = settings(url, lead_seconds=0.3)
        running = asyncio.create_task(generate(sharegpt(20, 100), asked))
        await asyncio.sleep(0.35)
        time.sleep(0.3)  # noqa: ASYNC251 - the fault that is tested
        run = await running
    document = figures(run)
    assert document["ttft_seconds"]["max"] > 0.25 > document["ttft_from_send_seconds"]["p50"]
    assert document["send_lag_seconds"]["p99"] > 0.2


async def test_broken_answers_are_told_apart():
    """Refused with a time to come back, cut in the middle, reset, ended without its end."""

    async def handler(request):
        number = handler.count = getattr(handler, "count", 0) + 1
        if number % 4 == 0:
            return web.json_response({"error": {}}, status=503, headers={"Retry-After": "7"})
        if number % 4 == 1:
            return await stream(request, 3, is_whole=False)
        if number % 4 == 2:
            request.transport.abort()
            return web.Response()
        return await stream(request)

    async with server(handler) as url:
        run = await generate(sharegpt(20, 200), settings(url))
    document = figures(run)
    assert document["num_whole"] == 5
    assert document["statuses"]["503"] == 5
    assert document["errors"] == {"the stream ended early": 5, "connection lost": 5}
    assert [a.retry_after for a in run.answers].count("7") == 5
    assert document["attainment_ratio"] <= 5 / 20, "what failed was not in time"


async def test_an_event_cut_between_two_packets_is_counted_once():
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in (b"dat", b"a: 1\n\nda", b"ta: 2\n\ndata", b": [DO", b"NE]\n\n"):
            await response.write(piece)
            await asyncio.sleep(0.01)
        return response

    async with server(handler) as url:
        run = await generate(sharegpt(3, 50), settings(url))
    assert [(a.num_events, a.is_whole) for a in run.answers] == [(2, True)] * 3


async def test_a_session_waits_for_its_answer():
    """Two tokens of 0.04 s, and 0.04 s of thinking: the next turn comes 0.12 s later."""
    seen = []

    async def handler(request):
        seen.append(asyncio.get_running_loop().time())
        return await stream(request, 2, 0.04)

    turns = tuple(WorkloadRequest(prompt=((n, 4),), num_output_tokens=2, output_id=9)
                  for n in range(3))  # fmt: skip
    session = Session(start_seconds=0.0, requests=turns, think_seconds=(0.04, 0.04))
    async with server(handler) as url:
        run = await generate(Workload(name="w", sessions=(session,)), settings(url))
    assert len(run.answers) == 3
    assert all(later - earlier > 0.115 for earlier, later in pairwise(seen))


async def test_equal_segments_are_equal_texts_and_chats_are_chats():
    bodies = []

    async def handler(request):
        bodies.append(await request.json())
        return await stream(request)

    shared = tuple(
        Session(start_seconds=0.01 * n, requests=(
            WorkloadRequest(prompt=((1, 10), (2 + n, 5)), num_output_tokens=1, output_id=0),))
        for n in range(2)
    )  # fmt: skip
    async with server(handler) as url:
        await generate(Workload(name="w", sessions=shared), settings(url, is_chat=True))
    first, second = (body["messages"][0]["content"] for body in bodies)
    assert first[:40] == second[:40]
    assert first[40:] != second[40:]
    assert len(first) == 60


async def test_nothing_listening_is_said():
    run = await generate(sharegpt(3), settings("http://127.0.0.1:9"))
    assert all("cannot connect" in answer.error for answer in run.answers)


def late(seconds):
    answers = []
    for number in range(10):
        answer = Answer(number=number, intended_seconds=1.0, num_prompt_tokens=1,
                        num_output_tokens=1)  # fmt: skip
        answer.sent_seconds, answer.status, answer.has_end = 1.0 + seconds, 200, True
        answer.on_events(1.5, 1)
        answer.finish(1.6)
        answers.append(answer)
    return LoadRun(answers=answers, cpu_seconds=1, wall_seconds=1)


@pytest.mark.parametrize(("seconds", "status"), [(0.001, 0), (0.02, 1)])
def test_a_generator_that_could_not_keep_up_reports_nothing(monkeypatch, capsys, seconds, status):
    async def fake(*_):
        return late(seconds)

    monkeypatch.setattr("bench.load.__main__.generate", fake)
    arguments = ["--model", "m", "--requests", "5", "--output", "json"]
    assert main(arguments) == status
    captured = capsys.readouterr()
    if status:
        assert "could not keep up" in captured.err
        assert not captured.out
    else:
        assert json.loads(captured.out)["num_whole"] == 10


def test_an_unknown_workload_is_refused_in_words(capsys):
    assert main(["--model", "m", "--workload", "nope"]) == 2
    assert "no workload 'nope'" in capsys.readouterr().err


async def test_a_share_of_the_answers_is_whole_and_is_judged_by_its_end():
    """A target of 1 s and 50 ms: ten tokens, whole, are in time until 1.45 s."""

    async def either(request):
        if (await request.json())["stream"]:
            return await stream(request)
        return web.json_response({"choices": [{"text": "x"}]})

    async with server(either) as url:
        run = await generate(sharegpt(), settings(url, whole_ratio=0.5))
    whole = [answer for answer in run.answers if not answer.is_stream]
    assert 10 <= len(whole) <= 30
    assert all(answer.is_whole for answer in run.answers)
    for seconds, attained in ((1.44, 1.0), (1.46, 0.0)):
        answer = Answer(number=0, intended_seconds=0.0, num_prompt_tokens=1, num_output_tokens=10,
                        is_stream=False, status=200)  # fmt: skip
        answer.finish(seconds)
        assert figures(LoadRun(answers=[answer]))["attainment_ratio"] == attained
