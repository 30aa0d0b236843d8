"""Engines that do not wake: how often they are told, what is said of it, and how it ends."""

import random
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from memroute_operator.adapters.caller import open_caller
from memroute_operator.plan import Delete
from memroute_operator.replicas.failed_pods import FailedPods
from memroute_operator.replicas.reading import read_replica
from memroute_operator.sleeping import calls
from memroute_operator.sleeping.giving_up import MAX_FAILED_WAKES, MAX_WAKING_SECONDS
from memroute_operator.sleeping.keeper import SleepKeeper
from memroute_operator.sleeping.mark import MarkedState
from memroute_operator.sleeping.sight import EngineSight
from sleep_steps import LONG, decided, pod
from sleeping_world import sleeper

WAKING = replace(LONG, sleep_seconds=75.0, resting_seconds=None)


class NoChance(random.Random):
    """Waits are as long as they are told."""

    def random(self):
        return 0.0


class Engine:
    """Sleeps, and fails to wake. Owns how often it was told."""

    def __init__(self):
        self.num_told = 0
        self.app = web.Application()
        self.app.router.add_get("/is_sleeping", self._is_sleeping)
        self.app.router.add_post("/wake_up", self._wake_up)

    async def _is_sleeping(self, _):
        return web.json_response({"is_sleeping": True})

    async def _wake_up(self, _):
        self.num_told += 1
        return web.json_response({"error": {"message": "no memory"}}, status=500)


def waking(at=None):
    made = pod(sleeper("m"), MarkedState.WAKING)
    made["status"]["podIP"] = "127.0.0.1"
    replica = read_replica(made)
    if at is not None:
        replica = replace(replica, sleep_mark=replace(replica.sleep_mark, since=at))
    return replica


async def test_a_wake_that_fails_is_tried_less_and_less_often_and_each_failure_is_told(monkeypatch):
    """Each try maps gigabytes, and clients wait for it in vain: 5 s at first, 60 s at most."""
    engine, now = Engine(), [100.0]
    async with TestServer(engine.app) as server, open_caller() as caller:
        monkeypatch.setattr(calls, "ENGINE_PORT", server.port)
        changes = []
        keeper = SleepKeeper(
            caller, clock=lambda: now[0], rng=NoChance(), on_bug=print,
            on_change=lambda: changes.append(now[0]),
        )  # fmt: skip
        replica = waking()
        keeper.want([replica], ())
        await keeper.round()
        for number, wait in enumerate((5, 10, 20, 40, 60, 60), start=1):
            sight = keeper.sights[replica.uid]
            assert (engine.num_told, sight.num_failed, len(changes)) == (number, number, number)
            assert sight.trouble == (
                "the engine does not wake (/wake_up) (HTTP 500): no memory; tried again in "
                f"{wait} s; failed {number} time(s), and after {MAX_FAILED_WAKES} it is replaced"
            )
            now[0] += wait - 0.5
            keeper.want([replica], ())
            await keeper.round()
            assert engine.num_told == number
            now[0] += 0.5
            await keeper.round()
        again = waking("2026-01-02T00:00:00.000Z")
        keeper.want([again], ())
        await keeper.round()
        assert keeper.sights[again.uid].num_failed == 1, "another wake is counted for itself"


async def test_a_bug_of_ours_is_no_failure_of_the_engine():
    class Broken:
        async def call(self, *_, **__):
            raise ZeroDivisionError

    bugs = []
    keeper = SleepKeeper(
        Broken(), clock=lambda: 100.0, on_change=print, on_bug=lambda *bug: bugs.append(bug)
    )
    replica = waking()
    keeper.want([replica], ())
    await keeper.round()
    assert (keeper.sights[replica.uid].num_failed, len(bugs)) == (0, 1)


def failed(num_failed, seen=WAKING, *, is_ready=True, of=None):
    """The step after so many wakes of ``m-0`` have failed."""
    of = of or sleeper("m")
    made = pod(of, MarkedState.WAKING)
    if not is_ready:
        made["status"]["conditions"][0]["status"] = "False"
    mark = read_replica(made).sleep_mark
    sight = EngineSight(mark=mark, num_failed=num_failed, why="out of memory", trouble="told")
    return decided([of], [made], seen=seen, sights={"pod-m-0": sight})


def test_one_that_does_not_wake_in_five_tries_is_replaced():
    """Nobody is served by it meanwhile: another one that starts awake is what is wanted."""
    (action,) = failed(MAX_FAILED_WAKES).actions
    assert isinstance(action, Delete)
    assert action.why == "its engine did not wake in 5 tries: out of memory"
    assert failed(MAX_FAILED_WAKES - 1).actions == []


@pytest.mark.parametrize(("num_failed", "is_given_up"), [(0, False), (1, True)])
def test_one_whose_wake_hangs_is_replaced_after_ten_minutes(num_failed, is_given_up):
    """A call that is not answered takes 240 s. One that has not failed may be slow, no more."""
    late = replace(WAKING, sleep_seconds=MAX_WAKING_SECONDS)
    assert bool(failed(num_failed, late).actions) is is_given_up


@pytest.mark.parametrize(
    "spared",
    [{"is_ready": False}, {"of": replace(sleeper("m"), paused=True)}],
)
def test_one_that_is_not_ready_or_paused_is_not_given_up(spared):
    """A hundred of them on nodes that are cut off are the business of lost nodes."""
    assert failed(MAX_FAILED_WAKES, **spared).actions == []


def test_what_an_engine_said_before_it_was_told_anew_gives_nobody_up():
    made = pod(sleeper("m"), MarkedState.WAKING)
    older = replace(read_replica(made).sleep_mark, since="2025-01-01T00:00:00.000Z")
    sight = EngineSight(mark=older, num_failed=MAX_FAILED_WAKES, why="out of memory")
    assert decided([sleeper("m")], [made], seen=WAKING, sights={"pod-m-0": sight}).actions == []


def test_its_successor_waits_longer_each_time_and_says_why():
    """Else an engine that never wakes would be started, and would sleep, around the clock."""
    (action,) = failed(MAX_FAILED_WAKES).actions
    pods = FailedPods(NoChance())
    first = pods.on_deleted(action, now_seconds=0.0)
    assert first.told == (
        "m-0 failed on node a: its engine did not wake in 5 tries: out of memory; "
        "tried again in 10 s"
    )
    assert pods.held_back(9.9) == {"default/m#0"}
    assert pods.held_back(10.0) == frozenset()
    assert pods.avoided_nodes(0.0) == {}, "its node has its weights"
    assert pods.on_deleted(action, now_seconds=600.0).retry_seconds == 20.0
