"""What leads gateways to the picker is written with calls, to a small API server."""

import asyncio
import contextlib
import random

import pytest

from cluster_stub import cluster_stub, refuse
from memroute_operator.actions.lanes import Lanes
from memroute_operator.gateway.keeper import MAX_REPAIR_SECONDS, GatewayKeeper
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.sources import parse_pod_selector
from planned_objects import deployment

PICKER = {
    "metadata": {"namespace": "memroute-system", "name": "picker", "labels": {"app": "picker"}},
    "spec": {},
    "status": {"podIP": "10.0.0.5", "conditions": [{"type": "Ready", "status": "True"}]},
}
KEY = "default/chat"


class Pods:
    """Of the whole cluster. Owns how often they are gone through."""

    def __init__(self):
        self.num_changes, self.num_looks = 1, 0

    def values(self):
        self.num_looks += 1
        return [PICKER]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def asking():
    of = deployment("chat")
    of.obj["spec"]["routing"]["gateway"] = {}
    return of


@contextlib.asynccontextmanager
async def kept():
    """A keeper that watches, its cluster and its clock."""
    clock, bugs = Clock(), []
    lanes = Lanes(lambda *bug: bugs.append(bug))
    async with cluster_stub() as (cluster, client):
        keeper = GatewayKeeper(
            client=client, lanes=lanes, metrics=OperatorMetrics(), pods=Pods(),
            selector=parse_pod_selector("memroute-system/app=picker"), on_change=lambda: None,
            on_bug=lambda *bug: bugs.append(bug), clock=clock, rng=random.Random(1),
        )  # fmt: skip
        watching = asyncio.create_task(keeper.run())
        try:
            yield keeper, cluster, clock
        finally:
            watching.cancel()
            await asyncio.wait({watching})
            await lanes.stop()
    assert bugs == []


async def step(keeper, cluster):
    """One step of the operator, once it knows what there is."""
    known = {plural: cluster.objects[plural] for plural in ("inferencepools", "services")}
    async with asyncio.timeout(10):
        while not all(
            one.is_listed and one.objects == known.get(one.resource.plural, one.objects)
            for one in keeper._watches
        ):
            await asyncio.sleep(0.001)
        keeper.start([asking()])
        while keeper.lanes.busy:
            await asyncio.sleep(0.001)


@pytest.mark.slow
async def test_somebody_who_undoes_each_write_is_answered_at_leisure():
    """Two controllers that put the same right would write as fast as the API server answers."""
    async with kept() as (keeper, cluster, clock):
        await step(keeper, cluster)
        assert list(cluster.objects["inferencepools"]) == [KEY]
        began = clock.now
        for _ in range(200):
            cluster.change("inferencepools", KEY, lambda pool: pool["metadata"].pop("labels", 0))
            await step(keeper, cluster)
            clock.now += 0.25
        seconds = clock.now - began
        # At once, then after 0.25, 0.5, 1, 2, 4 and 5 s at most, a fifth less by chance.
        most = 6 + seconds / (0.8 * MAX_REPAIR_SECONDS)
        assert 5 <= cluster.count("PATCH", "inferencepools") <= most
        assert keeper.next_due_seconds(clock.now) is not None
        clock.now += MAX_REPAIR_SECONDS
        await step(keeper, cluster)
        assert "labels" in cluster.objects["inferencepools"][KEY]["metadata"]
        assert keeper.view(asking()).condition[1] == "NoGateway"


async def test_what_is_wanted_otherwise_is_written_at_once():
    """However often the same was put right before."""
    async with kept() as (keeper, cluster, _):
        await step(keeper, cluster)
        for _ in range(5):
            cluster.change("inferencepools", KEY, lambda pool: pool["metadata"].pop("labels", 0))
            await step(keeper, cluster)
        before = cluster.count("PATCH", "inferencepools")
        open_ = asking()
        open_.obj["spec"]["routing"]["gateway"] = {"failureMode": "FailOpen"}
        keeper.start([open_])
        while keeper.lanes.busy:
            await asyncio.sleep(0.001)
        assert cluster.count("PATCH", "inferencepools") == before + 1
        pool = cluster.objects["inferencepools"][KEY]
        assert pool["spec"]["endpointPickerRef"]["failureMode"] == "FailOpen"


async def test_what_was_refused_is_told_no_longer_than_it_is_so():
    """Somebody wrote by hand what the API server had refused: the pool would be called refused."""
    async with kept() as (keeper, cluster, clock):
        await step(keeper, cluster)
        cluster.fault = lambda call: (
            refuse(422, "Invalid", "a webhook says no") if call.method == "PATCH" else None
        )
        labels = dict(cluster.objects["inferencepools"][KEY]["metadata"]["labels"])
        cluster.change("inferencepools", KEY, lambda pool: pool["metadata"].pop("labels"))
        await step(keeper, cluster)
        assert keeper.view(asking()).condition[1] == "PoolRefused"
        cluster.change("inferencepools", KEY, lambda pool: pool["metadata"].update(labels=labels))
        await step(keeper, cluster)
        assert keeper.view(asking()).condition[1] == "NoGateway"
        assert keeper.next_due_seconds(clock.now) is None


async def test_all_pods_are_gone_through_only_when_some_have_changed():
    """A cluster has ten thousand, and the keeper looks every second."""
    async with kept() as (keeper, cluster, _):
        await step(keeper, cluster)
        for _ in range(10):
            keeper.look()
        assert keeper.pods.num_looks == 1
        keeper.pods.num_changes += 1
        keeper.look()
        assert keeper.pods.num_looks == 2
