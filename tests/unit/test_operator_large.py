"""What a large fleet costs: nothing blocks the loop, and what is settled is not read again."""

import asyncio
import gc
import threading
import weakref

import pytest

from memroute.units import MIB
from memroute_operator.gather import ReadingCache, gather
from memroute_operator.loop_lag import TURN_SECONDS, Turns
from memroute_operator.plan import Step, plan_step
from memroute_operator.readings.device_metrics import DeviceMetrics, DeviceReading, NodeReading
from memroute_operator.readings.engine_reports import EngineReports
from memroute_operator.readings.loops import MAX_EXPORTER_SECONDS, exporter_seconds
from memroute_operator.readings.news import CHANGE_BYTES, News
from memroute_operator.readings.router_metrics import RouterMetrics
from memroute_operator.store import garbage
from memroute_operator.store.garbage import Garbage
from memroute_operator.store.reading_cache import Cache
from memroute_operator.store.store import Store
from operator_rig import mdep, node, operator_rig


async def test_the_event_loop_runs_on_while_a_step_is_thought_through():
    """A plan of a whole fleet takes seconds: watches and the Lease must not wait for it."""
    may_end = threading.Event()
    planned = []

    def slow(facts, context):
        planned.append(may_end.wait(30))
        return plan_step(facts, context)

    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        rig.reconciler._planner.planner = slow
        await rig.catch_up()
        step = asyncio.create_task(rig.reconciler.reconcile())
        asyncio.get_running_loop().call_later(0.01, may_end.set)
        await step
    assert planned == [True], "only the loop could end it"


async def test_what_arrives_while_a_step_is_thought_through_is_for_the_next_one():
    """The facts of a step are from one moment; half of an event would be a wrong picture."""
    may_begin, has_begun = threading.Event(), threading.Event()
    seen = []

    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.catch_up()

        def slow(facts, context):
            has_begun.set()
            may_begin.wait(30)
            seen.append([d.key for d in facts.deployments])
            assert context.held_back == frozenset()
            return Step()

        rig.reconciler._planner.planner = slow
        look = rig.reconciler._look()
        thought = asyncio.create_task(asyncio.to_thread(rig.reconciler._thinker.decide, look))
        await asyncio.to_thread(has_begun.wait, 30)
        late = mdep("late")
        late["metadata"]["resourceVersion"] = "999"
        assert rig.store.model_deployments.upsert(late)
        may_begin.set()
        await thought
        assert seen == [["default/m"]]
        assert look.store.model_deployments.get("default/late") is None
        assert rig.store.model_deployments.get("default/late") is not None


def test_an_object_is_read_again_only_when_it_has_changed():
    """4,000 replicas and 10,000 pods of others, most of them as they were: half of the cost."""
    reads = []

    def read(obj):
        reads.append(obj["metadata"]["name"])
        return obj["metadata"]["name"]

    cache = Cache()
    objects = [{"metadata": {"name": name}} for name in "abc"]
    for _ in range(3):
        get = cache.round()
        assert [get(obj, read) for obj in objects] == ["a", "b", "c"]
    assert reads == ["a", "b", "c"]
    objects[1] = {"metadata": {"name": "b"}}
    get = cache.round()
    for obj in objects[:2]:
        get(obj, read)
    assert reads == ["a", "b", "c", "b"]
    assert len(cache) == 2, "what is gone is forgotten"


def test_what_cannot_be_read_is_tried_and_told_again():
    cache = Cache()

    def fails(obj):
        return obj["metadata"]["name"]

    for _ in range(2):
        with pytest.raises(KeyError):
            cache.round()({"metadata": {}}, fails)
    assert len(cache) == 0


def test_facts_are_the_same_whether_they_were_read_before_or_not():
    """Odd objects and foreign devices too: each is counted once in each step."""
    store = Store()
    store.nodes.upsert(_versioned(node("a", gpus=8)))
    store.model_deployments.upsert(_versioned(mdep("m")))
    for number, spec in enumerate(
        (
            {"nodeName": "a", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
            {"nodeName": "a", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
            {"nodeName": "a", "containers": "none"},
            {"containers": []},
        )
    ):
        metadata = {"namespace": "x", "name": f"p{number}", "uid": f"u{number}"}
        store.pods.upsert(_versioned({"metadata": metadata, "spec": spec, "status": {}}))
    cache, metrics = ReadingCache(), DeviceMetrics(scrape_seconds=5)
    fresh = gather(store, metrics, now_seconds=0.0)
    for _ in range(3):
        assert gather(store, metrics, now_seconds=0.0, cache=cache) == fresh
    assert len(cache.pods) == 4
    assert len(cache.deployments) == 1


def _versioned(obj):
    obj["metadata"]["resourceVersion"] = "1"
    return obj


async def test_others_have_their_turn_in_the_middle_of_long_work():
    """1,000 statuses take a fifth of a second together."""
    now, others = [0.0], []

    async def other():
        others.append(now[0])

    task = asyncio.create_task(other())
    turns = Turns(clock=lambda: now[0])
    await turns.give()
    assert others == [], "too little to give way for"
    now[0] = TURN_SECONDS
    await turns.give()
    assert others == [TURN_SECONDS]
    await task


@pytest.mark.slow
def test_what_has_lived_for_long_is_not_visited_by_the_garbage_collector():
    """A full collection of a large store holds the interpreter for a fifth of a second."""
    kept = Garbage(clock=lambda: 0.0)
    # What other tests left may hold the last word on objects that would be frozen with it.
    gc.collect()
    try:
        kept.watch()
        before = gc.get_freeze_count()
        assert before, "what was imported"
        gc.collect(1)
        # What other tests left may end meanwhile, frozen or not.
        assert gc.get_freeze_count() <= before, "most of what is young does not live for long"
        new = [[] for _ in range(1000)]
        gc.collect()
        assert gc.get_freeze_count() >= before + len(new)
        assert not gc.get_objects(generation=2), "the next one visits nothing of it"
        assert gc.get_threshold()[2] == garbage.MIDDLE_THRESHOLD
        kept.unwatch()
        assert gc.get_threshold()[2] != garbage.MIDDLE_THRESHOLD
        frozen = gc.get_freeze_count()
        gc.collect()
        assert gc.get_freeze_count() <= frozen
    finally:
        kept.unwatch()
        gc.unfreeze()


class _Circle:
    """Refers to itself, as an exception and its traceback do."""

    def __init__(self):
        self.itself = self


@pytest.mark.slow
@pytest.mark.parametrize("why", ["a day", "twice as much"])
def test_circles_that_were_frozen_go_once_a_day_or_before_they_are_half_of_the_memory(why):
    """Nobody visits what is frozen: without an end it would be a leak."""
    now = [0.0]
    kept = Garbage(clock=lambda: now[0])
    try:
        now[0] = garbage.COUNT_SECONDS
        gc.freeze()
        kept.after_step()  # counts for the first time
        circle = _Circle()
        gone = weakref.ref(circle)
        more = [[] for _ in range(gc.get_freeze_count() + 10_000 if why != "a day" else 0)]
        gc.freeze()
        del circle
        gc.collect()
        assert gone() is not None
        now[0] += garbage.COUNT_SECONDS / 2
        kept.after_step()
        assert gone() is not None, f"too early, also with {len(more)} more"
        now[0] = garbage.THAW_SECONDS if why == "a day" else 2 * garbage.COUNT_SECONDS
        kept.after_step()
        assert gone() is None
    finally:
        gc.unfreeze()


class _Readings:
    """What the loops have read, and whether that was news."""

    def __init__(self):
        self.devices = DeviceMetrics(scrape_seconds=5)
        self.routers, self.engines = RouterMetrics(is_known=True), EngineReports()
        self.news = News()

    def read(self, free_bytes, **device):
        one = DeviceReading(
            index=0, uuid="GPU-1", product=None, free_bytes=free_bytes, used_bytes=0, **device
        )
        self.devices.readings["a"] = NodeReading(devices=(one,), taken_at_seconds=0.0)
        return self.look()

    def look(self, now_seconds=0.0):
        return self.news.look(
            self.devices, self.routers, self.engines, {}, {}, now_seconds=now_seconds
        )


def test_requests_that_come_and_go_are_no_reason_to_plan_anew():
    """They do at every scrape: a busy fleet was planned, and its statuses compared, each 5 s."""
    readings = _Readings()
    assert readings.look()
    readings.routers.in_flight = {"default/m-0": 7}
    readings.routers.kv_projected_ratio = {"default/m-0": 0.93}
    assert not readings.look()
    readings.routers.is_known = False
    assert readings.look(), "a drain waits for routers that answer"


def test_free_bytes_that_move_a_little_are_no_reason_to_plan_anew():
    """Wherever they are: not at the end of a step of 64 MiB either."""
    readings = _Readings()
    assert readings.read(10 * CHANGE_BYTES)
    assert not readings.read(10 * CHANGE_BYTES - MIB)
    assert not readings.read(10 * CHANGE_BYTES)
    assert not readings.read(11 * CHANGE_BYTES - MIB)
    assert readings.read(11 * CHANGE_BYTES), "many small steps are a large one"
    assert not readings.read(10 * CHANGE_BYTES + MIB)
    assert readings.read(None)
    assert readings.read(10 * CHANGE_BYTES)
    assert readings.read(10 * CHANGE_BYTES, xid=79)
    assert readings.read(10 * CHANGE_BYTES, xid=79, assigned_pods=("x/y",))
    assert readings.look(now_seconds=1000.0), "it is stale"


@pytest.mark.parametrize(
    ("num_exporters", "seconds"), [(0, 5.0), (100, 5.0), (200, 10.0), (500, 15.0), (5000, 15.0)]
)
def test_many_exporters_are_read_less_often(num_exporters, seconds):
    """Their pages are collected every 30 s, and each costs a millisecond to get."""
    assert exporter_seconds(5.0, num_exporters) == seconds
    assert exporter_seconds(60.0, num_exporters) == 60.0
    assert seconds <= MAX_EXPORTER_SECONDS


def test_a_page_that_has_not_changed_is_not_read_again(monkeypatch):
    """Five of six scrapes find what the exporter collected before."""
    metrics = DeviceMetrics(scrape_seconds=5)
    page = 'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1"} 100\n'
    first = metrics.take("a", page, asked_at_seconds=1.0)
    monkeypatch.setattr("memroute_operator.readings.device_metrics.read_exporter_page", None)
    again = metrics.take("a", page, asked_at_seconds=6.0)
    assert again.devices is first.devices
    assert again.taken_at_seconds == 6.0
    monkeypatch.undo()
    other = metrics.take("a", page.replace("100", "90"), asked_at_seconds=11.0)
    assert other.collected_after_seconds == 6.0
    assert other.devices[0].free_bytes == 90 * MIB
