"""Models that sleep, with the whole operator on a stub cluster: what is written, and when."""

import pytest

from cluster_stub import refuse
from memroute_operator.actions.apply import Applier
from memroute_operator.plan import MarkSleep
from memroute_operator.replicas.reading import read_replica
from memroute_operator.sleeping.mark import MarkedState
from memroute_operator.sleeping.sight import EngineSight
from operator_rig import mdep, node, operator_rig

KEY = "default/m"
AFTER_SECONDS = 10


class NobodyCalls:
    """Engines are not told anything: the keeper's loop does not run."""


def sleeper():
    of = mdep("m")
    of["spec"]["sleep"] = {"afterSeconds": AFTER_SECONDS, "level": "WeightsOnHost"}
    return of


async def look(rig, steps=1):
    """Steps, each after a look at a router that has had no request."""
    for _ in range(steps):
        rig.readings.routers.demand.look(
            {"router": {}}, waiting={}, in_flight={}, is_known=True, at_seconds=rig.now
        )
        await rig.step()


def replica_of(rig):
    (pod,) = rig.cluster.pods()
    return read_replica(pod)


def is_let(rig):
    """Whether the engine may be told to fall asleep."""
    return any(one.may_fall_asleep for one in rig.reconciler.sleep._targets.values())


def tells_of_sleep(call):
    body = call.body if isinstance(call.body, dict) else {}
    return call.sub == "status" and "FallingAsleep" in str(body.get("status", {}).get("routing"))


@pytest.mark.slow
async def test_an_engine_is_told_only_once_a_status_has_told_routers():
    """They send requests to it until then, and an engine that sleeps answers none."""
    async with operator_rig(nodes=[node()], mdeps=[sleeper()], caller=NobodyCalls()) as rig:
        await rig.until("it serves", lambda: rig.is_ready(KEY))
        (name,) = rig.cluster.objects["pods"]
        rig.cluster.change("pods", name, lambda pod: pod["status"].update(podIP="10.0.0.1"))
        rig.cluster.fault = lambda call: refuse(500, "Down") if tells_of_sleep(call) else None
        await look(rig, 2 * AFTER_SECONDS)
        mark = replica_of(rig).sleep_mark
        assert mark is not None
        assert mark.state is MarkedState.FALLING_ASLEEP
        await look(rig, 20)
        assert not is_let(rig)
        rig.recover()
        # Its status is tried again within a minute; then two seconds and a look.
        for _ in range(80):
            if is_let(rig):
                break
            await look(rig)
        assert is_let(rig)
        status = rig.cluster.objects["modeldeployments"][KEY]["status"]
        assert status["routing"]["replicas"][0]["sleep"] == "FallingAsleep"


@pytest.mark.slow
async def test_a_mark_that_comes_through_too_late_changes_nothing():
    """Its engine was woken meanwhile: marked asleep, its bytes would be lent to others."""
    async with operator_rig(nodes=[node()], mdeps=[sleeper()], caller=NobodyCalls()) as rig:
        await rig.until("it serves", lambda: rig.is_ready(KEY))
        applier = Applier(rig._client, rig.store, rig.settings)
        seen = replica_of(rig)
        late = MarkSleep(replica=seen, state=MarkedState.ASLEEP, why="its engine sleeps")
        assert await applier.apply(
            MarkSleep(replica=seen, state=MarkedState.WAKING, why="it is asked for")
        )
        assert not await applier.apply(late)
        assert replica_of(rig).sleep_mark.state is MarkedState.WAKING


@pytest.mark.slow
async def test_a_model_that_sleeps_and_wakes_all_day_has_two_events_for_it():
    """Events of one object are few: its others would be pushed out."""
    async with operator_rig(nodes=[node()], mdeps=[sleeper()], caller=NobodyCalls()) as rig:
        await rig.until("it serves", lambda: rig.is_ready(KEY))
        before = {one["reason"] for one in rig.cluster.objects["events"].values()}
        await look(rig, AFTER_SECONDS + 2)

        async def until(state, *, is_sleeping):
            for _ in range(20):
                replica = replica_of(rig)
                if replica.sleep_mark.state is state:
                    return
                sight = EngineSight(mark=replica.sleep_mark, is_sleeping=is_sleeping)
                rig.reconciler.sleep.sights[replica.uid] = sight
                await look(rig)
            raise AssertionError(replica_of(rig).sleep_mark)

        await until(MarkedState.ASLEEP, is_sleeping=True)
        await look(rig, 2)
        assert rig.condition(KEY)["reason"] == "Asleep"
        await until(MarkedState.AWAKE, is_sleeping=False)
        await look(rig, 2)
        assert rig.condition(KEY)["reason"] == "Serving"
        after = {one["reason"] for one in rig.cluster.objects["events"].values()}
        assert after - before == {"FellAsleep", "Woken"}
