"""One deployment that cannot be planned is left out; the loops outlive whatever is thrown."""

import asyncio

import pytest

from cluster_stub import HANG
from memroute_operator.actions.backoff import FORGET_SECONDS, JITTER_RATIO, Backoff
from memroute_operator.actions.lanes import MAX_PER_NAMESPACE, Lanes
from memroute_operator.plan import Step, plan_step
from memroute_operator.reconciler import IDLE_SECONDS
from memroute_operator.status import statuses
from operator_rig import mdep, node, operator_rig, reading

NODES = [node(name, gpus=4) for name in ("a", "b")]


def refusing(*broken, together=False):
    """A planner that raises when one of these deployments (or all of them) is in the facts."""

    def plan(facts, context):
        there = {d.key for d in facts.deployments} & set(broken)
        if there and (not together or there == set(broken)):
            message = f"cannot plan {sorted(there)}"
            raise ZeroDivisionError(message)
        return plan_step(facts, context)

    return plan


@pytest.mark.slow
async def test_a_deployment_whose_planning_raises_hurts_nobody_else():
    mdeps = [mdep("m", f"team-{i}") for i in range(7)]
    async with operator_rig(nodes=NODES, mdeps=mdeps) as rig:
        planner = rig.reconciler._planner
        planner.planner = refusing("team-3/m", "team-5/m")
        others = [f"team-{i}/m" for i in range(7) if i not in (3, 5)]
        assert await rig.until("the others' pods", lambda: len(rig.cluster.pods()) == 5) <= 2
        await rig.until("the others", lambda: all(map(rig.is_ready, others)))
        told = rig.condition("team-3/m", "Placed")
        assert (told["status"], told["reason"]) == ("Unknown", "InternalError")
        assert "cannot plan" in told["message"]
        assert "tried again in" in told["message"]
        planner.planner = plan_step
        await rig.until("all", lambda: all(rig.is_ready(f"team-{i}/m") for i in range(7)),
                        at_most=120)  # fmt: skip


@pytest.mark.slow
async def test_what_a_deployment_holds_that_cannot_be_planned_stays_counted():
    big = {"model": "Qwen/Qwen3-8B", "concurrency": 20}
    async with operator_rig(nodes=[node()], mdeps=[mdep("held", **big)]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/held"))
        rig.reconciler._planner.planner = refusing("default/held")
        rig.cluster.put("modeldeployments", mdep("other", **big))
        await rig.steps(10)
        assert rig.condition("default/other", "Placed")["reason"] == "InsufficientHBM"
        assert rig.cluster.count("DELETE", "pods") == 0


@pytest.mark.slow
async def test_an_edit_is_tried_at_once():
    async with operator_rig(nodes=NODES, mdeps=[mdep("m")]) as rig:
        rig.reconciler._planner.planner = refusing("default/m")
        await rig.steps(30)
        rig.reconciler._planner.planner = plan_step
        rig.cluster.change(
            "modeldeployments", "default/m", lambda o: o["metadata"].update(generation=2)
        )
        assert await rig.until("it serves", lambda: rig.is_ready("default/m")) <= 5


async def test_what_raises_only_together_changes_nothing_and_is_told():
    """No single one is at fault: no action is taken, and the loop goes on."""
    async with operator_rig(nodes=NODES, mdeps=[mdep("a"), mdep("b")]) as rig:
        bugs = []
        rig.reconciler._planner.on_bug = lambda where, error: bugs.append((where, error))
        rig.reconciler._planner.planner = refusing("default/a", "default/b", together=True)
        await rig.steps(3)
        assert rig.cluster.pods() == []
        assert {where for where, _ in bugs} == {"plan"}
        rig.reconciler._planner.planner = lambda *_: Step()
        await rig.steps(1)


async def test_a_status_that_cannot_be_made_is_one_deployments(monkeypatch):
    make = statuses.deployment_status

    def fail(deployment, *args, **fields):
        if deployment.name == "a":
            raise KeyError(deployment.name)
        return make(deployment, *args, **fields)

    monkeypatch.setattr(statuses, "deployment_status", fail)
    async with operator_rig(nodes=NODES, mdeps=[mdep("a"), mdep("b")]) as rig:
        await rig.until("b", lambda: rig.is_ready("default/b"))
        told = rig.condition("default/a")
        assert (told["status"], told["reason"]) == ("Unknown", "InternalError")
        assert len(rig.cluster.pods()) == 2


async def test_the_loops_outlive_whatever_is_thrown(monkeypatch):
    """r25: one exception ended the reconcile task, so run(), so the process."""
    async with operator_rig(nodes=NODES, mdeps=[mdep("m")], argv=["--resync-seconds=0.05"]) as rig:
        reconciler = rig.reconciler
        reconcile, list_all = reconciler.reconcile, reconciler.lister.list_all
        thrown, odd, odder = [], RuntimeError("x"), ValueError("y")
        for name in ("a", "b"):
            rig.readings.devices.readings[name] = reading(name, 4, rig.now)

        async def failing(call, error):
            if thrown.count(error) < 2:
                thrown.append(error)
                raise error
            return await call()

        rig.now += 1
        monkeypatch.setattr("memroute_operator.reconciler.ERROR_BACKOFF_SECONDS", (0.001,))
        monkeypatch.setattr(reconciler, "reconcile", lambda: failing(reconcile, odd))
        running = asyncio.create_task(reconciler.run())
        async with asyncio.timeout(20):
            while not rig.cluster.pods():
                await asyncio.sleep(0.01)
            monkeypatch.setattr(reconciler.lister, "list_all", lambda: failing(list_all, odder))
            lists = rig.cluster.count("GET", "nodes", is_watch=False)
            while rig.cluster.count("GET", "nodes", is_watch=False) < lists + 2:
                await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(thrown) == 4


def test_waits_double_up_to_a_limit_and_are_told_without_chance():
    """1, 2, 4, 8, 10, 10: what is told changes with each failure only, whatever is drawn."""
    backoff, now = Backoff(first_seconds=1.0, max_seconds=10.0), 0.0
    told = []
    for chance in (0.0, 1.0, 0.5, 0.0, 0.3, 0.0):
        failure = backoff.failed("k", reason="R", message="no", now_seconds=now, chance=chance)
        told.append(failure.told)
        assert failure.due_seconds == now + failure.retry_seconds * (1 - JITTER_RATIO * chance)
        assert backoff.waiting("k", failure.due_seconds - 0.01) is failure
        assert backoff.waiting("k", failure.due_seconds) is None
        now = failure.due_seconds
    assert [text.split("again in ")[1] for text in told] == [
        "1 s",
        "2 s",
        "4 s",
        "8 s",
        "10 s",
        "10 s",
    ]
    backoff.succeeded("k")
    assert backoff.last("k") is None


def test_the_servers_wait_counts_when_it_is_longer():
    backoff = Backoff(first_seconds=1.0, max_seconds=10.0)
    fields = {"reason": "R", "message": "m", "now_seconds": 0.0, "chance": 1.0}
    assert backoff.failed("a", retry_after_seconds=30.0, **fields).due_seconds == 30.0
    assert backoff.failed("b", retry_after_seconds=0.1, **fields).due_seconds == 0.8
    assert backoff.next_due_seconds(0.0) == 0.8
    assert dict(backoff.all_waiting(1.0)).keys() == {"a"}


def test_what_has_not_failed_for_long_begins_anew():
    backoff = Backoff(first_seconds=1.0, max_seconds=100.0)
    fields = {"reason": "R", "message": "m", "chance": 0.0}
    for now in (0.0, 1.0, 3.0):
        failure = backoff.failed("a", now_seconds=now, **fields)
    assert failure.count == 3
    backoff.forget_old(failure.due_seconds + FORGET_SECONDS - 1)
    assert backoff.last("a")
    backoff.forget_old(failure.due_seconds + FORGET_SECONDS)
    assert backoff.failed("a", now_seconds=5000.0, **fields).count == 1


async def test_a_lane_takes_one_thing_at_a_time_and_a_namespace_a_few():
    failed = []
    lanes = Lanes(lambda key, error: failed.append((key, error)))
    lanes.settle_seconds = 0.01
    gate, running = asyncio.Event(), []

    def hold(key):
        async def work():
            running.append(key)
            await gate.wait()

        return work

    for i in range(MAX_PER_NAMESPACE + 3):
        assert lanes.start(f"bad/m{i}", hold(f"bad/m{i}"))
    assert not lanes.start("bad/m0", hold("again"))
    assert lanes.start("good/m", hold("good/m"))
    await lanes.settle()
    assert len(running) == MAX_PER_NAMESPACE + 1
    assert "good/m" in running
    assert len(lanes.busy) == MAX_PER_NAMESPACE + 4
    gate.set()
    async with asyncio.timeout(30):
        while lanes.busy:
            await asyncio.sleep(0)
    lanes.settle_seconds = 5

    async def bug():
        raise ZeroDivisionError

    assert lanes.start("x/m", bug)
    await lanes.settle()
    assert [key for key, _ in failed] == ["x/m"]
    await lanes.stop()


async def test_a_lane_that_hangs_is_waited_for_once():
    """A webhook that hangs for half a minute cost every step of everybody six seconds."""
    lanes = Lanes(lambda *_: None)
    lanes.settle_seconds = 0.01
    gate = asyncio.Event()
    lanes.start("bad/m", gate.wait)
    await lanes.settle()
    lanes.settle_seconds = 3600
    async with asyncio.timeout(30):
        await lanes.settle()
        lanes.start("good/m", lambda: asyncio.sleep(0))
        await lanes.settle()
    assert lanes.busy == {"bad/m"}
    await lanes.stop()


async def test_what_an_action_makes_possible_is_done_next_without_waiting_for_an_event():
    """Our own write is in the store before its event, which is then no news and wakes nobody."""
    async with operator_rig(nodes=NODES, mdeps=[mdep("m")]) as rig:
        await rig.catch_up()
        await rig.store.wait_dirty(0.01)
        await rig.step()
        assert rig.cluster.count("POST", "pods") == 1
        assert rig.store._dirty.is_set()
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        await rig.steps(2)
        await rig.store.wait_dirty(0.01)
        pause = await rig.step()
        assert not rig.store._dirty.is_set()
        assert pause == IDLE_SECONDS, "nothing is due, and nothing has changed"


async def test_a_lane_that_ends_late_is_looked_at():
    ended = []
    lanes = Lanes(lambda *_: None, on_late=lambda: ended.append(True))
    lanes.settle_seconds = 0.01
    gate = asyncio.Event()
    lanes.start("n/m", gate.wait)
    await lanes.settle()
    assert ended == []
    gate.set()
    async with asyncio.timeout(30):
        while not ended:
            await asyncio.sleep(0)
    lanes.settle_seconds = 5
    lanes.start("n/m", gate.wait)
    await lanes.settle()
    assert ended == [True], "somebody waited for that one"


async def test_what_waits_for_its_turn_in_a_lane_holds_its_room():
    """Room that is counted only once a call begins is given away while calls queue.

    A cold start of 4,000 replicas put pods on devices that others had been promised.
    """
    async with operator_rig(nodes=[node(gpus=4)], mdeps=[mdep("m", replicas=3)]) as rig:
        rig.reconciler._lanes.settle_seconds = 0.0
        rig.cluster.fault = lambda call: HANG if call.method == "POST" else None
        await rig.step()
        hands = rig.reconciler._hands
        assert {rig.pod("default/m", slot) for slot in range(3)} <= hands.held_back()
        assert len(hands.reservations(lambda _: False)) == 3
        await rig.reconciler.stop()
        assert rig.pod("default/m", 2) not in hands.held_back(), "it was never asked for"


async def test_what_was_thought_of_a_busy_deployment_is_thought_again():
    """While a step is worked out, a lane that is late finishes: all of it would be done twice."""
    async with operator_rig(nodes=[node(gpus=4)], mdeps=[mdep("m", replicas=3)]) as rig:
        reconciler, answer = rig.reconciler, asyncio.Event()
        reconciler._lanes.settle_seconds = 0.0
        rig.cluster.fault = lambda call: answer if call.method == "POST" else None
        await rig.step()
        think = reconciler._thinker.run

        async def think_slowly(work, given):
            decided = await think(work, given)
            answer.set()
            while reconciler._lanes.busy:
                await asyncio.sleep(0.001)
            return decided

        reconciler._thinker.run = think_slowly
        await rig.steps(3)
        assert rig.cluster.count("POST", "pods") == 3
