"""Adapters of many replicas: one whose engine or container misbehaves is nobody else's matter."""

import asyncio
import contextlib
import json
import random
from dataclasses import replace

import pytest

from memroute_operator.adapters import keeper as keeping
from memroute_operator.adapters.caller import Answer
from memroute_operator.adapters.keeper import AdapterKeeper
from memroute_operator.replicas.reading import read_replica
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.turns import MAX_AT_ONCE
from operator_rig import mdep
from planned_objects import pod_of

SQL = {"name": "sql", "source": {"hub": {"repository": "org/sql"}}}
NOTHING = json.dumps({"data": [], "adapters": {}})


class Pods:
    """Calls to pods; those whose address is held do not answer."""

    def __init__(self, *held):
        self.held = set(held)
        self.asked = []
        self.asked_twice = asyncio.Event()
        self.freed = asyncio.Event()
        self.refused = {}

    async def call(self, method, address, port, path, body=None, *, seconds=0.0):
        self.asked.append((address, path))
        if address in self.held:
            await self.freed.wait()
        if sum(one == (address, "/v1/models") for one in self.asked) > 1:
            self.asked_twice.set()
        if path in self.refused:
            return Answer(status=400, text=self.refused[path])
        return Answer(status=200, text=NOTHING)


def replica_at(address, *, name="m", namespace="default", adapters=(SQL,)):
    obj = mdep(name, mode="Exclusive")
    obj["metadata"] |= {"namespace": namespace, "uid": f"uid-{namespace}-{name}"}
    obj["spec"]["adapters"] = list(adapters)
    deployment = read_deployment(obj)
    pod = pod_of(deployment, ready=True)
    pod["status"]["podIP"] = address
    return deployment, replace(read_replica(pod), uid=f"pod-{address}")


def keeper_of(pods, *replicas, bugs=None):
    keeper = AdapterKeeper(
        pods, clock=lambda: 0.0, rng=random.Random(1), on_change=lambda: None,
        on_bug=lambda where, error: (bugs if bugs is not None else []).append((where, error)),
    )  # fmt: skip
    keeper.want([one for one, _ in replicas], [one for _, one in replicas])
    return keeper


@contextlib.asynccontextmanager
async def running(keeper, monkeypatch, *, clock):
    monkeypatch.setattr(keeping, "TICK_SECONDS", 0.0)
    keeper._clock = clock
    task = asyncio.create_task(keeper.run(lambda: True))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.slow
async def test_a_namespace_of_engines_that_hang_holds_up_no_other(monkeypatch):
    """One call may take two minutes, and a list has 256: others were not looked at for hours."""
    hanging = [
        replica_at(f"10.1.0.{n}", name=f"m{n}", namespace="hostile")
        for n in range(1, MAX_AT_ONCE + 9)
    ]
    pods = Pods(*(f"10.1.0.{n}" for n in range(1, MAX_AT_ONCE + 9)))
    seconds = iter(range(10**9))
    async with running(
        keeper_of(pods, *hanging, replica_at("10.2.0.1")), monkeypatch, clock=lambda: next(seconds)
    ):
        async with asyncio.timeout(30):
            await pods.asked_twice.wait()
    hung = [address for address, _ in pods.asked if address.startswith("10.1.")]
    assert len(hung) == len(set(hung)) == MAX_AT_ONCE


async def test_an_engine_that_takes_minutes_for_each_shows_what_it_has_by_then():
    """An adapter that is taken off the list waited for all the others."""
    names = [f"a{n}" for n in range(10)]
    wanted = [
        {"name": n, "source": {"persistentVolumeClaim": {"claimName": "c", "path": n}}}
        for n in names
    ]
    pods = Pods()
    keeper = keeper_of(pods, replica_at("10.2.0.1", adapters=wanted))
    now = [0.0]
    keeper._clock = keeper._loader._clock = lambda: now[0]
    asked = pods.call

    async def slow(*args, **options):
        now[0] += 6.0
        return await asked(*args, **options)

    pods.call = slow
    await keeper.round()
    (view,) = keeper.views.values()
    assert 0 < len(view.loaded) < len(names)
    assert view.troubles == {}


async def test_what_was_seen_of_an_engine_that_has_restarted_since_is_forgotten():
    """Routers would send requests for an adapter that the new process does not have."""
    deployment, replica = replica_at("10.2.0.1")
    pods = Pods("10.2.0.1")
    keeper = keeper_of(pods, (deployment, replica))
    looking = asyncio.create_task(keeper.round())
    while not pods.asked:
        await asyncio.sleep(0)
    keeper.want([deployment], [replace(replica, num_restarts=1)])
    pods.freed.set()
    await looking
    assert keeper.views == {}
    await keeper.round()
    assert len(keeper.views) == 1


async def test_slots_of_an_older_pod_are_no_failure_of_the_adapter():
    """Else the edit that raises a rank pages somebody at once."""
    wanted = {
        "name": "law", "rank": 64,
        "source": {"persistentVolumeClaim": {"claimName": "c", "path": "law"}},
    }  # fmt: skip
    pods = Pods()
    told = json.dumps({"message": "LoRA rank 64 is greater than max_lora_rank 16."})
    pods.refused = {"/v1/load_lora_adapter": told}
    keeper = keeper_of(pods, replica_at("10.2.0.1", adapters=[wanted]))
    for _ in range(2):
        await keeper.round()
        (view,) = keeper.views.values()
        assert view.troubles == {}
        assert "a rollout brings more" in view.waiting["law"]
        keeper._due["pod-10.2.0.1"].at_seconds = 0.0
