"""Engines are told by real calls: the simulated vLLM behind a socket, and the operator's keeper."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine_rig import engine
from memroute_operator.adapters.caller import open_caller
from memroute_operator.replicas.reading import read_replica
from memroute_operator.sleeping import calls
from memroute_operator.sleeping.keeper import (
    REFUSED_SECONDS,
    SETTLED_SECONDS,
    SleepKeeper,
    told_to_routers,
)
from memroute_operator.sleeping.mark import ANNOTATION_SLEEP, MarkedState, mark_now
from planned_objects import NOW, pod_of
from sleeping_world import sleeper

SLEEPY = "--enable-sleep-mode"


@pytest.fixture(autouse=True)
def development(monkeypatch):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")


def marked(state, *, restarts=0, level="WeightsOnHost"):
    of = sleeper("m")
    of.obj["spec"]["sleep"]["level"] = level
    pod = pod_of(of)
    pod["status"]["podIP"] = "127.0.0.1"
    if state is not None:
        pod["metadata"]["annotations"][ANNOTATION_SLEEP] = mark_now(state, NOW, restarts).text()
    return read_replica(pod)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def kept(tmp_path, monkeypatch, *flags):
    """A keeper, its clock, and an engine that it finds."""
    clock, bugs = Clock(), []
    async with engine(tmp_path, *flags) as (client, _), open_caller() as caller:
        monkeypatch.setattr(calls, "ENGINE_PORT", client.port)
        keeper = SleepKeeper(
            caller, clock=clock, on_change=lambda: None, on_bug=lambda *bug: bugs.append(bug)
        )
        yield keeper, clock, client
    assert bugs == []


async def asks(client):
    async with client.get("/is_sleeping") as response:
        return (await response.json())["is_sleeping"]


@pytest.mark.parametrize("level", ["WeightsOnHost", "NothingKept"])
async def test_an_engine_falls_asleep_once_it_is_quiet_and_wakes_when_that_is_written(
    tmp_path, monkeypatch, level
):
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, _, client):
        falling = marked(MarkedState.FALLING_ASLEEP, level=level)
        keeper.want([falling], ())
        await keeper.round()
        assert keeper.sights[falling.uid].is_sleeping is False
        assert not await asks(client), "a router may still have a request at it"
        keeper.want([falling], {falling.uid})
        await keeper.round()
        assert keeper.sights[falling.uid].is_sleeping
        assert await asks(client)

        waking = marked(MarkedState.WAKING, level=level)
        keeper.want([waking], ())
        assert keeper.sights == {falling.uid: keeper.sights[falling.uid]}
        await keeper.round()
        sight = keeper.sights[waking.uid]
        assert (sight.mark, sight.is_sleeping) == (waking.sleep_mark, False)
        assert waking.uid in keeper.wake_seconds
        assert not await asks(client)


async def test_who_takes_over_finds_what_was_done_already(tmp_path, monkeypatch):
    """The operator before it died after the call, and before it could write that it sleeps."""
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, _, client):
        await client.post("/sleep?level=1&mode=wait")
        falling = marked(MarkedState.FALLING_ASLEEP)
        keeper.want([falling], ())
        await keeper.round()
        assert keeper.sights[falling.uid].is_sleeping is None, "whether it is done is not known"
        keeper.want([falling], {falling.uid})
        await keeper.round()
        assert keeper.sights[falling.uid].is_sleeping


async def test_an_engine_that_takes_nothing_new_and_has_its_memory_is_not_asleep_yet(monkeypatch):
    """VLLM says that it sleeps from the call on, and frees its memory after the last answer."""
    done, told, app = asyncio.Event(), [], web.Application()

    async def sleep(request):
        told.append(request.query["mode"])
        await done.wait()
        return web.Response()

    app.router.add_get("/is_sleeping", answers({"is_sleeping": True}))
    app.router.add_post("/sleep", sleep)
    async with TestServer(app) as server, open_caller() as caller:
        monkeypatch.setattr(calls, "ENGINE_PORT", server.port)
        keeper = SleepKeeper(caller, clock=Clock(), on_change=lambda: None, on_bug=print)
        falling = marked(MarkedState.FALLING_ASLEEP)
        keeper.want([falling], {falling.uid})
        looking = asyncio.create_task(keeper.round())
        while not told:
            await asyncio.sleep(0)
        assert keeper.sights[falling.uid].is_sleeping is None
        assert keeper.sights[falling.uid].is_told
        done.set()
        await looking
        assert keeper.sights[falling.uid].is_sleeping


def test_for_how_long_routers_have_been_told_is_counted_from_the_first_step_that_saw_it():
    clock = Clock()
    keeper = SleepKeeper(None, clock=clock, on_change=print, on_bug=print)
    falling = marked(MarkedState.FALLING_ASLEEP)
    keeper.want([falling], (), ())
    assert keeper.told_seconds() == {}
    of = sleeper("m")
    of.obj["status"] = {
        "observedGeneration": 1,
        "routing": {
            "observedGeneration": 1,
            "replicas": [
                {"servedName": "m", "sleep": "FallingAsleep", "pods": {"m-0": falling.uid}},
                {"servedName": "m", "pods": {"m-1": "awake"}},
            ],
        },
    }
    told = told_to_routers([of, sleeper("n")])
    assert told == {falling.uid}
    keeper.want([falling], (), told)
    clock.now += 3.0
    keeper.want([falling], (), told)
    assert keeper.told_seconds() == {falling.uid: 3.0}
    keeper.want([falling], (), ())
    assert keeper.told_seconds() == {}


async def test_one_that_is_awake_already_is_not_told_to_wake(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, _, _client):
        waking = marked(MarkedState.WAKING)
        keeper.want([waking], ())
        await keeper.round()
        assert keeper.sights[waking.uid].is_sleeping is False
        assert keeper.wake_seconds == {}


async def test_an_engine_that_does_not_fall_asleep_is_left_alone_for_a_while_with_the_reason(
    monkeypatch,
):
    clock, app = Clock(), web.Application()
    app.router.add_get("/is_sleeping", answers({"is_sleeping": False}))
    app.router.add_post("/sleep", answers({"error": {"message": "out of memory"}}, status=500))
    async with TestServer(app) as server, open_caller() as caller:
        monkeypatch.setattr(calls, "ENGINE_PORT", server.port)
        keeper = SleepKeeper(caller, clock=clock, on_change=lambda: None, on_bug=print)
        falling = marked(MarkedState.FALLING_ASLEEP)
        keeper.want([falling], {falling.uid})
        await keeper.round()
        sight = keeper.sights[falling.uid]
        assert sight.refuses
        assert sight.trouble == "the engine does not fall asleep (HTTP 500): out of memory"
        assert keeper.refusals() == {falling.uid: sight.trouble}
        clock.now += REFUSED_SECONDS
        assert keeper.refusals() == {}


def answers(body, status=200):
    async def handler(_):
        return web.json_response(body, status=status)

    return handler


async def test_an_engine_without_the_calls_is_told_with_what_may_take_them_away(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("VLLM_SERVER_DEV_MODE")
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, _, _client):
        falling = marked(MarkedState.FALLING_ASLEEP)
        keeper.want([falling], {falling.uid})
        await keeper.round()
        trouble = keeper.sights[falling.uid].trouble
        assert "has no such call" in trouble
        assert "VLLM_SERVER_DEV_MODE" in trouble


async def test_one_that_somebody_woke_by_hand_is_seen(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, clock, client):
        await client.post("/sleep?level=1&mode=wait")
        asleep = marked(MarkedState.ASLEEP)
        keeper.want([asleep], ())
        await keeper.round()
        assert keeper.sights[asleep.uid].is_sleeping
        await client.post("/wake_up")
        await keeper.round()
        assert keeper.sights[asleep.uid].is_sleeping, "it is not asked all the time"
        clock.now += SETTLED_SECONDS
        await keeper.round()
        assert keeper.sights[asleep.uid].is_sleeping is False


@pytest.mark.slow
async def test_an_engine_that_does_not_answer_is_a_trouble_and_no_exception(monkeypatch, tmp_path):
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, _, client):
        await client.close()
        waking = marked(MarkedState.WAKING)
        keeper.want([waking], ())
        await keeper.round()
        assert keeper.sights[waking.uid].is_sleeping is None
        assert keeper.sights[waking.uid].trouble


async def test_those_that_never_slept_that_end_or_were_started_anew_are_not_asked(
    monkeypatch, tmp_path
):
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, _, _client):
        anew = marked(MarkedState.ASLEEP, restarts=7)
        down = replace(marked(MarkedState.WAKING), is_down=True)
        keeper.want([marked(None), anew, down], ())
        await keeper.round()
        assert keeper.sights == {}


async def test_one_that_is_marked_awake_is_asked_now_and_then(monkeypatch, tmp_path):
    """What it was told long ago may have come true since. That it does not answer is no trouble."""
    async with kept(tmp_path, monkeypatch, SLEEPY) as (keeper, clock, client):
        awake = marked(MarkedState.AWAKE)
        keeper.want([awake], ())
        await keeper.round()
        assert keeper.sights[awake.uid].is_sleeping is False
        await client.post("/sleep?level=1&mode=wait")
        clock.now += SETTLED_SECONDS
        await keeper.round()
        assert keeper.sights[awake.uid].is_sleeping
        await client.close()
        clock.now += SETTLED_SECONDS
        await keeper.round()
        sight = keeper.sights[awake.uid]
        assert (sight.is_sleeping, sight.trouble) == (None, None)
