"""Models whose gateway goes on without a picker (``failureMode: FailOpen``): nobody counts then."""

import random
from dataclasses import replace

import pytest

from cluster_stub import cluster_stub
from memroute_operator.actions.lanes import Lanes
from memroute_operator.gateway.keeper import GatewayKeeper
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.sources import parse_pod_selector
from memroute_operator.sleeping.mark import MarkedState
from memroute_operator.sleeping.models import UNWATCHED_SECONDS
from sleep_steps import FALLING, QUIET, decided, marks, pod
from sleeping_world import sleeper


def behind_gateway(name="m", mode="FailOpen"):
    of = sleeper(name)
    of.obj["spec"]["routing"]["gateway"] = {"failureMode": mode}
    return of


@pytest.mark.parametrize(
    ("mode", "away_seconds", "falls_asleep"),
    [
        ("FailOpen", None, True),
        ("FailOpen", 0.0, False),
        ("FailOpen", 1e6, False),
        ("FailClose", 1e6, True),
    ],
)
def test_it_stays_awake_while_its_gateway_sends_requests_past_every_picker(
    mode, away_seconds, falls_asleep
):
    """Routers that answer say truly that nobody has asked them: the gateway asks nobody."""
    of = behind_gateway(mode=mode)
    step = decided([of], [pod(of)], picker_away_seconds=away_seconds)
    assert bool(marks(step)) is falls_asleep


def test_one_that_falls_asleep_meanwhile_is_woken():
    of = behind_gateway()
    falling = pod(of, MarkedState.FALLING_ASLEEP)
    step = decided([of], [falling], seen=FALLING, picker_away_seconds=0.0)
    assert marks(step) == {("m", "Waking")}


def test_one_that_sleeps_is_woken_unless_the_picker_is_back_within_half_a_minute():
    """The gateway sends to any pod that is ready, and one that sleeps is: a request would hang."""
    of = behind_gateway()
    asleep = pod(of, MarkedState.ASLEEP)
    step = decided([of], [asleep], picker_away_seconds=UNWATCHED_SECONDS - 4.0)
    assert (marks(step), step.due_seconds) == (set(), 4.0)
    step = decided([of], [asleep], picker_away_seconds=UNWATCHED_SECONDS)
    assert marks(step) == {("m", "Waking")}


def test_it_makes_no_room_for_another_meanwhile():
    m, n = sleeper("m"), behind_gateway("n")
    waits = replace(QUIET, waiting_seconds={"default/m": 2.0})
    pods = [pod(m, MarkedState.ASLEEP), pod(n)]
    step = decided([m, n], pods, waits, picker_away_seconds=3.0)
    assert marks(step) == set()
    assert "default/n may be busy: no picker is ready" in step.outcomes["default/m"].sleep_waits


class Pods:
    """Of the whole cluster: one picker."""

    def __init__(self):
        self.num_changes, self.is_ready = 1, True

    def set_ready(self, is_ready):
        self.num_changes, self.is_ready = self.num_changes + 1, is_ready

    def values(self):
        ready = {"type": "Ready", "status": "True" if self.is_ready else "False"}
        return [
            {
                "metadata": {"namespace": "memroute-system", "name": "p", "labels": {"app": "p"}},
                "spec": {},
                "status": {"podIP": "10.0.0.5", "conditions": [ready]},
            }
        ]


async def test_for_how_long_no_picker_is_ready_is_counted_by_who_looks_for_them():
    now, pods, bugs = [100.0], Pods(), []
    async with cluster_stub() as (_, client):
        lanes = Lanes(lambda *bug: bugs.append(bug))
        keeper = GatewayKeeper(
            client=client, lanes=lanes, metrics=OperatorMetrics(), pods=pods,
            selector=parse_pod_selector("memroute-system/app=p"), on_change=lambda: None,
            on_bug=lambda *bug: bugs.append(bug), clock=lambda: now[0], rng=random.Random(1),
        )  # fmt: skip
        pods.set_ready(is_ready=False)
        keeper.look()
        assert keeper.away_seconds() is None, "nobody asks for one"
        keeper._planned([behind_gateway()])
        now[0] += 3.0
        keeper.look()
        assert keeper.away_seconds() == 3.0
        pods.set_ready(is_ready=True)
        keeper.look()
        assert keeper.away_seconds() is None
        pods.set_ready(is_ready=False)
        keeper.look()
        now[0] += 1.0
        assert keeper.away_seconds() == 1.0
        keeper._planned([])
        assert keeper.away_seconds() is None
    assert bugs == []
