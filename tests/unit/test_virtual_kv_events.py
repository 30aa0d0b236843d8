"""KV events in virtual time: what a router has heard is what the caches hold."""

import random

import pytest

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute_simulator.engine.model import SegmentedContent
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.cluster import Cluster, Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.kv_events import Hears, told_keys
from memroute_simulator.virtual.router import RouterSettings
from memroute_simulator.workloads import Session, Workload, WorkloadRequest

BLOCK = 16
PROMPT = 640


def engine():
    """A pool of 4,000 tokens, and 30 prompts on the host: Llama-3.1-8B, 128 KiB a token."""
    return EngineSpec(
        architecture=architecture_for_model("meta-llama/Llama-3.1-8B"),
        accelerator=accelerator_by_name("L40S"),
        max_context_tokens=1024,
        num_blocks=251,
        host_kv_bytes=30 * PROMPT * 131_072,
    )


def chats(num_requests=60):
    rng = random.Random(3)
    sessions = []
    for number in range(num_requests):
        context = rng.randrange(12)
        request = WorkloadRequest(
            prompt=((context, 480), (10**6 + 2 * number, PROMPT - 480)), num_output_tokens=4,
            output_id=10**6 + 2 * number + 1,
        )  # fmt: skip
        sessions.append(Session(start_seconds=number * 0.3, requests=(request,)))
    return Workload(name="contexts", sessions=tuple(sessions))


def contexts():
    """Each context's content keys."""
    for context in range(12):
        yield SegmentedContent(((context, 480),), -1).keys(0, 480 // BLOCK, BLOCK)


def run(hears, events=()):
    fleet = Fleet(engines=((engine(), 2),), router=RouterSettings(hears=hears))
    cluster = Cluster(fleet, seed=1, sample_seconds=None)
    outcomes = cluster.run(chats(), events)
    return cluster, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True])
def test_a_router_knows_what_devices_and_hosts_hold(restarts):
    """Block by block, after evictions on both; a router that came in between was replayed."""
    events = [
        FleetEvent(at_seconds=9.0, change=FleetChange.ROUTER_JOINS, replica="new"),
        FleetEvent(at_seconds=9.0, change=FleetChange.ROUTER_LEAVES, replica="router-0"),
    ]
    cluster, _ = run(Hears.ALL, events if restarts else ())
    (router,) = cluster.routers
    index = router.dispatcher.cached.blocks
    on_hosts = 0
    for keys in contexts():
        told = told_keys(keys, BLOCK)
        on_device = index.match(told)
        behind = index.behind(told, on_device)
        for replica in cluster.replicas:
            (scheduler,) = replica.schedulers
            # What was stored in the last step is told with the next one.
            held = 0
            while held < len(keys) and scheduler.cache._by_key.get(keys[held] << 6) is not None:
                held += 1
            assert on_device.get(replica.name, 0) == held
            there = held
            while there < len(keys) and scheduler.host.chunks.is_ready(keys[there]):
                there += 1
            found, stored = behind.get(replica.name, (0, 0))
            assert stored == 0
            assert found == there - held
            on_hosts += found
    assert on_hosts > 0
    assert index.is_whole("0")
    assert index.is_whole("1")


def test_who_hears_devices_alone_guesses_hosts():
    cluster, _ = run(Hears.DEVICE)
    index = cluster.routers[0].dispatcher.cached.blocks
    assert index.follows("0")
    assert not index.offloaded.tells("0")


def test_a_router_that_hears_nothing_is_as_it_was():
    """The study's fleets without events take the decisions that they took before."""
    cluster, outcomes = run(Hears.NOTHING)
    assert not cluster.routers[0].dispatcher.cached.blocks.follows("0")
    assert all(one.num_hit_tokens >= 0 for one in outcomes)
